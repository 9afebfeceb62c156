# SPDX-License-Identifier: Apache-2.0
"""Tests of a model run on tokens of many shapes, in JAX."""

import keras
import numpy as np
import pytest
from keras import layers

from tf_privacy.audit import keras_backend

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="of JAX"
)


def test_lengths_and_powers_of_two_of_rows_are_compiled_once():
    compiled = []

    class Counting(layers.Layer):
        def call(self, inputs):
            compiled.append(tuple(inputs.shape[:2]))
            return inputs

    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(6, 4),
            layers.Dropout(0.5),
            Counting(),
            layers.Dense(6),
        ]
    )
    compiled.clear()
    call = keras_backend.load("_call").compile_call(model)
    tokens = np.random.default_rng(0).integers(0, 6, (5, 3))
    model.set_weights([2 * w for w in model.get_weights()])
    embedding, _, _, dense = model.layers
    table, (kernel, bias) = embedding.get_weights()[0], dense.get_weights()
    for length in (1, 3):
        for num_rows in (1, 3, 4, 5):
            rows = tokens[:num_rows, :length]
            np.testing.assert_allclose(
                call(rows), table[rows] @ kernel + bias, rtol=1e-5, atol=1e-6
            )
    sizes = [1, 4, 8]
    assert compiled == [(s, length) for length in (1, 3) for s in sizes]
