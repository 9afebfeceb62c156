# SPDX-License-Identifier: Apache-2.0
"""Searches for the last safe value of a setting, ended on the safe side."""

import math
from collections.abc import Callable

_MAX_EVALUATIONS = 200


def find_root(
    compute_excess: Callable[[float], float],
    *,
    safe: float,
    unsafe: float,
    start: float,
    slope: float,
    tolerance: float,
) -> float | None:
    """Returns the least safe point: within `tolerance` of an unsafe value.

    `compute_excess` is monotone, <= 0 where safe. Secants that aim just past
    the root on the safe side; a bisection when the bracket does not shrink.

    Args:
        compute_excess: What is over the target; evaluated as seldom as can be.
        safe: End of the range at which the excess should be <= 0.
        unsafe: Other end; returned if it is safe.
        start: First guess, between the two.
        slope: First guess of the excess's derivative.
        tolerance: Width; > 0.

    Returns:
        A point at which the excess was evaluated and found <= 0; None if
        even `safe` is not.
    """
    toward = math.copysign(1.0, safe - unsafe)
    best, worst = None, None
    x, before = start, None
    for count in range(_MAX_EVALUATIONS):
        excess = compute_excess(x)
        if excess <= 0.0:
            best = x
        else:
            worst = x
        # Near the root the secant's own error is far below its step.
        if best == x and excess > -0.5 * tolerance * abs(slope):
            return best
        if best is not None and worst is not None:
            if abs(best - worst) <= tolerance:
                return best
        if best == unsafe:
            return best
        if worst == safe:
            return None
        if before is not None and x != before[0]:
            found = (excess - before[1]) / (x - before[0])
            if found * slope > 0.0 and math.isfinite(found):
                slope = found
        before = (x, excess)
        aimed = x - excess / slope + 0.25 * tolerance * toward
        x = _keep_inside(aimed, best, worst, safe, unsafe, count)
    return best


def _keep_inside(aimed, best, worst, safe, unsafe, count):
    """Returns the aim if it is inside of the bracket, else a point that is."""
    end_safe = safe if best is None else best
    end_unsafe = unsafe if worst is None else worst
    low, high = min(end_safe, end_unsafe), max(end_safe, end_unsafe)
    if best is None or worst is None:
        return min(max(aimed, low), high)
    if not low < aimed < high or count % 4 == 3:
        return 0.5 * (low + high)
    return aimed
