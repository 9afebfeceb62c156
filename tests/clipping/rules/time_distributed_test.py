# SPDX-License-Identifier: Apache-2.0
"""TimeDistributed: any layer with a rule, at steps of any number."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests import oracles
from tests.clipping import exactness
from tests.clipping.rules import low_precision

WITHIN = {
    "dense": (lambda: layers.Dense(2, activation="tanh"), (5,)),
    "convolution": (lambda: layers.Conv1D(2, 2, activation="tanh"), (5, 2)),
    "lstm": (lambda: layers.LSTM(2), (4, 2)),
    "normalization": (lambda: layers.LayerNormalization(), (4,)),
    "prelu": (lambda: layers.PReLU(), (4,)),
    "nested": (lambda: layers.TimeDistributed(layers.Dense(2)), (2, 3)),
    "attention": (
        lambda: layers.EinsumDense("abc,cde->adeb", (2, 2, 3)),
        (3, 4),
    ),
}
Y = exactness.normal(1, 7, 2)


def make_model(within, shape, length=3):
    """Return a model with a layer at each step, and data for it."""
    inputs = keras.Input((length, *shape))
    hidden = layers.TimeDistributed(within)(inputs)
    hidden = layers.TimeDistributed(layers.Flatten())(hidden)
    hidden = layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model(inputs, layers.Dense(2, dtype="float32")(hidden))
    model.compile(loss="mse")
    return model, exactness.normal(0, 7, length or 3, *shape)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("kind", WITHIN)
def test_steps(kind, graph):
    make, shape = WITHIN[kind]
    model, x = make_model(make(), shape)
    assert exactness.error_to_loop(model, x, Y, graph=graph) <= 1e-5
    assert ("TimeDistributed", "rule") in exactness.paths(model, x)


@pytest.mark.parametrize("within", [layers.Dense, layers.Dropout])
def test_an_unknown_number_of_steps_is_refused(within):
    # Keras 3.15 then runs over as many steps as there are examples.
    model, x = make_model(within(1), (4,), length=None)
    signature = (
        tf.TensorSpec((None, None, 4), tf.float32),
        tf.TensorSpec((None, 2), tf.float32),
    )
    clip = exactness.make_clip(model, x, Y, input_signature=signature)
    with pytest.raises(ValueError, match="model must know the number of steps"):
        clip(x, Y)


def test_one_step():
    model, x = make_model(layers.Dense(3), (4,), length=1)
    assert exactness.error_to_loop(model, x, Y) <= 1e-5
    assert ("TimeDistributed", "rule") in exactness.paths(model, x)


class Doubled(layers.Dense):
    """A subclass that computes something else."""

    def call(self, inputs, training=None):
        """Return twice the output."""
        return 2.0 * super().call(inputs, training=training)


def test_a_layer_without_a_rule():
    model, x = make_model(Doubled(3), (4,))
    assert exactness.error_to_loop(model, x, Y) <= 1e-5
    assert ("Doubled", "generic") in exactness.paths(model, x)


def test_a_model_at_each_step():
    within = keras.Sequential([layers.Dense(3, activation="tanh")])
    within.add(layers.Dense(2))
    model, x = make_model(within, (4,))
    assert exactness.error_to_loop(model, x, Y) <= 1e-5
    assert {path for _, path in exactness.paths(model, x)} == {"rule"}


@pytest.mark.parametrize("graph", [True, False])
def test_a_layer_that_is_masked_at_each_step(graph):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (7, 3, 4)).astype("int32")
    tokens = keras.Input((3, 4), dtype="int32")
    hidden = layers.Embedding(3, 2, mask_zero=True)(tokens)
    hidden = layers.TimeDistributed(layers.LSTM(3))(hidden)
    hidden = layers.Lambda(lambda h: h[:, -1] + h[:, 0])(hidden)
    model = keras.Model(tokens, layers.Dense(2)(hidden))
    model.compile(loss="mse")
    assert exactness.error_to_loop(model, x, Y, graph=graph) <= 1e-5
    assert ("TimeDistributed", "rule") in exactness.paths(model, x)


def test_dropout_differs_from_step_to_step():
    within = layers.LSTM(3, dropout=0.5)
    model, x = make_model(within, (4, 2))
    x = np.repeat(x[:, :1], 3, axis=1)
    clip = exactness.make_clip(model, x, Y, l2_norm_clip=1e6)
    totals = [clip(x, Y)[0] for _ in range(2)]
    assert oracles.relative_error(*totals) > 1e-3
    assert ("TimeDistributed", "rule") in exactness.paths(model, x)


@pytest.mark.parametrize("policy", low_precision.TOLERANCES)
def test_low_precision(policy):
    x = exactness.normal(0, 7, 3, 4)
    low_precision.assert_close_to_float32(
        policy, lambda: make_model(layers.Dense(3), (4,))[0], x, Y
    )
