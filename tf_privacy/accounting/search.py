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


def find_zero(
    function: Callable[[float], float],
    low: float,
    high: float,
    *,
    tolerance: float,
) -> float:
    """Returns a point where a continuous function changes its sign.

    Secants within a bracket; an end that stays for a second time has its value
    halved, so that the bracket closes from both sides (the Illinois method).
    scipy.optimize has this, but takes a quarter of a second to load, which a
    command would wait for.

    Args:
        function: Of opposite signs, or zero, at the two ends.
        low: One end.
        high: The other.
        tolerance: Width of the bracket at which to stop; > 0.

    Raises:
        ValueError: If the signs at the ends are the same.

    Source: Dowell and Jarratt 1971, BIT 11, 168-174.
    """
    at_low, at_high = function(low), function(high)
    if not at_low * at_high <= 0.0:
        raise ValueError(
            "function must change its sign between low and high. Received: "
            f"{at_low!r} at {low!r}, {at_high!r} at {high!r}."
        )
    kept = 0
    for _ in range(_MAX_EVALUATIONS):
        if at_low == 0.0 or abs(high - low) <= tolerance:
            return low
        if at_high == 0.0:
            return high
        x = high - at_high * (high - low) / (at_high - at_low)
        # Aim a little past the zero, so that the bracket closes.
        x += math.copysign(0.25 * tolerance, 0.5 * (low + high) - x)
        value = function(x)
        if value * at_high > 0.0:
            high, at_high = x, value
            at_low *= 0.5 if kept == 1 else 1.0
            kept = 1
        else:
            low, at_low = x, value
            at_high *= 0.5 if kept == -1 else 1.0
            kept = -1
    return 0.5 * (low + high)
