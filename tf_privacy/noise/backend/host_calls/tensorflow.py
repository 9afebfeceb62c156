# SPDX-License-Identifier: Apache-2.0
"""Calls of numpy functions from TensorFlow."""

import tensorflow as tf


def map_on_host(function, tensor):
    """Returns what a numpy function makes of a tensor, run at every call.

    Works in eager code and in a `tf.function`, on any device; the function runs
    on the processor. XLA cannot compile it.

    Args:
        function: From an array to one of its shape and dtype; it may have
            state and randomness.
        tensor: Of any shape.
    """
    mapped = tf.numpy_function(function, [tensor], tensor.dtype, stateful=True)
    mapped.set_shape(tensor.shape)
    return mapped
