# SPDX-License-Identifier: Apache-2.0
"""Puts rows into training data: arrays, texts and tf.data, at random places.

Every place is equally likely for every row, so that no place tells which row
stands there, and none ends up in a validation set for being last. The rest of
the data keeps its order.
"""

import re
import sys
from collections.abc import Sequence

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import array_structures

_SEPARATORS = {"lines": "\n", "words": " "}
# Where a line begins, and where a word does: after the match.
_STARTS = {"lines": r"\A|\n", "words": r"(?<!\S)(?=\S)"}
_DATASET_METHODS = (
    "element_spec",
    "cardinality",
    "from_tensor_slices",
    "choose_from_datasets",
)


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
    new = _match_leaves(name, old, rows)
    for path, array in old.items():
        place = f"{name}{path}"
        _check_shape(place, array.shape[1:], new[path].shape[1:])
        new[path] = _cast_rows(place, new[path], array.dtype)
    places = _choose_places(num_old, num_new, rng)
    is_old = np.ones(num_old + num_new, dtype=bool)
    is_old[places] = False
    merged = []
    for path, array in old.items():
        cast = new[path]
        both = np.empty((is_old.size, *array.shape[1:]), dtype=cast.dtype)
        both[is_old] = array
        both[places] = cast
        merged.append(both)
    return array_structures.rebuild(data, iter(merged))


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
        TypeError: If either is no list of texts.
    """
    documents = _check_texts("documents", documents)
    additions = _check_texts("additions", additions)
    places = _choose_places(len(documents), len(additions), rng)
    placed = dict(zip(places.tolist(), additions, strict=True))
    rest = iter(documents)
    total = len(documents) + len(additions)
    return [placed[i] if i in placed else next(rest) for i in range(total)]


def insert_text(
    text: str,
    *,
    additions: Sequence[str],
    between: str,
    rng: np.random.Generator,
) -> str:
    """Returns the text with others put in between its lines or its words.

    Each goes into a gap drawn for it alone, the start and the end among them,
    as a line of its own or with a space to its neighbor. A model that is
    trained on windows of the text sees some of them cut in two.

    Args:
        text: One long text.
        additions: `[R]` texts.
        between: "lines" or "words".
        rng: Source of the places.

    Returns:
        One text; without the additions, each with one line break or space, it
        is the old one.

    Raises:
        TypeError: If the text is none, or the additions no list of texts.
        ValueError: If `between` is another word.
    """
    between = _checks.check_choice("between", between, _SEPARATORS)
    (text,) = _check_texts("text", [text])
    additions = _check_texts("additions", additions)
    separator = _SEPARATORS[between]
    gaps = [match.end() for match in re.finditer(_STARTS[between], text)]
    if not gaps or gaps[-1] < len(text):
        gaps.append(len(text))
    drawn = [gaps[i] for i in rng.integers(len(gaps), size=len(additions))]
    # Within a gap the order is random too.
    order = rng.permutation(len(additions))
    pieces, start = [], 0
    for i in sorted(order.tolist(), key=drawn.__getitem__):
        pieces.append(text[start : drawn[i]])
        start = drawn[i]
        unended = start == len(text) > 0 and not text.endswith(separator)
        pair = (separator, additions[i])
        pieces.extend(pair if unended else pair[::-1])
    return "".join([*pieces, text[start:]])


def insert_elements(dataset, *, rows, rng: np.random.Generator):
    """Returns a `tf.data.Dataset` with rows put in at random places.

    Args:
        dataset: Not batched, not repeated, of a known number of elements N
            (`dataset.cardinality()`).
        rows: `[R, ...]` arrays in the structure of one element; cast as in
            `insert_rows`.
        rng: Source of the places, which are the same in every epoch: shuffle
            afterwards.

    Returns:
        A dataset of N + R elements.

    Raises:
        TypeError: If it is no `tf.data.Dataset`, or holds no dense tensors.
        ValueError: If it is batched, or of unknown or infinite length, or if
            structures, shapes or types do not fit.
    """
    if not all(hasattr(dataset, method) for method in _DATASET_METHODS):
        raise TypeError(
            "dataset must be a tf.data.Dataset. Received: "
            f"{type(dataset).__name__}. For arrays, use insert."
        )
    rows, num_new = array_structures.check_arrays("rows", rows)
    specs = array_structures.flatten(dataset.element_spec)
    new = _match_leaves("dataset", specs, rows)
    for path, spec in specs.items():
        new[path] = _fit_to_spec(f"dataset{path}", new[path], spec)
    num_old = int(dataset.cardinality())
    if num_old < 0:
        raise ValueError(
            "dataset must have a known number of elements. Received: "
            f"cardinality {num_old} (-1: infinite, -2: unknown). Insert before "
            "repeat; state the number with "
            "dataset.apply(tf.data.experimental.assert_cardinality(number))."
        )
    places = _choose_places(num_old, num_new, rng)
    order = np.argsort(places)
    new_elements = dataset.from_tensor_slices(
        array_structures.rebuild(
            dataset.element_spec, (new[path][order] for path in specs)
        )
    )
    choices = np.zeros(num_old + num_new, dtype=np.int64)
    choices[places] = 1
    merged = dataset.choose_from_datasets(
        [dataset, new_elements],
        dataset.from_tensor_slices(choices),
        stop_on_empty_dataset=False,
    )
    # The caller's own TensorFlow: without it there was no dataset to give.
    tensorflow = sys.modules[type(dataset).__module__.partition(".")[0]]
    count = tensorflow.data.experimental.assert_cardinality(choices.size)
    return merged.apply(count)


def _choose_places(num_old: int, num_new: int, rng) -> np.ndarray:
    """Returns the place of each new element in the whole, in random order."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            "rng must be a np.random.Generator. Received: "
            f"{type(rng).__name__}. Use np.random.default_rng()."
        )
    return rng.choice(num_old + num_new, size=num_new, replace=False)


