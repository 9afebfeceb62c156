# SPDX-License-Identifier: Apache-2.0
"""Tests of the engine beyond the contract: hostile numbers, pieces, dtypes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras import ops

from tests import models
from tests import oracles
from tests.clipping import exactness
from tests.frameworks import framework
from tf_privacy.clipping import engine
from tf_privacy.clipping import regularization

Apply = exactness.Apply
stack = exactness.stack
X = exactness.normal(0, 8, 5)
Y = exactness.normal(1, 8, 3)


def case_named(name):
    (case,) = [c for c in models.CASES if c.name == name]
    return case


# A search for a row that adds more than the clipping norm.


def multilayer():
    return stack(
        layers.Dense(12, activation="relu"),
        layers.LayerNormalization(),
        layers.Dense(3),
    )


def linear():
    return stack(layers.Dense(6, use_bias=False), layers.Dense(3))


def over_positions():
    return stack(
        layers.Dense(16, use_bias=False),
        layers.Dense(8, activation="tanh"),
        layers.Dense(3),
        shape=(2, 16),
    )


def convolution():
    return stack(
        layers.Conv1D(6, 3, padding="same", activation="relu"),
        layers.GroupNormalization(2),
        layers.Conv1D(4, 2, strides=2),
        layers.Flatten(),
        layers.Dense(3),
        shape=(8, 2),
    )


def attention():
    inputs = keras.Input((4, 6))
    hidden = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    hidden = layers.LayerNormalization()(hidden + inputs)
    hidden = layers.EinsumDense("abc,cd->abd", (4, 5), bias_axes="d")(hidden)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(hidden)))
    model.compile(loss="mse")
    return model


def recurrent():
    return stack(layers.GRU(6), layers.Dense(3), shape=(3, 8))


def generic():
    weight = exactness.ApplyWeight(lambda w, x: ops.matmul(ops.tanh(x), w))
    return stack(weight, layers.PReLU(), layers.Dense(3))


def with_shared_layer():
    shared = layers.Dense(5)
    return stack(shared, layers.ReLU(), shared, layers.Dense(3))


SEARCHED = [
    multilayer,
    linear,
    over_positions,
    convolution,
    attention,
    recurrent,
    generic,
    with_shared_layer,
]


def heavy_tailed(rng, *shape):
    """Returns numbers of either sign from 1e-6 to 1e6, and worse ones."""
    size = rng.uniform(-6, 6, size=(len(shape) > 0 and shape[0], *shape[1:]))
    common = rng.uniform(-6, 6, size=(shape[0],) + (1,) * (len(shape) - 1))
    exponent = np.where(rng.uniform(size=shape) < 0.5, size, common)
    values = np.where(rng.uniform(size=shape) < 0.5, -1, 1) * 10.0**exponent
    extreme = rng.choice([0.0, 1e-25, 1e-19, 1e10, 1e19], size=shape)
    chosen = rng.uniform(size=shape) < 0.02
    return np.where(chosen, extreme, values).astype("float32")


@pytest.mark.parametrize("make", SEARCHED)
def test_no_row_adds_more_than_the_clipping_norm(make):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = make()
    shape = model.input_shape[1:]
    out = model.output_shape[1:]
    ones = np.ones(1, "float32")
    x, y = heavy_tailed(rng, 150, *shape), heavy_tailed(rng, 150, *out)
    clip = exactness.make_clip(model, x, y, np.ones(150, "float32"))
    worst = 0.0
    for row in range(150):
        if row % 30 == 0:
            # Weights of other sizes too.
            for variable in model.trainable_variables:
                scale = 10.0 ** rng.uniform(-3, 3)
                variable.assign(scale * rng.normal(size=variable.shape))
        own = slice(row, row + 1)
        total, _ = clip(x[own], y[own], ones)
        assert all(np.all(np.isfinite(g)) for g in total)
        worst = max(worst, oracles.global_norm(total))
        # The same next to a row that adds nothing.
        pair = slice(row, row + 2) if row < 149 else slice(row - 1, row + 1)
        weight = np.array([1, 0] if row < 149 else [0, 1], "float32")
        beside, _ = clip(x[pair], y[pair], weight)
        assert oracles.global_norm(beside) <= 1 + 1e-5
    # Something was found to clip.
    assert 0.999 <= worst <= 1 + 1e-5


def added(model, x, y, l2_norm_clip):
    """Returns the norm of what one row adds, in units of the clipping norm."""
    clip = exactness.make_clip(model, x, y, l2_norm_clip=l2_norm_clip)
    total, _ = clip(x, y)
    return oracles.global_norm(total) / l2_norm_clip


@pytest.mark.parametrize("size", [1e-19, 3e-19, 1e-20, 1e-25])
def test_a_row_cannot_hide_its_gradient_in_an_underflow(size):
    # Its inputs' squares are flushed to zero; its targets make up for them.
    model = stack(layers.Dense(8, use_bias=False), shape=(2, 16))
    x = np.full((1, 2, 16), size, "float32")
    y = np.full((1, 2, 8), 1e18, "float32")
    for l2_norm_clip in (1e-3, 1.0):
        assert added(model, x, y, l2_norm_clip) <= 1 + 1e-5


@pytest.mark.parametrize("size", [1e-18, 1e-19, 1e-21])
def test_a_row_cannot_hide_one_position_behind_another(size):
    # The first position has inputs of usual size, and next to no error.
    model = stack(
        layers.Dense(8, use_bias=False),
        shape=(2, 16),
        loss=lambda y, p: ops.sum(y * p, axis=-1),
    )
    x = np.full((1, 2, 16), 1.0, "float32")
    y = np.full((1, 2, 8), 1e-19, "float32")
    x[:, 1], y[:, 1] = size, 1e18
    for l2_norm_clip in (1e-3, 1.0):
        assert added(model, x, y, l2_norm_clip) <= 1 + 1e-5


def opposed_targets(rng, width):
    """Returns a row whose two positions nearly cancel."""
    size = rng.uniform(1, 2)
    rest = 1 + 10.0 ** rng.uniform(-7, 0)
    y = np.stack([np.full(width, size), np.full(width, -size * rest)])
    return (1e4 * y[None]).astype("float32")


@pytest.mark.parametrize("width", [8, 64, 512])
def test_a_row_cannot_hide_its_gradient_in_a_cancellation(width):
    model = stack(
        layers.Dense(width, use_bias=False),
        shape=(2, width),
        loss=lambda y, p: ops.sum(y * p, axis=-1),
    )
    rng = np.random.default_rng(0)
    x = np.abs(rng.normal(size=(1, 1, width))).repeat(2, 1).astype("float32")
    clip = exactness.make_clip(
        model, x, opposed_targets(rng, width), l2_norm_clip=1e-3
    )
    worst = 0.0
    for _ in range(200):
        total, _ = clip(x, opposed_targets(rng, width))
        worst = max(worst, oracles.global_norm(total) / 1e-3)
    assert worst <= 1 + 1e-5


def test_a_repeated_word_cannot_hide_its_gradient_in_a_cancellation():
    model = stack(
        layers.Embedding(3, 64),
        shape=(2,),
        dtype="int32",
        loss=lambda y, p: ops.sum(y * p, axis=-1),
    )
    x = np.ones((1, 2), "int32")
    rng = np.random.default_rng(0)
    clip = exactness.make_clip(
        model, x, opposed_targets(rng, 64), l2_norm_clip=1e-3
    )
    worst = 0.0
    for _ in range(200):
        total, _ = clip(x, opposed_targets(rng, 64))
        worst = max(worst, oracles.global_norm(total) / 1e-3)
    assert worst <= 1 + 1e-5


@pytest.mark.parametrize("constant", [False, True])
def test_a_long_gradient_is_not_taken_for_a_shorter_one(constant):
    # A million entries, whose squares a running sum in float32 loses.
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    model = stack(layers.Dense(1, use_bias=False), shape=(10**6,))
    x = (
        rng.normal(size=(1, 10**6))
        if not constant
        else np.full((1, 10**6), 0.1)
    )
    y = np.ones((1, 1), "float32")
    assert added(model, x.astype("float32"), y, 1e-3) <= 1 + 1e-5


@pytest.mark.parametrize("l2_norm_clip", [1e-25, 1e-20, 1e-10, 1e10, 1e30])
def test_clipping_norms_of_any_size(l2_norm_clip):
    model = stack(
        layers.Dense(3, use_bias=False),
        loss=lambda y, p: ops.sum(y * p, axis=-1),
    )
    for size in (1e-12, 1e-9, 1e-3, 1.0, 1e9):
        x = np.full((1, 5), size, "float32")
        y = np.full((1, 3), size, "float32")
        try:
            moved = added(model, x, y, l2_norm_clip)
        except ValueError as refused:
            assert str(refused).startswith("l2_norm_clip must be")
        else:
            assert moved <= 1 + 1e-5


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1e39])
def test_the_clipping_norm_must_be_a_number_of_float32(value):
    with pytest.raises(ValueError, match="l2_norm_clip must be"):
        engine.clipped_gradients(
            stack(layers.Dense(3)), X, Y, l2_norm_clip=value
        )


@pytest.mark.parametrize("label", [3, -1, 10**6])
@pytest.mark.parametrize("from_logits", [True, False])
def test_a_label_that_is_no_class_releases_nothing_unbounded(
    label, from_logits
):
    # On a CPU TensorFlow stops the step; elsewhere the loss is NaN.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    activation = None if from_logits else "softmax"
    model = stack(layers.Dense(3, activation=activation), loss=loss)
    y = np.array([0, 1, 2, label], "int32")
    clip = exactness.make_clip(model, X[:4], y, l2_norm_clip=0.1)
    rest, _ = clip(X[:3], y[:3])
    try:
        total, _ = clip(X[:4], y)
    except tf.errors.InvalidArgumentError:
        return
    moved = [a - b for a, b in zip(total, rest, strict=True)]
    assert oracles.global_norm(moved) <= 0.1 * (1 + 1e-5)


@pytest.mark.parametrize("rows", [1, 7, 9])
@pytest.mark.parametrize("which", [1, 2])
def test_data_of_different_lengths_are_refused(which, rows):
    data = [X, Y, np.ones(8, "float32")]
    data[which] = np.resize(data[which], (rows, *data[which].shape[1:]))
    model = stack(layers.Dense(3))
    for graph in (True, False):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            exactness.make_clip(model, *data, graph=graph)(*data)


# The same under every way to run it.


@pytest.mark.parametrize(
    "name",
    [
        "dense_mlp",
        "conv2d_same_strides",
        "separable_conv2d",
        "folded_time",
        "embedding_mean",
        "gru",
        "custom_gate",
    ],
)
def test_eager_is_the_same(name):
    model, x, y, _ = case_named(name).make(0)
    clip = exactness.make_clip(model, x, y, l2_norm_clip=0.5, graph=False)
    for rows in (0, 1, 4):
        expected, norms = oracles.loop_clipped_sum(
            model, x[:rows], y[:rows], l2_norm_clip=0.5
        )
        total, got_norms = clip(x[:rows], y[:rows])
        assert oracles.relative_error(total, expected) <= 1e-5
        np.testing.assert_allclose(got_norms, norms, 1e-5)


@pytest.mark.parametrize("name", ["dense_mlp", "custom_weights"])
def test_compiled_by_xla_is_the_same(name):
    model, x, y, _ = case_named(name).make(0)
    plain = exactness.make_clip(model, x, y, l2_norm_clip=0.5)
    compiled = exactness.make_clip(
        model,
        x,
        y,
        l2_norm_clip=0.5,
        jit_compile=True,
        input_signature=None,
    )
    expected, norms = plain(x, y)
    total, got_norms = compiled(x, y)
    assert oracles.relative_error(total, expected) <= 1e-5
    np.testing.assert_allclose(got_norms, norms, 1e-5)
    if x.dtype.kind == "f":
        spoiled = x.copy()
        spoiled[2] = np.nan
        expected, _ = plain(spoiled, y)
        total, _ = compiled(spoiled, y)
        assert oracles.relative_error(total, expected) <= 1e-5


# Low precision.


def in_precision(policy, make):
    """Returns a model of a policy, its twin in float32, and data."""
    keras.utils.set_random_seed(0)
    twin, x, y = make()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model, _, _ = make()
    finally:
        keras.config.set_dtype_policy(before)
    model.set_weights(twin.get_weights())
    return model, twin, x, y


def low_dense():
    model = stack(
        layers.Dense(16, activation="tanh"),
        layers.LayerNormalization(),
        exactness.ApplyWeight(lambda w, x: ops.matmul(x, w)),
        layers.Dense(3, dtype="float32"),
    )
    return model, X, Y


def low_convolution():
    model = stack(
        layers.Conv2D(4, 3, activation="relu"),
        layers.GroupNormalization(2),
        layers.Conv2D(3, 2),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3, dtype="float32"),
        shape=(6, 6, 2),
    )
    return model, exactness.normal(2, 8, 6, 6, 2), Y


def low_transformer():
    tokens = keras.Input((5,), dtype="int32")
    hidden = layers.Embedding(7, 8)(tokens)
    hidden = hidden + layers.MultiHeadAttention(2, 4)(hidden, hidden)
    hidden = layers.Flatten()(layers.LayerNormalization()(hidden))
    model = keras.Model(tokens, layers.Dense(3, dtype="float32")(hidden))
    model.compile(loss="mse")
    x = np.random.default_rng(0).integers(0, 7, (8, 5)).astype("int32")
    return model, x, Y


@pytest.mark.parametrize(
    "policy, make",
    [
        ("mixed_float16", low_dense),
        ("mixed_float16", low_convolution),
        ("mixed_float16", low_transformer),
        ("mixed_bfloat16", low_dense),
        ("mixed_bfloat16", low_transformer),
    ],
)
def test_low_precision(policy, make):
    model, twin, x, y = in_precision(policy, make)

    def run(x, y):
        step = engine.clipped_gradients(model, x, y, l2_norm_clip=0.1)
        return step.clipped_sum.gradients, step.norms

    signature = framework.any_rows((x, y))
    run = tf.function(run, autograph=False, input_signature=signature)
    total, got_norms = run(x, y)
    assert got_norms.dtype == tf.float32
    assert all(g.dtype == tf.float32 for g in total)
    clip = exactness.make_clip(twin, x, y, l2_norm_clip=0.1, graph=False)
    expected, norms = clip(x, y)
    tolerance = 0.02 if policy == "mixed_float16" else 0.1
    np.testing.assert_allclose(got_norms, norms, tolerance)
    assert oracles.relative_error(total, expected) <= tolerance
    # The bound holds in float32, whatever the layers compute in.
    for scale in (1.0, 1e2, 1e4, 1e6):
        for row in range(3):
            own = slice(row, row + 1)
            total, _ = run(x[own], (y * scale).astype("float32")[own])
            assert all(np.all(np.isfinite(g)) for g in total)
            assert oracles.global_norm(total) <= 0.1 * (1 + 1e-5)


def test_small_gradients_do_not_vanish_in_float16():
    model, twin, x, y = in_precision("mixed_float16", low_dense)
    for each in (model, twin):
        each.compile(
            loss=lambda y, p: 1e-6 * ops.mean(ops.square(y - p), axis=-1)
        )
    _, norms = exactness.make_clip(model, x, y)(x, y)
    _, expected = exactness.make_clip(twin, x, y)(x, y)
    np.testing.assert_allclose(norms, expected, 0.1)


def test_float64_models():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        model, x, y = low_dense()
    finally:
        keras.config.set_dtype_policy(before)
    x, y = x.astype("float64"), y.astype("float64")
    for graph in (True, False):
        assert exactness.error_to_loop(model, x, y, graph=graph) <= 1e-5


# What it is called with.


def test_a_loss_may_be_given():
    model = stack(layers.Dense(3))
    loss = lambda y, p, w: ops.sum(ops.square(y - p))
    step = engine.clipped_gradients(model, X, Y, l2_norm_clip=1e6, loss=loss)
    kernel = 2 * X.T @ (X @ model.get_weights()[0] - Y)
    np.testing.assert_allclose(
        step.clipped_sum.gradients[0], kernel, 1e-4, 1e-4
    )
    assert step.clipped_sum.l2_sensitivity == 1e6
    assert step.clipped_sum.variables == tuple(model.trainable_variables)
    np.testing.assert_allclose(step.y_pred, model(X), 1e-5, 1e-6)


def test_no_loss():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="loss must be given"):
        engine.clipped_gradients(model, X, Y, l2_norm_clip=1.0)


def test_nothing_to_train():
    model = stack(layers.Dense(3, trainable=False))
    with pytest.raises(ValueError, match="model must have trainable"):
        engine.clipped_gradients(model, X, Y, l2_norm_clip=1.0)


def test_a_model_that_was_never_built():
    model = keras.Sequential([layers.Dense(4), layers.Dense(3)])
    model.compile(loss="mse")
    step = engine.clipped_gradients(model, X, Y, l2_norm_clip=1.0)
    assert [g.shape for g in step.clipped_sum.gradients] == [
        v.shape for v in model.trainable_variables
    ]


def test_regularizers_are_apart():
    model, x, y, _ = case_named("kernel_regularizer").make(0)
    expected = oracles.loop_regularizer_gradients(model)
    got = regularization.regularizer_gradients(model)
    assert oracles.relative_error(got, expected) <= 1e-6
    assert regularization.regularizer_gradients(stack(layers.Dense(3))) is None


def test_the_model_is_left_as_it_was():
    model, x, y, _ = case_named("transformer").make(0)
    before = model.get_weights()
    layers_before = [dict(vars(layer)) for layer in model._flatten_layers()]
    exactness.make_clip(model, x, y, graph=False)(x, y)
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    for was, layer in zip(layers_before, model._flatten_layers(), strict=True):
        assert set(vars(layer)) == set(was)
        assert vars(layer).get("call") is was.get("call")
        assert vars(layer).get("activation") is was.get("activation")
