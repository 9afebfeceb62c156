# SPDX-License-Identifier: Apache-2.0
"""Noise of Toeplitz strategies: C times it is white, to the stated precision.

The oracle is the dense (C^T C)^{-1}; random bounds have a false-alarm
probability of at most 1e-6 (see `noise_sequences`).
"""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import linalg
from scipy import signal

from tests.noise import noise_sequences
from tf_privacy.noise import gaussian
from tf_privacy.noise import toeplitz_noise
from tf_privacy.noise import toeplitz_strategy

SHAPES = [(400, 250), (100_000,), (), (0, 3), (7,)]
FALLING = (1.0, 0.5, 0.375, 0.3125)


def make_style(**fields):
    return toeplitz_noise.ToeplitzNoise(
        **{
            "noise_multiplier": 1.0,
            "num_steps": 8,
            "coefficients": FALLING,
            "min_separation": 4,
            **fields,
        }
    )


def make_covariance(style):
    size = style.num_steps
    column = np.zeros(size)
    kept = style.coefficients[:size]
    column[: len(kept)] = kept
    matrix = linalg.toeplitz(column, np.zeros(size))
    return np.linalg.inv(matrix.T @ matrix)


def draw(style, num_steps, stddev=1.0):
    return noise_sequences.draw_sequence(
        style,
        gaussian.NoiseSource(),
        num_steps=num_steps,
        shapes=SHAPES,
        stddev=stddev,
    )


@pytest.mark.parametrize(
    "fields, num_steps",
    [
        ({"num_steps": 16}, 16),
        ({"num_steps": 7}, 16),
        ({"num_steps": 5, "coefficients": (2.0, -0.5)}, 12),
        ({"num_steps": 3, "coefficients": (1.0,) * 9}, 7),
        ({"coefficients": (2.0,)}, 4),
    ],
)
def test_noise_has_the_covariance_of_the_strategy(fields, num_steps):
    # Rows past num_steps are new releases: independent of those before.
    style = make_style(**fields)
    rows = draw(style, num_steps, stddev=3.0) / 3.0
    covariance = noise_sequences.repeat_blocks(
        make_covariance(style), num_steps
    )
    noise_sequences.check_covariance(rows, covariance)


def test_noise_wrong_by_two_percent_is_found():
    style = make_style(num_steps=4)
    rows, covariance = draw(style, 4), make_covariance(style)
    noise_sequences.check_covariance(rows, covariance)
    for step in range(4):
        wrong = rows.copy()
        wrong[step] *= 1.02
        with pytest.raises(AssertionError):
            noise_sequences.check_covariance(wrong, covariance)
    with pytest.raises(AssertionError):
        noise_sequences.check_covariance(rows[::-1], covariance)


def test_float32_is_stable_over_5000_steps():
    num_steps, size = 5000, 3
    style = toeplitz_noise.ToeplitzNoise.banded(
        noise_multiplier=1.0,
        num_steps=num_steps,
        num_bands=12,
        min_separation=12,
    )
    draws = np.random.default_rng(0).normal(size=(num_steps, size))
    draws = draws.astype(np.float32)
    source = noise_sequences.KnownDraws(draws)
    clipped = noise_sequences.make_sum((size,))
    generator = noise_sequences.make_generator(style, clipped, source)

    @tf.function
    def run():
        rows = tf.TensorArray(tf.float32, num_steps)
        for position in tf.range(num_steps):
            noised = generator.add_noise(clipped, stddev=1.0, position=position)
            rows = rows.write(position, noised.gradients[0])
        return rows.stack()

    exact = signal.lfilter([1.0], style.coefficients, draws, axis=0)
    assert np.max(np.abs(run() - exact)) < 1e-5


def test_unstable_coefficients_are_refused():
    for coefficients in ((1.0, 2.0), (1.0, -1.001), (1.0, 1.0, -1.0)):
        with pytest.raises(ValueError, match="coefficients must give a noise"):
            make_style(coefficients=coefficients, num_steps=20_000)
    # Two bands that do not fall: the noise grows slowly.
    assert make_style(coefficients=(1.0, 1.0), num_steps=20_000).num_copies == 1


