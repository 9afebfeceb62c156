# SPDX-License-Identifier: Apache-2.0
"""Tests of memorization measured example by example."""

import fractions
import itertools
import json
import pathlib

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import memorization

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "audit.json"
NAN = float("nan")


@pytest.mark.parametrize(
    "case", json.loads(GOLDEN.read_text())["gini"]["cases"], ids=str
)
def test_golden_gini(case):
    got = memorization.compute_gini(case["x"])
    assert got == pytest.approx(case["gini"], abs=1e-8)


@pytest.mark.parametrize("size", [1, 2, 3, 17, 60])
def test_gini_is_half_the_relative_mean_difference(size):
    values = np.random.default_rng(size).pareto(1.5, size)
    exact = [fractions.Fraction(v) for v in values]
    differences = sum(abs(a - b) for a in exact for b in exact)
    wanted = differences / (2 * size * sum(exact))
    got = memorization.compute_gini(values)
    assert got == pytest.approx(float(wanted), abs=1e-14)


def test_gini_depends_on_neither_order_nor_unit():
    values = np.array([3.0, 0.0, 1.0, 10.0])
    wanted = memorization.compute_gini(values)
    for order in itertools.permutations(range(4)):
        assert memorization.compute_gini(values[list(order)]) == wanted
    assert memorization.compute_gini(values * 1e300) == pytest.approx(wanted)
    assert memorization.compute_gini(values * 1e-300) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "values, message",
    [
        ([], "values must hold"),
        ([1.0, NAN], "values must be finite"),
        ([1.0, np.inf], "values must be finite"),
        ([[1.0]], "values must be a vector"),
        ([2.0, -1.0], "values must be >= 0"),
        ([0.0, 0.0], "values must be >= 0"),
    ],
)
def test_gini_refuses(values, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        memorization.compute_gini(values)


def test_dispersion_counts_by_hand():
    # Errors of the three examples: 0, 1, 2 of two runs.
    statistics = memorization.compute_easy_example_statistics(
        [[True, True, False], [True, False, False]]
    )
    np.testing.assert_array_equal(statistics.error_rates, [0, 0.5, 1])
    np.testing.assert_array_equal(statistics.observed_counts, [1, 1, 1])
    np.testing.assert_allclose(statistics.expected_counts, [0.75, 1.5, 0.75])
    # Variance 2/3, binomial variance 1/2; spread 2/3 + 2/3, squares 2.
    assert statistics.dispersion == pytest.approx(4 / 3)
    assert statistics.p_value == pytest.approx(stats.chi2.sf(3, 2))
    assert "1 never" in str(statistics) and "1 always" in str(statistics)


@pytest.mark.parametrize(
    "num_runs, count, rates",
    [
        (20, 300, 0.3),
        # Few errors, and runs that differ.
        (8, 200, 0.03),
        (20, 100, np.linspace(0.05, 0.9, 20)[:, np.newaxis]),
    ],
)
def test_p_value_holds_where_no_example_is_easier(num_runs, count, rates):
    rng = np.random.default_rng(7)
    p_values = np.array(
        [
            memorization.compute_easy_example_statistics(
                rng.random((num_runs, count)) >= rates
            ).p_value
            for _ in range(2000)
        ]
    )
    # At a true level of 5% or 1% fails with probability < 1e-6 each.
    for level in (0.05, 0.01):
        at_most = stats.binom.isf(1e-6, 2000, level)
        assert np.sum(p_values <= level) <= at_most
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.05)


def test_p_value_finds_easy_examples():
    rng = np.random.default_rng(8)
    # Two kinds of examples, which no single one of them would give away.
    rates = rng.choice([0.2, 0.4], size=500)
    statistics = memorization.compute_easy_example_statistics(
        rng.random((30, 500)) >= rates
    )
    assert statistics.p_value < 1e-6
    assert statistics.dispersion > 1.5
    assert statistics.observed_counts.sum() == 500
    assert statistics.expected_counts.sum() == pytest.approx(500)


def test_dispersion_of_two_kinds_is_the_number_of_runs():
    kinds = np.tile(np.arange(100) < 30, (12, 1))
    statistics = memorization.compute_easy_example_statistics(kinds)
    assert statistics.dispersion == pytest.approx(12)
    assert statistics.observed_counts[[0, 12]].tolist() == [30, 70]


@pytest.mark.parametrize(
    "flags, error, message",
    [
        ([[1, 0]], TypeError, "is_correct must be an array of bool"),
        ([True, False], ValueError, "is_correct must have a row"),
        (np.ones((0, 3), bool), ValueError, "is_correct must have a row"),
        (np.ones((3, 3), bool), ValueError, "is_correct must have two runs"),
        ([[True, False]], ValueError, "is_correct must have two runs"),
        ([[True], [False]], ValueError, "is_correct must have two runs"),
    ],
)
def test_easy_examples_refuse(flags, error, message):
    with pytest.raises(error, match=f"^{message}"):
        memorization.compute_easy_example_statistics(flags)


