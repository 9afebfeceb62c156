# SPDX-License-Identifier: Apache-2.0
"""What lower bounds share: the search, the text, delta."""

import math

import pytest

from tf_privacy.audit import lower_bounds


@pytest.mark.parametrize("limit", [0.0, 1e-12, 0.3, 1.0, 17.25, 1e6])
def test_search_ends_just_below_the_limit(limit):
    found = lower_bounds.find_largest_rejected(lambda x: x <= limit, start=0.0)
    assert limit - 1e-9 * max(1.0, limit) <= found <= limit


def test_best_of_several_tests():
    asked = []

    def is_rejected(limit, x):
        asked.append(limit)
        return x < limit

    found, index = lower_bounds.find_best_test(
        [2.0, 1.0, 5.0, 0.0], is_rejected
    )
    assert index == 2 and 5.0 - 1e-8 < found < 5.0
    assert asked.count(1.0) == asked.count(0.0) == 1
    assert lower_bounds.find_best_test([0.0, 0.0], is_rejected) == (0.0, None)


@pytest.mark.parametrize(
    "number, text",
    [
        (0.0, "0.0000"),
        (1.99999, "1.9999"),
        (0.00009, "0.0000"),
        (12.5, "12.5000"),
    ],
)
def test_bounds_are_shown_rounded_down(number, text):
    assert lower_bounds.show_down(number) == text


@pytest.mark.parametrize(
    "number, text",
    [(1.0, "1"), (0.05, "0.05"), (0.0501, "0.051"), (1e-300, "1e-300")],
)
def test_p_values_are_shown_rounded_up(number, text):
    assert lower_bounds.show_up(number) == text


def test_delta():
    assert lower_bounds.check_delta(0) == 0.0
    for bad in (-1e-9, 1.0, math.nan):
        with pytest.raises(ValueError, match="^delta must be"):
            lower_bounds.check_delta(bad)
    with pytest.raises(ValueError, match="^delta must be a finite number > 0"):
        lower_bounds.check_delta(0, positive=True)


def test_text_says_bound_or_estimate_assumptions_and_warnings():
    settings = dict(
        epsilon_lower=1.23459,
        delta=1e-5,
        confidence=0.95,
        assumptions=("coins are fair",),
        warnings=("delta is large.",),
    )
    text = str(lower_bounds.EpsilonResult(is_bound=True, **settings))
    assert "epsilon >= 1.2345 at delta 1e-05, confidence 0.95 (lower" in text
    assert "coins are fair" in text and "Warning: delta is large." in text
    text = str(lower_bounds.EpsilonResult(is_bound=False, **settings))
    assert "ESTIMATE, not a bound" in text
