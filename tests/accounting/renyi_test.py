# SPDX-License-Identifier: Apache-2.0
"""Tests of the RDP of the sampled Gaussian against independent values."""

import warnings

import mpmath
import numpy as np
import pytest
from dp_accounting.rdp import rdp_privacy_accountant as oracle_lib
from scipy import special

from tf_privacy.accounting import mechanism
from tf_privacy.accounting import rdp_accountant
from tf_privacy.accounting import releases
from tf_privacy.accounting import renyi

# order, noise_multiplier, sampling_probability, RDP of the direction used, RDP
# of the other direction. mpmath 1.3 quadrature at 30 digits, 24 intervals from
# -14 to order + 14 standard deviations, of the definitions.
QUADRATURE = [
    (1.5, 1.1, 256 / 60000, 1.7479784462924327e-05, 1.7220605298254025e-05),
    (2.5, 1.1, 256 / 60000, 2.9358070281807933e-05, 2.8493402669216008e-05),
    (7.3, 1.1, 256 / 60000, 8.918137988757536e-05, 8.048718709203611e-05),
    (20.7, 1.1, 256 / 60000, 2.8198163156403573, 0.00021041135320649042),
    (1.01, 0.3, 0.01, 0.01582555067912283, 0.004995867056084909),
    (3.7, 0.3, 0.1, 17.400161168861167, 0.08994218150644243),
    (60.5, 20, 0.5, 0.01964233112662548, 0.01822329722905107),
    (300.25, 20, 0.5, 0.11521503885771409, 0.07907938653569443),
    (2.5, 5, 1e-08, 5.101346775103662e-18, 5.101346766662719e-18),
    (50.5, 4, 0.01, 0.0001682276952653139, 0.00015761727865536132),
    (1.7, 1, 0.9, 0.7284143899067126, 0.5812048455932651),
    (9.3, 0.7, 0.001, 1.7498303528500638, 2.688242124007785e-05),
    # One interval a standard deviation; the other direction not computed.
    (1.00001, 0.01, 1e-08, 5.106798844433677e-05, 0.0),
    (1.001, 0.05, 0.0001, 0.02094447922253178, 0.0),
    (1.00001, 0.3, 0.01, 0.015361208794349192, 0.0),
    (1.3, 0.02, 0.01, 1605.044262527385, 0.0),
    (1.9, 0.05, 1e-08, 341.1118962072116, 0.0),
    (1.00001, 1.1, 0.004, 1.020817641266158e-05, 0.0),
    (2.2, 0.1, 0.999, 109.99816574938842, 0.0),
    (1.5, 0.3, 1e-08, 4.323180457056601e-12, 0.0),
]
NOISES = [0.01, 0.1, 0.3, 0.5, 0.8, 1.0, 2.0, 5.0, 20.0, 100.0, 1000.0]
PROBABILITIES = [1e-8, 1e-6, 1e-4, 0.01, 0.1, 0.5, 0.9, 0.999, 1 - 1e-9]


def compute_rdp(orders, noise_multiplier, sampling_probability):
    return renyi.compute_sampled_gaussian_rdp(
        orders,
        noise_multiplier=noise_multiplier,
        sampling_probability=sampling_probability,
    )


def compute_binomial_rdp(order, noise_multiplier, sampling_probability):
    """RDP at an integer order by the finite binomial sum, all terms positive:
    sum_k C(a, k) (1-q)^(a-k) q^k (exp(k (k-1) / (2 s^2)) - 1), k >= 2."""
    q, k = sampling_probability, np.arange(2, order + 1.0)
    growth = k * (k - 1) / (2 * noise_multiplier**2)
    terms = special.gammaln(order + 1) - special.gammaln(k + 1)
    terms += k * np.log(q) + (order - k) * np.log1p(-q)
    terms += growth + np.log(-np.expm1(-growth))
    excess = special.logsumexp(terms - special.gammaln(order - k + 1))
    return np.logaddexp(0.0, excess) / (order - 1)


@pytest.mark.parametrize("order, noise, probability, larger, other", QUADRATURE)
def test_equals_high_precision_quadrature_at_any_order(
    order, noise, probability, larger, other
):
    got = compute_rdp([order], noise, probability)[0]
    assert larger * (1 - 1e-12) <= got <= larger * (1 + 1e-8)
    assert got >= other


