# SPDX-License-Identifier: Apache-2.0
"""Tests of functions of a model's rows, in PyTorch."""

import keras
import numpy as np
import pytest
from keras import layers

from tf_privacy.audit.backend import input_gradients

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="of PyTorch"
)


def test_weights_get_no_gradient():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    frozen = layers.Dense(2)
    model.add(frozen)
    frozen.trainable = False
    x, y = np.ones((2, 3), np.float32), np.zeros((2, 2), np.float32)
    use = {"x": x, "y": y, "loss": keras.losses.MeanSquaredError()}
    input_gradients.compute_loss_input_gradient(model, **use)
    input_gradients.compute_input_gradient(model, x, [0, 1], outputs="logits")
    assert [v.value.grad for v in model.variables] == [None] * 4
    assert [v.value.requires_grad for v in model.variables] == [
        True,
        True,
        False,
        False,
    ]


def test_model_without_a_slope_has_gradient_zero():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Lambda(keras.ops.zeros_like)]
    )
    x = np.ones((2, 3), np.float32)
    got = input_gradients.compute_input_gradient(
        model, x, [0, 1], outputs="logits"
    )
    np.testing.assert_array_equal(got, np.zeros_like(x))
