# SPDX-License-Identifier: Apache-2.0
"""Tests of the RDP of balls in bins against independent values."""

import time
import warnings

import mpmath
import numpy as np
import pytest
from scipy import special

from tf_privacy.accounting import balls_in_bins
from tf_privacy.accounting import conversion
from tf_privacy.accounting import privacy_loss
from tf_privacy.accounting import renyi

NOISES = [0.01, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 20.0, 100.0, 1000.0]
BINS = [2, 3, 10, 100, 10**4, 10**6]
ORDERS = renyi.DEFAULT_ORDERS


def compute_rdp(orders, noise_multiplier, num_bins):
    release = balls_in_bins.BallsInBinsRelease(noise_multiplier, num_bins)
    return release.compute_rdp(np.asarray(orders, dtype=np.float64))


def compute_log_moments(exponents, noise_multiplier, num_bins):
    log_excess = balls_in_bins.integrate_log_excess(
        np.asarray(exponents, dtype=np.float64),
        noise_multiplier=noise_multiplier,
        num_bins=num_bins,
    )
    return np.logaddexp(0.0, log_excess)


def sum_log_moments(num_orders, noise_multiplier, num_bins):
    log_excess = balls_in_bins.sum_log_excess(
        num_orders, noise_multiplier=noise_multiplier, num_bins=num_bins
    )
    return np.logaddexp(0.0, log_excess)


def sum_moments(moments, num_bins):
    """E[(x_1 + ... + x_b)^a] of independent x_i, from those of one, in mpmath:
    the power of the exponential generating function, one factor at a time of
    the binary digits of b."""
    size = len(moments)

    def multiply(x, y):
        return [
            mpmath.fsum(x[i] * y[n - i] for i in range(n + 1))
            for n in range(size)
        ]

    series = [m / mpmath.factorial(k) for k, m in enumerate(moments)]
    power = [mpmath.mpf(k == 0) for k in range(size)]
    for digit in bin(num_bins)[2:]:
        power = multiply(power, power)
        if digit == "1":
            power = multiply(power, series)
    return [p * mpmath.factorial(k) for k, p in enumerate(power)]


def compute_gaussian_nodes(low, high, step=0.05):
    """Trapezoidal nodes and weights of a standard normal number."""
    z = np.arange(low, high, step)
    return z, step * np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)


def average(function, noise_multiplier, num_bins, high=16.0, step=0.05):
    """E[function(R)] by brute force: a grid in num_bins dimensions."""
    z, weights = compute_gaussian_nodes(-10.0, high, step)
    ratio = np.exp(z / noise_multiplier - 0.5 / noise_multiplier**2)
    total, mass = np.zeros(()), np.ones(())
    for _ in range(num_bins):
        total = total[..., None] + ratio
        mass = mass[..., None] * weights
    return np.sum(mass * function(total / num_bins))


@pytest.mark.parametrize("noise_multiplier", [0.01, 0.3, 1.0, 50.0])
def test_one_bin_is_the_gaussian_release(noise_multiplier):
    got = compute_rdp(ORDERS, noise_multiplier, 1)
    expected = renyi.compute_gaussian_rdp(
        ORDERS, noise_multiplier=noise_multiplier
    )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("noise", [0.2, 0.5, 1.0, 5.0, 100.0, 1000.0])
def test_moments_of_one_bin_are_the_closed_form(noise):
    p = np.array([-1e4, -999.0, -33.3, -16.1, -5.0, -1.0, -0.1, -1e-5])
    p = np.append(p[-p <= max(2.0, 60.0 * noise**2)], [1.00001, 1.3, 1.75])
    got = compute_log_moments(p, noise, 1)
    np.testing.assert_allclose(got, p * (p - 1) / (2 * noise**2), rtol=2e-11)
    whole = sum_log_moments(300, noise, 1)
    a = np.arange(2.0, 301.0)
    np.testing.assert_allclose(whole, a * (a - 1) / (2 * noise**2), rtol=1e-10)


@pytest.mark.parametrize("noise", [0.01, 0.2, 0.7, 1.0, 5.0, 1000.0])
@pytest.mark.parametrize("num_bins", [2, 234, 10**6])
def test_removing_equals_exact_sum_at_whole_orders(noise, num_bins):
    last = 24
    with mpmath.workdps(60):
        variance = 1 / mpmath.mpf(noise) ** 2
        moments = [mpmath.exp(variance * k * (k - 1) / 2) for k in range(25)]
        sums = sum_moments(moments, num_bins)
        exact = [
            mpmath.log(sums[a] / mpmath.mpf(num_bins) ** a) / (a - 1)
            for a in range(2, last + 1)
        ]
        exact = np.array([float(x) for x in exact])
    got = compute_rdp(np.arange(2.0, last + 1.0), noise, num_bins)
    assert np.all(got >= exact * (1 + 1e-10))
    np.testing.assert_allclose(got, exact, rtol=1.1e-9)


