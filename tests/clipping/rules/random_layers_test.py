# SPDX-License-Identifier: Apache-2.0
"""Rules of layers that drop out: the same draws as Keras, in the same order.

With the same states of the random generators, and nothing clipped, the sum of
the examples' gradients is the gradient that a plain tape finds.
"""

import keras
import pytest
import tensorflow as tf
from keras import layers

from tests import oracles
from tests.clipping import exactness

X, Y = exactness.normal(0, 8, 4, 4), exactness.normal(1, 8, 2)


def attend(make, *arguments):
    """Return a layer that attends from a sequence to itself."""

    class SelfAttention(layers.Layer):
        """Attends from a sequence to itself."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.attention = make(*arguments, dropout=0.4)

        def build(self, input_shape):
            """Build the layer within."""
            if isinstance(self.attention, layers.Attention):
                self.attention.build([input_shape, input_shape])
            else:
                self.attention.build(input_shape, input_shape)

        def call(self, inputs, training=None):
            """Return what the sequence attends to."""
            if isinstance(self.attention, layers.Attention):
                return self.attention([inputs, inputs], training=training)
            return self.attention(inputs, inputs, training=training)

    return lambda: [SelfAttention(), layers.GlobalAveragePooling1D()]


DROPS = {"dropout": 0.4, "recurrent_dropout": 0.4}

RANDOM = {
    "attention": attend(layers.Attention, True),
    "additive attention": attend(layers.AdditiveAttention),
    "heads": attend(layers.MultiHeadAttention, 2, 2),
    "grouped heads": attend(layers.GroupQueryAttention, 2, 4, 2),
    "simple cell": lambda: [layers.RNN(layers.SimpleRNNCell(3, **DROPS))],
    "lstm": lambda: [layers.LSTM(3, dropout=0.4)],
    "lstm by gates": lambda: [layers.LSTM(3, **DROPS)],
    "lstm state by gates": lambda: [layers.LSTM(3, recurrent_dropout=0.4)],
    "gru by gates": lambda: [layers.GRU(3, **DROPS)],
    "gru reset before": lambda: [layers.GRU(3, reset_after=False, **DROPS)],
    "stacked cells": lambda: [
        layers.RNN(
            [layers.LSTMCell(3, **DROPS), layers.SimpleRNNCell(2, **DROPS)]
        )
    ],
    "both ends": lambda: [layers.Bidirectional(layers.SimpleRNN(3, **DROPS))],
}


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("kind", RANDOM)
def test_draws_are_those_of_keras(kind, graph):
    keras.utils.set_random_seed(0)
    model = exactness.stack(*RANDOM[kind](), layers.Dense(2), shape=(4, 4))
    clip = exactness.make_clip(model, X, Y, l2_norm_clip=1e6, graph=graph)
    clip(X, Y)  # Its checks draw numbers too.
    before = [v.numpy() for v in model.non_trainable_variables]
    with tf.GradientTape() as tape:
        outputs = model(X, training=True)
        loss = tf.reduce_sum(tf.reduce_mean(tf.square(Y - outputs), axis=-1))
    expected = tape.gradient(loss, model.trainable_variables)
    for variable, value in zip(
        model.non_trainable_variables, before, strict=True
    ):
        variable.assign(value)
    total, _ = clip(X, Y)
    assert oracles.relative_error(total, expected) <= 1e-5
    assert {path for _, path in exactness.paths(model, X)} == {"rule"}
