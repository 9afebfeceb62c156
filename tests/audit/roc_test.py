# SPDX-License-Identifier: Apache-2.0
"""The ROC curve against loops over pairs, and its intervals by simulation."""

import json
import math
import pathlib
import time

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import roc

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "audit.json").read_text()
)["roc"]
MEMBERS = np.array(GOLDEN["member_scores"])
OTHERS = np.array(GOLDEN["nonmember_scores"])


def compute_auc_by_pairs(members, others):
    gaps = np.subtract.outer(members, others)
    return np.mean((gaps > 0) + 0.5 * (gaps == 0))


def draw_tied(rng, size, shift):
    return rng.integers(0, 6, size) + shift * rng.integers(0, 2, size)


def test_golden_values():
    curve = roc.compute_roc(MEMBERS, OTHERS)
    assert curve.auc == pytest.approx(GOLDEN["auc_mann_whitney"], abs=1e-12)
    want = GOLDEN["advantage_max_tpr_minus_fpr"]
    assert curve.advantage == pytest.approx(want, abs=1e-12)
    for rate, found in GOLDEN["tpr_at_fpr"].items():
        assert curve.get_true_positive_rate(float(rate)) == found


@pytest.mark.parametrize("seed", range(20))
def test_curve_is_the_rule_at_every_threshold(seed):
    rng = np.random.default_rng(seed)
    members = draw_tied(rng, rng.integers(1, 30), 1).astype(float)
    others = draw_tied(rng, rng.integers(1, 30), 0).astype(float)
    curve = roc.compute_roc(members, others)
    distinct = np.unique(np.concatenate([members, others]))
    assert np.array_equal(curve.thresholds, [np.inf, *distinct[::-1]])
    for i, threshold in enumerate(curve.thresholds):
        assert curve.true_positive_rates[i] == np.mean(members >= threshold)
        assert curve.false_positive_rates[i] == np.mean(others >= threshold)
    assert curve.auc == pytest.approx(
        compute_auc_by_pairs(members, others), abs=1e-12
    )
    for rate in (0.0, 0.1, 0.35, 1.0):
        best = max(
            np.mean(members >= t)
            for t in curve.thresholds
            if np.mean(others >= t) <= rate
        )
        assert curve.get_true_positive_rate(rate) == best
        threshold = curve.get_threshold(rate)
        assert np.mean(members >= threshold) == best
        assert np.mean(others >= threshold) <= rate


def test_curve_ignores_order_and_monotone_changes_of_the_scores():
    rng = np.random.default_rng(1)
    members, others = rng.normal(1, 1, 50), rng.normal(0, 1, 70)
    curve = roc.compute_roc(members, others)
    again = roc.compute_roc(np.exp(members[::-1]), np.exp(others[::-1]))
    assert np.array_equal(curve.true_positive_rates, again.true_positive_rates)
    flipped = roc.compute_roc(-members, -others)
    assert flipped.auc == pytest.approx(1 - curve.auc, abs=1e-12)


def test_inputs_are_not_changed():
    members, others = np.array([3.0, 1.0]), np.array([2.0, 0.0])
    roc.compute_roc(members, others)
    roc.estimate_auc(members, others, confidence=0.9)
    assert members.tolist() == [3.0, 1.0] and others.tolist() == [2.0, 0.0]


@pytest.mark.parametrize(
    "members, others, auc",
    [([1.0], [0.0], 1.0), ([0.0], [1.0], 0.0), ([2.0], [2.0], 0.5)],
)
def test_one_score_each(members, others, auc):
    curve = roc.compute_roc(members, others)
    assert curve.auc == auc
    interval = roc.estimate_auc(members, others, confidence=0.95)
    assert interval.value == auc
    # One pair tells next to nothing.
    assert interval.upper - interval.lower > 0.9
    assert not roc.is_sign_wrong(members, others, confidence=0.95)


def test_perfect_separation_is_not_certain():
    interval = roc.estimate_auc(
        np.arange(20) + 100, np.arange(30), confidence=0.95
    )
    assert interval.value == interval.upper == 1.0
    assert interval.lower == pytest.approx(0.025 ** (1 / 20), rel=1e-9)


def test_delong_variance_is_the_sum_over_placements():
    rng = np.random.default_rng(3)
    members = draw_tied(rng, 40, 2).astype(float)
    others = draw_tied(rng, 25, 0).astype(float)
    gaps = np.subtract.outer(members, others)
    wins = (gaps > 0) + 0.5 * (gaps == 0)
    rows, columns = wins.mean(axis=1), wins.mean(axis=0)
    variance = np.sum((rows - rows.mean()) ** 2) / (40 * 39)
    variance += np.sum((columns - columns.mean()) ** 2) / (25 * 24)
    # The slope of log(AUC / (1 - AUC)) is 1 / (AUC (1 - AUC)).
    auc = wins.mean()
    reach = 1.6448536269514722 * math.sqrt(variance) / (auc * (1 - auc))
    odds = auc / (1 - auc)
    interval = roc.estimate_auc(members, others, confidence=0.9)
    assert interval.value == pytest.approx(auc, abs=1e-12)
    for got, end in ((interval.lower, -reach), (interval.upper, reach)):
        assert got / (1 - got) == pytest.approx(odds * math.exp(end), rel=1e-9)


