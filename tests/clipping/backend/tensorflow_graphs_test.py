# SPDX-License-Identifier: Apache-2.0
"""Tests of what is read from TensorFlow's graphs."""

import keras
import pytest
import tensorflow as tf

from tf_privacy.clipping.backend.graphs import tensorflow as graphs


@pytest.mark.parametrize(
    "make, stateful",
    [
        (lambda: tf.random.normal((2,)), True),
        (lambda: tf.random.uniform((2,)), True),
        (lambda: tf.random.truncated_normal((2,)), True),
        (lambda: tf.random.gamma((2,), 1.0), True),
        (lambda: tf.random.poisson((2,), 1.0), True),
        (lambda: tf.random.categorical([[0.5, 0.5]], 1), True),
        (lambda: tf.random.shuffle(tf.range(3)), True),
        (lambda: tf.nn.dropout(tf.ones(3), 0.5), True),
        (
            lambda: tf.nn.experimental.stateless_dropout(
                tf.ones(3), 0.5, seed=[1, 2]
            ),
            False,
        ),
        (lambda: tf.random.stateless_normal((2,), seed=[1, 2]), False),
        (lambda: keras.random.normal((2,), seed=1), False),
        (lambda: tf.ones(3) + 1.0, False),
        (
            lambda: tf.map_fn(
                lambda row: row + tf.random.normal(()), tf.ones(3)
            ),
            True,
        ),
    ],
)
def test_random_operations_with_state_of_their_own_are_seen(make, stateful):
    graph = graphs.trace(lambda specs: make(), [])
    assert graphs.has_unseeded_random_operation(graph) is stateful


def test_a_generator_of_tensorflow_is_seen():
    generator = tf.random.Generator.from_seed(1)
    graph = graphs.trace(lambda specs: generator.normal((2,)), [])
    assert graphs.has_unseeded_random_operation(graph)


def test_specs_of_outputs_are_known_without_running():
    ran = []

    def function(inputs):
        ran.append(tf.executing_eagerly())
        return tf.cast(inputs[:, 1:], tf.float16)

    spec = graphs.output_specs(function, keras.KerasTensor((None, 5), "int32"))
    assert spec.shape == (None, 4)
    assert spec.dtype == "float16"
    assert ran == [False]


def test_bytes_of_values_with_a_row_for_each_row_are_counted():
    weight = tf.ones((3, 4))
    spec = keras.KerasTensor((1009, 3), "float32")
    graph = graphs.trace(
        lambda inputs: tf.reshape(inputs @ weight, (-1,)), spec
    )
    # The placeholder and the product; the reshape copies nothing.
    assert graphs.count_bytes(graph, 1009) == 1009 * (3 + 4) * 4
