# SPDX-License-Identifier: Apache-2.0
"""Counter-based Gaussian noise in TensorFlow."""

import tensorflow as tf


class CounterGenerator:
    """A Philox generator: a 64-bit key, a 128-bit counter that only grows.

    The state is a `tf.Variable` that no checkpoint tracks, so restoring a
    model cannot turn the counter back to noise that was already used.

    Args:
        words: Three unsigned 64-bit integers: counter low, counter high, key.
    """

    def __init__(self, words):
        signed = [w - 2**64 if w >= 2**63 else w for w in words]
        with tf.init_scope():
            self._generator = tf.random.Generator.from_state(
                tf.constant(signed, tf.int64), alg="philox"
            )

    def normal(self, shape):
        """Returns `shape` float32 standard normal values, never repeated."""
        return self._generator.normal(shape, dtype=tf.float32)
