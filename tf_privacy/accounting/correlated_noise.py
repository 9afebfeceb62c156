# SPDX-License-Identifier: Apache-2.0
"""Sensitivity of mechanisms whose noise is correlated from step to step.

DP-FTRL and matrix factorization A = B C release C G + Z: row i of G is the sum
of clipped gradients at step i, and Z is independent Gaussian noise. Divided by
l2_norm_clip, a unit adds a vector u_i of norm <= 1 to every row i in which it
takes part, so the whole run is one Gaussian mechanism with

    noise_multiplier = stddev / (l2_norm_clip * sensitivity)
    sensitivity = max over patterns and u of ||sum_i C[:, i] u_i^T||_F

where a pattern is a set of steps that one unit may take part in: at least
min_separation apart and at most max_participations of them. The caller's data
order must keep every unit to it.

Gradients may depend on earlier releases as long as no row of C reaches past the
steps already taken, as in a lower triangular C: Denisov et al. 2022,
arXiv:2202.08312, Theorem 2.1. A unit joins, leaves or is set to zero; where it
is replaced, two units differ by a vector of norm 2 and every sensitivity
doubles.
"""

import math

import numpy as np
import scipy.linalg

from tf_privacy import _checks
from tf_privacy.accounting import participation_pattern

_EPSILON = float(np.finfo(np.float64).eps)
_MOST_STEPS_OF_GENERAL_BOUND = 2000


def _check_array(name: str, value, *, num_axes: int):
    """Returns the array over its largest magnitude, and that magnitude."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise TypeError(
            f"{name} must be an array of real numbers. Received: dtype "
            f"{array.dtype}. Convert it to float64."
        )
    array = array.astype(np.float64)
    largest = float(np.max(np.abs(array), initial=0.0))
    if array.ndim != num_axes or not 0.0 < largest < math.inf:
        raise ValueError(
            f"{name} must have {num_axes} axes and finite entries, not all 0. "
            f"Received: shape {array.shape}, largest magnitude {largest!r}. "
            "Pass the factor C of A = B C."
        )
    return array / largest, largest


def _round_up(squared, *, scale: float, num_terms: int, name: str) -> float:
    """Returns scale * sqrt(squared), above by num_terms rounding errors."""
    value = scale * math.sqrt(squared) * (1.0 + num_terms * _EPSILON)
    if not 0.0 < value < math.inf:
        raise ValueError(
            f"{name} must have a finite sensitivity > 0. Received: one of "
            f"{value!r}. Scale it so that its first entries are near 1."
        )
    return value


def _count_terms(num_rows: int, count: int) -> int:
    # An entry of C^T C is off by num_rows roundings of |C|^T |C|, whose sum
    # over a pattern is at most count times the sum of the diagonal; then at
    # most count^2 additions follow.
    return (num_rows + count + 4) * count


def compute_matrix_sensitivity(
    strategy_matrix,
    *,
    min_separation: int,
    max_participations: int | None = None,
) -> float:
    """Returns a bound on the L2 sensitivity of C under spaced participation.

    With X = C^T C, and patterns of steps at least min_separation apart,

        total[i] = max over patterns with i of sum_{j in pattern} |X[i, j]|
        sensitivity^2 <= max over patterns of sum_{i in pattern} total[i]

    It is exact where X[i, j] is 0 for |i - j| >= min_separation, as for a lower
    triangular C with at most min_separation bands, and for one participation.
    It is never above the largest sum of column norms. Both maxima are found by
    dynamic programming, in T^2 max_participations operations.

    Args:
        strategy_matrix: `[N, T]` real; C, one column for each step.
        min_separation: Steps from one participation of a unit to its next;
            >= 1, where 1 allows every step.
        max_participations: Most participations of a unit; >= 1, or None if
            min_separation alone limits them.

    Returns:
        The sensitivity in units of l2_norm_clip, > 0; an upper bound, rounded
        up.

    Raises:
        TypeError: If an argument is not made of real numbers.
        ValueError: If one is out of range, or C is not finite or all zero.

    Source: Choquette-Choo et al. 2023, arXiv:2306.08153.
    """
    name = "strategy_matrix"
    matrix, scale = _check_array(name, strategy_matrix, num_axes=2)
    pattern = participation_pattern.check_pattern(
        matrix.shape[1], min_separation, max_participations
    )
    squared = participation_pattern.bound_gram_sum(
        np.abs(matrix.T @ matrix), pattern
    )
    num_terms = _count_terms(len(matrix), pattern.count)
    return _round_up(squared, scale=scale, num_terms=num_terms, name=name)


def compute_cyclic_sensitivity(strategy_matrix, *, period: int) -> float:
    """Returns a bound on the L2 sensitivity of C for a fixed order of the data.

    A unit takes part in steps s, s + period, s + 2 period, ... or in some of
    them, for one s. With X = C^T C,

        sensitivity^2 <= max_s sum_{i, j = s mod period} |X[i, j]|

    It is exact where those X[i, j] are >= 0, as for a C without negative
    entries.

    Args:
        strategy_matrix: `[N, T]` real; C, one column for each step.
        period: Steps in a pass through the data; >= 1.

    Returns:
        The sensitivity in units of l2_norm_clip, > 0; an upper bound, rounded
        up.

    Raises:
        TypeError: If an argument is not made of real numbers.
        ValueError: If one is out of range, or C is not finite or all zero.

    Source: Choquette-Choo et al. 2022, arXiv:2211.06530.
    """
    name = "strategy_matrix"
    matrix, scale = _check_array(name, strategy_matrix, num_axes=2)
    period = _checks.check_integer("period", period, at_least=1)
    num_rows, num_steps = matrix.shape
    squared = 0.0
    for start in range(min(period, num_steps)):
        columns = matrix[:, start::period]
        squared = max(squared, float(np.sum(np.abs(columns.T @ columns))))
    num_terms = _count_terms(num_rows, -(-num_steps // period))
    return _round_up(squared, scale=scale, num_terms=num_terms, name=name)


def _sum_shifted(column, pattern: participation_pattern.Pattern):
    """Returns the sum of the column's copies at the earliest pattern."""
    total = np.zeros_like(column)
    column = np.trim_zeros(column, "b")
    for position in range(pattern.count):
        start = position * pattern.separation
        part = total[start : start + len(column)]
        part += column[: len(part)]
    return total


