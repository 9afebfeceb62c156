# SPDX-License-Identifier: Apache-2.0
"""Tests of the check of what members contribute to real steps."""

import math

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import clipping_check

NAN = float("nan")


def simulate(
    contribution=1.0,
    shape=(50, 400),
    noise=1.0,
    included=0.1,
    seed=0,
    signs=1.0,
):
    """Steps with contributions of so many clips, and who is a member."""
    rng = np.random.default_rng(seed)
    is_member = rng.random(shape[1]) < 0.5
    observations = noise * rng.normal(size=shape)
    observations += (
        contribution * signs * is_member * (rng.random(shape) < included)
    )
    return observations, is_member


def estimate(observations, is_member, **changes):
    given = {
        "noise_multiplier": 1.0,
        "sampling_probability": 0.1,
        "confidence": 0.95,
        **changes,
    }
    return clipping_check.estimate_clipping(
        observations, is_member=is_member, **given
    )


def compute_sum_tail(total, contribution, size, q, noise):
    """P[c B + z sqrt(n) N >= total], by a sum over all counts."""
    return sum(
        math.comb(size, k)
        * q**k
        * (1 - q) ** (size - k)
        * 0.5
        * math.erfc((total - contribution * k) / (noise * math.sqrt(2 * size)))
        for k in range(size + 1)
    )


def compute_p_value(members, contribution, q, noise):
    size, largest = members.size, np.max(np.abs(members))
    by_largest = size * math.erfc(
        (largest - contribution) / noise / math.sqrt(2)
    )
    by_sum = compute_sum_tail(np.sum(members), contribution, size, q, noise)
    return min(1.0, 2 * min(by_largest, by_sum))


@pytest.mark.parametrize("contribution", [1.0, 1.6, 5.0])
@pytest.mark.parametrize("q, noise", [(0.3, 0.5), (1.0, 1.0)])
def test_p_value_and_bound_are_those_of_the_formulas(contribution, q, noise):
    observations, is_member = simulate(
        contribution, (6, 12), noise=noise, included=q
    )
    check = estimate(
        observations,
        is_member,
        noise_multiplier=noise,
        sampling_probability=q,
    )
    members = observations[:, is_member]
    wanted = compute_p_value(members, 1 + 1e-5, q, noise)
    assert check.p_value == pytest.approx(wanted, rel=1e-6, abs=1e-14)
    assert check.passed == (check.p_value >= 0.05)
    at = check.sensitivity_lower
    if at > 0:
        assert compute_p_value(members, at, q, noise) == pytest.approx(
            0.05, rel=1e-5
        )
    weakest = compute_sum_tail(
        -np.sum(members), -check.weakest_upper, members.size, q, noise
    )
    assert weakest == pytest.approx(0.05, rel=1e-5)


def test_clean_steps_pass_in_nineteen_runs_of_twenty():
    # 2000 runs: more than 149 misses have a probability below 1e-6.
    rng = np.random.default_rng(1)
    is_member = np.ones(20, dtype=bool)
    failures = misses = weak = 0
    for _ in range(2000):
        observations = rng.normal(size=(10, 20))
        observations += rng.random((10, 20)) < 0.3
        check = estimate(observations, is_member, sampling_probability=0.3)
        failures += not check.passed
        misses += check.sensitivity_lower > 1
        weak += check.weakest_upper < 1
    at_most = stats.binom.isf(1e-6, 2000, 0.05)
    assert max(failures, misses, weak) <= at_most
    # The sum's tail is exact, with half of the risk or all of it.
    assert failures > 0 and weak > 50


@pytest.mark.parametrize("noise", [1e-3, 0.5, 1.0, 4.0])
def test_clip_left_out_is_found(noise):
    # The canaries' gradients are a hundred clips long.
    observations, is_member = simulate(100.0, noise=noise)
    check = estimate(observations, is_member, noise_multiplier=noise)
    assert not check.passed
    assert 100 - 6 * noise < check.sensitivity_lower <= 100.001
    assert "guarantee is broken" in str(check)


