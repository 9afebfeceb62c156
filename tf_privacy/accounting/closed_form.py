# SPDX-License-Identifier: Apache-2.0
"""Exact epsilon and delta of a single Gaussian release of a Poisson sample."""

import math

import numpy as np
from scipy import special

from tf_privacy.accounting import gaussian_mixture_loss
from tf_privacy.accounting import search

# Relative error of the closed forms in double precision, with a wide margin.
_SLACK = 1e-11
_LARGEST_POINT = 1e12
_LARGE_EPSILON = 40.0


def compute_release_delta(
    shifts: gaussian_mixture_loss.Shifts,
    *,
    epsilon: float,
    removes: bool,
    rounding: float = 1.0,
) -> float:
    """Returns the delta of one release in one direction, rounded up.

    The loss is monotone in t, so it exceeds epsilon on a half line.

    Args:
        shifts: How the unit moves the sum.
        epsilon: Nats; >= 0.
        removes: Whether the unit is removed, else added.
        rounding: 1 rounds up, -1 rounds down, by more than the error.

    Returns:
        delta in [0, 1].
    """
    sign = 1.0 if removes else -1.0

    def compute_excess(t):
        ratio = shifts.compute_log_ratio(np.array([t]))[0]
        return float(ratio) - sign * epsilon

    low, high = -1.0, 1.0
    while high < _LARGEST_POINT and compute_excess(high) < 0.0:
        high *= 2.0
    while low > -_LARGEST_POINT and compute_excess(low) > 0.0:
        low *= 2.0
    if not removes and low <= -_LARGEST_POINT:
        return 0.0
    point = search.find_zero(compute_excess, low, high, tolerance=1e-13)
    found, error = _compute_half_line(shifts, point, epsilon, removes)
    return min(1.0, max(0.0, found + rounding * error))


def _compute_half_line(shifts, point, epsilon, removes):
    """Returns the half line's mass minus exp(epsilon) times the other's.

    And a bound of the error, far above that of double precision.

    The optimal point is a maximum, so errors of the point are of second order.
    """
    sizes = np.array(shifts.sizes)
    chances = np.array(shifts.probabilities)
    side = -1.0 if removes else 1.0
    plain = float(special.ndtr(side * point))
    moved = special.ndtr(side * (point - sizes))
    change = float(chances @ (moved - plain))
    # The other side's mass times exp(epsilon) - 1, which may overflow.
    if removes:
        log_other = float(special.log_ndtr(-point))
    else:
        change, plain = -change, plain + change
        log_other = math.log(max(plain, 1e-320))
    if epsilon < _LARGE_EPSILON:
        other = math.expm1(epsilon) * plain
    else:
        other = math.exp(min(epsilon + log_other, 0.0))
    return max(0.0, change - other), _SLACK * (abs(change) + abs(other))


def compute_release_epsilon(
    shifts: gaussian_mixture_loss.Shifts,
    *,
    delta: float,
    rounding: float = 1.0,
) -> float:
    """Returns the epsilon of one release, the larger of both directions.

    Args:
        shifts: How the unit moves the sum.
        delta: Probability in (0, 1).
        rounding: 1 rounds up, -1 rounds down.

    Returns:
        epsilon in nats, >= 0, rounded and checked.
    """

    def compute_worst(epsilon):
        return max(
            compute_release_delta(
                shifts, epsilon=epsilon, removes=removes, rounding=rounding
            )
            for removes in (True, False)
        )

    if compute_worst(0.0) <= delta:
        return 0.0
    low, high = 0.0, 1e-6
    while compute_worst(high) > delta:
        low, high = high, 4.0 * high
    while high - low > 1e-10 * high:
        middle = 0.5 * (low + high)
        if compute_worst(middle) <= delta:
            high = middle
        else:
            low = middle
    return high if rounding > 0.0 else low
