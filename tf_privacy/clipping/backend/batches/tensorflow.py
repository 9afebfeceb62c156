# SPDX-License-Identifier: Apache-2.0
"""Batches in pieces, empty ones too, in TensorFlow."""

import keras
import tensorflow as tf


def sum_over_pieces(function, num_rows, piece_size, initial):
    """Returns the sum of `function(start, stop)` over consecutive pieces.

    Args:
        function: `function(start, stop) -> list of tensors` of the shapes and
            dtypes of `initial`.
        num_rows: Scalar integer tensor; 0 is fine.
        piece_size: Rows of a piece, a Python int.
        initial: A list of tensors.

    Returns:
        A list of tensors.
    """
    num_rows = tf.cast(num_rows, tf.int32)

    def body(start, totals):
        stop = tf.minimum(start + piece_size, num_rows)
        parts = function(start, stop)
        return stop, [a + b for a, b in zip(totals, parts, strict=True)]

    shapes = (tf.TensorShape([]), [tf.TensorShape(t.shape) for t in initial])
    _, totals = tf.while_loop(
        lambda start, totals: start < num_rows,
        body,
        (tf.constant(0), list(initial)),
        shape_invariants=shapes,
        parallel_iterations=1,
    )
    return totals


def take_rows(tensor, start, num_rows: int):
    """Returns consecutive rows.

    Args:
        tensor: `[B, ...]`.
        start: The first one; an int or a scalar integer tensor.
        num_rows: How many.
    """
    return tensor[start : start + num_rows]


def fill_if_empty(data, num_rows: int):
    """Returns `data`, or rows of zeros where it has no rows.

    Args:
        data: A structure of tensors `[B, ...]`; None stays None.
        num_rows: How many rows of zeros.
    """

    def zeros(tensor):
        shape = [num_rows, *tensor.shape[1:]]
        for axis, size in enumerate(shape):
            if size is None:  # Known in the step only, and may be 0 there.
                shape[axis] = tf.maximum(tf.shape(tensor)[axis], 1)
        return tf.zeros(shape, tensor.dtype)

    leaves = [t for t in keras.tree.flatten(data) if t is not None]
    if leaves[0].shape[0] == 0:
        filled = [zeros(t) for t in leaves]
    else:
        filled = tf.cond(
            tf.equal(tf.shape(leaves[0])[0], 0),
            lambda: [zeros(t) for t in leaves],
            lambda: [tf.identity(t) for t in leaves],
        )
    remaining = iter(filled)

    def take(before):
        if before is None:
            return None
        return tf.ensure_shape(next(remaining), (None, *before.shape[1:]))

    return keras.tree.map_structure(take, data)


def check_multiple(data, number: int):
    """Returns `data` once its rows are seen to be a multiple of `number`.

    Args:
        data: A structure of tensors `[B, ...]`; None stays None.
        number: What B must be a multiple of.

    Raises:
        tf.errors.InvalidArgumentError: If it is not, when it is run.
    """
    leaves = [t for t in keras.tree.flatten(data) if t is not None]
    num_rows = tf.shape(leaves[0])[0]
    # TensorFlow adds both numbers: the rows, and those in whole units.
    check = tf.debugging.assert_equal(
        num_rows,
        num_rows - num_rows % number,
        "x must hold whole units: a multiple of examples_per_unit="
        f"{number} rows. Fill up with rows of sample_weight 0 "
        "(tf_privacy.arrange_units does it). Received:",
    )
    with tf.control_dependencies([check] if check is not None else []):
        return keras.tree.map_structure(
            lambda t: None if t is None else tf.identity(t), data
        )