def test_clip_left_out_for_one_member_in_one_step_is_found():
    observations, is_member = simulate()
    assert estimate(observations, is_member).passed
    observations[7, np.flatnonzero(is_member)[3]] = 100.0
    check = estimate(observations, is_member)
    assert not check.passed
    assert check.sensitivity_lower > 94


def test_negative_contributions_count_as_well():
    observations, is_member = simulate(100.0, signs=-1.0)
    check = estimate(observations, is_member)
    assert not check.passed
    assert check.sensitivity_lower > 94


def test_clip_somewhat_too_large_is_found_by_the_sum():
    observations, is_member = simulate(1.3, shape=(200, 1000))
    check = estimate(observations, is_member)
    assert not check.passed
    assert 1.2 < check.sensitivity_lower <= 1.3
    assert check.largest < 7


def test_members_that_join_too_many_steps_are_found():
    observations, is_member = simulate(included=0.2)
    assert not estimate(observations, is_member).passed
    # Even where no size of contribution could explain it.
    check = estimate(observations, is_member, sampling_probability=1e-8)
    assert not check.passed
    assert check.sensitivity_lower <= check.largest
    assert check.weakest_upper == math.inf


def test_non_members_do_not_count():
    observations, is_member = simulate()
    broken = observations.copy()
    broken[:, ~is_member] = 1e6
    assert estimate(broken, is_member) == estimate(observations, is_member)


def test_weak_canaries_are_a_warning_not_a_failure():
    observations, is_member = simulate(0.3, shape=(100, 1000))
    check = estimate(observations, is_member)
    assert check.passed
    assert 0.3 <= check.weakest_upper < 0.5
    assert "contributes at most" in check.warnings[0]
    assert "Warning" in str(check)
    assert check.mean_contribution == pytest.approx(0.3, abs=0.1)
    full = estimate(*simulate(shape=(100, 1000)))
    assert full.warnings == ()
    assert full.weakest_upper >= 1


def test_rounding_of_float32_is_no_violation():
    observations, is_member = simulate(1 + 1e-6, noise=1e-4, included=1.0)
    check = estimate(
        observations,
        is_member,
        noise_multiplier=1e-7,
        sampling_probability=1.0,
    )
    assert not check.passed
    exact = np.full((5, 3), np.float32(1 + 1e-6))
    check = estimate(
        exact,
        [True] * 3,
        noise_multiplier=1e-7,
        sampling_probability=1.0,
    )
    assert check.passed


def test_one_observation_is_enough():
    check = estimate([[1.2]], [True])
    assert check.passed
    assert (check.num_steps, check.num_members) == (1, 1)
    assert not estimate([[9.0]], [True]).passed


def test_text_says_how_much_was_looked_at():
    text = str(estimate(*simulate()))
    assert "one clip from each member explains it" in text
    assert "50 steps" in text
    assert "confidence 0.95" in text


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        (
            {"observations": [[1.0, NAN]]},
            ValueError,
            "observations must be fin",
        ),
        (
            {"observations": [1.0, 2.0]},
            ValueError,
            "observations must be a mat",
        ),
        ({"is_member": [1, 0]}, TypeError, "is_member must be bool"),
        ({"is_member": [True]}, ValueError, "is_member must have the shape"),
        (
            {"is_member": [False] * 2},
            ValueError,
            "is_member must mark at least",
        ),
        ({"noise_multiplier": 0.0}, ValueError, "noise_multiplier must be"),
        ({"noise_multiplier": NAN}, ValueError, "noise_multiplier must be"),
        (
            {"sampling_probability": 0.0},
            ValueError,
            "sampling_probability must",
        ),
        (
            {"sampling_probability": NAN},
            ValueError,
            "sampling_probability must",
        ),
        ({"confidence": NAN}, ValueError, "confidence must be"),
    ],
)
def test_errors(wrong, error, message):
    given = {"observations": [[1.0, 2.0]], "is_member": [True, False], **wrong}
    with pytest.raises(error, match=message):
        estimate(**given)
