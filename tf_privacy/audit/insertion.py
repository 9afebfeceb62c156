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


def insert_rows(
    x, y=None, *, values, labels=None, rng: np.random.Generator
) -> tuple:
    """Returns the data with rows put in at random places.

    Args:
        x: Nested tuples and dicts of arrays `[N, ...]`.
        y: The same, the labels; None without.
        values: What goes into `x`: the same structure, `[R, ...]`; cast to the
            types of the data where that changes no value, but for the rounding
            of floats.
        labels: What goes into `y`; None if and only if `y` is.
        rng: Source of the places.

    Returns:
        (x, y) with new arrays `[N + R, ...]`; y is None if it was.

    Raises:
        TypeError: If a leaf is no array.
        ValueError: If structures, lengths, shapes or types do not fit.
    """
    if (y is None) != (labels is None):
        raise ValueError(
            "y must be given if and only if canaries have labels. Received: "
            f"y {'missing' if y is None else 'given'}, canaries "
            f"with{'out' if labels is None else ''} labels. Make canaries with "
            "the labels that the model is trained on."
        )
    data = {"x": x} if y is None else {"x": x, "y": y}
    rows = {"x": values} if y is None else {"x": values, "y": labels}
    data = {k: array_structures.check_arrays(k, v) for k, v in data.items()}
    num_old = array_structures.count_rows(**data)
    num_new = array_structures.count_rows(**rows)
    places = _choose_places(num_old, num_new, rng)
    is_old = np.ones(num_old + num_new, dtype=bool)
    is_old[places] = False
    merged = {}
    for name, structure in data.items():
        pairs = _match_leaves(name, structure, rows[name])
        fitted = [
            _fit(leaf_name, new, old.shape[1:], old.dtype)
            for leaf_name, (old, new) in pairs.items()
        ]
        leaves = [
            _merge(old, new, is_old, places)
            for (old, _), new in zip(pairs.values(), fitted, strict=True)
        ]
        merged[name] = array_structures.rebuild(structure, iter(leaves))
    return merged["x"], merged.get("y")


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


def insert_elements(dataset, *, values, labels=None, rng: np.random.Generator):
    """Returns a `tf.data.Dataset` with elements put in at random places.

    Args:
        dataset: Not batched, not repeated, of a known number of elements N
            (`dataset.cardinality()`): each is x, or (x, y) with labels.
        values: `[R, ...]` arrays in the structure of x; cast as in
            `insert_rows`.
        labels: `[R, ...]` arrays in the structure of y, or None.
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
    rows = values if labels is None else (values, labels)
    num_new = array_structures.count_rows(values=rows)
    specs = dataset.element_spec
    fitted = [
        _fit_to_spec(name, new, spec)
        for name, (spec, new) in _match_leaves("dataset", specs, rows).items()
    ]
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
    additions = dataset.from_tensor_slices(
        array_structures.rebuild(specs, (leaf[order] for leaf in fitted))
    )
    choices = np.zeros(num_old + num_new, dtype=np.int64)
    choices[places] = 1
    merged = dataset.choose_from_datasets(
        [dataset, additions],
        dataset.from_tensor_slices(choices),
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
            f"{type(texts).__name__}. One long text goes into "
            "insert_into_text, a list of texts into insert_into_documents."
        )
    return list(texts)


def _match_leaves(name: str, old, new) -> dict[str, tuple]:
    """Returns the leaves of both by name, in the order of the old."""
    old = array_structures.flatten(old, name=name)
    new = array_structures.flatten(new, name=name)
    if set(new) != set(old):
        raise ValueError(
            f"{name} must have the structure of the canaries: "
            f"{', '.join(sorted(new))}. Received: {', '.join(sorted(old))}. "
            "Give as many inputs, and labels if canaries have them."
        )
    return {
        leaf_name: (leaf, new[leaf_name]) for leaf_name, leaf in old.items()
    }


def _merge(old, new, is_old, places) -> np.ndarray:
    """Returns both in one array; the new ones may need a wider type."""
    both = np.empty((is_old.size, *new.shape[1:]), dtype=new.dtype)
    both[is_old] = old
    both[places] = new
    return both


def _fit(name: str, rows: np.ndarray, wanted, dtype) -> np.ndarray:
    """Returns rows in the data's type, once shape and values fit.

    Args:
        name: Of the leaf.
        rows: `[R, ...]`.
        wanted: Shape of a row of the data; None stands for any length.
        dtype: Type of the data.
    """
    shape = rows.shape[1:]
    fits = len(wanted) == len(shape) and all(
        want in (None, got) for want, got in zip(wanted, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name} must have rows of the canaries' shape {shape}. Received: "
            f"rows of shape {tuple(wanted)}. Make the canaries in the shape of "
            "the data."
        )
    dtype = np.dtype(dtype)
    if rows.dtype == dtype:
        return rows
    if rows.dtype.kind in "US" and dtype.kind in ("O", rows.dtype.kind):
        # The wider of two lengths of text; objects where the data has them.
        return rows.astype(np.promote_types(dtype, rows.dtype))
    cast = _cast_numbers(rows, dtype)
    if cast is None:
        raise ValueError(
            f"{name} must be of a type that holds the canaries' values "
            f"({rows.dtype}). Received: {dtype}. Make the canaries in the type "
            "and the range of the data."
        )
    return cast


def _cast_numbers(rows: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """Returns the rows cast, or None if that is more than rounding."""
    if dtype.kind not in "biufV" or rows.dtype.kind not in "biuf":
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        cast = rows.astype(dtype)
    # bfloat16 and the like are of kind V.
    if rows.dtype.kind == "f" and dtype.kind in "fV":
        finite = np.isfinite(cast.astype(np.float64))
        return cast if np.array_equal(finite, np.isfinite(rows)) else None
    # Both ways: a comparison of large integers with floats rounds them.
    kept = np.array_equal(cast, rows)
    kept = kept and np.array_equal(cast.astype(rows.dtype), rows)
    return cast if kept else None


def _fit_to_spec(name: str, rows: np.ndarray, spec) -> np.ndarray:
    """Returns rows in the type of a dataset's elements, once they fit."""
    if type(spec).__name__ != "TensorSpec" or spec.shape.rank is None:
        raise TypeError(
            f"{name} must be a dense tensor of known rank. Received: {spec}. "
            "Insert before it becomes ragged or sparse, or use ensure_shape."
        )
    if spec.shape.rank == rows.ndim:
        raise ValueError(
            f"{name} must not be batched. Received: elements of shape "
            f"{spec.shape} for canaries of shape {rows.shape[1:]}. Insert "
            "before batch, or call unbatch."
        )
    wanted = spec.shape.as_list()
    return _fit(name, rows, wanted, spec.dtype.as_numpy_dtype)