def test_goldens_are_what_mpmath_gives_here():
    order, noise, q, golden, _ = QUADRATURE[2]
    with mpmath.workdps(20):

        def integrand(x):
            ratio = mpmath.exp((2 * x - 1) / (2 * mpmath.mpf(noise) ** 2))
            return mpmath.npdf(x, 0, noise) * (1 - q + q * ratio) ** order

        points = [-15 + 2 * i for i in range(21)]
        moment = mpmath.log(mpmath.quad(integrand, points)) / (order - 1)
    assert float(moment) == pytest.approx(golden, rel=1e-10)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("probability", PROBABILITIES)
def test_equals_binomial_sum_at_integer_orders(noise, probability):
    orders = [2, 3, 5, 12, 33, 64, 256, 1000, 4096]
    got = compute_rdp(orders, noise, probability)
    wanted = [compute_binomial_rdp(a, noise, probability) for a in orders]
    np.testing.assert_allclose(got, wanted, rtol=1e-8)
    assert np.all(got >= np.array(wanted) * (1 - 1e-11))


@pytest.mark.parametrize("noise, probability", [(1.1, 0.004), (4.0, 0.01)])
def test_equals_dp_accounting_at_integer_orders(noise, probability):
    orders = list(range(2, 65))
    wanted = oracle_lib._compute_rdp_poisson_subsampled_gaussian(
        probability, noise, np.array(orders)
    )
    got = compute_rdp(orders, noise, probability)
    np.testing.assert_allclose(got, wanted, rtol=1e-8)


def test_no_sampling_is_the_closed_form():
    orders = np.array([1.01, 1.5, 2.0, 33.3, 1e8])
    for noise in NOISES:
        got = compute_rdp(orders, noise, 1.0)
        np.testing.assert_array_equal(got, orders / (2 * noise**2))


def test_one_call_gives_what_single_orders_give():
    orders = np.array([1.25, 2.0, 2.5, 40.0, 1e4])
    together = compute_rdp(orders, 0.7, 0.01)
    alone = [compute_rdp([order], 0.7, 0.01)[0] for order in orders]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize("noise", NOISES)
def test_is_positive_and_rises_with_order_and_probability(noise):
    before = np.zeros_like(renyi.DEFAULT_ORDERS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for probability in [*PROBABILITIES, 1.0]:
            rdp = compute_rdp(renyi.DEFAULT_ORDERS, noise, probability)
            assert np.all(rdp > 0)
            assert np.all(np.diff(rdp) >= -1e-9 * rdp[1:])
            assert np.all(rdp >= before)
            before = rdp


@pytest.mark.parametrize("noise", NOISES)
def test_stays_between_bounds_at_every_default_order(noise):
    # The moment is at least q^a E[r^a]; the unsampled Gaussian is above it.
    orders = renyi.DEFAULT_ORDERS
    gaussian = orders / (2 * noise**2)
    for probability in PROBABILITIES:
        rdp = compute_rdp(orders, noise, probability)
        least = gaussian + np.log(probability) * orders / (orders - 1)
        assert np.all(rdp <= gaussian)
        assert np.all(rdp >= least * (1 - 1e-12))


def test_falls_with_noise():
    values = [compute_rdp([2.5, 20.0, 300.0], s, 0.01) for s in NOISES]
    assert np.all(np.diff(values, axis=0) < 0)


@pytest.mark.parametrize("orders", [[1.0], [0.5], [2.0, np.nan], [np.inf]])
def test_refuses_orders_it_cannot_answer(orders):
    with pytest.raises(ValueError, match="orders must be"):
        compute_rdp(orders, 1.0, 0.1)


def test_remembered_rdp_cannot_be_changed():
    release = releases.SampledGaussianRelease(1.0, 0.1)
    with pytest.raises(ValueError, match="read-only"):
        rdp_accountant.compute_rdp_of_release(release)[0] = 0.0


def test_composition_counts_every_step():
    once = mechanism.SampledGaussianSteps(
        noise_multiplier=1.0, sampling_probability=0.1, num_steps=1
    )
    hundred = mechanism.SampledGaussianSteps(
        noise_multiplier=1.0, sampling_probability=0.1, num_steps=100
    )
    np.testing.assert_allclose(
        rdp_accountant.compute_rdp_of([once] * 100),
        rdp_accountant.compute_rdp_of([hundred]),
        rtol=1e-12,
    )
