# SPDX-License-Identifier: Apache-2.0
"""Low-rank adaptation: what is frozen stays so, what is not is exact."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.clipping import exactness
from tests.clipping.rules import low_precision
from tests.clipping.rules import unknown_lengths
from tf_privacy.clipping import engine

X, Y = exactness.normal(0, 8, 3, 4), exactness.normal(1, 8, 2)
TOKENS = np.random.default_rng(2).integers(0, 6, (8, 3)).astype("int32")


def adapted(layer, input_shape, rank=2):
    """Return a built layer with frozen weights and a scale that is not one."""
    layer.build(input_shape)
    layer.enable_lora(rank, lora_alpha=3, b_initializer="random_normal")
    return layer


def make_dense():
    """Return adapted layers on a sequence and on vectors."""
    return keras.Sequential(
        [
            keras.Input((3, 4)),
            adapted(layers.Dense(5, activation="tanh"), (None, 3, 4)),
            adapted(
                layers.EinsumDense("abc,cde->abde", (3, 2, 3), bias_axes="e"),
                (None, 3, 5),
            ),
            layers.Flatten(),
            adapted(layers.Dense(2, dtype="float32"), (None, 18), rank=1),
        ]
    )


def make_embedding():
    """Return an adapted table that is used in both directions."""
    embedding = adapted(layers.ReversibleEmbedding(6, 4), None)
    tokens = keras.Input((3,), dtype="int32")
    hidden = layers.Dense(4, activation="tanh")(embedding(tokens))
    logits = embedding(hidden, reverse=True)
    outputs = layers.Dense(2, dtype="float32")(layers.Flatten()(logits))
    return keras.Model(tokens, outputs)


def find_kernel(layer):
    """Return the weights that adaptation freezes."""
    if isinstance(layer, layers.Embedding):
        return layer._embeddings
    return layer._kernel


CASES = [(make_dense, X), (make_embedding, TOKENS)]


@pytest.mark.parametrize("make, x", CASES)
def test_frozen_weights_get_no_gradient(make, x):
    model = make()
    model.compile(loss="mse")
    step = engine.clipped_gradients(model, x, Y, l2_norm_clip=1.0)
    frozen = [
        find_kernel(layer)
        for layer in model.layers
        if getattr(layer, "lora_enabled", False)
    ]
    assert frozen
    variables = step.clipped_sum.variables
    assert not {id(v) for v in frozen} & {id(v) for v in variables}
    assert any("lora" in v.path for v in variables)
    assert all(np.any(g) for g in step.clipped_sum.gradients)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("make, x", CASES)
def test_weights_may_be_trained_beside_their_adaptation(make, x, graph):
    model = make()
    for layer in model.layers:
        if getattr(layer, "lora_enabled", False):
            find_kernel(layer).trainable = True
    model.compile(loss="mse")
    assert exactness.error_to_loop(model, x, Y, graph=graph) <= 1e-5
    assert {path for _, path in exactness.paths(model, x)} == {"rule"}


def test_a_part_of_an_adaptation_may_be_frozen():
    model = make_dense()
    model.layers[0].lora_kernel_a.trainable = False
    model.layers[1].lora_kernel_b.trainable = False
    model.compile(loss="mse")
    assert exactness.error_to_loop(model, X, Y) <= 1e-5


def test_sequences_of_unknown_length():
    inputs = keras.Input((None, 4))
    hidden = adapted(layers.Dense(3), (None, None, 4))(inputs)
    hidden = adapted(layers.EinsumDense("...c,cd->...d", 2), (None, None, 3))(
        hidden
    )
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(hidden))
    model.compile(loss="mse")
    unknown_lengths.assert_exact(model, X, Y)


@pytest.mark.parametrize("policy", low_precision.TOLERANCES)
@pytest.mark.parametrize("make, x", CASES)
def test_low_precision(policy, make, x):
    low_precision.assert_close_to_float32(policy, make, x, Y)
