# SPDX-License-Identifier: Apache-2.0
"""Tests of derivatives of a whole training run, against training again."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from tests.audit import precision
from tf_privacy.audit.backend import input_gradients as gradients
from tf_privacy.audit.backend import loss_sensitivities as backend

NUM_EXAMPLES = 5
NUM_INPUTS = 3
# A power of two: float32, in which Keras keeps it, holds it exactly.
RATE = 0.25
# A Keras loss computes in float32 unless told otherwise.
LOSS = keras.losses.SparseCategoricalCrossentropy(
    from_logits=True, dtype="float64"
)


BACKEND = keras.backend.backend()
IN_TENSORFLOW = BACKEND == "tensorflow"
to_numpy = keras.ops.convert_to_numpy


@pytest.fixture(autouse=True)
def wide():
    """Computes in float64; lets Keras add up losses in it too."""
    with precision.wide_floats():
        yield


def make_plain():
    return [
        layers.Dense(4, activation="tanh", dtype="float64"),
        layers.Dense(3, dtype="float64"),
    ]


class MovingMean(layers.Layer):
    """Subtracts the batch's mean in training, else a mean over batches."""

    def build(self, shape):
        self.mean = self.add_weight(
            shape=shape[1:], initializer="zeros", trainable=False
        )

    def call(self, inputs, training=False):
        mean = keras.ops.mean(inputs, axis=0)
        if training:
            self.mean.assign(0.5 * (self.mean + mean))
            return inputs - 0.3 * mean
        return inputs - 0.3 * self.mean


def make_with_state():
    """A moving average, dropout, a weight penalty and a frozen layer."""
    frozen = layers.Dense(4, dtype="float64")
    frozen.trainable = False
    return [
        layers.Dense(4, kernel_regularizer="l2", dtype="float64"),
        MovingMean(dtype="float64"),
        frozen,
        layers.Activation("silu", dtype="float64"),
        layers.Dropout(0.4, seed=3, dtype="float64"),
        layers.Dense(3, dtype="float64"),
    ]


def make_normalized(normalize):
    """Layers that TensorFlow is refused; half a stopped gradient is one."""
    return [
        layers.Dense(4, dtype="float64"),
        normalize(dtype="float64"),
        layers.Activation("tanh", dtype="float64"),
        layers.Dense(3, dtype="float64"),
    ]


def make_attention():
    """Keys and queries of three tokens of one number."""
    return [
        layers.Reshape((3, 1), dtype="float64"),
        SelfAttention(dtype="float64"),
        layers.Flatten(dtype="float64"),
        layers.Dense(3, dtype="float64"),
    ]


class SelfAttention(layers.Layer):
    """Attends to its inputs."""

    def build(self, shape):
        self.attention = layers.MultiHeadAttention(1, 2, dtype="float64")
        self.attention.build(shape, shape)

    def call(self, inputs):
        return self.attention(inputs, inputs)


class HalfStopped(layers.Layer):
    """Multiplies inputs by a bounded function of theirs, held constant."""

    def call(self, inputs):
        return inputs * keras.ops.stop_gradient(keras.ops.tanh(inputs))


def make_model(make_layers):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((NUM_INPUTS,), dtype="float64"), *make_layers()]
    )


def make_data():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(NUM_EXAMPLES, NUM_INPUTS))
    return x, np.array([0, 1, 2, 1, 0])


def draw_batches(num_steps, batch_size, seed):
    rng = np.random.default_rng(seed)
    batches = []
    while len(batches) < num_steps:
        order = list(rng.permutation(NUM_EXAMPLES))
        while order:
            batches.append(order[:batch_size])
            order = order[batch_size:]
    return batches[:num_steps]


