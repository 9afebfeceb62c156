# SPDX-License-Identifier: Apache-2.0
"""Every convolution of Keras that owns weights goes by rule, and exactly."""

import keras
import numpy as np
import pytest
from keras import layers

import tf_privacy
from tests import oracles
from tests.clipping import exactness
from tests.clipping.rules import low_precision
from tests.clipping.rules import unknown_lengths

Y = exactness.normal(1, 6, 2)
FIRST = {"data_format": "channels_first"}

# (layer, its settings, shape of an input)
LAYERS = [
    (layers.Conv1D, {"filters": 4, "padding": "causal"}, (9, 4)),
    (layers.Conv1D, {"filters": 4, "groups": 2, "strides": 2}, (9, 4)),
    (layers.Conv1D, {"filters": 4, "lora_rank": 2}, (9, 4)),
    (layers.Conv2D, {"filters": 4, "dilation_rate": 2}, (7, 6, 4)),
    (layers.Conv2D, {"filters": 4, "groups": 2, **FIRST}, (4, 7, 6)),
    (layers.Conv2D, {"filters": 4, "groups": 2, "lora_rank": 1}, (7, 6, 4)),
    (layers.Conv3D, {"filters": 4, "padding": "same"}, (4, 3, 5, 2)),
    (layers.Conv3D, {"filters": 4, "strides": 2, **FIRST}, (2, 4, 3, 5)),
    (layers.DepthwiseConv1D, {"strides": 2}, (9, 4)),
    (layers.DepthwiseConv1D, {"padding": "same", **FIRST}, (4, 9)),
    (layers.DepthwiseConv2D, {"depth_multiplier": 2}, (7, 6, 4)),
    (
        layers.DepthwiseConv2D,
        {"strides": 2, "dilation_rate": 2, "padding": "same"},
        (7, 6, 4),
    ),
    (layers.SeparableConv1D, {"filters": 4}, (9, 4)),
    (layers.SeparableConv1D, {"filters": 4, **FIRST}, (4, 9)),
    (layers.SeparableConv2D, {"filters": 4, "strides": 2}, (7, 6, 4)),
    (
        layers.SeparableConv2D,
        {"filters": 4, "strides": 2, "dilation_rate": 2, "padding": "same"},
        (7, 6, 4),
    ),
    (layers.Conv1DTranspose, {"filters": 4, "strides": 2}, (5, 4)),
    (
        layers.Conv2DTranspose,
        {"filters": 4, "strides": 2, "output_padding": 1, "padding": "same"},
        (3, 4, 4),
    ),
    (layers.Conv3DTranspose, {"filters": 2, "strides": 2}, (2, 3, 2, 4)),
]


def name_of(case):
    make, settings, _ = case
    return " ".join([make.__name__, *map(str, settings.values())])


def make_model(layer, shape):
    """Return a model of one layer, a mean over its positions, and another."""
    inputs = keras.Input(shape)
    hidden = layer(inputs)
    hidden = layers.Reshape((-1, hidden.shape[-1]))(hidden)
    hidden = layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model(inputs, layers.Dense(2, dtype="float32")(hidden))
    model.compile(loss="mse")
    return model


def paths(model, shape):
    text = tf_privacy.explain_clipping(model, exactness.normal(0, 6, *shape))
    return [line.split()[2] for line in text.splitlines()[1:]]


@pytest.mark.parametrize("case", LAYERS, ids=name_of)
def test_the_layer_goes_by_rule(case):
    make, settings, shape = case
    model = make_model(make(kernel_size=2, **settings), shape)
    assert paths(model, shape) == ["rule", "rule"]


class DoubledKernel(layers.Conv2D):
    """Convolves with another kernel than its own."""

    def convolution_op(self, inputs, kernel):
        """Return the convolution with twice the kernel."""
        return super().convolution_op(inputs, 2 * kernel)