@pytest.mark.parametrize("mu, size", [(3.0, 50), (3.0, 20)])
def test_auc_interval_covers_near_one(mu, size):
    rng = np.random.default_rng(14)
    truth = stats.norm.cdf(mu / math.sqrt(2))
    runs = 2000
    missed = 0
    for _ in range(runs):
        interval = roc.estimate_auc(
            rng.normal(mu, 1, size), rng.normal(0, 1, size), confidence=0.995
        )
        missed += interval.lower > truth
    # 0.25% is meant; on the AUC's own scale it is 9% and 23%. Five standard
    # deviations above 0.5%.
    assert missed / runs < 0.013


def test_auc_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(4)
    truth = stats.norm.cdf(1 / math.sqrt(2))
    runs = 2000
    covered = 0
    for _ in range(runs):
        interval = roc.estimate_auc(
            rng.normal(1, 1, 100), rng.normal(0, 1, 100), confidence=0.95
        )
        covered += interval.lower <= truth <= interval.upper
    # Asymptotic: 0.94 at this size. Five standard deviations of 0.005.
    assert 0.915 < covered / runs < 0.975


def test_auc_of_scores_that_say_nothing_is_one_half():
    rng = np.random.default_rng(5)
    found = [
        roc.compute_roc(rng.random(100), rng.random(100)).auc
        for _ in range(400)
    ]
    # The standard error is 0.002; the convex hull's mean is 0.55.
    assert 0.49 < np.mean(found) < 0.51


def test_wrong_sign_is_told_from_chance():
    rng = np.random.default_rng(6)
    members, others = rng.normal(1, 1, 200), rng.normal(0, 1, 200)
    assert roc.is_sign_wrong(-members, -others, confidence=0.999)
    assert not roc.is_sign_wrong(members, others, confidence=0.999)
    (warning,) = roc.make_sign_warnings(-members, -others)
    assert warning.startswith("members score lower than non-members")
    assert roc.make_sign_warnings(members, others) == ()
    alarms = sum(
        roc.is_sign_wrong(
            rng.random(100), rng.integers(0, 2, 100), confidence=0.9
        )
        for _ in range(1000)
    )
    # 5% expected; 100 lies seven standard deviations away.
    assert 10 < alarms < 100


def test_true_positive_rate_has_a_clopper_pearson_interval():
    found = roc.estimate_true_positive_rate(
        MEMBERS, OTHERS, false_positive_rate=0.1, confidence=0.95
    )
    wanted = stats.binomtest(5, 10).proportion_ci(0.95, method="exact")
    assert found.value == 0.5
    assert found.lower == pytest.approx(wanted.low, rel=1e-9)
    assert found.upper == pytest.approx(wanted.high, rel=1e-9)
    none = roc.estimate_true_positive_rate(
        [0.0, 1.0], [2.0, 3.0], false_positive_rate=0.0, confidence=0.95
    )
    assert none.value == none.lower == 0.0 and none.upper > 0.5


@pytest.mark.parametrize(
    "members, others, error, message",
    [
        ([], [1.0], ValueError, "member_scores must hold at least 1"),
        ([1.0], [], ValueError, "non_member_scores must hold at least 1"),
        ([1.0, math.nan], [1.0], ValueError, "member_scores must be finite"),
        ([1.0], [-math.inf], ValueError, "non_member_scores must be finite"),
        ([[1.0]], [1.0], ValueError, "member_scores must be a vector"),
        (["a"], [1.0], TypeError, "member_scores must be real"),
    ],
)
def test_bad_scores_are_refused(members, others, error, message):
    with pytest.raises(error, match=f"^{message}"):
        roc.compute_roc(members, others)
    with pytest.raises(error, match=f"^{message}"):
        roc.estimate_auc(members, others, confidence=0.95)


def test_index_of_the_first_bad_score_is_named():
    with pytest.raises(ValueError, match="nan at index 2, 2 such"):
        roc.compute_roc([0.0, 1.0, math.nan, math.nan], [1.0])


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_bad_rates_are_refused(rate):
    with pytest.raises(ValueError, match="^false_positive_rate must be"):
        roc.compute_roc(MEMBERS, OTHERS).get_true_positive_rate(rate)


@pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan])
def test_bad_confidence_is_refused(confidence):
    with pytest.raises(ValueError, match="^confidence must be"):
        roc.estimate_auc(MEMBERS, OTHERS, confidence=confidence)


def test_a_hundred_thousand_scores_take_no_time():
    rng = np.random.default_rng(7)
    members, others = rng.normal(size=50_000), rng.normal(size=50_000)
    start = time.perf_counter()
    roc.compute_roc(members, others)
    roc.estimate_auc(members, others, confidence=0.95)
    # 0.03 s on one core; a loop over pairs or scores takes many seconds.
    assert time.perf_counter() - start < 1.0


def test_text_can_be_read():
    text = str(roc.compute_roc(MEMBERS, OTHERS))
    assert "10 members and 10 non-members: AUC 0.6850, advantage 0.4" in text
    interval = roc.estimate_auc(MEMBERS, OTHERS, confidence=0.95)
    assert str(interval).startswith("0.685 (")
