# SPDX-License-Identifier: Apache-2.0
"""Weights that multiply features: RMSNormalization, PReLU."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.clipping import exactness
from tests.clipping.rules import low_precision
from tests.clipping.rules import unknown_lengths

X, Y = exactness.normal(0, 8, 3, 4), exactness.normal(1, 8, 2)


def make_model(*own, length=3):
    """Return a model with layers of one's own, made after the seeding."""
    inputs = keras.Input((length, 4))
    hidden = inputs
    for layer in own:
        hidden = layer(hidden)
    hidden = layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model(inputs, layers.Dense(2, dtype="float32")(hidden))
    for variable in model.trainable_variables:
        seed = len(variable.path)
        variable.assign_add(0.2 * exactness.normal(seed, *variable.shape))
    model.compile(loss="mse")
    return model


OWN = {
    "rms": lambda: layers.RMSNormalization(epsilon=0.1),
    "variance": lambda: layers.LayerNormalization(rms_scaling=True),
    "prelu": lambda: layers.PReLU(shared_axes=[1]),
    "prelu of features": lambda: layers.PReLU(shared_axes=[1, 2]),
}


@pytest.mark.filterwarnings("ignore:You passed `rms_scaling")
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("kind", OWN)
def test_exact(kind, graph):
    model = make_model(OWN[kind](), layers.Dense(4), OWN[kind]())
    assert exactness.error_to_loop(model, X, Y, graph=graph) <= 1e-5
    assert {path for _, path in exactness.paths(model, X)} == {"rule"}


@pytest.mark.parametrize("kind", ["rms", "prelu", "prelu of features"])
def test_sequences_of_unknown_length(kind):
    unknown_lengths.assert_exact(make_model(OWN[kind](), length=None), X, Y)


def test_a_scale_lies_on_the_last_axes_whatever_is_normalised():
    # Keras does not put it on the axes that it was made for.
    model = make_model(
        layers.Dense(3), layers.RMSNormalization(axis=1), layers.Dense(3)
    )
    assert tuple(model.layers[2].scale.shape) == (3,)
    assert exactness.error_to_loop(model, X, Y) <= 1e-5


def test_zero_inputs_have_no_gradient_for_alpha():
    model = make_model(layers.PReLU())
    x = np.zeros_like(X)
    total, _ = exactness.make_clip(model, x, Y)(x, Y)
    np.testing.assert_array_equal(total[0], np.zeros_like(total[0]))


@pytest.mark.parametrize("policy", low_precision.TOLERANCES)
@pytest.mark.parametrize("kind", ["rms", "prelu", "prelu of features"])
def test_low_precision(policy, kind):
    low_precision.assert_close_to_float32(
        policy, lambda: make_model(OWN[kind](), layers.Dense(3)), X, Y
    )