@pytest.mark.parametrize(
    "layer",
    [DoubledKernel(2, 3), layers.Conv2D(2, 3, activation=layers.PReLU())],
    ids=["subclass", "activation with weights"],
)
def test_another_computation_is_not_taken_for_a_convolution(layer):
    shape = (5, 4, 2)
    model = make_model(layer, shape)
    assert paths(model, shape) == ["generic", "rule"]
    x = exactness.normal(0, 6, *shape)
    assert exactness.error_to_loop(model, x, Y) <= 1e-5


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv1D(3, 3, padding="causal"),
        layers.SeparableConv1D(3, 2, strides=2, padding="same"),
        layers.Conv1DTranspose(3, 3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_sequences_of_unknown_length(layer):
    model = make_model(layer, (None, 4))
    x = exactness.normal(0, 6, 5, 4)
    unknown_lengths.assert_exact(model, x, Y)


def test_a_frozen_kernel_is_left_alone_where_it_is_adapted():
    shape = (5, 4, 2)
    layer = layers.Conv2D(3, 2, lora_rank=2)
    model = make_model(layer, shape)
    for variable in model.trainable_variables:
        seed = len(variable.path)
        variable.assign_add(0.2 * exactness.normal(seed, *variable.shape))
    x = exactness.normal(0, 6, *shape)
    assert exactness.error_to_loop(model, x, Y) <= 1e-5
    # Trained along with A and B, it takes its part in the norm.
    layer._kernel.trainable = True
    assert any(v is layer._kernel for v in model.trainable_variables)
    assert exactness.error_to_loop(model, x, Y) <= 1e-5


def test_a_shared_large_kernel_has_one_norm():
    # Neither use has its gradients in memory: they are merged all the same.
    inputs = keras.Input((5, 5, 64))
    shared = layers.Conv2D(64, 6, padding="same", use_bias=False)
    hidden = layers.GlobalAveragePooling2D()(shared(shared(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(hidden))
    model.compile(loss="mse")
    x = exactness.normal(0, 6, 5, 5, 64)
    assert exactness.error_to_loop(model, x, Y) <= 1e-5


LOW = {
    "convolution": (lambda: layers.Conv2D(4, 3), (7, 6, 3)),
    "few positions": (lambda: layers.Conv2D(16, 2), (3, 3, 16)),
    "large kernel": (lambda: layers.Conv2D(256, 3), (8, 8, 64)),
    "groups": (lambda: layers.Conv2D(4, 3, groups=2), (7, 6, 4)),
    "volume": (lambda: layers.Conv3D(4, 2), (4, 4, 3, 2)),
    "adapted": (lambda: layers.Conv2D(4, 3, lora_rank=2), (7, 6, 3)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3), (7, 6, 3)),
    "separable": (lambda: layers.SeparableConv2D(4, 3), (7, 6, 3)),
    "transposed": (lambda: layers.Conv2DTranspose(4, 3, strides=2), (4, 3, 3)),
}


@pytest.mark.parametrize("policy", low_precision.TOLERANCES)
@pytest.mark.parametrize("kind", LOW)
def test_low_precision(policy, kind):
    make, shape = LOW[kind]
    x = exactness.normal(0, 6, *shape)
    low_precision.assert_close_to_float32(
        policy, lambda: make_model(make(), shape), x, Y
    )


@pytest.mark.parametrize("kind", ["convolution", "large kernel", "separable"])
def test_weights_in_float16(kind):
    # Of the layer, three roundings of 2^-11 and those of its weights.
    make, shape = LOW[kind]
    model, twin = low_precision.make_twins(
        "float16", lambda: make_model(make(), shape)
    )
    x = exactness.normal(0, 6, *shape)
    clip = exactness.make_clip(model, x, Y, l2_norm_clip=0.1)
    total, norms = clip(x, Y)
    expected, expected_norms = exactness.make_clip(
        twin, x, Y, l2_norm_clip=0.1
    )(x, Y)
    np.testing.assert_allclose(norms, expected_norms, 0.01)
    assert oracles.relative_error(total, expected) <= 0.01
    # The bound holds in float32, whatever the weights are.
    for row in range(3):
        total, _ = clip(x[row : row + 1], Y[row : row + 1] * 10)
        assert oracles.global_norm(total) <= 0.1 * (1 + 1e-5)
