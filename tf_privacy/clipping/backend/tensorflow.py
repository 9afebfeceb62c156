# SPDX-License-Identifier: Apache-2.0
"""Gradients at taps and weights, and their norms, in TensorFlow."""

import keras
import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def pull_back(function):
    """Returns a scalar's value and its cotangents at the tapped tensors.

    One forward pass under a tape that watches nothing but the taps, and one
    backward pass that stops at them: no weight gradient is computed.

    Args:
        function: `function(tap) -> (scalar, aux)`; `tap(tensor)` returns the
            tensor to go on with.

    Returns:
        `aux`, and a list with the cotangent of each tap in the order of the
        calls; None where the scalar does not depend on it.
    """
    taps = []
    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def tap(tensor):
            tensor = tf.identity(tensor)
            tape.watch(tensor)
            taps.append(tensor)
            return tensor

        scalar, aux = function(tap)
    cotangents = tape.gradient(scalar, taps)
    return aux, [None if g is None else densify(g) for g in cotangents]


def gradient(function, variables):
    """Returns the gradient of `function()` for each variable, never None."""
    values = [v.value for v in variables]
    # The tape watches what is read by itself too: functions with a gradient of
    # their own ask it which variables they used.
    with tf.GradientTape() as tape:
        tape.watch(values)
        scalar = function()
    return tape.gradient(
        scalar, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )


def isolated_gradient(function, variables):
    """Returns `gradient(function, variables)` without changing any state."""
    values = [v.value for v in variables]
    with keras.StatelessScope():
        with tf.GradientTape() as tape:
            tape.watch(values)
            scalar = function()
        return tape.gradient(
            scalar, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )


def squared_norms(array, axes):
    """Returns squared L2 norms along axes, in one pass over the array.

    A square and a sum would write the squares out: on a CPU three to five
    times slower on large rows.

    Args:
        array: A float32 tensor.
        axes: A tuple of axes.
    """
    graph = tf.compat.v1.get_default_graph()
    if control_flow_util.GraphOrParentsInXlaContext(graph):
        # XLA has no such operation, and makes one pass of the two by itself.
        return tf.reduce_sum(tf.square(array), axes)
    return tf.square(tf.math.reduce_euclidean_norm(array, axes))


def products_of_rows(left, right):
    """Returns `[B, C, D]`: left[b]^T right[b].

    Args:
        left: `[B, P, C]`.
        right: `[B, P, D]`.
    """
    return tf.matmul(left, right, transpose_a=True)


def grams_of_rows(array):
    """Returns `[B, T, T]`: array[b] array[b]^T.

    Args:
        array: `[B, T, P]`.
    """
    return tf.matmul(array, array, transpose_b=True)


def densify(tensor):
    """Returns a dense tensor for what may be `tf.IndexedSlices`."""
    return tf.convert_to_tensor(tensor)


def row_leak(function, inputs, row: int = 0) -> float:
    """Returns how much one output row's gradient touches other rows.

    Args:
        function: Maps a structure of tensors `[B, ...]` to such a structure.
        inputs: Eager tensors; only the floating ones are differentiated.
        row: Which output row.

    Returns:
        The largest absolute gradient in any row but that one; 0 if none.
    """
    leaves = [t for t in keras.tree.flatten(inputs) if t.dtype.is_floating]
    with keras.StatelessScope(), tf.GradientTape() as tape:
        tape.watch(leaves)
        outputs = keras.tree.flatten(function(inputs))
        total = tf.add_n(
            [
                tf.reduce_sum(tf.sin(tf.cast(o[row], tf.float32)))
                for o in outputs
                if o.dtype.is_floating and len(o.shape)
            ]
        )
    gradients = tape.gradient(total, leaves) if leaves else []
    others = [
        tf.concat([g[:row], g[row + 1 :]], axis=0)
        for g in (densify(g) for g in gradients if g is not None)
    ]
    largest = [tf.reduce_max(tf.abs(tf.cast(g, tf.float32))) for g in others]
    finite = [float(v) for v in largest if tf.math.is_finite(v)]
    return max(finite, default=0.0)