@pytest.mark.parametrize(
    "fields, is_exact",
    [
        ({}, True),
        ({"coefficients": (0.5, 0.5, 0.2), "min_separation": 2}, True),
        ({"max_participations": 1, "min_separation": 1}, True),
        ({"coefficients": (1.0, -0.5, 0.9), "min_separation": 3}, True),
        ({"coefficients": (1.0, -0.5, 0.9), "min_separation": 1}, False),
        ({"max_participations": 2, "min_separation": 3}, True),
    ],
)
def test_sensitivity_covers_what_a_unit_does_to_the_noise(fields, is_exact):
    style = make_style(**fields)
    worst = noise_sequences.measure_shift(
        make_covariance(style), style.min_separation, style.max_participations
    )
    assert worst <= style.sensitivity
    if is_exact:
        assert style.sensitivity == pytest.approx(worst, rel=1e-9)


def test_sensitivity_does_not_depend_on_the_noise():
    assert (
        make_style().sensitivity == make_style(noise_multiplier=9.0).sensitivity
    )


def test_prefix_sum_error_is_that_of_the_covariance():
    style = make_style(noise_multiplier=2.0)
    covariance = np.tri(8) @ make_covariance(style) @ np.tri(8).T
    error = style.compute_prefix_sum_error()
    assert error.largest == pytest.approx(
        2.0 * np.sqrt(np.diag(covariance).max())
    )
    assert error.root_mean_square == pytest.approx(
        2.0 * np.sqrt(np.diag(covariance).mean())
    )


def test_banded_takes_the_coefficients_of_the_search():
    style = toeplitz_noise.ToeplitzNoise.banded(
        noise_multiplier=0.7,
        num_steps=20,
        num_bands=5,
        min_separation=6,
        max_participations=2,
    )
    coefficients = toeplitz_strategy.calibrate_banded_coefficients(
        num_steps=20, num_bands=5, min_separation=6, max_participations=2
    )
    assert style == make_style(
        noise_multiplier=0.7,
        num_steps=20,
        coefficients=coefficients,
        min_separation=6,
        max_participations=2,
    )
    assert style.num_copies == 4


def test_says_what_the_accountant_must_know():
    style = make_style(max_participations=2.0, min_separation=3.0)
    assert style.family == "matrix"
    assert style.steps_per_release == 8
    assert (style.min_separation, style.max_participations) == (3, 2)
    assert style.noise_multipliers == (1.0,)


def test_survives_saving():
    style = make_style(max_participations=2)
    config = keras.saving.serialize_keras_object(style)
    restored = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(config))
    )
    assert restored == style
    assert restored.sensitivity == style.sensitivity
    assert toeplitz_noise.ToeplitzNoise.from_config(style.get_config()) == style


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier must be a finite"),
        ({"noise_multiplier": np.nan}, "noise_multiplier must be a finite"),
        ({"num_steps": 0}, "num_steps must be a whole number >= 1"),
        ({"min_separation": 0}, "min_separation must be a whole number >= 1"),
        ({"max_participations": 0}, "max_participations must be a whole"),
        ({"max_participations": np.nan}, "max_participations must be a whole"),
        ({"max_participations": 1.5}, "max_participations must be a whole"),
        ({"coefficients": ()}, "coefficients must begin with a number > 0"),
        ({"coefficients": (0.0, 1.0)}, "coefficients must begin with a number"),
        ({"coefficients": (1.0, np.nan)}, "coefficients must be a finite"),
    ],
)
def test_refuses_settings(fields, message):
    with pytest.raises(ValueError, match=message):
        make_style(**fields)


def test_no_limit_on_participations_is_a_default():
    fields = {"noise_multiplier": 1.0, "num_steps": 8, "coefficients": (1.0,)}
    with pytest.raises(TypeError, match="min_separation"):
        toeplitz_noise.ToeplitzNoise(**fields)