def _check_texts(name: str, texts) -> list[str]:
    if isinstance(texts, str) or not all(isinstance(t, str) for t in texts):
        raise TypeError(
            f"{name} must be text, each of them. Received: "
            f"{type(texts).__name__}. One long text goes into insert_text, a "
            "list of texts into insert_documents."
        )
    return list(texts)


def _match_leaves(name: str, old: dict, rows) -> dict:
    """Returns the rows' leaves by path once they have the paths of the data."""
    new = array_structures.flatten(rows)
    if set(new) != set(old):
        listed = [", ".join(map(repr, sorted(each))) for each in (new, old)]
        raise ValueError(
            f"{name} must have the structure of the canaries: {listed[0]}. "
            f"Received: {listed[1]}. An empty name is one array alone; give "
            "inputs and labels as for the canaries."
        )
    return new


def _check_shape(place: str, wanted, shape) -> None:
    """Raises unless a row's shape is the wanted one; None stands for any."""
    fits = len(wanted) == len(shape) and all(
        want in (None, got) for want, got in zip(wanted, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{place} must have rows of the canaries' shape {tuple(shape)}. "
            f"Received: rows of shape {tuple(wanted)}. Make the canaries in "
            "the shape of the data."
        )


def _cast_rows(place: str, rows: np.ndarray, dtype) -> np.ndarray:
    """Returns the rows in the data's type, once it can hold their values."""
    dtype = np.dtype(dtype)
    if dtype.kind in "OUS" and rows.dtype.kind in "OUS":
        same = dtype.kind == rows.dtype.kind
        return rows.astype(np.promote_types(dtype, rows.dtype) if same else "O")
    kept = False
    if dtype.kind not in "OUS" and rows.dtype.kind in "biuf":
        with np.errstate(invalid="ignore", over="ignore"):
            cast = rows.astype(dtype)
        # bfloat16 and the like are of kind V.
        if rows.dtype.kind == "f" and dtype.kind in "fV":
            numbers = cast.astype(np.float64)
            kept = np.array_equal(np.isfinite(numbers), np.isfinite(rows))
        else:
            kept = np.array_equal(cast, rows)
    if not kept:
        raise ValueError(
            f"{place} must be of a type that holds the canaries' values "
            f"({rows.dtype}). Received: {dtype}. Make the canaries in the type "
            "and the range of the data."
        )
    return cast


def _fit_to_spec(place: str, rows: np.ndarray, spec) -> np.ndarray:
    """Returns the rows in the type of a dataset's element."""
    if type(spec).__name__ != "TensorSpec" or spec.shape.rank is None:
        raise TypeError(
            f"{place} must be a dense tensor of known rank. Received: {spec}. "
            "Insert before it becomes ragged or sparse, or use ensure_shape."
        )
    if spec.shape.rank == rows.ndim:
        raise ValueError(
            f"{place} must not be batched. Received: elements of shape "
            f"{spec.shape} for canaries of shape {rows.shape[1:]}. Insert "
            "before batch, or call unbatch."
        )
    _check_shape(place, spec.shape.as_list(), rows.shape[1:])
    return _cast_rows(place, rows, spec.dtype.as_numpy_dtype)
