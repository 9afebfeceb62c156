# SPDX-License-Identifier: Apache-2.0
"""The second moment without the noise's share, against float64 by hand.

Random bounds have a false-alarm probability of at most 1e-6.
"""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tf_privacy.optimizers import noise_corrected_adam

NUM_ENTRIES = 20000
FALSE_ALARM = 1e-6


def make_variable(shape=(3,), dtype="float32", value=0.0):
    return keras.Variable(np.full(shape, value), dtype=dtype)


def make_adam(*args, **changes):
    return noise_corrected_adam.NoiseCorrectedAdam(*args, **changes)


def value_of(variable):
    array = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float64"))
    return np.array(array)


def moments_of(optimizer):
    """Returns v and s, without the bias of their zero start."""
    unbias = 1 - optimizer.beta_2 ** int(optimizer.iterations)
    v = value_of(optimizer._velocities[0]) / unbias
    return v, float(value_of(optimizer._noise_velocity)) / unbias


def run_by_hand(gradients, variances, *, floor, rate=0.1, decay=0.0):
    """Returns where float64 gets to, by sums over all of the past."""
    beta_1, beta_2 = 0.9, 0.99
    place = np.zeros_like(gradients[0])
    for t in range(1, len(gradients) + 1):
        ages = np.arange(t - 1, -1, -1)
        first, second = beta_1**ages, beta_2**ages
        past = np.stack(gradients[:t])
        mean = np.tensordot(first, past, 1) / first.sum()
        square = np.tensordot(second, past**2, 1) / second.sum()
        noise = second @ np.array(variances[:t]) / second.sum()
        corrected = np.maximum(square - noise, floor * noise)
        place = place * (1 - rate * decay) - rate * mean / np.sqrt(corrected)
    return place


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("decay", [None, 0.3])
def test_update_is_the_formula(compiled, decay):
    """Noise that changes between the steps; some entries at the floor."""
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=50).astype("f") for _ in range(12)]
    variances = [float(v) for v in rng.uniform(0.1, 1.5, 12)]
    variable = make_variable((50,))
    optimizer = make_adam(
        0.1, beta_2=0.99, epsilon=0.0, noise_floor=0.2, weight_decay=decay
    )
    optimizer.build([variable])

    def step(gradient, variance):
        optimizer.observe_noise(variance)
        optimizer.apply([gradient], [variable])

    if compiled:
        step = tf.function(step)
    for gradient, variance in zip(gradients, variances, strict=True):
        step(tf.constant(gradient), tf.constant(variance))
    v, s = moments_of(optimizer)
    assert 0.2 < np.mean(v - s < 0.2 * s) < 0.8
    expected = run_by_hand(
        [g.astype("f8") for g in gradients],
        variances,
        floor=0.2,
        decay=decay or 0.0,
    )
    np.testing.assert_allclose(value_of(variable), expected, 2e-3, 1e-5)


@pytest.mark.parametrize("decay", [None, 0.05])
def test_without_noise_it_is_the_adam_of_keras(decay):
    rng = np.random.default_rng(1)
    ours, theirs = make_variable((40,), value=1), make_variable((40,), value=1)
    schedule = keras.optimizers.schedules.CosineDecay(0.3, 20)
    common = {"weight_decay": decay, "beta_2": 0.9, "epsilon": 1e-3}
    adam = make_adam(schedule, **common)
    reference = keras.optimizers.Adam(schedule, **common)
    for _ in range(15):
        gradient = tf.constant(rng.normal(size=40), tf.float32)
        adam.apply([gradient], [ours])
        reference.apply([gradient], [theirs])
    np.testing.assert_allclose(value_of(ours), value_of(theirs), 1e-6, 1e-7)
    if decay:
        assert np.mean(value_of(ours)) < 0.995 + np.mean(value_of(theirs))


def train_on_noise(signal, stddevs, *, optimizer, seed):
    rng = np.random.default_rng(seed)
    variable = make_variable((NUM_ENTRIES,))
    optimizer.build([variable])

    @tf.function
    def step(gradient, variance):
        optimizer.observe_noise(variance)
        optimizer.apply([gradient], [variable])

    for stddev in stddevs:
        noise = stddev * rng.normal(size=NUM_ENTRIES)
        step(
            tf.constant(signal + noise, tf.float32),
            tf.constant(stddev**2, tf.float32),
        )
    return variable


@pytest.mark.parametrize("signal", [0.0, 0.3])
@pytest.mark.parametrize("falls", [False, True])
def test_corrected_moment_is_unbiased(signal, falls):
    """The mean over entries of v - s is signal^2, also where noise changes.

    The standard error is that of sums of independent squares. Noise of a
    standard deviation wrong by 2% would move it by 0.04 times the variance,
    more than five times the bound.
    """
    num_steps, beta_2 = 60, 0.98
    stddevs = np.geomspace(2.0, 0.5, num_steps) if falls else np.ones(num_steps)
    optimizer = make_adam(0.0, beta_2=beta_2)
    train_on_noise(signal, stddevs, optimizer=optimizer, seed=2)
    v, s = moments_of(optimizer)
    weights = beta_2 ** np.arange(num_steps - 1, -1, -1)
    weights /= weights.sum()
    assert s == pytest.approx(weights @ stddevs**2, rel=1e-5)
    variances = 2 * stddevs**4 + 4 * signal**2 * stddevs**2
    error = np.sqrt(weights**2 @ variances / NUM_ENTRIES)
    bound = stats.norm.isf(FALSE_ALARM / 2) * error
    assert bound < 0.04 * s / 5
    assert abs(np.mean(v - s) - signal**2) < bound + 1e-6
    # Each entry too is as close as the averaging allows, and no closer.
    assert np.std(v - s) == pytest.approx(error * np.sqrt(NUM_ENTRIES), rel=0.1)


