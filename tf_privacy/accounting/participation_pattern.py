# SPDX-License-Identifier: Apache-2.0
"""Largest sums over the pairs of steps that one unit may take part in."""

import dataclasses

import numpy as np

from tf_privacy import _checks

_MOST_WORK_OF_EXACT_TREE = 10**9
_NUMBERS_AT_ONCE = 2**23


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pattern:
    """The sets of steps that one unit may take part in.

    Attributes:
        separation: Least distance of two of its steps; whole, >= 1.
        count: Most of its steps; whole, >= 1, no more than fit.
    """

    separation: int
    count: int


def check_pattern(
    num_steps: int, min_separation: int, max_participations: int | None
) -> Pattern:
    """Returns the patterns that both limits leave within num_steps.

    Args:
        num_steps: Steps in all; >= 1.
        min_separation: Steps from one participation to the next; whole, >= 1.
        max_participations: Most participations; whole, >= 1, or None.

    Returns:
        The patterns.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If it is not a whole number >= 1.
    """
    separation = _checks.check_integer(
        "min_separation", min_separation, at_least=1
    )
    count = -(-num_steps // separation)
    if max_participations is not None:
        most = _checks.check_integer(
            "max_participations",
            max_participations,
            at_least=1,
            hint="Pass None where min_separation alone limits a unit.",
        )
        count = min(count, most)
    return Pattern(separation=separation, count=count)


def _compute_best_sums(weights, *, separation: int, cap: int | None):
    """Returns the largest sums of weights over the patterns before each step.

    Args:
        weights: `[T, R]` float64, >= 0.
        separation: Least distance of two steps of a pattern.
        cap: Most steps of a pattern, or None for no limit.

    Returns:
        best, `[T + 1, P, R]`: best[t, p, r] is the largest sum of weights[i, r]
        over patterns of steps i < t. At most p of them, or, where cap is None,
        P is 1 and any number.
    """
    num_steps, num_rows = weights.shape
    used = 0 if cap is None else 1
    num_caps = 1 if cap is None else cap + 1
    best = np.zeros((num_steps + 1, num_caps, num_rows))
    for step in range(num_steps):
        before = best[max(0, step + 1 - separation), : num_caps - used]
        np.maximum(
            best[step, used:], weights[step] + before, out=best[step + 1, used:]
        )
    return best


def _sum_earlier_partners(gram, *, separation: int, cap: int | None):
    """Returns `[P, T]`: the best sum of gram[i] over patterns before step i."""
    num_steps = len(gram)
    num_caps = 1 if cap is None else cap + 1
    sums = np.empty((num_caps, num_steps))
    rows_at_once = max(1, _NUMBERS_AT_ONCE // (num_caps * num_steps))
    for start in range(0, num_steps, rows_at_once):
        rows = np.arange(start, min(start + rows_at_once, num_steps))
        ends = np.maximum(0, rows + 1 - separation)
        best = _compute_best_sums(
            gram[: ends[-1], rows], separation=separation, cap=cap
        )
        sums[:, rows] = best[ends, :, rows - start].T
    return sums


def bound_gram_sum(gram: np.ndarray, pattern: Pattern) -> float:
    """Returns a bound on the sum of gram over the pairs of steps of a pattern.

        total[i] = max over patterns with i of sum_{j in pattern} gram[i, j]
        bound = max over patterns of sum_{i in pattern} total[i]

    It is attained where gram[i, j] is 0 for |i - j| >= pattern.separation.

    Args:
        gram: `[T, T]` float64, symmetric, >= 0.
        pattern: What `check_pattern` returns for T steps.

    Returns:
        An upper bound, but for the rounding of its sums.
    """
    separation, count = pattern.separation, pattern.count
    limited = count < -(-len(gram) // separation)
    totals = np.diagonal(gram).copy()
    # Banded: no two steps of a pattern meet, and the diagonal is all.
    if np.any(np.triu(gram, separation)):
        cap = count - 1 if limited else None
        earlier = _sum_earlier_partners(gram, separation=separation, cap=cap)
        later = _sum_earlier_partners(
            gram[::-1, ::-1], separation=separation, cap=cap
        )[:, ::-1]
        totals += np.max(earlier + later[::-1], axis=0)
    best = _compute_best_sums(
        totals[:, None], separation=separation, cap=count if limited else None
    )
    return float(best[-1, -1, 0])


def _join_blocks(left, right, lengths, *, count: int):
    """Returns the table of a block of steps from those of its two parts.

    table[c, a, z] is the largest sum over the nodes within the block for c
    participations, the first at least a steps after the block's start and the
    last at least z before its end; -inf if there is none. Both gaps stop at
    separation - 1, beyond which they do not matter.
    """
    size = left.shape[1]
    gaps = np.arange(size)
    most = min(count, -(-sum(lengths) // size))
    table = np.full((most + 1, size, size), -np.inf)
    alone = left[: most + 1, :, np.maximum(0, gaps - lengths[1])]
    table[: len(alone)] = alone
    alone = right[: most + 1, np.maximum(0, gaps - lengths[0])]
    table[: len(alone)] = np.maximum(table[: len(alone)], alone)
    for first in range(1, min(len(left), most)):
        stop = min(len(right), most + 1 - first)
        target = table[first + 1 : first + stop]
        for gap in range(size):
            both = left[first, :, gap, None] + right[1:stop, None, -1 - gap]
            np.maximum(target, both, out=target)
    return table


def _compute_tree_sum(num_steps: int, pattern: Pattern) -> int:
    """Returns the largest sum over all nodes, from the leaves up."""
    size = min(pattern.separation, num_steps)
    full = np.full((2, size, size), -np.inf)
    full[0], full[1, 0, 0] = 0.0, 1.0
    last, last_length = full, 1
    for level in range((num_steps - 1).bit_length()):
        half = 2**level
        if -(-num_steps // half) % 2 == 0:
            lengths = half, last_length
            last = _join_blocks(full, last, lengths, count=pattern.count)
            last_length += half
        full = _join_blocks(full, full, (half, half), count=pattern.count)
        last = last + np.arange(len(last))[:, None, None] ** 2
        full += np.arange(len(full))[:, None, None] ** 2
    return int(np.max(last[:, 0, 0]))


def bound_tree_sum(num_steps: int, pattern: Pattern) -> int:
    """Returns a bound on the sum over a binary tree's nodes of squared counts.

    A node counts the steps of a pattern below it. On level l at most
    ceil(2^l / separation) lie below one node, so the squares sum to the most
    where as many nodes as possible are full. A pattern cannot do so on every
    level at once; the exact maximum, by dynamic programming over the tree,
    replaces the bound where it takes no more than some seconds.

    Args:
        num_steps: Leaves of the tree; >= 1.
        pattern: What `check_pattern` returns for num_steps.

    Returns:
        An upper bound; the maximum itself for small trees.
    """
    size = min(pattern.separation, num_steps)
    if pattern.count**2 * size**3 <= _MOST_WORK_OF_EXACT_TREE:
        return _compute_tree_sum(num_steps, pattern)
    total = 0
    for level in range((num_steps - 1).bit_length() + 1):
        fit = -(-min(num_steps, 2**level) // pattern.separation)
        fit = min(pattern.count, fit)
        num_full, rest = divmod(pattern.count, fit)
        total += num_full * fit**2 + rest**2
    return total
