# SPDX-License-Identifier: Apache-2.0
"""Runs a Keras model on batches of many shapes, compiled by TensorFlow."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf


def compile_call(model) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs `model` in inference mode.

    One graph serves all batch sizes and lengths: XLA, which Keras would use,
    compiles anew for each.

    Args:
        model: A Keras model of one input.
    """

    @tf.function(reduce_retracing=True)
    def call(inputs):
        return model(inputs, training=False)

    def run(inputs):
        return call(tf.convert_to_tensor(inputs)).numpy()

    return run
