# SPDX-License-Identifier: Apache-2.0
"""Noise that changes over a run, in a few levels that can be accounted for.

An accountant composes each level of noise once, whatever the number of steps
at it: a handful of levels costs little, a level for each step would not.
"""

import numpy as np

from tf_privacy import _checks

_SHAPES = ("linear", "exponential", "cosine")


def make_noise_levels(
    num_steps: int,
    *,
    start_multiplier: float,
    end_multiplier: float,
    num_levels: int,
    shape: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a piecewise constant schedule that is nowhere below a curve.

    With u from 0 at the first step to 1 at the last one, the curve is
        linear:       start + u (end - start)
        exponential:  start (end / start)^u
        cosine:       end + (start - end) (1 + cos(pi u)) / 2
    The steps are split into `num_levels` parts as equal as can be, and each
    part has the largest noise of the curve in it: rounded up, so that the
    schedule spends no more privacy than the curve. A level that rounds to the
    one before it is no level of its own.

    Args:
        num_steps: Noisy steps in all; >= 1.
        start_multiplier: Noise multiplier of the first step; > 0.
        end_multiplier: Noise multiplier of the last step; > 0.
        num_levels: Most levels to have; >= 1; at most num_steps are made.
        shape: "linear", "exponential" or "cosine".

    Returns:
        Boundaries `[L - 1]` int64, the steps (counted from 0) at which the
        next level begins, strictly increasing; and noise multipliers `[L]`
        float64, with L <= num_levels.

    Raises:
        ValueError: If an argument is out of range.
    """
    num_steps = _checks.check_integer("num_steps", num_steps, at_least=1)
    start = _checks.check_noise_multiplier(
        start_multiplier, name="start_multiplier"
    )
    end = _checks.check_noise_multiplier(end_multiplier, name="end_multiplier")
    num_levels = _checks.check_integer("num_levels", num_levels, at_least=1)
    _checks.check_choice("shape", shape, _SHAPES)
    num_levels = min(num_levels, num_steps)
    bounds = [num_steps * level // num_levels for level in range(num_levels)]
    first = np.array(bounds, np.int64)
    last = np.append(first[1:], num_steps) - 1
    # The curves are monotone: the largest noise is at one end of each part.
    ends = _follow(np.stack([first, last]), num_steps, start, end, shape)
    multipliers = ends.max(axis=0)
    # No rounding of the formulas leaves the range that was asked for.
    multipliers = np.clip(multipliers, min(start, end), max(start, end))
    is_new = np.append(True, multipliers[1:] != multipliers[:-1])
    return first[is_new][1:], multipliers[is_new]


def _follow(steps, num_steps, start, end, shape):
    """Returns the curve at steps; raised by what rounding may have taken."""
    u = steps / max(num_steps - 1, 1)
    if shape == "linear":
        curve = start + u * (end - start)
    elif shape == "exponential":
        curve = np.exp((1 - u) * np.log(start) + u * np.log(end))
    else:
        curve = end + (start - end) * (1 + np.cos(np.pi * u)) / 2
    # A few units of the last place of the larger end, far below what matters.
    return curve + 8 * np.finfo(np.float64).eps * max(start, end)
