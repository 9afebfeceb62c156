# SPDX-License-Identifier: Apache-2.0
"""Clopper-Pearson bounds on epsilon: golden, coverage, held-out halves."""

import json
import math
import pathlib

import numpy as np
import pytest
from scipy import special
from scipy import stats

from tf_privacy.audit import threshold_epsilon

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "audit.json").read_text()
)["epsilon_lb_clopper_pearson"]


def compute(
    tp, members, fp, others, *, delta=0.0, confidence=0.95, examples_per_trial=1
):
    return threshold_epsilon.compute_threshold_epsilon(
        num_true_positives=tp,
        num_members=members,
        num_false_positives=fp,
        num_non_members=others,
        delta=delta,
        confidence=confidence,
        examples_per_trial=examples_per_trial,
    )


def estimate(members, others, rng, *, delta=0.0, confidence=0.95):
    return threshold_epsilon.estimate_held_out_epsilon(
        members, others, delta=delta, confidence=confidence, rng=rng
    )


@pytest.mark.parametrize("row", GOLDEN["rows"])
def test_golden_values(row):
    epsilon = compute(
        row["tp"],
        row["n_pos"],
        row["fp"],
        row["n_neg"],
        delta=row["delta"],
        confidence=1 - row["alpha_total"],
    )
    assert epsilon == pytest.approx(row["eps_lb"], abs=2e-8)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("size", [20, 150])
def test_no_pure_mechanism_exceeds_its_epsilon_more_often(epsilon, size):
    # Exact, over all pairs of counts of randomized response.
    q = special.expit(epsilon)
    counts = np.arange(size + 1)
    hits, alarms = (stats.binom.pmf(counts, size, p) for p in (q, 1 - q))
    risk = sum(
        hits[tp] * alarms[fp]
        for tp in counts
        for fp in counts
        if hits[tp] * alarms[fp] > 1e-7
        and compute(tp, size, fp, size) > epsilon
    )
    assert risk <= 0.05


def test_group_without_delta_divides_by_the_size():
    single = compute(900, 1000, 10, 1000)
    for size in (2, 7):
        found = compute(900, 1000, 10, 1000, examples_per_trial=size)
        assert found == pytest.approx(single / size, abs=1e-8)
        assert found <= single / size + 1e-9


@pytest.mark.parametrize("size", [2, 3, 8])
def test_group_with_delta_inverts_group_privacy(size):
    delta = 1e-3
    found = compute(900, 1000, 10, 1000, delta=delta, examples_per_trial=size)
    lower = stats.beta.ppf(0.025, 900, 101)
    upper = stats.beta.ppf(0.975, 11, 990)
    # The k-th neighbor by induction: P_k <= e^eps P_{k-1} + delta.
    bounds = []
    for epsilon in (found, found + 1e-6):
        rate = upper
        for _ in range(size):
            rate = math.exp(epsilon) * rate + delta
        bounds.append(rate)
    assert bounds[0] <= lower <= bounds[1]
    pure = compute(900, 1000, 10, 1000, examples_per_trial=size)
    assert 0 < found < pure


def test_group_of_which_delta_explains_everything():
    assert compute(300, 1000, 1, 1000, delta=0.2, examples_per_trial=2) == 0.0


def test_group_of_one_is_the_closed_form():
    one = compute(900, 1000, 10, 1000, delta=1e-3)
    lower = stats.beta.ppf(0.025, 900, 101)
    upper = stats.beta.ppf(0.975, 11, 990)
    want = math.log((lower - 1e-3) / upper)
    assert want - 2e-9 <= one <= want


@pytest.mark.parametrize("counts", [(0, 10, 0, 10), (5, 10, 10, 10)])
def test_counts_that_say_nothing(counts):
    assert compute(*counts) == 0.0
    assert compute(*counts, delta=0.9) == 0.0


@pytest.mark.parametrize(
    "counts, name",
    [
        ((-1, 10, 0, 10), "num_true_positives"),
        ((11, 10, 0, 10), "num_true_positives"),
        ((0, 0, 0, 10), "num_members"),
        ((1, 10, 11, 10), "num_false_positives"),
        ((1, 10, 0.5, 10), "num_false_positives"),
        ((1, 10, 0, math.nan), "num_non_members"),
    ],
)
def test_bad_counts_are_refused(counts, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        compute(*counts)


def test_bad_settings_are_refused():
    for delta in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="^delta must be"):
            compute(5, 10, 1, 10, delta=delta)
    with pytest.raises(ValueError, match="^confidence must be"):
        compute(5, 10, 1, 10, confidence=1.0)
    with pytest.raises(ValueError, match="^examples_per_trial must be"):
        compute(5, 10, 1, 10, examples_per_trial=0)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="^member_scores must hold at least 2"):
        estimate([1.0], [0.0, 1.0], rng)
    with pytest.raises(ValueError, match="^non_member_scores must be finite"):
        estimate([1.0, 2.0], [0.0, math.nan], rng)
    with pytest.raises(TypeError, match="^rng must be"):
        estimate([1.0, 2.0], [0.0, 1.0], 7)


