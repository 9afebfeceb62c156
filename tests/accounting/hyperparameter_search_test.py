# SPDX-License-Identifier: Apache-2.0
"""Tests of the privacy of publishing the best of a random number of runs."""

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import rdp_privacy_accountant
from scipy import special
from scipy import stats

from tf_privacy.accounting import hyperparameter_search as search

ORDERS = np.array([1.05, 1.2, 1.5, 2, 3, 5, 8, 16, 32, 64, 128.0])
GEOMETRIC = search.NegativeBinomialRuns(eta=1, gamma=0.1)
LOGARITHMIC = search.NegativeBinomialRuns(eta=0, gamma=0.05)
POISSON = search.PoissonRuns(mean=10)
ALL_RUNS = [
    GEOMETRIC,
    LOGARITHMIC,
    search.NegativeBinomialRuns(eta=-0.5, gamma=0.01),
    search.NegativeBinomialRuns(eta=3, gamma=0.2),
    POISSON,
    search.PoissonRuns(mean=1),
    search.PoissonRuns(mean=0.2),
]


def compute_gaussian(noise_multiplier, orders=ORDERS):
    return orders / (2 * noise_multiplier**2)


def compute_probabilities(runs):
    """Returns P(K = k) for k = 0, 1, ... from the definition."""
    k = np.arange(3000)
    if isinstance(runs, search.PoissonRuns):
        return stats.poisson.pmf(k, runs.mean)
    log_weights = k * np.log1p(-runs.gamma) + special.gammaln(
        np.maximum(k, 1) + runs.eta
    )
    log_weights -= special.gammaln(k + 1)
    log_weights[0] = -np.inf
    return special.softmax(log_weights)


def publish_best(law, probabilities):
    """Returns the law of the best of K draws; outcomes in rising score."""
    below = np.concatenate([[0.0], np.cumsum(law)[:-1], [1.0]])
    powers = below[:, np.newaxis] ** np.arange(len(probabilities))
    best = np.diff(powers @ probabilities)
    none = probabilities[:1]
    return np.concatenate([best, none]) if none > 0 else best


def compute_divergences(p, q):
    """Returns the larger Renyi divergence of the two directions."""
    logs = np.log(p), np.log(q)
    both = [
        special.logsumexp(np.outer(ORDERS, a) + np.outer(1 - ORDERS, b), axis=1)
        for a, b in (logs, logs[::-1])
    ]
    return np.maximum(*both) / (ORDERS - 1)


def make_neighbors(rng):
    size = rng.integers(2, 6)
    p = rng.dirichlet(np.full(size, 10 ** rng.uniform(-0.5, 0.5)))
    p = (p + 1e-6) / np.sum(p + 1e-6)
    spread = 10 ** rng.uniform(-1.5, 0.3)
    q = p * np.exp(rng.choice([-spread, spread], size))
    # Another law, even where all the signs fell alike.
    q[0] *= 1.01
    return p, q / np.sum(q)


@pytest.mark.parametrize("runs", ALL_RUNS, ids=repr)
def test_bounds_every_exact_search_and_is_not_vacuous(runs):
    rng = np.random.default_rng(0)
    probabilities = compute_probabilities(runs)
    shares = []
    for _ in range(150):
        p, q = make_neighbors(rng)
        exact = compute_divergences(
            publish_best(p, probabilities), publish_best(q, probabilities)
        )
        base = compute_divergences(p, q)
        bound = search.compute_search_rdp(ORDERS, base, num_runs=runs)
        shares.append(exact / bound)
    assert np.max(shares) <= 1
    assert np.max(shares) >= 0.6


def test_a_search_can_cost_more_than_twice_as_much_as_a_run():
    # The middle outcome is published if no draw has the best one. Both are
    # twice as likely for one of the neighbors, but not for the same one.
    p = np.array([0.980, 0.0010, 0.0190])
    q = np.array([0.961, 0.0005, 0.0385])
    runs = search.NegativeBinomialRuns(eta=1, gamma=0.005)
    probabilities = compute_probabilities(runs)
    exact = compute_divergences(
        publish_best(p, probabilities), publish_best(q, probabilities)
    )
    base = compute_divergences(p, q)
    assert exact[-1] > 2 * base[-1]
    bound = search.compute_search_rdp(ORDERS, base, num_runs=runs)
    assert exact[-1] < bound[-1] < 1.7 * exact[-1]


