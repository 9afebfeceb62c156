# SPDX-License-Identifier: Apache-2.0
"""Plain gradients and compiled functions of TensorFlow."""

import keras
import numpy as np
import tensorflow as tf


def compute_gradients(function, variables):
    """Return the gradients of the sum of `function()`, as float64 arrays.

    Args:
        function: Returns a tensor.
        variables: Keras variables; zeros for those without a gradient.
    """
    with tf.GradientTape() as tape:
        value = function()
    gradients = tape.gradient(
        value,
        [v.value for v in variables],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    # Also densifies slices.
    return [np.array(tf.convert_to_tensor(g), np.float64) for g in gradients]


def any_rows(structure):
    """Return signatures of the arrays with the number of rows left open."""
    return keras.tree.map_structure(
        lambda a: tf.TensorSpec((None, *a.shape[1:]), a.dtype), structure
    )


def compile_for_any_rows(function, data, **options):
    """Return a function that is traced once, for any number of rows.

    Args:
        function: Takes tensors.
        data: Arrays of the shapes and dtypes of its arguments.
        **options: For `tf.function`.
    """
    options.setdefault("input_signature", any_rows(data))
    return tf.function(function, autograph=False, **options)


def fit_weights(weights, outputs):
    """Return sample weights, which Keras takes as they are.

    Args:
        weights: A structure of arrays.
        outputs: A structure of tensors, with their Keras masks.
    """
    del outputs
    return weights