def test_memorization_by_hand():
    result = memorization.estimate_memorization(
        [[True, True], [True, False], [False, False], [True, True]],
        is_member=[[True, True], [True, False], [False, True], [False, False]],
    )
    np.testing.assert_allclose(result.accuracy_in, [1, 0.5])
    np.testing.assert_allclose(result.accuracy_out, [0.5, 0.5])
    np.testing.assert_allclose(result.memorization, [0.5, 0])
    np.testing.assert_array_equal(result.num_in, [2, 2])
    np.testing.assert_array_equal(result.top_rows, [0, 1])
    # 2 of 2 has the lower bound (alpha / 4)^(1/2); 1 of 2 the upper bound
    # (1 - alpha / 4)^(1/2).
    wanted = 0.0125**0.5 - 0.9875**0.5
    np.testing.assert_allclose(result.lower[0], wanted, rtol=1e-12)
    assert "mean memorization of 2 examples: 0.250" in str(result)


def test_memorization_interval_covers_the_truth():
    rng = np.random.default_rng(9)
    with_it, without = 0.9, 0.4
    misses = []
    for num_models in (6, 40):
        member = rng.random((num_models, 3000)) < 0.5
        member[0], member[1] = True, False
        correct = rng.random(member.shape) < np.where(member, with_it, without)
        result = memorization.estimate_memorization(
            correct, is_member=member, confidence=0.9
        )
        outside = (result.lower > with_it - without) | (
            result.upper < with_it - without
        )
        misses.append(outside.sum())
        assert np.all(result.lower <= result.memorization)
        assert np.all(result.memorization <= result.upper)
    assert max(misses) <= stats.binom.isf(1e-6, 3000, 0.1)
    # The estimate itself: 3000 means of 40 models each.
    assert result.memorization.mean() == pytest.approx(0.5, abs=0.02)


def test_memorized_examples_come_first():
    rng = np.random.default_rng(10)
    member = rng.random((64, 50)) < 0.5
    correct = np.ones((64, 50), bool)
    correct[:, 33] = member[:, 33]
    result = memorization.estimate_memorization(correct, is_member=member)
    assert result.memorization[33] == 1.0
    assert result.top_rows[0] == 33 and len(result.top_rows) == 10
    assert result.lower[33] > 0.6
    assert np.all(result.upper >= 0) and np.all(result.lower[:33] < 0)


@pytest.mark.parametrize(
    "correct, member, error, message",
    [
        ([[True]], [[0.0]], TypeError, "is_member must be an array of bool"),
        ([[True]], [[True, True]], ValueError, "is_member must have the shape"),
        (
            [[True, True]] * 3,
            [[True, True], [False, True], [True, True]],
            ValueError,
            "is_member must hold, for each example.*example 1 in 3 of 3",
        ),
        ([[]], [[]], TypeError, "is_correct must be an array of bool"),
    ],
)
def test_memorization_refuses(correct, member, error, message):
    with pytest.raises(error, match=f"^{message}"):
        memorization.estimate_memorization(correct, is_member=member)


@pytest.mark.parametrize("confidence", [0.0, 1.0, NAN])
def test_memorization_refuses_a_confidence_out_of_range(confidence):
    with pytest.raises(ValueError, match="^confidence must be"):
        memorization.estimate_memorization(
            [[True], [True]],
            is_member=[[True], [False]],
            confidence=confidence,
        )


def test_class_sensitivities_are_means_over_examples():
    rng = np.random.default_rng(11)
    labels = np.array([0, 2, 1, 1, 2, 0, 0])
    sensitivities = rng.random((3, 7))
    got = memorization.compute_class_sensitivities(sensitivities, labels=labels)
    for i in range(3):
        for j in range(3):
            values = [sensitivities[i, n] for n in range(7) if labels[n] == j]
            assert got[i, j] == pytest.approx(sum(values) / len(values))


def test_class_loss_weights_give_mean_losses():
    labels = np.array([0, 2, 1, 1, 2, 0, 0])
    losses = np.arange(7.0)
    weights = memorization.make_class_loss_weights(labels, num_classes=3)
    np.testing.assert_allclose(weights @ losses, [11 / 3, 2.5, 2.5])


@pytest.mark.parametrize(
    "sensitivities, labels, message",
    [
        ([1.0], [0], "sensitivities must be finite"),
        ([[NAN]], [0], "sensitivities must be finite"),
        ([[1.0, 2.0]], [0], "labels must have one entry"),
        ([[1.0, 2.0]], [0, 1], "labels must be a vector"),
        ([[1.0, 2.0], [1.0, 2.0]], [0, 0], "labels must be a vector"),
        ([[1.0, 2.0], [1.0, 2.0]], [0.0, 1.0], "labels must be a vector"),
    ],
)
def test_class_sensitivities_refuse(sensitivities, labels, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        memorization.compute_class_sensitivities(sensitivities, labels=labels)
