# SPDX-License-Identifier: Apache-2.0
"""Tests of zCDP, Gaussian DP and the central limit approximation."""

import math

import mpmath
import numpy as np
import pytest
from scipy import special

from tf_privacy.accounting import concentrated

NAN = float("nan")


def compute_exact_delta(mu, epsilon):
    """Returns the hockey-stick divergence of N(mu, 1) and N(0, 1)."""
    with mpmath.workdps(60):
        mu, epsilon = mpmath.mpf(mu), mpmath.mpf(epsilon)
        x = epsilon / mu - mu / 2
        root = mpmath.sqrt(2)
        near = mpmath.erfc(x / root) / 2
        far = mpmath.erfc((x + mu) / root) / 2
        return near - mpmath.exp(epsilon) * far


@pytest.mark.parametrize("mu", [1e-10, 1e-6, 1e-3, 0.3, 1.0, 4.0, 50.0, 1e4])
@pytest.mark.parametrize("x", [-30.0, -3.0, -0.9, 0.0, 1.0, 6.0, 20.0, 37.0])
def test_gdp_delta_is_at_and_just_above_the_exact_one(mu, x):
    epsilon = max(0.0, mu * (0.5 * mu + x))
    exact = compute_exact_delta(mu, epsilon)
    got = concentrated.compute_gdp_delta(mu, epsilon=epsilon)
    smallest = float(np.finfo(np.float64).tiny)
    assert exact <= got <= max(exact, smallest) * (1 + 1e-9)


def test_gdp_delta_is_the_integral_of_the_definition():
    for mu, epsilon in [(1.0, 0.0), (1.0, 2.0), (0.1, 0.05), (3.0, 1.0)]:

        def excess(x, mu=mu, epsilon=epsilon):
            return mpmath.npdf(x, mu) - mpmath.exp(epsilon) * mpmath.npdf(x)

        start = epsilon / mu + mu / 2
        wanted = float(mpmath.quad(excess, [start, start + 3, start + 40]))
        got = concentrated.compute_gdp_delta(mu, epsilon=epsilon)
        assert got == pytest.approx(wanted, rel=1e-9)


def test_gdp_ends_of_the_range():
    assert concentrated.compute_gdp_delta(0.0, epsilon=0.0) == 0.0
    assert concentrated.compute_gdp_epsilon(0.0, delta=1e-300) == 0.0
    assert concentrated.compute_gdp_delta(1e100, epsilon=0.0) == 1.0
    assert 0 < concentrated.compute_gdp_delta(1e-3, epsilon=1e300) < 1e-307
    assert 0 < concentrated.compute_gdp_delta(5e-324, epsilon=0.0) < 1e-307
    # Where no test tells the two apart better than delta, epsilon is 0.
    assert concentrated.compute_gdp_epsilon(1e-12, delta=1e-9) == 0.0


@pytest.mark.parametrize("mu", [1e-8, 1e-4, 0.1, 1.0, 10.0, 1e3, 1e6])
@pytest.mark.parametrize("delta", [1e-300, 1e-50, 1e-9, 1e-5, 0.1])
def test_gdp_epsilon_is_verified_and_least(mu, delta):
    epsilon = concentrated.compute_gdp_epsilon(mu, delta=delta)
    assert compute_exact_delta(mu, epsilon) <= delta
    if epsilon > 0:
        assert compute_exact_delta(mu, epsilon * (1 - 1e-8)) > delta


def test_gdp_epsilon_stays_finite_for_huge_mu():
    epsilon = concentrated.compute_gdp_epsilon(1e100, delta=1e-9)
    assert epsilon == pytest.approx(5e199, rel=1e-12)


def test_golden_gdp_epsilon():
    # mpmath 1.4.1, root of the definition at 60 digits.
    got = concentrated.compute_gdp_epsilon(1.0, delta=1e-5)
    assert got == pytest.approx(4.377178095681, rel=1e-12)


def compute_zcdp_on_grid(rho, delta):
    orders = 1 + np.geomspace(1e-9, 1e9, 400_001)
    return np.min(
        orders * rho
        + np.log1p(-1 / orders)
        - np.log(delta * orders) / (orders - 1)
    )


