# SPDX-License-Identifier: Apache-2.0
"""Tests of the privacy profile and what it means for an attacker."""

import numpy as np
import pytest
from scipy import stats

from tf_privacy import accounting

RATES = (1e-3, 0.01, 0.1, 0.5)


def test_profile_falls_and_is_delta_at_each_epsilon():
    run = accounting.SampledGaussianSteps(
        noise_multiplier=1.0, sampling_probability=0.01, num_steps=1000
    )
    epsilons = [0.0, 0.5, 1.0, 3.0]
    deltas = accounting.compute_profile_of([run], epsilons=epsilons)
    assert np.all(np.diff(deltas) < 0)
    for epsilon, delta in zip(epsilons, deltas, strict=True):
        assert delta == accounting.compute_delta_of([run], epsilon=epsilon)


def test_attack_on_a_gaussian_is_bounded_by_its_exact_trade_off():
    bounds = accounting.compute_attack_bounds_of(
        [accounting.Gaussian(1.0)], false_positive_rates=RATES
    )
    exact = stats.norm.cdf(stats.norm.ppf(RATES) + 1.0)
    found = np.array(bounds.true_positive_rates)
    assert np.all(found >= exact)
    np.testing.assert_allclose(found, exact, rtol=0.05)
    accuracy = stats.norm.cdf(0.5)
    assert accuracy <= bounds.max_accuracy <= accuracy * (1 + 1e-6)


def test_statement_and_attack_agree():
    phase = accounting.Phase(
        noise_multiplier=1.0,
        sampling_probability=0.01,
        num_steps=1000,
        l2_norm_clip=1.0,
        expected_batch_size=10,
    )
    bounds = accounting.compute_attack_bounds_of([phase.make_mechanism()])
    made = accounting.make_privacy_statement([phase], delta=1e-5)
    assert made.max_attack_accuracy == pytest.approx(
        bounds.max_accuracy, rel=1e-9
    )


def test_nothing_helps_no_attacker():
    bounds = accounting.compute_attack_bounds_of([], false_positive_rates=[0.1])
    assert bounds.true_positive_rates == pytest.approx((0.1,))
    assert bounds.max_accuracy == pytest.approx(0.5)
