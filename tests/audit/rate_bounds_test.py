# SPDX-License-Identifier: Apache-2.0
"""Tests of bounds on rates that hold at once."""

import math

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import claim as claim_lib
from tf_privacy.audit import rate_bounds

NAN = float("nan")
CLAIM = claim_lib.Claim(
    epsilons=(0.0, 0.5, 2.0), deltas=(0.3, 0.1, 1e-4), description="a run"
)


def estimate(members, others, thresholds, confidence=0.95):
    return rate_bounds.estimate_rate_bounds(
        members, others, thresholds=thresholds, confidence=confidence
    )


def choose(members, others, seed=0, claim=CLAIM):
    return rate_bounds.choose_threshold(
        members,
        others,
        claim=claim,
        confidence=0.95,
        rng=np.random.default_rng(seed),
    )


def test_bounds_are_clopper_pearson_at_each_bounds_share_of_the_risk():
    rng = np.random.default_rng(0)
    members, others = rng.normal(1, 1, 300), rng.normal(0, 1, 200)
    thresholds = [2.5, -10.0, 0.5, 10.0, 0.5]
    rates = estimate(members, others, thresholds)
    assert rates.thresholds.tolist() == [-10.0, 0.5, 2.5, 10.0]
    for k, threshold in enumerate(rates.thresholds):
        # Eight bounds share 5%: each is an end of an interval of twice that.
        for scores, got, end in (
            (members, rates.tpr_lower[k], "low"),
            (others, rates.fpr_upper[k], "high"),
        ):
            count = int(np.sum(scores >= threshold))
            interval = stats.binomtest(count, scores.size).proportion_ci(
                1 - 2 * 0.05 / 8, method="exact"
            )
            assert got == pytest.approx(getattr(interval, end), rel=1e-9)


def test_a_score_at_the_threshold_is_guessed():
    rates = estimate([1.0] * 50, [1.0] * 50, [1.0])
    assert rates.tpr_lower[0] > 0.9
    assert rates.fpr_upper[0] == 1.0


def test_all_bounds_hold_at_once():
    # 2000 runs with a risk of 5% each: more than 149 misses have a
    # probability below 1e-6.
    rng = np.random.default_rng(1)
    thresholds = np.linspace(-1, 2, 6)
    true = stats.norm.sf(thresholds, 1), stats.norm.sf(thresholds)
    misses = 0
    for _ in range(2000):
        rates = estimate(
            rng.normal(1, 1, 100), rng.normal(0, 1, 100), thresholds
        )
        good = (rates.tpr_lower <= true[0]) & (rates.fpr_upper >= true[1])
        misses += not np.all(good)
    assert misses <= stats.binom.isf(1e-6, 2000, 0.05)
    assert misses > 0


def test_excesses_are_the_logs_of_the_rates():
    rates = estimate(np.arange(60) % 7, np.arange(40) % 5, [1.0, 3.0, 5.0])
    got = rate_bounds.compute_excesses(rates, claim=CLAIM)
    assert got.shape == (2, 3, 3)
    for e, (epsilon, delta) in enumerate(
        zip(CLAIM.epsilons, CLAIM.deltas, strict=True)
    ):
        for k in range(3):
            t, f = rates.tpr_lower[k], rates.fpr_upper[k]
            for side, (gain, loss) in enumerate([(t, f), (1 - f, 1 - t)]):
                if gain <= delta:
                    assert got[side, e, k] == -math.inf
                    continue
                wanted = math.log((gain - delta) / loss) - epsilon
                assert wanted - 2e-9 <= got[side, e, k] <= wanted


def test_chosen_threshold_separates_and_the_parts_are_disjoint():
    members, others = np.arange(100.0, 140.0), np.arange(0.0, 60.0)
    left = choose(members, others)
    assert 40.0 < left.threshold <= 139.0
    assert left.member_scores.size == 34
    assert left.non_member_scores.size == 51
    assert set(left.member_scores) < set(members)
    assert set(left.non_member_scores) < set(others)
    assert "34 members" in str(left)


def test_threshold_does_not_depend_on_the_trials_left():
    rng = np.random.default_rng(2)
    members, others = rng.normal(1, 1, 100), rng.normal(0, 1, 100)
    left = choose(members, others)
    changed = [
        np.where(np.isin(scores, rest), -1e3, scores)
        for scores, rest in (
            (members, left.member_scores),
            (others, left.non_member_scores),
        )
    ]
    assert choose(*changed).threshold == left.threshold
    # While the first part decides: with another part, another threshold.
    assert choose(*changed, seed=1).threshold != left.threshold


def test_choice_leaves_the_callers_scores_alone():
    members, others = np.arange(10.0), np.arange(12.0)
    choose(members, others)
    assert members.tolist() == list(range(10))
    assert others.tolist() == list(range(12))


def test_two_trials_and_ties_are_enough_to_choose():
    assert choose([1.0, 1.0], [1.0, 1.0]).threshold == 1.0


def test_many_scores_are_thinned_not_refused():
    rng = np.random.default_rng(3)
    left = choose(rng.normal(1, 1, 20_000), rng.normal(0, 1, 20_000))
    assert -3 < left.threshold < 4


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        ({"members": [NAN]}, ValueError, "member_scores must be finite"),
        ({"others": [np.inf]}, ValueError, "non_member_scores must be finite"),
        ({"members": []}, ValueError, "member_scores must hold at least 1"),
        ({"others": [[1.0]]}, ValueError, "non_member_scores must be a vec"),
        ({"others": ["a"]}, TypeError, "non_member_scores must be real"),
        ({"thresholds": []}, ValueError, "thresholds must hold at least 1"),
        ({"thresholds": [NAN]}, ValueError, "thresholds must be finite"),
        ({"confidence": 1.0}, ValueError, "confidence must be"),
        ({"confidence": NAN}, ValueError, "confidence must be"),
    ],
)
def test_errors(wrong, error, message):
    given = {"members": [1.0], "others": [0.0], "thresholds": [0.5], **wrong}
    with pytest.raises(error, match=message):
        estimate(**given)


def test_errors_of_the_choice():
    with pytest.raises(ValueError, match="member_scores must hold at least 2"):
        choose([1.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="non_member_scores must be finite"):
        choose([1.0, 2.0], [0.0, NAN])
    with pytest.raises(TypeError, match="rng must be a numpy.random.Generator"):
        rate_bounds.choose_threshold(
            [1.0, 2.0], [0.0, 1.0], claim=CLAIM, confidence=0.95, rng=0
        )


def test_text_lists_every_threshold():
    text = str(estimate([1.0] * 20, [0.0] * 20, [0.5, 2.0]))
    assert "confidence 0.95" in text
    assert text.count("TPR >=") == 2
