# SPDX-License-Identifier: Apache-2.0
"""Tests of the sums over patterns, those of trees foremost."""

import itertools
import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting import privacy_accountant
from dp_accounting.rdp import rdp_privacy_accountant

from tf_privacy.accounting import correlated_noise
from tf_privacy.accounting import participation_pattern

# Far above the margin for rounding, far below any mistake.
CLOSE = 1e-9


def compute_tree(num_steps, min_separation=1, max_participations=None):
    return correlated_noise.compute_tree_sensitivity(
        num_steps=num_steps,
        min_separation=min_separation,
        max_participations=max_participations,
    )


def compute_matrix(matrix, min_separation, max_participations=None):
    return correlated_noise.compute_matrix_sensitivity(
        matrix,
        min_separation=min_separation,
        max_participations=max_participations,
    )


def make_tree(num_steps):
    """Returns one row for each node: 1 where a step lies below it."""
    steps = np.arange(num_steps)
    rows, width = [], 1
    while True:
        num_nodes = -(-num_steps // width)
        rows += [steps // width == node for node in range(num_nodes)]
        if num_nodes == 1:
            return np.array(rows, np.float64)
        width *= 2


def measure(tree, steps):
    return np.linalg.norm(tree[:, list(steps)].sum(axis=1))


def maximize(tree, min_separation, max_participations):
    num_steps = tree.shape[1]
    return max(
        measure(tree, steps)
        for size in range(1, min(max_participations or 99, num_steps) + 1)
        for steps in itertools.combinations(range(num_steps), size)
        if np.all(np.diff(steps) >= min_separation)
    )


def test_matrix_rows_taken_in_parts_agree(monkeypatch):
    matrix = np.random.default_rng(4).normal(size=(30, 30))
    wanted = compute_matrix(matrix, 3, 5)
    monkeypatch.setattr(participation_pattern, "_NUMBERS_AT_ONCE", 400)
    assert compute_matrix(matrix, 3, 5) == pytest.approx(wanted, rel=CLOSE)


def test_tree_is_exact_for_few_steps():
    # Of these, 13 shows a gap beside an empty block that is one step off.
    for num_steps in (*range(1, 11), 13):
        tree = make_tree(num_steps)
        for separation in (1, 2, 3, 4, 7, 12):
            for most in (1, 2, 3, 5, None):
                limits = (separation, most)
                wanted = maximize(tree, *limits)
                value = compute_tree(num_steps, *limits)
                assert value == pytest.approx(wanted, rel=CLOSE)
                assert value**2 >= round(wanted**2)


def test_tree_is_not_at_its_worst_for_the_earliest_pattern():
    tree = make_tree(62)
    earliest = measure(tree, range(0, 56, 7))
    value = compute_tree(62, 7, 8)
    assert earliest * 1.01 < value <= compute_matrix(tree, 7, 8) * (1 + CLOSE)


@pytest.mark.parametrize(
    "limits", [(37, 7, None), (100, 3, None), (128, 5, 9), (200, 90, 2)]
)
def test_tree_bound_of_many_steps_is_close_above(limits, monkeypatch):
    exact = compute_tree(*limits)
    monkeypatch.setattr(participation_pattern, "_MOST_WORK_OF_EXACT_TREE", 0)
    assert exact <= compute_tree(*limits) <= 1.05 * exact


def test_tree_of_one_participation_has_one_node_a_level():
    steps = [1, 2, 3, 4, 5, 8, 9, 1000, 1024, 10**9]
    levels = [1, 2, 3, 3, 4, 4, 5, 11, 11, 31]
    squares = [compute_tree(n, max_participations=1) ** 2 for n in steps]
    assert squares == pytest.approx(levels, rel=CLOSE)


def test_tree_of_every_step_counts_full_nodes():
    # 2^l nodes of 2^(10 - l) steps each: sum of 2^l 4^(10 - l).
    wanted = math.sqrt(sum(2**level * 1024 for level in range(11)))
    assert compute_tree(1024) == pytest.approx(wanted, rel=CLOSE)


def test_tree_rises_with_steps_and_participations():
    by_steps = [compute_tree(n, 5) for n in range(1, 80)]
    by_participations = [compute_tree(64, 3, most) for most in range(1, 25)]
    by_closeness = [compute_tree(64, b) for b in range(64, 0, -1)]
    for values in (by_steps, by_participations, by_closeness):
        assert np.all(np.diff(values) >= 0)


@pytest.mark.parametrize("num_steps", [1, 8, 1024, 1000])
def test_tree_is_the_gaussian_of_dp_accounting(num_steps):
    # It leaves out nodes that are cut short: equal at powers of two only.
    orders = np.array([2.0, 8.0, 32.0])
    accountant = rdp_privacy_accountant.RdpAccountant(
        orders, privacy_accountant.NeighboringRelation.REPLACE_SPECIAL
    )
    accountant.compose(
        dp_event.SingleEpochTreeAggregationDpEvent(1.7, num_steps)
    )
    multiplier = 1.7 / compute_tree(num_steps, max_participations=1)
    rdp = orders / (2 * multiplier**2)
    if num_steps == 1000:
        assert np.all(rdp >= accountant._rdp)
    else:
        assert rdp == pytest.approx(accountant._rdp, rel=CLOSE)


@pytest.mark.parametrize("bad", [0, -1, 1.5, float("nan"), float("inf")])
def test_refuses_bad_limits(bad):
    with pytest.raises(ValueError, match="^num_steps must be"):
        compute_tree(bad)
    with pytest.raises(ValueError, match="^min_separation must be"):
        compute_tree(3, bad)
    with pytest.raises(ValueError, match="^max_participations must be"):
        compute_tree(3, 1, bad)
