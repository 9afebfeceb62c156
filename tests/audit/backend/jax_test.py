# SPDX-License-Identifier: Apache-2.0
"""Tests of functions of a model's rows, in JAX."""

import keras
import numpy as np
import pytest
from keras import layers

from tf_privacy.audit.backend import input_gradients

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="of JAX"
)


def test_rows_are_filled_up_to_powers_of_two_and_cut_off_again():
    compiled = []

    class Counting(layers.Layer):
        def call(self, inputs):
            compiled.append(inputs.shape[0])
            return inputs

    model = keras.Sequential([keras.Input((3,)), layers.Dense(2), Counting()])
    compiled.clear()
    kernel, bias = model.get_weights()
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    for num_rows in range(10):
        got = input_gradients.compute_class_scores(
            model, x[:num_rows], outputs="logits"
        )
        np.testing.assert_allclose(
            got, x[:num_rows] @ kernel + bias, rtol=1e-5, atol=1e-6
        )
    # The model's output shape is asked for once, for the first number of rows.
    assert compiled[-5:] == [1, 2, 4, 8, 16]
    assert len(compiled) <= 6


def test_gradient_has_the_type_of_the_examples_where_jax_has_it_not():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    kernel = model.get_weights()[0]
    got = input_gradients.compute_input_gradient(
        model, np.ones((2, 3)), [0, 1], outputs="logits"
    )
    assert got.dtype == np.float64
    difference = kernel[:, 0] - kernel[:, 1]
    np.testing.assert_allclose(got, [difference, -difference], rtol=1e-6)
