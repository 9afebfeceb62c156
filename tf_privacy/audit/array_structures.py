# SPDX-License-Identifier: Apache-2.0
"""Nested tuples and dicts of arrays, with one example in each row.

A leaf is named as in Python: "x" for an array alone, "x['age']" or "x[0]" in a
structure x. Lists are no structures: Keras and tf.data disagree on them.
"""

import itertools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import numpy as np


def flatten(structure, *, name: str) -> dict[str, Any]:
    """Returns the leaves by name, in the structure's own order.

    Args:
        structure: Nested tuples and dicts; anything else is a leaf.
        name: Of the whole structure.

    Raises:
        TypeError: If a key is no text.
    """
    if isinstance(structure, tuple):
        children = enumerate(structure)
    elif isinstance(structure, dict):
        children = structure.items()
        if not all(isinstance(key, str) for key in structure):
            raise TypeError(
                f"{name} must have text as keys. Received: {list(structure)}."
            )
    else:
        return {name: structure}
    return {
        leaf_name: leaf
        for key, child in children
        for leaf_name, leaf in flatten(child, name=f"{name}[{key!r}]").items()
    }


def rebuild(structure, leaves: Iterator):
    """Returns the structure with other leaves, given in the order of `flatten`.

    Args:
        structure: Nested tuples (or lists, which become tuples) and dicts.
        leaves: As many as the structure has.
    """
    if isinstance(structure, tuple | list):
        return tuple(rebuild(child, leaves) for child in structure)
    if isinstance(structure, dict):
        return {key: rebuild(child, leaves) for key, child in structure.items()}
    return next(leaves)


def make_skeleton(structure):
    """Returns the structure with None for each leaf."""
    return rebuild(structure, itertools.repeat(None))


def map_arrays(function: Callable, structure):
    """Returns the structure with a function applied to each leaf."""
    leaves = flatten(structure, name="structure").values()
    return rebuild(structure, map(function, leaves))


def take_rows(structure, rows):
    """Returns some rows of each array.

    Args:
        structure: Arrays `[N, ...]`.
        rows: `[R]` int, `[N]` bool, or a slice.
    """
    return map_arrays(lambda array: array[rows], structure)


def check_arrays(name: str, structure):
    """Returns the structure with numpy arrays as leaves, not copied if so.

    Args:
        name: The parameter's name as the caller wrote it.
        structure: Nested tuples and dicts of arrays, at least one.

    Raises:
        TypeError: If a leaf is no array, or has no rows.
        ValueError: If there is no array.
    """
    leaves = flatten(structure, name=name)
    for leaf_name, leaf in leaves.items():
        if not hasattr(leaf, "__array__") or np.ndim(leaf) == 0:
            raise TypeError(
                f"{leaf_name} must be an array with one example in each row. "
                f"Received: {type(leaf).__name__}. Use np.asarray, and tuples "
                "or dicts of arrays for several inputs."
            )
    if not leaves:
        raise ValueError(
            f"{name} must hold an array. Received: {structure!r}. Give one row "
            "to each example."
        )
    return map_arrays(np.asarray, structure)


def count_rows(**structures) -> int:
    """Returns the length of all arrays, once it is one.

    Args:
        **structures: By name, what `check_arrays` returned.

    Raises:
        ValueError: If lengths differ.
    """
    lengths = {
        leaf_name: len(leaf)
        for name, structure in structures.items()
        for leaf_name, leaf in flatten(structure, name=name).items()
    }
    if len(set(lengths.values())) != 1:
        shown = ", ".join(f"{name}: {n}" for name, n in lengths.items())
        raise ValueError(
            f"{' and '.join(structures)} must hold arrays of one length. "
            f"Received: {shown}. Give one row to each example."
        )
    return next(iter(lengths.values()))