def draw_null(rng, size, draw_scores):
    scores = draw_scores(rng, 2 * size)
    return scores[:size], scores[size:]


@pytest.mark.parametrize(
    "size, draw_scores",
    [
        (25, lambda rng, size: rng.random(size)),
        (500, lambda rng, size: rng.random(size)),
        (500, lambda rng, size: rng.integers(0, 3, size)),
    ],
    ids=["few", "many", "tied"],
)
def test_scores_that_say_nothing_raise_no_alarm(size, draw_scores):
    rng = np.random.default_rng(1)
    runs = 2000
    alarms = sum(
        estimate(*draw_null(rng, size, draw_scores), rng).epsilon_lower > 0
        for _ in range(runs)
    )
    # Below 1% expected: both rates would have to err.
    assert alarms / runs <= 0.065


def test_best_threshold_on_the_same_scores_would_raise_alarms():
    # What the halves are for.
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(300):
        members, others = np.sort(rng.random((2, 1000)), axis=1)
        thresholds = np.linspace(0.001, 0.999, 999)
        found, false = threshold_epsilon.compute_rate_bounds(
            num_true_positives=1000 - np.searchsorted(members, thresholds),
            num_members=1000,
            num_false_positives=1000 - np.searchsorted(others, thresholds),
            num_non_members=1000,
            confidence=0.95,
        )
        alarms += np.any(found > false)
    assert alarms / 300 > 0.065


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_confidence_holds_on_randomized_response(epsilon):
    rng = np.random.default_rng(3)
    runs, size = 2000, 200
    exceeded = 0
    for _ in range(runs):
        kept = rng.random((2, size)) < special.expit(epsilon)
        found = estimate(kept[0] * 1.0, ~kept[1] * 1.0, rng)
        exceeded += found.epsilon_lower > epsilon
    assert exceeded / runs <= 0.065


def test_randomized_response_and_gaussian_are_found():
    rng = np.random.default_rng(4)
    kept = rng.random((2, 5000)) < special.expit(3.0)
    found = estimate(kept[0] * 1.0, ~kept[1] * 1.0, rng)
    assert 2.6 < found.epsilon_lower < 3.0
    found = estimate(
        rng.normal(1, 1, 5000), rng.normal(0, 1, 5000), rng, delta=1e-5
    )
    # Its true epsilon at this delta is 4.38.
    assert 1.0 < found.epsilon_lower < 4.38


def test_side_of_the_non_members_is_found():
    rng = np.random.default_rng(5)
    scores = rng.random(2000)
    members, others = scores[:1000], scores[1000:].copy()
    others[:300] -= 5.0
    found = estimate(members, others, rng)
    assert found.side == "non_members" and found.epsilon_lower > 3
    found = estimate(-others, -members, rng)
    assert found.side == "members" and found.epsilon_lower > 3


def test_counts_are_those_of_the_half_not_used_to_choose():
    rng = np.random.default_rng(6)
    members, others = rng.normal(2, 1, 101), rng.normal(0, 1, 60)
    found = estimate(members, others, np.random.default_rng(7))
    counts = found.counts
    assert (counts.num_members, counts.num_non_members) == (50, 30)
    again = compute(
        counts.num_true_positives, 50, counts.num_false_positives, 30
    )
    swapped = compute(
        30 - counts.num_false_positives, 30, 50 - counts.num_true_positives, 50
    )
    sides = {"members": again, "non_members": swapped}
    assert found.epsilon_lower == sides[found.side] > 0
    other_halves = estimate(members, others, np.random.default_rng(8))
    assert other_halves.counts != counts


def test_wrong_sign_is_told():
    rng = np.random.default_rng(9)
    members, others = rng.normal(2, 1, 200), rng.normal(0, 1, 200)
    found = estimate(-members, -others, rng)
    assert found.epsilon_lower == 0
    assert any("Pass minus the scores" in text for text in found.warnings)
    assert estimate(members, others, rng).warnings == ()


def test_inputs_are_not_shuffled():
    members, others = np.arange(10.0), np.arange(8.0)
    estimate(members, others, np.random.default_rng(0))
    assert members.tolist() == list(range(10))
    assert others.tolist() == list(range(8))


def test_text_can_be_read():
    rng = np.random.default_rng(10)
    text = str(estimate(rng.normal(3, 1, 200), rng.normal(0, 1, 200), rng))
    assert "(lower bound)" in text and "of 100 members" in text
    assert "trials are independent" in text
