# SPDX-License-Identifier: Apache-2.0
"""Tables that are looked up, and multiplied with: ReversibleEmbedding."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from tests.clipping import exactness
from tests.clipping.rules import low_precision
from tests.clipping.rules import unknown_lengths

TOKENS = np.random.default_rng(0).integers(0, 6, (8, 3)).astype("int32")
Y = exactness.normal(1, 8, 2)
RULES = {("ReversibleEmbedding", "rule"), ("Dense", "rule")}


def make_model(length=3, call=None, **options):
    """Return a model that uses a table in both directions."""
    embedding = layers.ReversibleEmbedding(
        6, 4, embeddings_initializer="random_normal", **options
    )
    tokens = keras.Input((length,), dtype="int32")
    hidden = layers.Dense(4, activation="tanh")(embedding(tokens))
    if call is None:
        logits = embedding(hidden, reverse=True)
    else:
        logits = exactness.ApplyWith(embedding, call)(hidden)
    pooled = layers.GlobalAveragePooling1D()(logits)
    outputs = layers.Dense(2, dtype="float32")(pooled)
    model = keras.Model(tokens, outputs)
    model.compile(loss="mse")
    return model


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_weights": False},
        {"logit_soft_cap": 0.1},
        {"logit_soft_cap": 0.1, "tie_weights": False},
        {"reverse_dtype": "float64"},
    ],
    ids=str,
)
def test_both_directions(options, graph):
    keras.utils.set_random_seed(0)
    model = make_model(**options)
    assert exactness.error_to_loop(model, TOKENS, Y, graph=graph) <= 1e-5
    assert set(exactness.paths(model, TOKENS)) == RULES


def test_reverse_may_be_given_by_position():
    model = make_model(call=lambda e, x: e.call(x, True)[..., :4])
    assert exactness.error_to_loop(model, TOKENS, Y) <= 1e-5
    assert set(exactness.paths(model, TOKENS)) == RULES


def test_a_table_may_be_reversed_alone():
    embedding = layers.ReversibleEmbedding(6, 5)
    embedding.build()
    model = exactness.stack(
        exactness.ApplyWith(embedding, lambda e, x: e(x, reverse=True)[:, :5]),
        layers.Dense(2),
    )
    x = exactness.normal(0, 8, 5)
    assert exactness.error_to_loop(model, x, Y) <= 1e-5
    assert set(exactness.paths(model, x)) == RULES


def test_a_frozen_table():
    model = make_model(trainable=False)
    assert exactness.error_to_loop(model, TOKENS, Y) <= 1e-5
    assert ("ReversibleEmbedding", "rule") not in exactness.paths(model, TOKENS)


def test_sequences_of_unknown_length():
    unknown_lengths.assert_exact(make_model(length=None), TOKENS, Y)


def test_indices_of_any_type_and_sign():
    for dtype in ("int8", "uint8", "int64", "float32"):
        model = exactness.stack(
            layers.Embedding(6, 4),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
            shape=(3,),
            dtype=dtype,
        )
        x = TOKENS.astype(dtype)
        if not dtype.startswith("u"):
            x = x - np.array(6, dtype)
        assert exactness.error_to_loop(model, x, Y) <= 1e-5, dtype


class Scaled(layers.ReversibleEmbedding):
    """A subclass that computes something else."""

    def call(self, inputs, reverse=False):
        """Return twice the outputs."""
        return 2.0 * super().call(inputs, reverse=reverse)


def test_a_subclass_takes_the_generic_path():
    embedding = Scaled(6, 4)
    tokens = keras.Input((3,), dtype="int32")
    hidden = embedding(embedding(tokens), reverse=True)
    model = keras.Model(tokens, layers.Dense(2)(ops.mean(hidden, axis=1)))
    model.compile(loss="mse")
    assert exactness.error_to_loop(model, TOKENS, Y) <= 1e-5
    assert ("Scaled", "generic") in exactness.paths(model, TOKENS)


@pytest.mark.parametrize("policy", low_precision.TOLERANCES)
@pytest.mark.parametrize("tied", [True, False])
def test_low_precision(policy, tied):
    low_precision.assert_close_to_float32(
        policy, lambda: make_model(tie_weights=tied), TOKENS, Y
    )
