# SPDX-License-Identifier: Apache-2.0
"""Tests of the conversion from RDP to (epsilon, delta)."""

import numpy as np
import pytest
from scipy import stats

from tf_privacy.accounting import conversion

ORDERS = 1 + np.geomspace(0.01, 1e6, 2000)


def convert(rdp, delta):
    cost = conversion.compute_conversion_cost(ORDERS, delta=delta)
    return conversion.convert_to_epsilon(ORDERS, rdp, cost=cost)[0]


@pytest.mark.parametrize("noise", [0.3, 1.0, 10.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.01])
def test_is_above_the_exact_gaussian_and_close(noise, delta):
    epsilon = convert(ORDERS / (2 * noise**2), delta)
    exact_delta = stats.norm.cdf(0.5 / noise - epsilon * noise)
    exact_delta -= np.exp(epsilon) * stats.norm.cdf(
        -0.5 / noise - epsilon * noise
    )
    assert 0.02 * delta < exact_delta <= delta


def test_delta_inverts_epsilon():
    rdp = ORDERS / 2
    for delta in [1e-12, 1e-5, 1e-2]:
        back = conversion.convert_to_delta(
            ORDERS, rdp, epsilon=convert(rdp, delta)
        )
        assert back == pytest.approx(delta, rel=1e-9)


def test_epsilon_is_never_negative():
    assert convert(ORDERS * 1e-6, 0.5) == 0.0


def test_delta_never_underflows_to_zero():
    delta = conversion.convert_to_delta(ORDERS, ORDERS * 1e-9, epsilon=1e3)
    assert delta == np.finfo(float).tiny


def test_delta_is_at_most_one():
    assert conversion.convert_to_delta(ORDERS, ORDERS * 10, epsilon=0.0) == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numerical_failure_is_never_privacy(bad):
    with pytest.raises(ValueError, match="epsilon must be"):
        convert(np.full_like(ORDERS, bad), 1e-5)
    with pytest.raises(ValueError, match="must be a number"):
        conversion.convert_to_delta(
            ORDERS, np.full_like(ORDERS, bad), epsilon=1.0
        )


def test_one_broken_order_is_not_skipped():
    rdp = ORDERS / 2
    rdp[7] = np.nan
    with pytest.raises(ValueError, match="epsilon must be"):
        convert(rdp, 1e-5)