@pytest.mark.parametrize("noise, num_bins", [(1.0, 2), (0.6, 2), (1.5, 3)])
def test_removing_equals_brute_force_quadrature(noise, num_bins):
    orders = [1.2, 1.7, 2.0, 3.0, 5.0]
    step = 0.05 if num_bins == 2 else 0.2
    for order in orders:
        moment = average(lambda r, a=order: r**a, noise, num_bins, 20.0, step)
        got = compute_rdp([order], noise, num_bins)[0]
        np.testing.assert_allclose(got, np.log(moment) / (order - 1), rtol=2e-9)


@pytest.mark.parametrize(
    "noise, num_bins, step",
    [(1.0, 1, 0.05), (0.7, 2, 0.05), (2.0, 2, 0.05), (1.0, 3, 0.2)],
)
def test_adding_equals_brute_force_quadrature(noise, num_bins, step):
    k = np.array([0.01, 0.5, 1.0, 3.7, 12.0])
    got = compute_log_moments(-k, noise, num_bins)
    for each, value in zip(k, got, strict=True):
        # exp(-t r) has moments at r near 0: z down to -10 - 12 / noise.
        z, weights = compute_gaussian_nodes(-28.0, 10.0, step)
        ratio = np.exp(z / noise - 0.5 / noise**2)
        total, mass = np.zeros(()), np.ones(())
        for _ in range(num_bins):
            total = total[..., None] + ratio
            mass = mass[..., None] * weights
        moment = np.sum(mass * (total / num_bins) ** -each)
        np.testing.assert_allclose(value, np.log(moment), rtol=1e-9)


@pytest.mark.parametrize(
    "noise, num_bins, k",
    [
        (1000.0, 10**6, 1e4),
        (1000.0, 10**6, 1e-5),
        (100.0, 10**4, 300.0),
        (30.0, 10**5, 7.3),
        (1000.0, 10, 3.3),
    ],
)
def test_adding_equals_series_where_the_ratio_hardly_varies(noise, num_bins, k):
    """E[(1 + V)^-k] = sum_j binomial(-k, j) E[V^j], V = R - 1, in mpmath."""
    size = 31
    with mpmath.workdps(80):
        w = mpmath.exp(1 / mpmath.mpf(noise) ** 2)
        raw = [w ** (mpmath.mpf(j) * (j - 1) / 2) for j in range(size)]
        central = [
            mpmath.fsum(
                mpmath.binomial(j, i) * (-1) ** (j - i) * raw[i]
                for i in range(j + 1)
            )
            for j in range(size)
        ]
        sums = sum_moments(central, num_bins)
        terms = [
            mpmath.binomial(-mpmath.mpf(k), j) * sums[j] / num_bins**j
            for j in range(2, size)
        ]
        assert abs(terms[-1]) < 1e-20 * terms[0]
        expected = float(mpmath.log1p(mpmath.fsum(terms)))
    (got,) = compute_log_moments([-k], noise, num_bins)
    np.testing.assert_allclose(got, expected, rtol=1e-11)


def test_both_directions_equal_simulation_of_twenty_bins():
    """Means of 4e5 draws at 5.5 standard errors: a false alarm has probability
    4e-8 for each of 4 moments. The standard error of each log moment is at most
    0.4%, so that one wrong by 4% (b wrong by one, say) fails."""
    noise, num_bins, count = 1.0, 20, 400_000
    rng = np.random.default_rng(20)
    z = rng.standard_normal((count, num_bins))
    without = np.exp(z / noise - 0.5 / noise**2).mean(axis=1)
    z[:, 0] += 1.0 / noise
    within = np.exp(z / noise - 0.5 / noise**2).mean(axis=1)
    (whole,) = sum_log_moments(2, noise, num_bins)
    (fractional,) = compute_log_moments([1.5], noise, num_bins)
    added = compute_log_moments([-1.0, -4.0], noise, num_bins)
    # E_P[R^p] = E_Q[R^(p - 1)]; E_P[1] = E_P[R] = 1 are control variates.
    for samples, log_moment in [
        (within - (without - 1.0), whole),
        (np.sqrt(within) - 0.5 * (without - 1.0), fractional),
        (1.0 / without + (without - 1.0), added[0]),
        (without**-4.0 + 4.0 * (without - 1.0), added[1]),
    ]:
        error = samples.std() / np.sqrt(count)
        assert abs(samples.mean() - np.exp(log_moment)) < 5.5 * error
        assert error < 0.004 * log_moment * np.exp(log_moment)


@pytest.mark.parametrize("num_bins", BINS)
def test_is_bounded_by_no_sampling_and_falls_with_noise(num_bins):
    previous = np.full(ORDERS.shape, np.inf)
    for noise in NOISES:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = compute_rdp(ORDERS, noise, num_bins)
        assert np.all(got <= ORDERS / (2 * noise**2))
        assert np.all(got > 0)
        assert np.all(got <= previous)
        # RDP grows with the order, and (order - 1) RDP is convex.
        assert np.all(np.diff(got) >= -3e-9 * got[1:])
        previous = got