def compute_oracle(mean, shape, noise_multiplier, orders):
    accountant = rdp_privacy_accountant.RdpAccountant(list(orders))
    accountant.compose(
        dp_event.RepeatAndSelectDpEvent(
            dp_event.GaussianDpEvent(noise_multiplier), mean, shape
        )
    )
    return accountant._rdp, accountant.get_epsilon(1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("mean", [1.5, 30.0, 1e4])
def test_equals_dp_accounting_for_negative_binomials(mean, eta):
    runs = search.NegativeBinomialRuns.from_mean(mean, eta)
    rdp, epsilon = compute_oracle(mean, eta, 3.0, ORDERS)
    base = compute_gaussian(3.0)
    got = search.compute_search_rdp(ORDERS, base, num_runs=runs)
    np.testing.assert_allclose(got, rdp, rtol=1e-6)
    got = search.compute_search_epsilon(ORDERS, base, num_runs=runs, delta=1e-6)
    assert got == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize("mean", [1.0, 4.0, 100.0])
def test_is_dp_accounting_and_the_chance_of_no_run_for_poisson(mean):
    orders = np.array([2, 3, 5, 8, 16, 32, 64.0])
    runs = search.PoissonRuns(mean=mean)
    rdp, _ = compute_oracle(mean, np.inf, 8.0, orders)
    base = compute_gaussian(8.0, orders)
    got = search.compute_search_rdp(orders, base, num_runs=runs)
    # The oracle drops the term; dropping it is unproved here.
    moment = np.exp((orders - 1) * rdp) + np.exp(-mean)
    wanted = np.log(moment) / (orders - 1)
    wanted = np.minimum.accumulate(wanted[::-1])[::-1]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_means_are_those_of_the_definition():
    for runs in ALL_RUNS:
        probabilities = compute_probabilities(runs)
        mean = np.sum(np.arange(3000) * probabilities)
        assert runs.expected_num_runs == pytest.approx(mean, rel=1e-9)
    nearly = search.NegativeBinomialRuns(eta=1e-9, gamma=0.05)
    assert nearly.expected_num_runs == pytest.approx(
        LOGARITHMIC.expected_num_runs, rel=1e-8
    )
    assert GEOMETRIC.expected_num_runs == pytest.approx(10, rel=1e-12)


@pytest.mark.parametrize("eta", [-0.9, -0.5, 0.0, 1e-12, 1.0, 30.0])
@pytest.mark.parametrize("mean", [1 + 1e-9, 1.5, 100.0, 1e9])
def test_from_mean_comes_from_below(eta, mean):
    got = search.NegativeBinomialRuns.from_mean(mean, eta).expected_num_runs
    assert mean * (1 - 1e-13) <= got <= mean


def test_rises_with_less_noise_more_runs_and_the_order():
    for runs in ALL_RUNS:
        base = compute_gaussian(2.0)
        got = search.compute_search_rdp(ORDERS, base, num_runs=runs)
        less_noise = search.compute_search_rdp(ORDERS, 4 * base, num_runs=runs)
        assert np.all(got < less_noise)
        assert np.all(np.diff(got) >= 0)
    epsilons = [
        search.compute_search_epsilon(
            ORDERS,
            compute_gaussian(2.0),
            num_runs=search.NegativeBinomialRuns.from_mean(mean, 1),
            delta=1e-5,
        )
        for mean in (1 + 1e-12, 2, 10, 1000)
    ]
    assert np.all(np.diff(epsilons) > 0)


def test_the_sequence_of_orders_does_not_matter():
    base = compute_gaussian(2.0)
    for runs in (GEOMETRIC, POISSON):
        rising = search.compute_search_rdp(ORDERS, base, num_runs=runs)
        falling = search.compute_search_rdp(
            ORDERS[::-1], base[::-1], num_runs=runs
        )
        np.testing.assert_array_equal(rising, falling[::-1])


def test_runs_without_data_are_free():
    for runs in ALL_RUNS:
        zeros = np.zeros_like(ORDERS)
        got = search.compute_search_rdp(ORDERS, zeros, num_runs=runs)
        np.testing.assert_array_equal(got, zeros)
        assert 0.0 == search.compute_search_epsilon(
            ORDERS, zeros, num_runs=runs, delta=1e-9
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_numerical_failure_is_never_privacy(value):
    base = compute_gaussian(2.0)
    base[3] = value
    for runs in (GEOMETRIC, POISSON):
        with pytest.raises(ValueError, match="^rdp must"):
            search.compute_search_rdp(ORDERS, base, num_runs=runs)
    with pytest.raises(ValueError, match="^rdp must leave finite"):
        search.compute_search_rdp([2.0, 9.0], [1e308] * 2, num_runs=POISSON)


@pytest.mark.parametrize("orders", [[], [1.0], [2.0, float("nan")], [[2.0]]])
def test_refuses_bad_orders(orders):
    with pytest.raises(ValueError, match="^orders must be"):
        search.compute_search_rdp(orders, orders, num_runs=POISSON)


def test_refuses_other_shapes_deltas_and_fixed_numbers_of_runs():
    with pytest.raises(ValueError, match=r"^rdp must be .* shape \(2,\)"):
        search.compute_search_rdp([2.0, 3.0], [1.0], num_runs=POISSON)
    with pytest.raises(TypeError, match="^num_runs must be"):
        search.compute_search_rdp([2.0], [1.0], num_runs=10)
    with pytest.raises(ValueError, match="^delta must be"):
        search.compute_search_epsilon(
            [2.0], [1.0], num_runs=POISSON, delta=float("nan")
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_refuses_bad_distributions(value):
    with pytest.raises(ValueError, match="^eta must be"):
        search.NegativeBinomialRuns(eta=value, gamma=0.5)
    with pytest.raises(ValueError, match="^gamma must be"):
        search.NegativeBinomialRuns(eta=1, gamma=value)
    with pytest.raises(ValueError, match="^mean must be"):
        search.PoissonRuns(mean=value)
    with pytest.raises(ValueError, match="^mean must be"):
        search.NegativeBinomialRuns.from_mean(value, 1)
    with pytest.raises(ValueError, match="^gamma must be"):
        search.NegativeBinomialRuns(eta=1, gamma=1.0)
    with pytest.raises(ValueError, match="^mean must be within reach"):
        search.NegativeBinomialRuns.from_mean(1e9, -0.99)
