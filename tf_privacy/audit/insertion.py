# SPDX-License-Identifier: Apache-2.0
"""Puts rows into training data: arrays, texts and tf.data, at random places.

Every place is equally likely and the rest keeps its order, so that a place
tells nothing, and no row ends up in a validation set for being last.
"""

import bisect
import re
from collections.abc import Sequence

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import array_structures

_GAPS = ("lines", "words")


def insert_rows(data, *, rows, rng: np.random.Generator, name: str = "x"):
    """Returns the data with rows put in at random places.

    Args:
        data: Nested tuples and dicts of arrays `[N, ...]`.
        rows: The same structure, `[R, ...]`; cast to the types of the data
            where that changes no value, but for the rounding of floats.
        rng: Source of the places.
        name: The parameter's name of the data, for messages.

    Returns:
        The same structure, new arrays `[N + R, ...]`.

    Raises:
        TypeError: If a leaf is no array.
        ValueError: If structures, shapes or types do not fit.
    """
    data, num_old = array_structures.check_arrays(name, data)
    rows, num_new = array_structures.check_arrays("rows", rows)
    old = array_structures.flatten(data)
    new = _match_leaves(name, old, array_structures.flatten(rows))
    places = choose_places(num_old, num_new, rng=rng)
    is_new = np.zeros(num_old + num_new, dtype=bool)
    is_new[places] = True

    def merge(path):
        leaf = f"{name}{path}"
        _check_shape(leaf, old[path].shape[1:], new[path].shape)
        cast = cast_rows(leaf, new[path], dtype=old[path].dtype)
        merged = np.empty((len(is_new), *cast.shape[1:]), dtype=cast.dtype)
        merged[~is_new] = old[path]
        merged[is_new] = cast
        return merged

    return array_structures.rebuild(data, iter([merge(path) for path in old]))


def choose_places(
    num_old: int, num_new: int, *, rng: np.random.Generator
) -> np.ndarray:
    """Returns where new elements stand in the whole, `[num_new]`, rising.

    All sets of places are equally likely. What stands in them keeps the order
    in which it is given: shuffle it first if that order tells something.

    Args:
        num_old: Elements that are there; >= 0.
        num_new: Elements to put in; >= 0.
        rng: Source of the places.
    """
    total = num_old + num_new
    return np.sort(rng.choice(total, size=num_new, replace=False))


def insert_documents(
    documents: Sequence[str],
    *,
    additions: Sequence[str],
    rng: np.random.Generator,
) -> list[str]:
    """Returns the documents with others put in at random places.

    Args:
        documents: `[N]` texts.
        additions: `[R]` texts, each to become a document of its own.
        rng: Source of the places.

    Returns:
        `[N + R]` texts.

    Raises:
        TypeError: If the documents are no list of texts.
    """
    documents = list(_check_texts("documents", documents))
    merged = iter(documents)
    additions = iter(_check_texts("additions", additions))
    is_new = np.zeros(len(documents), dtype=bool)
    return [next(additions if new else merged) for new in is_new]


def insert_text(
    text: str,
    *,
    additions: Sequence[str],
    rng: np.random.Generator,
    between: str,
) -> str:
    """Returns the text with others put in between its lines or its words.

    Each goes into a gap of its own draw, the start and the end among them, as
    a line of its own or with a space to the next word. Removing them gives the
    text back. A model that reads windows of the text sees a part of the copies
    cut in two; with documents of their own it does not.

    Args:
        text: One long text.
        additions: `[R]` texts.
        rng: Source of the places.
        between: "lines" or "words".

    Raises:
        TypeError: If the text is none.
        ValueError: If `between` is another word.
    """