@pytest.mark.parametrize("noise", NOISES)
def test_falls_with_the_number_of_bins(noise):
    previous = compute_rdp(ORDERS, noise, 1)
    for num_bins in BINS:
        got = compute_rdp(ORDERS, noise, num_bins)
        assert np.all(got <= previous * (1 + 2e-9))
        previous = got


@pytest.mark.parametrize("noise", [0.3, 0.7, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("num_bins", [2, 100, 10**5])
def test_never_exceeds_poisson_sampling_at_whole_orders(noise, num_bins):
    """As proved in `_bound_removal`; and close to it at small orders."""
    orders = np.arange(2.0, 600.0)
    poisson = num_bins * renyi.compute_sampled_gaussian_rdp(
        orders, noise_multiplier=noise, sampling_probability=1 / num_bins
    )
    got = compute_rdp(orders, noise, num_bins)
    assert np.all(got <= poisson * (1 + 3e-9))
    if noise >= 3.0 and num_bins >= 100:
        assert np.all(got[:8] >= 0.95 * poisson[:8])


@pytest.mark.parametrize("noise", [0.2, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("num_bins", [2, 50, 10**6])
def test_neither_direction_exceeds_the_result(noise, num_bins):
    """At all orders, also where adding is not integrated; and removing is at
    least the part of one bin, order / (2 s^2) - log(b)."""
    k = np.geomspace(1e-5, min(1e4, 40 * noise**2 + 2), 60)
    added = compute_log_moments(-k, noise, num_bins) / k
    got = compute_rdp(1.0 + k, noise, num_bins)
    assert np.all(added <= got)
    removed = (1.0 + k) / (2 * noise**2) - np.log(num_bins)
    assert np.all(removed <= got)


@pytest.mark.parametrize(
    "noise, order, width",
    [
        (1.0, 1.8, 0.02),
        (1.0, 2.5, 0.06),
        (1.0, 7.3, 0.02),
        (5.0, 2.5, 2e-3),
        (50.0, 2.5, 2e-5),
    ],
)
def test_chords_between_whole_orders_are_upper_bounds(noise, order, width):
    moment = average(lambda ratio: ratio**order, noise, 2, high=22.0)
    got = compute_rdp([order], noise, 2)[0]
    exact = np.log(moment) / (order - 1)
    assert exact < got < exact * (1 + width)


def test_epsilon_lies_between_no_sampling_and_poisson_sampling():
    """10 epochs of 100 batches."""
    cost = conversion.compute_conversion_cost(ORDERS, delta=1e-5)
    got, poisson, unsampled = (
        conversion.convert_to_epsilon(ORDERS, 10 * rdp, cost=cost)[0]
        for rdp in (
            compute_rdp(ORDERS, 1.0, 100),
            100
            * renyi.compute_sampled_gaussian_rdp(
                ORDERS, noise_multiplier=1.0, sampling_probability=0.01
            ),
            ORDERS / 2.0,
        )
    )
    assert 0.9 * poisson < got < poisson < 0.2 * unsampled


def test_takes_less_than_half_a_second():
    compute_rdp(ORDERS, 1.0, 10)
    for noise, num_bins in [(0.2, 2), (0.2, 999_983), (1000.0, 999_983)]:
        start = time.thread_time()
        compute_rdp(ORDERS, noise, num_bins)
        assert time.thread_time() - start < 0.5


@pytest.mark.parametrize("noise", [np.nan, np.inf])
def test_numerical_failure_is_never_privacy(noise):
    with np.errstate(all="ignore"):
        with pytest.raises(ValueError):
            compute_rdp([2.0, 3.5], noise, 10)


def test_has_no_loss():
    release = balls_in_bins.BallsInBinsRelease(1.0, 10)
    assert not release.has_loss
    assert not release.is_attained
    for removes in (True, False):
        with pytest.raises(privacy_loss.NotCertifiedError):
            release.make_loss(-30.0, removes=removes)
    assert release == balls_in_bins.BallsInBinsRelease(1.0, 10)


def test_exceed_tangent_keeps_all_digits():
    y = np.array([-5.0, -0.11, -0.09, -1e-9, 1e-12, 0.05, 0.2, 30.0])
    with mpmath.workdps(50):
        exact = [
            float(mpmath.exp(-mpmath.mpf(x)) - 1 + mpmath.mpf(x)) for x in y
        ]
    np.testing.assert_allclose(
        balls_in_bins._exceed_tangent(y), exact, rtol=1e-13
    )


def test_log_sum_of_nothing_is_nothing():
    table = np.array([[-np.inf, -np.inf], [0.0, -np.inf], [1.0, 2.0]])
    np.testing.assert_allclose(
        balls_in_bins._log_sum(table),
        [-np.inf, 0.0, special.logsumexp([1.0, 2.0])],
    )
