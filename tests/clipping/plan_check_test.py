# SPDX-License-Identifier: Apache-2.0
"""The check of a plan goes the way that its steps will go."""

import keras
import pytest
import tensorflow as tf
from keras import layers

from tests.clipping import exactness

X, Y = exactness.normal(0, 8, 3), exactness.normal(1, 8, 2)


class OwnGradient(layers.Layer):
    """Multiplies by a weight that its own gradient gets from the tape.

    Where the weight is not a variable, as in a recomputation, the tape does
    not hand it over and its gradient is lost without a word.
    """

    def build(self, input_shape):
        """Create the weight."""
        width = input_shape[-1]
        self.weight = self.add_weight(shape=(width, width), name="weight")

    def compute_output_shape(self, input_shape):
        """Return the shape of the inputs."""
        return input_shape

    def call(self, inputs):
        """Return the product."""

        @tf.custom_gradient
        def multiply(x):
            weight = tf.convert_to_tensor(self.weight)

            def gradient(upstream, variables=()):
                of_weight = tf.matmul(x, upstream, transpose_a=True)
                return (
                    tf.matmul(upstream, weight, transpose_b=True),
                    [of_weight for _ in variables or ()],
                )

            return tf.matmul(x, weight), gradient

        return multiply(inputs)


@pytest.mark.parametrize("graph", [True, False])
def test_a_gradient_that_a_vectorised_layer_loses_is_found(graph):
    model = exactness.stack(
        layers.Dense(4), OwnGradient(), layers.Dense(2), shape=(3,)
    )
    assert exactness.error_to_loop(model, X, Y, graph=graph) <= 1e-5


class NoGradient(OwnGradient):
    """Captures a weight for which its own gradient gives nothing."""

    def call(self, inputs):
        """Return the product."""

        @tf.custom_gradient
        def multiply(x):
            weight = tf.convert_to_tensor(self.weight)

            def gradient(upstream):
                return tf.matmul(upstream, weight, transpose_b=True)

            return tf.matmul(x, weight), gradient

        return multiply(inputs)


@pytest.mark.parametrize("graph", [True, False])
def test_a_gradient_that_ignores_a_weight_is_refused(graph):
    # By TensorFlow, as in a step without privacy; the layer is named.
    model = exactness.stack(
        layers.Dense(4), NoGradient(), layers.Dense(2), shape=(3,)
    )
    clip = exactness.make_clip(model, X, Y, graph=graph)
    with pytest.raises((TypeError, ValueError), match="NoGradient"):
        clip(X, Y)
    keras.utils.clear_session()
