# SPDX-License-Identifier: Apache-2.0
"""Renyi differential privacy (RDP) of the sampled Gaussian."""

import numpy as np

from tf_privacy.accounting import ranges
from tf_privacy.accounting import sampled_gaussian_moment

# Raises the quadrature by more than its error, so that it stays a bound.
_QUADRATURE_SLACK = 1e-9
# Beyond this ratio of order to noise multiplier double precision no longer
# resolves the integrand; the unsampled Gaussian's RDP is a bound there, and a
# close one: it exceeds the truth by less than log(1 / q) of 500 or more.
_MAX_ORDER_OVER_NOISE = 1e6


def _make_default_orders() -> np.ndarray:
    """Returns a - 1 in geometric steps, finest where the minimum falls.

    A step of 2.5% costs about 1e-4 of the epsilon, because the bound is flat at
    its minimum. Orders near 1 serve epsilons of 1e4 and more; orders up to
    1e8 serve tiny ones, whose floor is about log(1 / delta) / (order - 1).
    """
    return 1.0 + np.concatenate(
        [
            np.geomspace(1e-5, 0.05, 45, endpoint=False),
            np.geomspace(0.05, 1e3, 400, endpoint=False),
            np.geomspace(1e3, 1e8, 121),
        ]
    )


DEFAULT_ORDERS = _make_default_orders()
DEFAULT_ORDERS.flags.writeable = False


def compute_gaussian_rdp(orders, *, noise_multiplier: float) -> np.ndarray:
    """Returns the RDP of one Gaussian release of L2 sensitivity 1.

        rdp[a] = a / (2 noise_multiplier^2)

    Args:
        orders: `[A]` float64; Renyi orders, each > 1.
        noise_multiplier: Noise stddev over the sensitivity, no unit; in
            [0.01, 1000].

    Returns:
        `[A]` float64, nats; exact.

    Source: Mironov 2017, arXiv:1702.07476, Proposition 7.
    """
    noise_multiplier = ranges.check_noise_multiplier(noise_multiplier)
    return _check_orders(orders) / (2.0 * noise_multiplier**2)


def compute_sampled_gaussian_rdp(
    orders, *, noise_multiplier: float, sampling_probability: float
) -> np.ndarray:
    """Returns the RDP of one step of the Poisson-sampled Gaussian.

    With s = noise_multiplier, q = sampling_probability, r the density ratio of
    N(1, s^2) to N(0, s^2):

        rdp[a] = log(E_{x ~ N(0, s^2)}[(1 - q + q r(x))^a]) / (a - 1)

    This is the larger of the two directions of adding or removing one unit.
    Integer and fractional orders are computed alike, in one call. At q = 1 it
    is the closed form of the Gaussian. The result is > 0 for every input.

    Args:
        orders: `[A]` float64; Renyi orders, each > 1.
        noise_multiplier: Noise stddev over the L2 clip, no unit; in
            [0.01, 1000].
        sampling_probability: Chance that a unit joins a batch; in [1e-8, 1].

    Returns:
        `[A]` float64, nats; an upper bound, at most 2e-9 above the truth in
        relative terms while order / noise_multiplier <= 1e6.

    Raises:
        ValueError: If an argument is out of range, or a result is not finite.

    Source: Mironov, Talwar and Zhang 2019, arXiv:1908.10530, Section 3 (the
        moment, and why this direction is the larger one).
    """
    orders = _check_orders(orders)
    sampling_probability = ranges.check_sampling_probability(
        sampling_probability
    )
    bound = compute_gaussian_rdp(orders, noise_multiplier=noise_multiplier)
    if sampling_probability == 1.0:
        return bound
    resolved = orders <= _MAX_ORDER_OVER_NOISE * noise_multiplier
    log_excess = sampled_gaussian_moment.compute_log_moment_excess(
        orders[resolved],
        noise_multiplier=float(noise_multiplier),
        sampling_probability=sampling_probability,
    )
    log_moment = np.logaddexp(0.0, log_excess)
    rdp = log_moment / (orders[resolved] - 1.0) * (1.0 + _QUADRATURE_SLACK)
    bound[resolved] = np.minimum(bound[resolved], rdp)
    if not np.all((bound > 0.0) & np.isfinite(bound)):
        raise ValueError(
            "RDP must be finite and > 0. Received: noise_multiplier="
            f"{noise_multiplier!r}, sampling_probability="
            f"{sampling_probability!r}. Please report this as a defect."
        )
    return bound


def _check_orders(orders) -> np.ndarray:
    orders = np.atleast_1d(np.asarray(orders, dtype=np.float64))
    if not np.all((orders > 1.0) & np.isfinite(orders)):
        raise ValueError(
            f"orders must be finite numbers > 1. Received: {orders!r}."
        )
    return orders
