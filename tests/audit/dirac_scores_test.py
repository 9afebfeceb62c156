# SPDX-License-Identifier: Apache-2.0
"""Tests of the scores of Dirac canaries."""

import mpmath
import numpy as np
import pytest

from tf_privacy.audit import dirac_scores

NAN = float("nan")


def score(observations, noise_multiplier=1.0, sampling_probability=0.1):
    return dirac_scores.compute_log_likelihood_ratios(
        observations,
        noise_multiplier=noise_multiplier,
        sampling_probability=sampling_probability,
    )


def compute_exactly(x, noises, probabilities):
    """The ratio of densities, in 60 digits."""
    with mpmath.workdps(60):
        total = mpmath.mpf(0)
        for value, z, q in zip(x, noises, probabilities, strict=True):
            value, z, q = map(mpmath.mpf, (value, z, q))
            absent = mpmath.npdf(value, 0, z)
            present = mpmath.npdf(value, 1, z)
            total += mpmath.log(((1 - q) * absent + q * present) / absent)
        return float(total)


@pytest.mark.parametrize(
    "noise, q", [(1.0, 0.1), (0.3, 1e-6), (5.0, 1.0), (0.05, 0.5), (1.0, 0.999)]
)
def test_scores_are_the_log_ratio_of_densities(noise, q):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 5)) * noise + (rng.random((7, 5)) < q)
    wanted = [compute_exactly(column, [noise] * 7, [q] * 7) for column in x.T]
    np.testing.assert_allclose(score(x, noise, q), wanted, rtol=1e-9)


def test_each_step_may_have_noise_and_sampling_of_its_own():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 4))
    noises, probabilities = [0.5, 1.0, 2.0], [1.0, 0.3, 0.01]
    wanted = [compute_exactly(column, noises, probabilities) for column in x.T]
    got = score(x, np.array(noises), np.array(probabilities))
    np.testing.assert_allclose(got, wanted, rtol=1e-10)


def test_unsampled_score_is_linear():
    x = np.array([[0.5, 1.0, -30.0, 1e8]])
    np.testing.assert_allclose(score(x, 2.0, 1.0), (x[0] - 0.5) / 4.0)


def test_far_observations_neither_overflow_nor_lose_the_score():
    got = score([[-1e6, 1e6]], 0.01, 0.25)
    np.testing.assert_allclose(got, [np.log(0.75), 1e10 - 5e3 + np.log(0.25)])


def test_steps_add_up_and_members_score_higher():
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(50, 400))
    out, member = score(noise), score(noise + (rng.random((50, 400)) < 0.1))
    assert member.mean() > out.mean()
    np.testing.assert_allclose(out, score(noise[:20]) + score(noise[20:]))


def test_ratio_averages_to_one_over_non_members():
    # E[p1 / p0] = 1 under p0; its variance is known for q = 1 as well.
    noise = np.random.default_rng(3).normal(size=(1, 200_000)) * 2.0
    ratios = np.exp(score(noise, 2.0, 1.0))
    stddev = np.sqrt(np.expm1(0.25) / noise.size)
    assert abs(ratios.mean() - 1) < 5 * stddev


def test_low_precision_and_integers_are_taken():
    x = np.array([[0.5, 1.5]])
    np.testing.assert_allclose(score(x.astype(np.float16)), score(x))
    assert score([[1, 0]]).dtype == np.float64


@pytest.mark.parametrize("bad", [NAN, np.inf, -np.inf, 1e101])
def test_broken_observations_are_refused_with_their_place(bad):
    x = np.zeros((3, 4))
    x[1, 2] = bad
    with pytest.raises(ValueError, match="observations must be finite") as info:
        score(x)
    assert "step 1, canary 2" in str(info.value)


@pytest.mark.parametrize(
    "observations, error, message",
    [
        ([1.0, 2.0], ValueError, "observations must be a matrix"),
        (np.zeros((0, 3)), ValueError, "observations must be a matrix"),
        (np.zeros((3, 0)), ValueError, "observations must be a matrix"),
        ([["a"]], TypeError, "observations must be real numbers"),
        ([[1j]], TypeError, "observations must be real numbers"),
        ([[True]], TypeError, "observations must be real numbers"),
    ],
)
def test_wrong_observations(observations, error, message):
    with pytest.raises(error, match=message):
        score(observations)


@pytest.mark.parametrize(
    "noise, q, message",
    [
        (0.0, 0.1, "noise_multiplier must be"),
        (NAN, 0.1, "noise_multiplier must be"),
        ([1.0, 0.0], 0.1, "noise_multiplier must be"),
        ([1.0], 0.1, "noise_multiplier must be a number or one for each"),
        (1.0, 0.0, "sampling_probability must be"),
        (1.0, 1.1, "sampling_probability must be"),
        (1.0, [0.1, NAN], "sampling_probability must be"),
        (1e-150, 0.1, "observations must be in units of the clip"),
    ],
)
def test_wrong_parameters(noise, q, message):
    with pytest.raises(ValueError, match=message):
        score(np.full((2, 3), 1e50), noise, q)
