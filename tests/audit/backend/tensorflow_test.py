# SPDX-License-Identifier: Apache-2.0
"""Tests of functions of a model's rows, in TensorFlow."""

import keras
import numpy as np
import pytest
from keras import layers

from tf_privacy.audit.backend import input_gradients

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="of TensorFlow"
)


def test_graph_is_traced_once_for_any_number_of_rows():
    traced = []

    class Counting(layers.Layer):
        def call(self, inputs):
            traced.append(inputs.shape)
            return inputs

    model = keras.Sequential(
        [keras.Input((3, 2)), layers.Flatten(), layers.Dense(4), Counting()]
    )

    def differentiate(num_rows):
        x = np.ones((num_rows, 3, 2), np.float32)
        return input_gradients.compute_input_gradient(
            model, x, [1] * num_rows, outputs="logits"
        )

    before = differentiate(2)
    differentiate(3)
    count = len(traced)
    for num_rows in (2, 5, 6, 9):
        differentiate(num_rows)
    model.set_weights([np.square(w) for w in model.get_weights()])
    after = differentiate(2)
    assert len(traced) == count
    assert not np.allclose(before, after)


def test_logits_are_found_below_the_end_of_any_model():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, inputs):
            return keras.ops.softmax(self.dense(inputs))

        def compute_output_shape(self, input_shape):
            return (input_shape[0], 3)

    model, x = Own(), 100 * np.eye(4, dtype=np.float32)
    model(x)
    assert np.any(model.predict(x, verbose=0) == 0.0)
    scores = input_gradients.compute_class_scores(
        model, x, outputs="probabilities"
    )
    np.testing.assert_allclose(scores, model.dense(x), rtol=1e-5)
    with pytest.raises(ValueError, match="^outputs must be 'probabilities'"):
        input_gradients.compute_class_scores(model, x, outputs="logits")
