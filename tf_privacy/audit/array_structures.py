# SPDX-License-Identifier: Apache-2.0
"""Nested tuples and dicts of arrays, with one example in each row.

A leaf is named by its path: "" for an array alone, "['age']" or "[0]['age']"
within a structure. Lists are no structures: Keras and tf.data disagree on them.
"""

import itertools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import numpy as np


def flatten(structure) -> dict[str, Any]:
    """Returns the leaves by path, in the structure's own order.

    Args:
        structure: Nested tuples and dicts; anything else is a leaf.
    """
    if isinstance(structure, tuple):
        children = enumerate(structure)
    elif isinstance(structure, dict):
        children = structure.items()
    else:
        return {"": structure}
    return {
        f"[{key!r}]{path}": leaf
        for key, child in children
        for path, leaf in flatten(child).items()
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
    return rebuild(structure, map(function, flatten(structure).values()))


def take_rows(structure, rows):
    """Returns some rows of each array.

    Args:
        structure: Arrays `[N, ...]`.
        rows: `[R]` int, `[N]` bool, or a slice.
    """
    return map_arrays(lambda array: array[rows], structure)


def check_arrays(name: str, structure) -> tuple[Any, int]:
    """Returns the structure with numpy arrays as leaves, and their length.

    Args:
        name: The parameter's name as the caller wrote it.
        structure: Nested tuples and dicts (keys are text) of arrays of one
            length, one at least.

    Returns:
        The same structure, not copied where it was numpy, and N.

    Raises:
        TypeError: If a leaf is no array.
        ValueError: If lengths differ, or there is no array.
    """
    leaves = flatten(structure)
    lengths = {}
    for path, leaf in leaves.items():
        if not hasattr(leaf, "__array__") or np.ndim(leaf) == 0:
            raise TypeError(
                f"{name}{path} must be an array with one example in each row. "
                f"Received: {type(leaf).__name__}. Use np.asarray, and tuples "
                "or dicts of arrays for several inputs."
            )
        lengths[path] = len(leaf)
    if len(set(lengths.values())) != 1:
        shown = ", ".join(f"{name}{p}: {n}" for p, n in lengths.items())
        raise ValueError(
            f"{name} must hold arrays of one length. Received: "
            f"{shown or 'no array'}. Give one row to each example."
        )
    arrays = map_arrays(np.asarray, structure)
    return arrays, next(iter(lengths.values()))
