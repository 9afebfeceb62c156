# SPDX-License-Identifier: Apache-2.0
"""Tests of the noise that correlated releases need."""

import math

import pytest
from scipy import optimize
from scipy import stats

from tf_privacy.accounting import composition
from tf_privacy.accounting import correlated_calibration
from tf_privacy.accounting import mechanism
from tf_privacy.accounting import neighboring_relation
from tf_privacy.accounting import noise_mechanisms

RELATIONS = neighboring_relation.NeighboringRelation
CASES = [(1.0, 1e-6, 1.0, 1), (8.0, 1e-5, 4.2, 3), (0.1, 1e-8, 0.3, 20)]


def calibrate(epsilon, delta, sensitivity, count, **relation):
    return correlated_calibration.calibrate_correlated_noise_multiplier(
        target_epsilon=epsilon,
        target_delta=delta,
        sensitivity=sensitivity,
        num_releases=count,
        **relation,
    )


def spend(noise_multiplier, delta, sensitivity, count, relation):
    run = noise_mechanisms.MatrixMechanism(
        noise_multiplier=noise_multiplier, sensitivity=sensitivity
    )
    return composition.compute_epsilon_of(
        [mechanism.SelfComposed(run, count)],
        delta=delta,
        neighboring_relation=relation,
    )


def compute_delta(mu, epsilon):
    """Balle and Wang 2018, theorem 8, for a shift of mu deviations."""
    tail = stats.norm.logcdf(-epsilon / mu - mu / 2)
    return stats.norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon + tail)


@pytest.mark.parametrize("case", CASES)
def test_is_the_closed_form_of_one_gaussian(case):
    epsilon, delta, sensitivity, count = case
    mu = optimize.brentq(
        lambda m: math.log(compute_delta(m, epsilon) / delta),
        epsilon / 30,
        10 + epsilon,
        xtol=1e-14,
    )
    least = sensitivity * math.sqrt(count) / mu
    found = calibrate(*case)
    assert least * (1 - 1e-9) <= found <= least * (1 + 3e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("relation", list(RELATIONS))
def test_meets_the_target_and_no_less_noise_does(case, relation):
    epsilon, *rest = case
    found = calibrate(*case, neighboring_relation=relation)
    assert spend(found, *rest, relation) <= epsilon
    assert spend(found * (1 - 4e-6), *rest, relation) > epsilon


def test_replacing_a_unit_takes_twice_the_noise():
    zeroed = calibrate(*CASES[1])
    replaced = calibrate(*CASES[1], neighboring_relation=RELATIONS.REPLACE_ONE)
    assert replaced == pytest.approx(2 * zeroed, rel=1e-5)


def test_tiny_noise_is_rounded_up_to_the_range():
    assert calibrate(50.0, 1e-3, 1e-6, 1) == 0.01


@pytest.mark.parametrize(
    "change, message",
    [
        ({"target_epsilon": 0.0}, "target_epsilon must be a finite number > 0"),
        ({"target_epsilon": math.nan}, "target_epsilon must be a finite"),
        ({"target_delta": 1.0}, "target_delta must be a finite number > 0"),
        ({"sensitivity": math.nan}, "sensitivity must be a finite number"),
        ({"sensitivity": 0.0}, "sensitivity must be a finite number >= 1e-09"),
        ({"num_releases": 0}, "num_releases must be a whole number >= 1"),
        ({"sensitivity": 1e6}, "target_epsilon must be attainable with a"),
        ({"neighboring_relation": "zero"}, "neighboring_relation must be one"),
    ],
)
def test_refuses(change, message):
    arguments = {
        "target_epsilon": 1.0,
        "target_delta": 1e-6,
        "sensitivity": 2.0,
        "num_releases": 3,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        correlated_calibration.calibrate_correlated_noise_multiplier(
            **arguments
        )
