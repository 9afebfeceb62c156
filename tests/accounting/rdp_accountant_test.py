# SPDX-License-Identifier: Apache-2.0
"""Tests of the Renyi accountant against published values and another's."""

import math

import dp_accounting
import pytest
from dp_accounting import rdp as oracle_lib

from tests.accounting import reference_values
from tf_privacy.accounting import mechanism
from tf_privacy.accounting import rdp_accountant


def make(q, noise, steps):
    return mechanism.SampledGaussianSteps(
        noise_multiplier=noise, sampling_probability=q, num_steps=steps
    )


def compute(q, noise, steps, delta):
    return rdp_accountant.compute_rdp_epsilon_of(
        [make(q, noise, steps)], delta=delta
    )[0]


@pytest.mark.parametrize(
    "q, noise, steps, delta, upper, rdp", reference_values.EPSILONS
)
def test_is_above_the_truth_and_no_looser_than_rdp_elsewhere(
    q, noise, steps, delta, upper, rdp
):
    epsilon = compute(q, noise, steps, delta)
    assert epsilon >= upper
    assert epsilon <= rdp * 1.0002


@pytest.mark.parametrize(
    "noise, epochs, low, high",
    [(1.3, 15, 0.9545, 0.9547), (1.1, 60, 2.596, 2.601), (0.7, 45, 6.31, 6.33)],
)
def test_published_mnist_settings(noise, epochs, low, high):
    steps = math.ceil(epochs * 60000 / 256)
    assert low < compute(256 / 60000, noise, steps, 1e-5) < high


def test_equals_dp_accounting_where_its_orders_are_exact():
    for q, noise, steps in [(0.01, 4.0, 10000), (0.1, 20.0, 10000)]:
        oracle = oracle_lib.RdpAccountant(orders=range(2, 200))
        oracle.compose(
            dp_accounting.PoissonSampledDpEvent(
                q, dp_accounting.GaussianDpEvent(noise)
            ),
            steps,
        )
        # Integer orders alone miss the minimum by up to 2e-3 here.
        wanted = oracle.get_epsilon(1e-5)
        assert 0.998 * wanted <= compute(q, noise, steps, 1e-5) <= wanted


def test_fractional_orders_keep_their_signs():
    # dp-accounting 0.6 gives 651.8 here; the truth is 487.7, exact RDP 496.2.
    assert 487.676 < compute(0.5, 20.0, 10**6, 1e-12) < 496.3


def test_no_sampling_is_the_composed_gaussian():
    # 60 epochs without amplification: truth 54.05, dp-accounting RDP 56.95.
    assert 54.046 < compute(1.0, 1.1, 60, 1e-5) <= 56.951


def test_delta_inverts_epsilon():
    run = make(0.004, 1.1, 10000)
    for delta in [1e-12, 1e-5, 0.01]:
        epsilon = compute(0.004, 1.1, 10000, delta)
        back = rdp_accountant.compute_rdp_delta_of([run], epsilon=epsilon)
        assert back == pytest.approx(delta, rel=1e-9)
