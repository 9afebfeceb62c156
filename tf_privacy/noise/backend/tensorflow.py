# SPDX-License-Identifier: Apache-2.0
"""Counter-based Gaussian noise in TensorFlow."""

import math

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from tf_privacy.noise import host_generator


class CounterGenerator:
    """A Philox generator: a key, and a counter that only grows.

    In numpy on the processor where there is no accelerator, which is faster
    there; on the device, or in what XLA compiles, in TensorFlow operations. The
    state of neither is tracked by a checkpoint, so restoring a model cannot
    turn the counter back to noise that was already used. The two are different
    functions of the key, Philox on words of 64 and of 32 bits.

    Args:
        words: Three unsigned 64-bit integers.
    """

    def __init__(self, words):
        self._host = host_generator.HostGenerator(words)
        with tf.init_scope():
            self._generator = tf.random.Generator.from_state(
                _as_state(words), alg="philox"
            )

    def restart(self, words) -> None:
        """Goes on from another key and counter, in traced functions too.

        Args:
            words: As for the class.
        """
        self._host.restart(words)
        with tf.init_scope():
            self._generator.state.assign(_as_state(words))

    def normal(self, num_values: int):
        """Returns `[num_values]` float32 standard normals, never repeated.

        Args:
            num_values: How many.
        """
        if _is_on_device():
            return self._device_normal(num_values)
        values = tf.numpy_function(
            lambda: self._host.normal(num_values), [], tf.float32
        )
        return tf.ensure_shape(values, (num_values,))

    def _device_normal(self, num_values):
        """Returns normals by Box-Muller on 32-bit integers."""
        half = (num_values + 1) // 2
        bits = self._generator.uniform_full_int((2, half), dtype=tf.int32)
        signed = tf.cast(bits, tf.float32)
        # |bits| is uniform on [0, 2^31]; the offset keeps the log finite.
        uniform = tf.abs(signed[0]) * 2.0**-31 + 2.0**-33
        radius = tf.sqrt(tf.maximum(-2.0 * tf.math.log(uniform), 0.0))
        angle = signed[1] * (math.pi * 2.0**-31)
        both = tf.concat(
            [radius * tf.cos(angle), radius * tf.sin(angle)], axis=0
        )
        return both[:num_values]


def _is_on_device() -> bool:
    """Whether the step runs, or is traced to run, where numpy cannot be."""
    graph = tf.compat.v1.get_default_graph()
    if control_flow_util.GraphOrParentsInXlaContext(graph):
        return True
    return bool(tf.config.list_logical_devices("GPU"))


def _as_state(words):
    signed = [w - 2**64 if w >= 2**63 else w for w in words]
    return tf.constant(signed, tf.int64)
