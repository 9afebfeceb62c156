# SPDX-License-Identifier: Apache-2.0
"""Attention with trained scales."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.clipping import exactness
from tests.clipping.rules import low_precision

X = [exactness.normal(0, 8, 3, 4), exactness.normal(1, 8, 5, 4)]
Y = exactness.normal(2, 8, 2)

KINDS = {
    "dot": lambda: layers.Attention(use_scale=True),
    "concat": lambda: layers.Attention(score_mode="concat"),
    "scaled concat": lambda: layers.Attention(
        use_scale=True, score_mode="concat"
    ),
    "additive": lambda: layers.AdditiveAttention(),
}


def make_model(kind, **options):
    """Return a model that attends from one sequence to another."""
    query, value = keras.Input((3, 4)), keras.Input((5, 4))
    hidden = KINDS[kind]()([query, value], **options)
    hidden = layers.Flatten()(hidden)
    outputs = layers.Dense(2, dtype="float32")(hidden)
    model = keras.Model([query, value], outputs)
    model.compile(loss="mse")
    return model


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_scales(kind, graph):
    model = make_model(kind)
    assert exactness.error_to_loop(model, X, Y, graph=graph) <= 1e-5
    assert {path for _, path in exactness.paths(model, X)} == {"rule"}


class Sharpened(layers.Attention):
    """A subclass with scores of its own."""

    def _calculate_scores(self, query, key):
        return 2.0 * super()._calculate_scores(query, key)


def test_scores_of_a_subclass_take_the_generic_path():
    query, value = keras.Input((3, 4)), keras.Input((5, 4))
    hidden = layers.Flatten()(Sharpened(use_scale=True)([query, value]))
    model = keras.Model([query, value], layers.Dense(2)(hidden))
    model.compile(loss="mse")
    assert exactness.error_to_loop(model, X, Y) <= 1e-5
    assert ("Sharpened", "generic") in exactness.paths(model, X)


def test_one_query_for_all_examples():
    class OneQuery(layers.Layer):
        """Attends from the same query in every example."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.attention = layers.Attention(use_scale=True)

        def call(self, inputs):
            """Return what the query attends to."""
            query = keras.ops.ones((1, 2, inputs.shape[-1])) / 3.0
            return self.attention([query, inputs])

    model = exactness.stack(
        OneQuery(), layers.Flatten(), layers.Dense(2), shape=(5, 4)
    )
    assert exactness.error_to_loop(model, X[1], Y) <= 1e-5


def test_more_axes_before_the_sequence():
    query, value = keras.Input((2, 3, 4)), keras.Input((2, 5, 4))
    hidden = layers.Attention(use_scale=True)([query, value])
    hidden = layers.Attention(score_mode="concat", use_scale=True)(
        [hidden, value]
    )
    model = keras.Model(
        [query, value], layers.Dense(2)(layers.Flatten()(hidden))
    )
    model.compile(loss="mse")
    x = [exactness.normal(3, 8, 2, 3, 4), exactness.normal(4, 8, 2, 5, 4)]
    assert exactness.error_to_loop(model, x, Y) <= 1e-5
    assert {path for _, path in exactness.paths(model, x)} == {"rule"}


@pytest.mark.parametrize("policy", low_precision.TOLERANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_low_precision(policy, kind):
    x = [np.tanh(array) for array in X]
    low_precision.assert_close_to_float32(
        policy, lambda: make_model(kind), x, Y
    )