class Trainer:
    """Trains by Keras itself, over and over from the same state."""

    def __init__(self, model):
        self.model = model
        self.start = [to_numpy(v) for v in model.variables]
        self.first = list(model.variables)
        model.compile(
            keras.optimizers.SGD(RATE), LOSS, jit_compile=BACKEND == "jax"
        )

    def reset(self):
        for variable, value in zip(self.first, self.start, strict=True):
            variable.assign(value)

    def get_losses(self, x, y, batches):
        """Returns every example's loss after each step."""
        self.reset()
        losses = []
        for batch in batches:
            self.model.train_on_batch(x[batch], y[batch])
            outputs = to_numpy(self.model(x, training=False))
            outputs -= outputs.max(axis=1, keepdims=True)
            losses.append(
                np.log(np.exp(outputs).sum(axis=1))
                - outputs[np.arange(len(y)), y]
            )
        return np.array(losses)


@pytest.mark.parametrize(
    "make_layers",
    [
        make_plain,
        make_with_state,
        pytest.param(
            make_attention,
            marks=pytest.mark.skipif(
                BACKEND == "jax", reason="JAX attends in float32"
            ),
        ),
        *(
            pytest.param(
                functools.partial(make_normalized, normalize),
                marks=pytest.mark.skipif(
                    IN_TENSORFLOW, reason="refused: wrong second derivatives"
                ),
            )
            for normalize in (
                layers.BatchNormalization,
                layers.LayerNormalization,
                functools.partial(layers.GroupNormalization, groups=2),
                HalfStopped,
            )
        ),
    ],
)
def test_sensitivities_are_those_of_training_again(make_layers):
    x, y = make_data()
    settings = {"num_steps": 3, "batch_size": 2}
    batches = draw_batches(3, 2, seed=2)
    assert sorted(len(b) for b in batches) == [1, 2, 2]
    model = make_model(make_layers)
    weights = np.array([[0.2] * 5, [1.0, 0.0, -2.0, 0.0, 0.5]])
    before = [to_numpy(v) for v in model.variables]
    got = backend.compute_loss_sensitivities(
        model,
        x,
        y,
        loss=LOSS,
        learning_rate=RATE,
        rng=np.random.default_rng(2),
        loss_weights=weights,
        **settings,
    )
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)

    trainer, step = Trainer(model), 1e-5
    wanted = np.zeros((2, NUM_EXAMPLES))
    for n, d in np.ndindex(x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[n, d] += sign * step
            ends.append(weights @ trainer.get_losses(moved, y, batches).T)
        wanted[:, n] += np.abs((ends[0] - ends[1]) / (2 * step)).mean(axis=1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-9)


def test_default_weights_are_the_mean_and_shapes_are_kept():
    x, y = make_data()
    model = make_model(make_plain)

    def compute(loss_weights):
        return backend.compute_loss_sensitivities(
            model,
            x,
            y,
            loss=LOSS,
            learning_rate=RATE,
            num_steps=3,
            batch_size=5,
            rng=np.random.default_rng(2),
            loss_weights=loss_weights,
        )

    mean = compute(None)
    assert mean.shape == (5,) and mean.dtype == np.float64
    np.testing.assert_allclose(compute([0.2] * 5), mean, rtol=1e-12)
    both = compute([[0.2] * 5, [-0.4] * 5])
    np.testing.assert_allclose(both, [mean, 2 * mean], rtol=1e-12)


def test_direct_sensitivities_hold_the_weights_fixed():
    x, y = make_data()
    model = make_model(make_plain)
    got = backend.compute_direct_loss_sensitivities(
        model,
        x,
        y,
        loss=LOSS,
        learning_rate=RATE,
        num_steps=3,
        batch_size=2,
        rng=np.random.default_rng(2),
    )
    trainer = Trainer(model)
    wanted = np.zeros(NUM_EXAMPLES)
    for batch in draw_batches(3, 2, seed=2):
        model.train_on_batch(x[batch], y[batch])
        slopes = gradients.compute_loss_input_gradient(model, x, y, loss=LOSS)
        wanted += np.abs(slopes).sum(axis=1) / NUM_EXAMPLES / 3
    np.testing.assert_allclose(got, wanted, rtol=1e-10)
    trainer.reset()
    whole = backend.compute_loss_sensitivities(
        model,
        x,
        y,
        loss=LOSS,
        learning_rate=RATE,
        num_steps=3,
        batch_size=2,
        rng=np.random.default_rng(2),
    )
    assert np.all(np.abs(whole / got - 1) > 1e-3)


def test_an_example_that_no_step_used_acts_through_its_own_loss_alone():
    x, y = make_data()
    batch = draw_batches(1, 2, seed=2)[0]
    unused = np.setdiff1d(np.arange(NUM_EXAMPLES), batch)
    both = [
        compute(
            make_model(make_plain),
            x,
            y,
            loss=LOSS,
            learning_rate=RATE,
            num_steps=1,
            batch_size=2,
            rng=np.random.default_rng(2),
        )
        for compute in (
            backend.compute_loss_sensitivities,
            backend.compute_direct_loss_sensitivities,
        )
    ]
    np.testing.assert_allclose(both[0][unused], both[1][unused], rtol=1e-12)
    assert np.all(np.abs(both[0] - both[1])[batch] > 1e-6)


def test_a_thousand_small_images_are_a_matter_of_seconds():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((14, 14)),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dense(16, activation="relu"),
            layers.Dense(10),
        ]
    )
    rng = np.random.default_rng(3)
    got = backend.compute_loss_sensitivities(
        model,
        rng.random((1000, 14, 14), np.float32),
        rng.integers(10, size=1000),
        loss=LOSS,
        learning_rate=0.1,
        num_steps=10,
        batch_size=100,
        rng=rng,
    )
    assert got.shape == (1000,)
    # All hidden units may be off for a few.
    assert np.mean(got > 0) > 0.95


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": np.ones((5, 3), int)}, TypeError, "x must be floats"),
        ({"y": np.zeros(4, int)}, ValueError, "y must have as many rows"),
        ({"loss": "mse"}, TypeError, "loss must be"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be"),
        ({"learning_rate": np.nan}, ValueError, "learning_rate must be"),
        ({"learning_rate": 1.7e308}, ValueError, "learning_rate must keep"),
        ({"num_steps": 0}, ValueError, "num_steps must be"),
        ({"batch_size": 6}, ValueError, "batch_size must be"),
        ({"loss_weights": [1.0]}, ValueError, "loss_weights must be"),
        ({"loss_weights": [np.nan] * 5}, ValueError, "loss_weights must be"),
    ],
)
def test_sensitivities_are_checked(change, error, message):
    x, y = make_data()
    values = {
        "model": make_model(make_plain),
        "x": x,
        "y": y,
        "loss": LOSS,
        "learning_rate": RATE,
        "num_steps": 2,
        "batch_size": 5,
        "rng": np.random.default_rng(0),
    }
    with pytest.raises(error, match=f"^{message}"):
        backend.compute_loss_sensitivities(**values | change)


@pytest.mark.skipif(not IN_TENSORFLOW, reason="right in other backends")
@pytest.mark.parametrize(
    "layer",
    [
        layers.BatchNormalization(),
        layers.LayerNormalization(),
        layers.Lambda(keras.ops.stop_gradient),
    ],
    ids=lambda layer: layer.name,
)
def test_a_layer_with_wrong_second_derivatives_is_refused(layer):
    x, y = make_data()
    values = {
        "model": make_model(lambda: [layers.Dense(4), layer, layers.Dense(3)]),
        "loss": LOSS,
        "learning_rate": RATE,
        "num_steps": 2,
        "batch_size": 5,
        "rng": np.random.default_rng(0),
    }
    with pytest.raises(ValueError, match="^model must train without stopped"):
        backend.compute_loss_sensitivities(x=x, y=y, **values)
    # First derivatives are right, and none other are asked for here.
    got = backend.compute_direct_loss_sensitivities(x=x, y=y, **values)
    assert np.all(np.isfinite(got))