@pytest.mark.parametrize("rho", [1e-6, 1e-3, 0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("delta", [1e-100, 1e-9, 1e-5, 0.3])
def test_zcdp_epsilon_is_the_least_over_the_orders(rho, delta):
    got = concentrated.compute_zcdp_epsilon(rho, delta=delta)
    wanted = max(0.0, compute_zcdp_on_grid(rho, delta))
    assert got == pytest.approx(wanted, rel=1e-6, abs=1e-12)
    assert got <= wanted * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("rho", np.geomspace(1e-300, 1e300, 25))
def test_zcdp_epsilon_lies_between_gaussian_and_usual_formula(rho):
    for delta in (5e-324, 1e-300, 1e-9, 0.5, 1 - 1e-12):
        got = concentrated.compute_zcdp_epsilon(rho, delta=delta)
        usual = rho + 2 * math.sqrt(rho) * math.sqrt(-math.log(delta))
        assert 0 <= got <= usual * (1 + 1e-13)
        if delta >= 1e-300 and rho < 1e190:
            mu = math.sqrt(2 * rho)
            exact = concentrated.compute_gdp_epsilon(mu, delta=delta)
            assert exact <= got * (1 + 1e-12)


def test_golden_zcdp_epsilon():
    # Minimum over 1e6 orders, numpy 2.4.
    got = concentrated.compute_zcdp_epsilon(0.5, delta=1e-5)
    assert got == pytest.approx(4.728386985, rel=1e-9)
    assert concentrated.compute_zcdp_epsilon(0.0, delta=1e-9) == 0.0


def test_gaussian_rho_and_mu_are_their_formulas_rounded_up():
    for noise in (0.01, 0.7, 1.1, 1000.0):
        rho = concentrated.compute_gaussian_rho(noise)
        assert 0.5 / noise**2 < rho < 0.5 / noise**2 * (1 + 1e-11)
        mu = concentrated.bound_gdp_mu_of_gaussians([noise], [1])
        assert 1 / noise < mu < 1 / noise * (1 + 1e-11)


def test_composed_mu_is_that_of_one_gaussian_with_all_the_precision():
    got = concentrated.bound_gdp_mu_of_gaussians([2.0, 3.0, 9.0], [4, 9, 0])
    assert got == pytest.approx(math.sqrt(2.0), rel=1e-11)
    assert concentrated.bound_gdp_mu_of_gaussians([], []) == 0.0
    assert concentrated.bound_gdp_mu_of_gaussians([1.0], [0]) == 0.0


def bound_true_delta(*, noise, probability, num_steps, epsilon):
    """Returns what one attack reaches: is any step's output above a level?"""
    level = np.linspace(1.0, 6.0, 2001)
    absent = special.ndtr(-level / noise)
    present = (1 - probability) * absent
    present += probability * special.ndtr((1 - level) / noise)
    hit = -np.expm1(num_steps * np.log1p(-present))
    false_alarm = -np.expm1(num_steps * np.log1p(-absent))
    return np.max(hit - np.exp(epsilon) * false_alarm)


def test_the_approximation_can_be_sixty_times_too_small():
    # dp-accounting 0.6, pessimistic PLD at interval 1e-4: 0.05799.
    mu = concentrated.estimate_clt_mu(
        noise_multiplier=0.5, sampling_probability=1e-6, num_steps=1000
    )
    promised = concentrated.compute_gdp_epsilon(mu, delta=1e-9)
    assert promised == pytest.approx(0.00095, rel=0.01)
    attained = bound_true_delta(
        noise=0.5, probability=1e-6, num_steps=1000, epsilon=0.055
    )
    assert attained > 1e-9
    assert 0.055 > 57 * promised


def test_the_approximation_says_so_first_and_is_its_formula():
    first = concentrated.estimate_clt_mu.__doc__.splitlines()[0]
    assert "APPROXIMATION AND NO BOUND" in first
    got = concentrated.estimate_clt_mu(
        noise_multiplier=1.3, sampling_probability=0.01, num_steps=10_000
    )
    assert got == pytest.approx(math.sqrt(math.exp(1 / 1.69) - 1), rel=1e-12)
    for noise in (0.01, 1.0):
        assert 0.0 == concentrated.estimate_clt_mu(
            noise_multiplier=noise, sampling_probability=0.1, num_steps=0
        )
    with pytest.raises(ValueError, match="^noise_multiplier must leave"):
        concentrated.estimate_clt_mu(
            noise_multiplier=0.01, sampling_probability=0.1, num_steps=1
        )


@pytest.mark.parametrize("value", [NAN, float("inf"), -1.0])
def test_refuses_bad_losses(value):
    with pytest.raises(ValueError, match="^rho must be"):
        concentrated.compute_zcdp_epsilon(value, delta=1e-5)
    with pytest.raises(ValueError, match="^mu must be"):
        concentrated.compute_gdp_delta(value, epsilon=1.0)
    with pytest.raises(ValueError, match="^mu must be"):
        concentrated.compute_gdp_epsilon(value, delta=1e-5)
    with pytest.raises(ValueError, match="^epsilon must be"):
        concentrated.compute_gdp_delta(1.0, epsilon=value)
    with pytest.raises(ValueError, match="^noise_multiplier must be"):
        concentrated.compute_gaussian_rho(value)
    with pytest.raises(ValueError, match="^noise_multiplier must be"):
        concentrated.bound_gdp_mu_of_gaussians([1.0, value], [1, 1])
    with pytest.raises(ValueError, match="^counts must be"):
        concentrated.bound_gdp_mu_of_gaussians([1.0], [value])


@pytest.mark.parametrize("delta", [NAN, 0.0, 1.0, -1e-5])
def test_refuses_bad_deltas(delta):
    with pytest.raises(ValueError, match="^delta must be"):
        concentrated.compute_zcdp_epsilon(1.0, delta=delta)
    with pytest.raises(ValueError, match="^delta must be"):
        concentrated.compute_gdp_epsilon(1.0, delta=delta)


def test_refuses_missing_counts():
    with pytest.raises(ValueError, match="^counts must have one entry"):
        concentrated.bound_gdp_mu_of_gaussians([1.0, 2.0], [1])