def compute_toeplitz_sensitivity(
    coefficients,
    *,
    num_steps: int,
    min_separation: int,
    max_participations: int | None = None,
) -> float:
    """Returns a bound on the L2 sensitivity of a lower triangular Toeplitz C.

    C[i, j] is coefficients[i - j], and 0 above the diagonal and past the last
    coefficient. Where the coefficients are >= 0 and never rise, the earliest
    pattern 0, min_separation, 2 min_separation, ... is the worst one, which is
    exact and builds no matrix:

        sensitivity = ||sum_p C[:, p min_separation]||

    Otherwise the same formula bounds it with the largest |coefficient| from
    each index on in place of the coefficient; up to 2000 steps, the least of
    that and `compute_matrix_sensitivity` is returned.

    Args:
        coefficients: `[K]` real; the first column of C without its zeros.
            Those past num_steps have no effect.
        num_steps: Rows and columns of C; >= 1.
        min_separation: Steps from one participation of a unit to its next;
            >= 1, where 1 allows every step.
        max_participations: Most participations of a unit; >= 1, or None if
            min_separation alone limits them.

    Returns:
        The sensitivity in units of l2_norm_clip, > 0; an upper bound, rounded
        up.

    Raises:
        TypeError: If an argument is not made of real numbers.
        ValueError: If one is out of range, or C is not finite or all zero.

    Source: Kalinin and Lampert 2024, arXiv:2405.13763, Theorem 2.
    """
    name = "coefficients"
    values, scale = _check_array(name, coefficients, num_axes=1)
    num_steps = _checks.check_integer("num_steps", num_steps, at_least=1)
    pattern = participation_pattern.check_pattern(
        num_steps, min_separation, max_participations
    )
    column = np.zeros(num_steps)
    column[: len(values)] = values[:num_steps]
    falling = np.maximum.accumulate(np.abs(column[::-1]))[::-1]
    summed = _sum_shifted(falling, pattern)
    num_terms = num_steps + pattern.count + 4
    bound = _round_up(
        summed @ summed, scale=scale, num_terms=num_terms, name=name
    )
    is_exact = np.array_equal(falling, column)
    if is_exact or num_steps > _MOST_STEPS_OF_GENERAL_BOUND:
        return bound
    matrix = scipy.linalg.toeplitz(column, np.zeros(num_steps))
    general = compute_matrix_sensitivity(
        scale * matrix,
        min_separation=pattern.separation,
        max_participations=pattern.count,
    )
    return min(bound, general)


def compute_tree_sensitivity(
    *,
    num_steps: int,
    min_separation: int = 1,
    max_participations: int | None = None,
) -> float:
    """Returns a bound on the L2 sensitivity of one binary tree of partial sums.

    The leaves are the steps. Level l = 0, ..., ceil(log2(num_steps)) has a node
    for each 2^l steps from the first on, the last one perhaps cut short, and
    each node releases the sum of its steps with noise of the same stddev:

        sensitivity^2 = max over patterns of
            sum over nodes of (participations below the node)^2

    One participation counts each level once. A tree restarted after num_steps
    is one such release for each restart.

    Args:
        num_steps: Leaves of the tree; >= 1.
        min_separation: Steps from one participation of a unit to its next;
            >= 1, where 1 allows every step.
        max_participations: Most participations of a unit in this tree; >= 1,
            or None if min_separation alone limits them.

    Returns:
        The sensitivity in units of l2_norm_clip, >= 1; an upper bound, rounded
        up. It is exact for one participation and for up to 600 steps; beyond
        them it is so only where that takes no more than some seconds.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If one is not a whole number >= 1.

    Source: Kairouz et al. 2021, arXiv:2103.00039, Appendix D, for one
        participation.
    """
    num_steps = _checks.check_integer("num_steps", num_steps, at_least=1)
    pattern = participation_pattern.check_pattern(
        num_steps, min_separation, max_participations
    )
    squared = participation_pattern.bound_tree_sum(num_steps, pattern)
    return math.nextafter(math.sqrt(squared), math.inf)
