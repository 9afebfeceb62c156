# SPDX-License-Identifier: Apache-2.0
"""Tests of the estimate of membership inference, and of what it warns of."""

import dataclasses
import json
import pathlib
import time

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import membership
from tf_privacy.audit import slices

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "audit.json").read_text()
)["roc"]


def estimate(members, others, **kwargs):
    arguments = {"attack": "loss", "confidence": 0.95, **kwargs}
    return membership.estimate_membership(members, others, **arguments)


def draw(gap, size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(gap, size=size), rng.normal(size=size)


def test_golden_figures():
    result = estimate(
        GOLDEN["member_scores"],
        GOLDEN["nonmember_scores"],
        false_positive_rates=[float(each) for each in GOLDEN["tpr_at_fpr"]],
    )
    assert result.auc.value == pytest.approx(GOLDEN["auc_mann_whitney"])
    assert result.advantage == pytest.approx(
        GOLDEN["advantage_max_tpr_minus_fpr"]
    )
    got = [each.interval.value for each in result.true_positive_rates]
    assert got == pytest.approx(list(GOLDEN["tpr_at_fpr"].values()))
    assert (result.num_members, result.num_non_members) == (10, 10)


@pytest.mark.parametrize("gap", [0.0, 0.5, 2.0])
def test_normal_scores_in_closed_form(gap):
    result = estimate(*draw(gap, 100_000))
    # AUC = Phi(gap / sqrt(2)); TPR = Phi(gap + Phi^-1(FPR)).
    auc = stats.norm.cdf(gap / np.sqrt(2.0))
    assert result.auc.value == pytest.approx(auc, abs=5 * 0.0013)
    assert result.auc.lower < result.auc.value < result.auc.upper
    for each in result.true_positive_rates:
        rate = each.false_positive_rate
        want = stats.norm.cdf(gap + stats.norm.ppf(rate))
        # The threshold's own deviation: that of `rate` times the slope.
        slope = np.exp(-gap * stats.norm.ppf(rate) - gap**2 / 2)
        deviation = np.sqrt((want + slope**2 * rate) / 100_000)
        assert each.interval.value == pytest.approx(want, abs=5 * deviation)


def test_it_is_never_a_bound_and_says_so():
    result = estimate(*draw(1.0, 100))
    assert result.is_bound is False
    assert any("estimate, not a bound" in each for each in result.warnings)
    with pytest.raises(ValueError, match="is_bound"):
        dataclasses.replace(result, is_bound=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.is_bound = True
    text = str(result)
    assert text.startswith("Membership inference by loss: an estimate")
    assert "Warning: This is an estimate, not a bound" in text


def find(result, words):
    return [each for each in result.warnings if words in each]


def test_wrong_sign_is_warned_of_and_only_then():
    members, others = draw(1.0, 200)
    assert find(estimate(-members, -others), "score lower than non-members")
    assert not find(estimate(members, others), "score lower")
    assert not find(estimate(*draw(0.0, 200)), "score lower")


def test_too_few_non_members_for_a_rate_are_warned_of():
    result = estimate(*draw(1.0, 100), false_positive_rates=(0.0, 0.009, 0.01))
    assert len(find(result, "Use more non-members")) == 1
    assert find(result, "A false positive rate of 0.009 is below 1 / 100")


def test_slices_belong_to_the_result():
    members, others = draw(1.0, 200)
    groups = {"class": np.arange(200) % 2}
    found = slices.estimate_slices(
        members,
        others,
        member_groups=groups,
        non_member_groups=groups,
        confidence=0.95,
        false_positive_rate=0.1,
    )
    result = estimate(members, others, slices=found)
    assert result.slices is found
    assert "Worst slice: class = " in str(result)
    assert len(json.loads(result.to_json())["slices"]["slices"]) == 2
    with pytest.raises(ValueError, match="^slices must be of the scores given"):
        estimate(members[1:], others, slices=found)
    with pytest.raises(TypeError, match="^slices must be what estimate_slices"):
        estimate(members, others, slices=found.slices)


def test_json_keeps_every_figure():
    result = estimate(*draw(1.0, 200), attack="LiRA")
    found = json.loads(result.to_json())
    assert found["attack"] == "LiRA"
    assert found["is_bound"] is False
    assert found["auc"] == dataclasses.asdict(result.auc)
    assert found["advantage"] == result.advantage
    assert found["warnings"] == list(result.warnings)
    assert [
        each["false_positive_rate"] for each in found["true_positive_rates"]
    ]


def test_columns_have_one_row_for_each_figure():
    result = estimate(*draw(1.0, 2000), false_positive_rates=(0.01,))
    columns = result.columns
    assert columns["figure"] == [
        "auc",
        "tpr at fpr 0.01",
        "advantage",
        "members",
        "non-members",
    ]
    assert columns["value"][0] == result.auc.value
    assert columns["lower"][1] == result.true_positive_rates[0].interval.lower
    assert columns["upper"][2] is None
    assert str(result.true_positive_rates[0]).startswith("TPR at FPR 0.01: 0.")


def test_frame():
    pytest.importorskip("pandas")
    frame = estimate(*draw(1.0, 50)).to_frame()
    assert list(frame.columns) == ["figure", "value", "lower", "upper"]


@pytest.mark.parametrize(
    "change, error, message",
    [
        (
            {"members": [1.0, np.nan]},
            ValueError,
            "member_scores must be finite",
        ),
        ({"others": [np.inf]}, ValueError, "non_member_scores must be finite"),
        ({"members": []}, ValueError, "member_scores must hold at least 1"),
        ({"attack": " "}, TypeError, "attack must be the attack's name"),
        ({"attack": 3}, TypeError, "attack must be the attack's name"),
        ({"confidence": 95}, ValueError, "confidence must be"),
        ({"false_positive_rates": (-0.1,)}, ValueError, "false_positive_rates"),
        (
            {"false_positive_rates": (np.nan,)},
            ValueError,
            "false_positive_rate",
        ),
    ],
)
def test_bad_arguments_are_refused(change, error, message):
    arguments = {"members": [1.0], "others": [0.0], **change}
    with pytest.raises(error, match=f"^{message}"):
        estimate(**arguments)


def test_one_of_each_and_ties():
    result = estimate([1.0], [1.0], false_positive_rates=(0.5, 1.0))
    assert result.auc.value == 0.5
    assert [each.interval.value for each in result.true_positive_rates] == [
        0,
        1,
    ]


def test_two_hundred_thousand_scores_take_less_than_a_second():
    members, others = draw(1.0, 100_000)
    start = time.process_time()
    estimate(members, others)
    assert time.process_time() - start < 1.0
