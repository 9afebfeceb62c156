# SPDX-License-Identifier: Apache-2.0
"""Tests of what (epsilon, delta) mean for an attacker."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from tf_privacy.accounting import trade_off

RATES = np.geomspace(1e-4, 1.0, 60)
PURE = {"epsilons": [1.5], "deltas": [0.0]}
NAN = float("nan")


def make_gaussian_profile(mu, size=200):
    epsilons = np.linspace(0.0, mu * (mu / 2 + 4.5), size)
    x = epsilons / mu - mu / 2
    deltas = stats.norm.sf(x) - np.exp(epsilons) * stats.norm.sf(x + mu)
    return {"epsilons": epsilons, "deltas": deltas}


def compute_gaussian_tpr(rates, mu):
    return stats.norm.cdf(stats.norm.ppf(rates) + mu)


@pytest.mark.parametrize("mu", [0.05, 0.5, 1.0, 3.0])
def test_gaussian_is_approached_and_never_undercut(mu):
    profile = make_gaussian_profile(mu)
    got = trade_off.compute_max_true_positive_rate(RATES, **profile)
    exact = compute_gaussian_tpr(RATES, mu)
    assert np.all(got >= exact - 1e-14)
    np.testing.assert_allclose(got, exact, rtol=0.01)


@pytest.mark.parametrize("mu", [0.05, 0.5, 1.0, 3.0])
def test_gaussian_advantage_and_accuracy_are_exact(mu):
    profile = make_gaussian_profile(mu)
    # The best threshold lies half-way between the two means.
    exact = 2 * stats.norm.cdf(mu / 2) - 1
    advantage = trade_off.compute_max_advantage(**profile)
    assert exact - 1e-14 <= advantage <= exact * (1 + 1e-9)
    accuracy = trade_off.compute_max_accuracy(**profile)
    assert accuracy == pytest.approx(stats.norm.cdf(mu / 2), rel=1e-9)


def test_one_pair_of_the_gaussian_is_a_looser_bound():
    whole = make_gaussian_profile(1.0)
    pair = {name: values[50:51] for name, values in whole.items()}
    sharp = trade_off.compute_max_true_positive_rate(RATES, **whole)
    loose = trade_off.compute_max_true_positive_rate(RATES, **pair)
    assert np.all(loose >= sharp)
    assert np.any(loose > 1.2 * sharp)


def test_pure_dp_is_randomized_response():
    # It keeps the truth with probability e^epsilon / (1 + e^epsilon).
    keep = math.exp(1.5) / (1 + math.exp(1.5))
    got = trade_off.compute_max_true_positive_rate([1 - keep], **PURE)
    np.testing.assert_allclose(got, [keep], rtol=1e-11)
    assert trade_off.compute_max_accuracy(**PURE) == pytest.approx(keep)
    advantage = trade_off.compute_max_advantage(**PURE)
    assert advantage == pytest.approx(math.tanh(0.75), rel=1e-11)
    rates = np.array([0.0, 0.01, 0.5, 1.0])
    wanted = np.maximum(1 - math.exp(1.5) * rates, math.exp(-1.5) * (1 - rates))
    got = trade_off.compute_trade_off(rates, **PURE)
    np.testing.assert_allclose(got, wanted, atol=1e-11)
    assert got[0] == 1.0


def test_every_finite_mechanism_keeps_to_its_own_profile():
    rng = np.random.default_rng(0)
    epsilons = np.linspace(0, 4, 30)[:, np.newaxis]
    for _ in range(50):
        p, q = rng.dirichlet(np.ones(5), size=2)
        deltas = np.maximum(
            np.sum(np.maximum(p - np.exp(epsilons) * q, 0), axis=1),
            np.sum(np.maximum(q - np.exp(epsilons) * p, 0), axis=1),
        )
        profile = {"epsilons": epsilons[:, 0], "deltas": deltas}
        # Every event, as a test for p against q.
        events = np.array(list(np.ndindex(*[2] * 5)))
        hits, alarms = events @ p, np.clip(events @ q, 0, 1)
        bound = trade_off.compute_max_true_positive_rate(alarms, **profile)
        assert np.all(hits <= bound + 1e-14)
        advantage = trade_off.compute_max_advantage(**profile)
        assert advantage == pytest.approx(np.max(hits - alarms), rel=1e-9)


def test_advantage_is_the_largest_gap_of_the_curve():
    profile = {"epsilons": [0.1, 0.7, 2.0], "deltas": [0.3, 0.05, 1e-3]}
    rates = np.linspace(0, 1, 200_001)
    misses = trade_off.compute_trade_off(rates, **profile)
    gap = np.max(1 - misses - rates)
    advantage = trade_off.compute_max_advantage(**profile)
    assert advantage == pytest.approx(gap, abs=1e-5)
    assert advantage >= gap - 1e-12
    assert trade_off.compute_max_accuracy(**profile) == pytest.approx(
        1 - np.min(rates + misses) / 2, abs=1e-5
    )


def test_curves_are_monotone_and_add_up_to_one():
    profile = make_gaussian_profile(1.0)
    rates = np.linspace(0, 1, 1001)
    found = trade_off.compute_max_true_positive_rate(rates, **profile)
    missed = trade_off.compute_trade_off(rates, **profile)
    assert np.all(np.diff(found) >= -1e-12)
    assert np.all(np.diff(missed) <= 1e-12)
    assert np.all(missed <= 1 - found)
    np.testing.assert_allclose(found + missed, 1, rtol=1e-11)
    more_noise = make_gaussian_profile(0.7)
    assert np.all(
        trade_off.compute_max_true_positive_rate(rates, **more_noise)
        <= found + 1e-3
    )


def test_delta_alone_decides_where_nothing_may_be_wrong():
    for delta in (0.0, 1e-300, 1e-5, 1.0):
        profile = {"epsilons": [1.0, 800.0], "deltas": [1.0, delta]}
        got = trade_off.compute_max_true_positive_rate(0.0, **profile)
        np.testing.assert_allclose(got, [delta], rtol=1e-11)


def test_delta_one_allows_all_and_perfect_privacy_allows_guessing():
    nothing = {"epsilons": [0.0], "deltas": [1.0]}
    assert np.all(
        trade_off.compute_max_true_positive_rate(RATES, **nothing) == 1
    )
    assert np.all(trade_off.compute_trade_off(RATES, **nothing) == 0)
    assert trade_off.compute_max_advantage(**nothing) == 1
    assert trade_off.compute_max_accuracy(**nothing) == 1
    perfect = {"epsilons": [0.0], "deltas": [0.0]}
    got = trade_off.compute_max_true_positive_rate(RATES, **perfect)
    np.testing.assert_allclose(got, RATES, rtol=1e-11)
    assert trade_off.compute_max_advantage(**perfect) == 0
    assert trade_off.compute_max_accuracy(**perfect) == pytest.approx(0.5)


def test_small_rates_keep_their_relative_precision():
    got = trade_off.compute_max_true_positive_rate(1e-250, **PURE)
    np.testing.assert_allclose(got, [math.exp(1.5) * 1e-250], rtol=1e-11)


def test_posterior_of_the_gaussians_threshold_test_is_bounded():
    profile = make_gaussian_profile(1.0)
    priors = np.array([0.0, 0.01, 0.5, 0.99, 1.0])
    for rate in (1e-4, 0.01, 0.5, 1.0):
        true_rate = compute_gaussian_tpr(rate, 1.0)
        exact = priors * true_rate
        exact /= exact + (1 - priors) * rate
        got = trade_off.compute_max_posterior(
            priors, false_positive_rate=rate, **profile
        )
        assert np.all(got >= exact - 1e-14)
        np.testing.assert_allclose(got, exact, rtol=0.01)


def test_posterior_bound_of_pure_dp_is_bayes_rule():
    got = trade_off.compute_posterior_bound(0.3, epsilon=1.5)
    wanted = 0.3 * math.exp(1.5) / (0.7 + 0.3 * math.exp(1.5))
    assert got == pytest.approx(wanted, rel=1e-11)
    assert got >= wanted
    tests = trade_off.compute_max_posterior(
        0.3, false_positive_rate=1e-6, **PURE
    )
    np.testing.assert_allclose(tests, [wanted], rtol=1e-11)
    for prior in (0.0, 1.0):
        assert trade_off.compute_posterior_bound(prior, epsilon=9.0) == prior
    assert trade_off.compute_posterior_bound(0.5, epsilon=1e4) == 1.0
    assert trade_off.compute_posterior_bound(5e-324, epsilon=0.0) > 0.0


@pytest.mark.parametrize("t", [0.1, 0.5, 2.0])
def test_posterior_bound_fails_as_often_as_said(t):
    # The Gaussian's loss is normal, with mean mu^2 / 2 and deviation mu.
    profile = make_gaussian_profile(1.0)
    for epsilon, delta in zip(*profile.values(), strict=True):
        failure = stats.norm.sf(epsilon + t - 0.5)
        assert failure <= delta / -math.expm1(-t)
    # More often than delta: the claim that this replaces is false.
    assert (
        stats.norm.sf(1.0 - 0.5)
        > profile["deltas"][np.searchsorted(profile["epsilons"], 1.0)]
    )


def test_summary_is_short_complete_and_frozen():
    profile = make_gaussian_profile(1.0)
    bounds = trade_off.compute_attack_bounds(**profile)
    assert bounds.false_positive_rates == (1e-4, 1e-3, 1e-2, 1e-1)
    wanted = compute_gaussian_tpr(np.array(bounds.false_positive_rates), 1.0)
    np.testing.assert_allclose(bounds.true_positive_rates, wanted, rtol=0.01)
    assert bounds.max_accuracy == pytest.approx(stats.norm.cdf(0.5))
    lines = str(bounds).splitlines()
    assert len(lines) == 8
    assert max(map(len, lines)) <= 80
    assert lines[5].split() == ["0.1", "0.3892"]
    assert lines[6].endswith("balanced test: 0.6915")
    with pytest.raises(dataclasses.FrozenInstanceError):
        bounds.max_accuracy = 0.5


def test_summary_rounds_up():
    bounds = trade_off.AttackBounds(
        false_positive_rates=(0.0, 0.5, 1.0),
        true_positive_rates=(0.0, 0.600001, 1.0),
        max_accuracy=0.99999,
        max_advantage=5e-324,
    )
    lines = str(bounds).splitlines()
    assert [line.split()[-1] for line in lines[2:6]] == [
        "0",
        "0.6001",
        "1",
        "1",
    ]


@pytest.mark.parametrize(
    "epsilons", [[], [NAN], [-1.0], [float("inf")], [1.0, 1.0], [[1.0]]]
)
def test_refuses_bad_epsilons(epsilons):
    profile = {"epsilons": epsilons, "deltas": np.zeros_like(epsilons)}
    for compute in (
        trade_off.compute_max_advantage,
        trade_off.compute_attack_bounds,
    ):
        with pytest.raises(ValueError, match="^epsilons must be"):
            compute(**profile)


@pytest.mark.parametrize("value", [NAN, -0.1, 1.1])
def test_refuses_what_is_no_probability(value):
    with pytest.raises(ValueError, match="^deltas must be"):
        trade_off.compute_max_advantage(epsilons=[1.0], deltas=[value])
    with pytest.raises(ValueError, match="^false_positive_rates must be"):
        trade_off.compute_trade_off([0.1, value], **PURE)
    with pytest.raises(ValueError, match="^priors must be"):
        trade_off.compute_max_posterior(value, false_positive_rate=0.1, **PURE)
    with pytest.raises(ValueError, match="^false_positive_rate must be"):
        trade_off.compute_max_posterior(0.1, false_positive_rate=value, **PURE)
    with pytest.raises(ValueError, match="^prior must be"):
        trade_off.compute_posterior_bound(value, epsilon=1.0)


def test_refuses_other_shapes_and_impossible_rates():
    with pytest.raises(ValueError, match="^deltas must have the shape"):
        trade_off.compute_max_advantage(epsilons=[1.0], deltas=[0.1, 0.1])
    with pytest.raises(ValueError, match="^false_positive_rate must be"):
        trade_off.compute_max_posterior(0.1, false_positive_rate=0.0, **PURE)
    with pytest.raises(ValueError, match="^epsilon must be"):
        trade_off.compute_posterior_bound(0.5, epsilon=NAN)
