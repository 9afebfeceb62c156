# SPDX-License-Identifier: Apache-2.0
"""From Renyi differential privacy to (epsilon, delta).

Source: Canonne, Kamath and Steinke 2020, arXiv:2004.00010, Proposition 12:
with RDP tau at order a, (epsilon, delta)-DP holds for every epsilon >= 0 and

    delta = exp((a - 1) (tau - epsilon)) / (a - 1) (1 - 1 / a)^a.
"""

import numpy as np

_SMALLEST_DELTA = float(np.finfo(np.float64).tiny)


def compute_conversion_cost(orders: np.ndarray, *, delta: float) -> np.ndarray:
    """Returns what the conversion adds to the RDP at each order.

        cost[a] = log(1 - 1 / a) - log(delta a) / (a - 1)

    Args:
        orders: `[A]` float64; Renyi orders a > 1.
        delta: Probability in (0, 1).

    Returns:
        `[A]` float64, nats; may be negative at large orders.
    """
    cost = np.log1p(-1.0 / orders)
    return cost - (np.log(delta) + np.log(orders)) / (orders - 1.0)


def convert_to_epsilon(
    orders: np.ndarray, rdp: np.ndarray, *, cost: np.ndarray
) -> tuple[float, float]:
    """Returns the least epsilon over all orders, and the order that gives it.

    The proposition holds for epsilon >= 0 only. Where its formula comes out
    negative, delta at epsilon 0 is below the one asked for (it falls as epsilon
    grows), so 0 is proved, and nothing below 0 is.

    Args:
        orders: `[A]` float64; Renyi orders > 1.
        rdp: `[A]` float64, nats; >= 0.
        cost: `[A]` float64, nats; from `compute_conversion_cost`.

    Returns:
        epsilon in nats, >= 0, and its order.

    Raises:
        ValueError: If the result is not finite; a failed computation is never
            taken for privacy.
    """
    if not np.any(rdp):
        return 0.0, float(orders[-1])
    candidates = rdp + cost
    best = int(np.argmin(candidates))
    epsilon = float(candidates[best])
    if not np.isfinite(epsilon):
        raise ValueError(
            f"epsilon must be a finite number. Received: {epsilon!r}. Use more "
            "noise or fewer steps."
        )
    return max(0.0, epsilon), float(orders[best])


def convert_to_delta(
    orders: np.ndarray, rdp: np.ndarray, *, epsilon: float
) -> float:
    """Returns the least delta over all orders at one epsilon.

    Args:
        orders: `[A]` float64; Renyi orders > 1.
        rdp: `[A]` float64, nats; >= 0.
        epsilon: Nats; >= 0.

    Returns:
        delta in (0, 1], rounded up to the smallest normal float where it would
        underflow; 0 only if nothing was released (all of `rdp` is zero).

    Raises:
        ValueError: If the result is not a number.
    """
    if not np.any(rdp):
        return 0.0
    log_delta = (orders - 1.0) * (rdp - epsilon) - np.log(orders - 1.0)
    log_delta += orders * np.log1p(-1.0 / orders)
    best = float(np.min(log_delta))
    if not best < np.inf:
        raise ValueError(
            f"log(delta) must be a number. Received: {best!r}. Use more noise "
            "or fewer steps."
        )
    return max(_SMALLEST_DELTA, float(np.exp(min(0.0, best))))
