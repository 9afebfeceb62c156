# SPDX-License-Identifier: Apache-2.0
"""Guesses: a grid that sees no label, ties against the attack."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import guesses


@pytest.mark.parametrize("num_canaries", [2, 3, 31, 50, 64, 1000, 100_001])
def test_grid_is_short_and_never_guesses_a_canary_twice(num_canaries):
    grid = guesses.make_guess_grid(num_canaries)
    half = num_canaries // 2
    assert {(half, half), (half, 0), (0, half)} <= set(grid)
    assert len(set(grid)) == len(grid) <= 3 * math.log2(num_canaries)
    assert all(a + b <= num_canaries and a + b >= 1 for a, b in grid)
    assert all(max(pair) >= min(16, half) for pair in grid)


def count_by_orders(members, others, size_in, size_out):
    """Returns the fewest and most right guesses over all orders of ties."""
    labels = [(s, True) for s in members] + [(s, False) for s in others]
    found = []
    for order in itertools.permutations(labels):
        scores = [score for score, _ in order]
        if scores == sorted(scores, reverse=True):
            right = sum(is_in for _, is_in in order[:size_in])
            last = order[len(order) - size_out :]
            found.append(right + sum(not is_in for _, is_in in last))
    return min(found), max(found)


@pytest.mark.parametrize("seed", range(6))
def test_ties_count_for_the_worst_order_on_either_end(seed):
    rng = np.random.default_rng(seed)
    members = rng.integers(0, 3, 3).astype(float)
    others = rng.integers(0, 3, 4).astype(float)
    # On one end at a time the worst order exists; on both, it is a bound.
    pairs = [(k, 0) for k in range(8)] + [(0, k) for k in range(8)]
    found = guesses.count_correct_guesses(members, others, pairs=tuple(pairs))
    for pair, counts in zip(pairs, found, strict=True):
        fewest, most = count_by_orders(members, others, *pair)
        assert counts.num_correct == fewest
        assert counts.num_correct + counts.num_lost_to_ties == most
    (both,) = guesses.count_correct_guesses(members, others, pairs=((3, 4),))
    assert both.num_correct <= count_by_orders(members, others, 3, 4)[0]


def test_without_ties_counts_are_those_of_the_sorted_list():
    rng = np.random.default_rng(0)
    members, others = rng.normal(1, 1, 60), rng.normal(0, 1, 57)
    labels = np.r_[np.ones(60), np.zeros(57)]
    labels = labels[np.argsort(-np.concatenate([members, others]))]
    pairs = ((0, 0), (1, 0), (0, 1), (20, 30), (58, 58), (117, 0), (60, 57))
    found = guesses.count_correct_guesses(members, others, pairs=pairs)
    for (size_in, size_out), counts in zip(pairs, found, strict=True):
        right = labels[:size_in].sum() + (1 - labels[117 - size_out :]).sum()
        assert counts.num_correct == right
        assert counts.num_guesses == size_in + size_out
        assert counts.num_lost_to_ties == 0
        assert counts.num_canaries == 117


def test_equal_scores_say_nothing_whoever_comes_first():
    for members, others in ((30, 20), (20, 30), (25, 25)):
        counts = guesses.make_tests(np.zeros(members), np.zeros(others))
        assert all(2 * c.num_correct <= c.num_guesses for c in counts)


def test_split_that_no_fair_coin_gives_is_refused():
    for members, others in ((1, 1), (10, 0), (450, 550), (50_500, 49_500)):
        guesses.check_fair_split(members, others)
    for members, others in ((900, 100), (100, 900), (0, 40), (400, 600)):
        probability = stats.binomtest(members, members + others).pvalue
        assert probability < 1e-9
        with pytest.raises(ValueError, match="^member_scores and non_member"):
            guesses.check_fair_split(members, others)


def test_chosen_numbers_of_guesses():
    members, others = np.arange(5.0) + 3, np.arange(5.0)
    (counts,) = guesses.make_tests(members, others, num_guesses_in=3)
    assert (counts.num_guesses_in, counts.num_guesses_out) == (3, 0)
    (counts,) = guesses.make_tests(members, others, num_guesses_out=2)
    assert (counts.num_guesses_in, counts.num_guesses_out) == (0, 2)
    assert counts.num_correct == 2
    (counts,) = guesses.make_tests(
        members, others, num_guesses_in=0, num_guesses_out=0
    )
    assert counts.num_guesses == counts.num_correct == 0
    for size_in, size_out, name in (
        (11, 0, "num_guesses_in"),
        (6, 5, "num_guesses_out"),
        (-1, 0, "num_guesses_in"),
        (2.5, 0, "num_guesses_in"),
        (math.nan, 0, "num_guesses_in"),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be"):
            guesses.make_tests(
                members,
                others,
                num_guesses_in=size_in,
                num_guesses_out=size_out,
            )


@pytest.mark.parametrize(
    "counts, name",
    [
        ((0, 0, 0), "num_canaries"),
        ((10, 11, 0), "num_guesses"),
        ((10, 5, 6), "num_correct"),
        ((10, 5, -1), "num_correct"),
        ((10, math.nan, 0), "num_guesses"),
    ],
)
def test_counts_that_do_not_fit_are_refused(counts, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        guesses.check_counts(*counts)


def test_warnings_on_ties_and_sign():
    rng = np.random.default_rng(1)
    members = rng.normal(1, 1, 100).round()
    others = rng.normal(0, 1, 100).round()
    test = guesses.make_tests(members, others)[0]
    (warning,) = guesses.make_warnings(members, others, test)
    assert warning.startswith("up to ") and "equal scores" in warning
    sign, _ = guesses.make_warnings(-members, -others, test)
    assert sign.startswith("members score lower")
