# SPDX-License-Identifier: Apache-2.0
"""Convolutional LSTMs: settings that change what is convolved."""

import keras
import pytest
from keras import layers

from tests.clipping import exactness
from tests.clipping.rules import unknown_lengths

X, Y = exactness.normal(0, 6, 3, 5, 2), exactness.normal(1, 6, 2)


def make_model(length=3, **options):
    """Return a model with a small ConvLSTM1D."""
    inputs = keras.Input((length, 5, 2))
    hidden = layers.ConvLSTM1D(2, 2, **options)(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(hidden)))
    model.compile(loss="mse")
    return model


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "dilation_rate": 2},
        {"strides": 2, "return_sequences": True},
        {"recurrent_activation": "hard_sigmoid", "activation": "relu"},
        {"unroll": True},
        {"trainable": True, "unit_forget_bias": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("graph", [True, False])
def test_settings(options, graph):
    model = make_model(**options)
    assert exactness.error_to_loop(model, X, Y, graph=graph) <= 1e-5
    assert exactness.paths(model, X)[0] == ("ConvLSTM1D", "rule")


def test_an_unknown_number_of_steps():
    unknown_lengths.assert_exact(make_model(length=None), X, Y)


def test_masked_steps():
    inputs = keras.Input((3, 4))
    hidden = layers.Masking()(inputs)
    hidden = layers.TimeDistributed(layers.Reshape((2, 2)))(hidden)
    hidden = layers.ConvLSTM1D(2, 2, padding="same")(hidden)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(hidden)))
    model.compile(loss="mse")
    x = exactness.normal(0, 6, 3, 4)
    x[1, 1:] = 0.0
    x[2] = 0.0
    x[3, 0] = 0.0
    assert exactness.error_to_loop(model, x, Y) <= 1e-5
    assert exactness.paths(model, x)[0] == ("ConvLSTM1D", "rule")


def test_dropout_leaves_the_rule():
    # It draws a mask for each gate: another computation, and random.
    model = make_model(dropout=0.5)
    assert "draws random numbers" in exactness.paths(model, X)
