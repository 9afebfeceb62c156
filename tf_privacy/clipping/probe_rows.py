# SPDX-License-Identifier: Apache-2.0
"""A few rows to try a model on before it is trusted with data."""

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping.backend.execution import execution

NUM_ROWS = 7
_UNKNOWN_LENGTH = 8  # Stands for an axis of unknown length.


def as_specs(x):
    """Returns shapes and dtypes of a structure of tensors.

    Args:
        x: A structure of tensors.
    """
    return keras.tree.map_structure(as_spec, x)


def as_spec(tensor):
    """Returns the shape and dtype of one tensor.

    Args:
        tensor: A tensor or array `[B, ...]`.
    """
    return keras.KerasTensor(tensor.shape, ops.dtype(tensor))


def sample_rows(x):
    """Returns `NUM_ROWS` rows as numpy arrays.

    Args:
        x: A structure of arrays `[B, ...]`, of which the first rows are taken,
            repeated if there are fewer; or of `keras.KerasTensor`s, or of
            tensors in a graph, for whose shapes values are made up.
    """
    leaves = keras.tree.flatten(x)
    if not execution.is_eager() and any(ops.is_tensor(t) for t in leaves):
        x = as_specs(x)
        leaves = keras.tree.flatten(x)
    if any(isinstance(t, keras.KerasTensor) for t in leaves):
        return keras.tree.map_structure(make_up, x)
    return keras.tree.map_structure(_take_rows, x)


def as_tensors(rows):
    """Returns the rows as tensors.

    Args:
        rows: From `sample_rows`.
    """
    return keras.tree.map_structure(ops.convert_to_tensor, rows)


def change_others(rows):
    """Returns the rows with all but the first one changed.

    Args:
        rows: One array from `sample_rows`.
    """
    changed = rows.copy()
    if np.issubdtype(rows.dtype, np.floating):
        rng = np.random.default_rng(1)
        spread = float(np.std(rows)) + 1.0
        noise = rng.normal(size=rows.shape) * spread
        changed[1:] = (noise - 1.5 * rows)[1:].astype(rows.dtype)
    elif rows.dtype == bool:
        changed[1:] = ~rows[1:]
    elif np.issubdtype(rows.dtype, np.integer):
        # Stays among the values that were seen in each place.
        low, high = rows.min(axis=0), rows.max(axis=0)
        wide = rows.astype(np.int64)
        mirrored = high.astype(np.int64) + low.astype(np.int64) - wide
        changed[1:] = mirrored[1:].astype(rows.dtype)
    else:
        changed[1:] = np.roll(rows[1:], 1, axis=0)
    return changed


def make_up(spec, num_rows: int = NUM_ROWS):
    """Returns made-up values of a given shape and dtype as a numpy array.

    Args:
        spec: A `keras.KerasTensor` `[B, ...]`.
        num_rows: Rows to make.
    """
    shape = (num_rows,) + tuple(
        _UNKNOWN_LENGTH if size is None else size for size in spec.shape[1:]
    )
    rng = np.random.default_rng(0)
    if "float" in spec.dtype:
        return rng.normal(size=shape).astype("float32")
    # 0 and 1 are valid whatever the number of classes or words.
    return rng.integers(0, 2, shape).astype(spec.dtype)


def _take_rows(array):
    rows = np.array(ops.convert_to_numpy(array[:NUM_ROWS]))
    if np.issubdtype(rows.dtype, np.floating):
        rows = np.nan_to_num(rows, posinf=0.0, neginf=0.0)
        rows = rows.astype("float32")
    return np.resize(rows, (NUM_ROWS, *rows.shape[1:]))
