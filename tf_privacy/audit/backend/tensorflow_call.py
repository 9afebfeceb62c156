# SPDX-License-Identifier: Apache-2.0
"""Runs a Keras model on batches of many shapes, compiled by TensorFlow."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf


def compile_call(model) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs `model` on tokens in inference mode.

    One graph serves all batch sizes and lengths: XLA, which Keras would use,
    compiles anew for each.

    Args:
        model: A Keras model of tokens, `[B, L]` int32.
    """
    spec = tf.TensorSpec([None, model.input_shape[1]], tf.int32)

    @tf.function(input_signature=[spec])
    def call(tokens):
        return model(tokens, training=False)

    def run(tokens):
        return call(tf.convert_to_tensor(tokens, tf.int32)).numpy()

    return run