def test_signal_in_noise_moves_like_adam_without_noise():
    """Entries of any gradient above the noise move by the learning rate."""
    rate, num_steps = 0.01, 400
    signal = np.where(np.arange(NUM_ENTRIES) % 2, 0.5, 2.0)
    stddevs = np.ones(num_steps)
    optimizer = make_adam(rate, beta_2=0.99)
    variable = train_on_noise(signal, stddevs, optimizer=optimizer, seed=3)
    moved = -value_of(variable) / (rate * num_steps)
    small, large = np.mean(moved[1::2]), np.mean(moved[::2])
    # Root and ratio of random numbers: not exactly 1.
    assert large == pytest.approx(1.0, abs=0.02)
    assert small == pytest.approx(1.0, abs=0.3)
    # What Adam would do: sqrt(0.5^2 / (0.5^2 + 1)) of a learning rate.
    assert small > 1.5 * np.sqrt(0.2)


@pytest.mark.parametrize("floor", [0.05, 0.5])
def test_floor_bounds_the_steps_of_pure_noise(floor):
    """Long run: sqrt((1 - beta_1) / (1 + beta_1) / floor) learning rates."""
    optimizer = make_adam(0.0, beta_2=0.99, noise_floor=floor)
    variable = train_on_noise(0.0, np.ones(200), optimizer=optimizer, seed=4)
    v, s = moments_of(optimizer)
    assert 0.4 < np.mean(v - s < floor * s) <= 1.0
    before = value_of(variable)
    optimizer.learning_rate = 1.0
    optimizer.observe_noise(1.0)
    optimizer.apply([tf.zeros(NUM_ENTRIES)], [variable])
    moved = value_of(variable) - before
    rms = np.sqrt(np.mean(moved**2))
    assert 0.2 < rms < 1.05 * np.sqrt(0.1 / 1.9 / floor)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_moments_are_float32_whatever_the_variable(dtype):
    """Gradients of 1e-4 have squares that float16 cannot hold."""
    variable = make_variable((4,), dtype)
    optimizer = make_adam(0.125, epsilon=1e-12)
    optimizer.build([variable])
    assert {v.dtype for v in optimizer._momentums} == {"float32"}
    assert {v.dtype for v in optimizer._velocities} == {"float32"}
    gradient = np.array([1e-4, -1e-4, 3e-4, 0.0])
    for _ in range(2):
        optimizer.observe_noise(1e-14)
        optimizer.apply([tf.constant(gradient, variable.dtype)], [variable])
    np.testing.assert_allclose(
        value_of(variable), -0.25 * np.sign(gradient), rtol=0.01
    )


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_zero_gradients_and_zero_noise_move_nothing(floor):
    variable = make_variable(value=1.0)
    optimizer = make_adam(1.0, noise_floor=floor)
    for _ in range(2):
        optimizer.apply([tf.zeros(3)], [variable])
    np.testing.assert_array_equal(value_of(variable), 1.0)


def test_state_survives_saving(tmp_path):
    """The average of the noise belongs to it: the next step is the same."""

    def make_model():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        optimizer = make_adam(0.1, noise_floor=0.3, weight_decay=0.01)
        model.compile(optimizer, "mse")
        return model

    def step(model, seed):
        rng = np.random.default_rng(seed)
        variables = model.trainable_variables
        model.optimizer.build(variables)
        model.optimizer.observe_noise(0.5 + seed)
        gradients = [
            tf.constant(rng.normal(size=v.shape), tf.float32) for v in variables
        ]
        model.optimizer.apply(gradients, variables)
        return np.concatenate([value_of(v).ravel() for v in variables])

    model = make_model()
    for seed in range(3):
        step(model, seed)
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert type(restored.optimizer) is noise_corrected_adam.NoiseCorrectedAdam
    expected = step(model, 3)
    np.testing.assert_array_equal(step(restored, 3), expected)
    fresh = make_model()
    fresh.set_weights(restored.get_weights())
    assert not np.allclose(step(fresh, 3), step(restored, 3))


def test_configuration_survives_json():
    arguments = {
        "beta_1": 0.5,
        "beta_2": 0.75,
        "epsilon": 0.5,
        "noise_floor": 0.25,
        "weight_decay": 0.125,
        "use_ema": True,
        "ema_momentum": 0.875,
        "ema_overwrite_frequency": 7,
        "name": "mine",
    }
    optimizer = make_adam(0.25, **arguments)
    config = keras.saving.serialize_keras_object(optimizer)
    restored = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(config))
    )
    assert restored.get_config() == optimizer.get_config()
    assert float(restored.learning_rate) == 0.25
    for name, value in arguments.items():
        assert getattr(restored, name) == value


@pytest.mark.parametrize(
    "argument",
    [
        "clipnorm",
        "clipvalue",
        "global_clipnorm",
        "loss_scale_factor",
        "gradient_accumulation_steps",
    ],
)
def test_what_would_change_the_noise_is_not_offered(argument):
    with pytest.raises(TypeError, match=argument):
        make_adam(0.1, **{argument: 2})


@pytest.mark.parametrize(
    "name, value",
    [
        ("beta_1", 1.0),
        ("beta_1", float("nan")),
        ("beta_2", -0.1),
        ("epsilon", -1e-9),
        ("noise_floor", 1.5),
        ("noise_floor", float("nan")),
    ],
)
def test_arguments_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        make_adam(0.1, **{name: value})
