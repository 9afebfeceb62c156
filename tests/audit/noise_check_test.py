# SPDX-License-Identifier: Apache-2.0
"""Tests of the check of the noise of real steps."""

import math

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import noise_check

NAN = float("nan")
VERDICTS = noise_check.NoiseVerdict
ALL_TESTS = {
    "size",
    "mean",
    "shape",
    "largest",
    "repetitions",
    "lags",
    "steps",
    "coordinates",
    "common to coordinates",
    "common to steps",
    "pairs of steps",
    "pairs of coordinates",
}


def estimate(observations, **changes):
    given = {"noise_multiplier": 1.0, "confidence": 0.95, **changes}
    return noise_check.estimate_noise(observations, **given)


def draw(shape=(40, 250), seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def list_failed(check):
    return {test.name for test in check.tests if test.failed}


@pytest.mark.parametrize("shape", [(1, 50), (8, 12), (30, 2)])
def test_claimed_noise_passes_in_nineteen_runs_of_twenty(shape):
    # 2000 runs: more than 149 misses have a probability below 1e-6.
    rng = np.random.default_rng(0)
    failures = misses = 0
    for _ in range(2000):
        check = estimate(0.7 * rng.normal(size=shape), noise_multiplier=0.7)
        failures += not check.passed
        misses += not check.lower <= 0.7 <= check.upper
    assert failures <= stats.binom.isf(1e-6, 2000, 0.05)
    # The interval has one of 12, or of 5, shares of the risk.
    assert misses <= stats.binom.isf(1e-6, 2000, 0.01)


def test_large_clean_noise_passes_in_any_precision():
    noise = draw((100, 1000))
    for observations in (noise, noise.astype(np.float32)):
        check = estimate(observations)
        assert check.passed
        assert check.verdict is VERDICTS.AS_CLAIMED
        assert 0.99 < check.lower < 1 < check.upper < 1.01
        assert {test.name for test in check.tests} == ALL_TESTS
        assert (check.num_steps, check.num_coordinates) == (100, 1000)


def test_weights_in_float32_read_as_differences_pass():
    # Weights wander over 2000 steps; their spacing grows with them.
    steps = 0.01 * draw((2000, 50)).astype(np.float32)
    weights = np.cumsum(steps, axis=0, dtype=np.float32)
    assert estimate(np.diff(weights, axis=0) / 0.01).passed


@pytest.mark.parametrize("shape", [(10, 1000), (100, 100), (400, 250)])
@pytest.mark.parametrize("seed", range(3))
def test_five_percent_of_the_noise_are_found(shape, seed):
    # 1e4 numbers place the noise within 2%: three standard errors to spare.
    noise = draw(shape, seed)
    less, more = estimate(0.95 * noise), estimate(1.05 * noise)
    assert less.verdict is VERDICTS.LESS_NOISE
    assert less.upper < 1
    assert "guarantee is broken" in str(less)
    assert more.verdict is VERDICTS.MORE_NOISE
    assert more.lower > 1
    assert not less.passed and not more.passed


@pytest.mark.parametrize("num_replicas", [2, 8])
def test_noise_of_each_replica_is_more_noise_and_nothing_else(num_replicas):
    noise = sum(draw(seed=seed) for seed in range(num_replicas))
    check = estimate(noise)
    assert check.verdict is VERDICTS.MORE_NOISE
    assert list_failed(check) == {"size"}
    wanted = math.sqrt(num_replicas)
    assert check.lower < wanted < check.upper
    assert "guarantee holds, accuracy is lost" in str(check)


def repeat_key(noise):
    noise[:] = noise[0]


def repeat_one_step(noise):
    noise[31] = noise[4]


def share_key(noise):
    noise[:] = noise[:, :1]


def copy_coordinate(noise):
    noise[:, 77] = -noise[:, 3]


def copy_half(noise):
    noise[:, 125:] = noise[:, :125]


def skip_step(noise):
    noise[0] = 0.0


def skip_coordinate(noise):
    noise[:, 9] = 0.0


def skip_half_of_steps(noise):
    noise[::2] = 0.0
    noise *= math.sqrt(2)


def shift(noise):
    noise += 0.1


def drift(noise):
    noise += 0.25 * draw(seed=9)[:1]


def add_to_all(noise):
    noise += 0.15 * draw(seed=9)[:, :1]


def smooth(noise):
    noise[1:] += 0.2 * noise[:-1]
    noise /= math.sqrt(1.04)


def cancel(noise):
    noise[1:] -= noise[:-1].copy()
    noise /= math.sqrt(2)


def cut_off(noise):
    np.clip(noise, -2.5, 2.5, out=noise)


def use_uniform(noise):
    noise[:] = math.sqrt(12) * (stats.norm.cdf(noise) - 0.5)


def use_laplace(noise):
    noise[:] = stats.laplace.ppf(stats.norm.cdf(noise)) / math.sqrt(2)


def use_bfloat16(noise):
    mantissa, exponent = np.frexp(noise)
    noise[:] = np.ldexp(np.round(mantissa * 256), exponent - 8)


def use_float16(noise):
    noise[:] = noise.astype(np.float16)


def round_coarsely(noise):
    noise[:] = np.round(noise * 100) / 100


@pytest.mark.parametrize(
    "spoil, test",
    [
        (repeat_key, "pairs of steps"),
        (repeat_key, "common to steps"),
        (repeat_one_step, "pairs of steps"),
        (share_key, "pairs of coordinates"),
        (share_key, "common to coordinates"),
        (copy_coordinate, "pairs of coordinates"),
        (copy_half, "repetitions"),
        (skip_step, "steps"),
        (skip_coordinate, "coordinates"),
        (skip_half_of_steps, "steps"),
        (shift, "mean"),
        (drift, "common to steps"),
        (add_to_all, "common to coordinates"),
        (smooth, "lags"),
        (cancel, "common to steps"),
        (cut_off, "largest"),
        (use_uniform, "shape"),
        (use_laplace, "shape"),
        (use_laplace, "largest"),
        (use_bfloat16, "repetitions"),
        (use_float16, "repetitions"),
        (round_coarsely, "repetitions"),
    ],
)
def test_broken_noise_is_found_by_its_test(spoil, test):
    noise = draw()
    assert estimate(noise).passed
    spoil(noise)
    check = estimate(noise)
    assert test in list_failed(check)
    assert check.verdict in (VERDICTS.OTHER_NOISE, VERDICTS.LESS_NOISE)
    assert not check.passed


def test_truncated_normal_initializer_is_not_noise():
    # It redraws what is beyond two deviations, and so is smaller as well.
    noise = stats.truncnorm.rvs(-2, 2, size=(40, 250), random_state=0)
    check = estimate(noise)
    assert check.verdict is VERDICTS.LESS_NOISE
    assert "largest" in list_failed(check)


def test_no_noise_is_less_noise():
    for shape in ((1, 50), (40, 250), (2, 1)):
        check = estimate(np.zeros(shape))
        assert check.verdict is VERDICTS.LESS_NOISE
        assert (check.lower, check.upper) == (0.0, 0.0)


def test_noise_in_other_units_is_not_the_claimed_one():
    # Divided by a batch of 100, or not divided by a clip of 100.
    assert estimate(draw() / 100).verdict is VERDICTS.LESS_NOISE
    assert estimate(draw() * 100).verdict is VERDICTS.MORE_NOISE


def test_one_step_finds_copied_coordinates():
    noise = draw((1, 50))
    assert estimate(noise).passed
    noise[0, 25:] = noise[0, :25]
    check = estimate(noise)
    assert list_failed(check) == {"repetitions"}
    assert len(check.tests) == 5


@pytest.mark.parametrize(
    "shape, count", [((1, 2), 5), ((2, 1), 6), ((2, 2), 12), ((300, 1), 6)]
)
def test_smallest_shapes(shape, count):
    check = estimate(draw(shape, seed=2))
    assert len(check.tests) == count
    assert check.passed
    assert all(0 <= test.p_value <= 1 for test in check.tests)


def test_coarser_numbers_are_accepted_when_said_to_be():
    noise = np.round(draw() * 500) / 500
    assert "repetitions" in list_failed(estimate(noise))
    assert estimate(noise, resolution=0.002).passed


def test_observations_are_left_alone():
    noise = draw((3, 4))
    estimate(noise)
    np.testing.assert_array_equal(noise, draw((3, 4)))


def test_huge_observations_do_not_overflow():
    check = estimate(1e90 * draw())
    assert check.verdict is VERDICTS.MORE_NOISE
    assert 0.9e90 < check.lower < 1.1e90


def test_text_lists_every_test():
    text = str(estimate(draw()))
    assert "(claimed 1), confidence 0.95" in text
    assert "40 steps, 250 coordinates" in text
    assert text.count("p-value") == 12
    assert "FAILED size" in str(estimate(2 * draw()))


@pytest.mark.parametrize(
    "observations, changes, error, message",
    [
        ([[1.0, NAN]], {}, ValueError, "observations must be finite"),
        ([[1.0, math.inf]], {}, ValueError, "observations must be finite"),
        ([1.0, 2.0], {}, ValueError, "observations must be a matrix"),
        ([[]], {}, ValueError, "observations must be a matrix"),
        ([[1.0]], {}, ValueError, "observations must hold at least 2"),
        ([["a", "b"]], {}, TypeError, "observations must be real"),
        (
            [[1.0, 2.0]],
            {"noise_multiplier": 0.0},
            ValueError,
            "noise_multiplier must be",
        ),
        (
            [[1.0, 2.0]],
            {"noise_multiplier": NAN},
            ValueError,
            "noise_multiplier must be",
        ),
        ([[1.0, 2.0]], {"confidence": 1.0}, ValueError, "confidence must be"),
        ([[1.0, 2.0]], {"resolution": 0.0}, ValueError, "resolution must be"),
        ([[1.0, 2.0]], {"resolution": NAN}, ValueError, "resolution must be"),
    ],
)
def test_errors(observations, changes, error, message):
    with pytest.raises(error, match=message):
        estimate(observations, **changes)
