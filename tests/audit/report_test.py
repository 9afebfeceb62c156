# SPDX-License-Identifier: Apache-2.0
"""Reports: what they say, what they refuse, and what CI makes of them."""

import dataclasses
import json
import math

import numpy as np
import pytest

from tests.audit import reports
from tf_privacy.audit import report as report_lib
from tf_privacy.audit import report_fields
from tf_privacy.audit import tables

Verdict = report_lib.Verdict


@pytest.mark.parametrize(
    "lower, claimed, is_bound, is_rejected, want", reports.VERDICTS
)
def test_verdict(lower, claimed, is_bound, is_rejected, want):
    report = reports.make_bare_report(
        epsilon_lower=lower,
        claimed_epsilon=claimed,
        is_bound=is_bound,
        is_rejected=is_rejected,
    )
    assert report.verdict is want
    text = str(report).lower()
    # Nothing that this audit finds is ever a proof of privacy.
    assert "is private" not in text.replace("not mean that the model is", "")
    assert want.value.startswith("no") or "3" in text or "claim" in text
    assert (want is Verdict.CLAIM_REJECTED) == ("is false" in text)
    assert (want is Verdict.CLAIM_DOUBTED) == ("in doubt" in text)
    not_rejected = want is Verdict.CLAIM_NOT_REJECTED
    assert not_rejected == ("does not mean that the model is" in text)
    if lower is not None and not is_bound:
        assert "estimate" in text and "lower bound" not in text
    if lower is not None and is_bound:
        assert "estimate" not in text and "lower bound" in text


def test_text_of_a_rejected_claim():
    text = str(reports.make_report(epsilon_lower=4.56789))
    assert text.startswith("Digits model\n\nCLAIM REJECTED\n")
    words = " ".join(text.split())
    assert (
        "The claim of epsilon = 3 at delta = 1e-05 is false: the audit shows a "
        "leak of epsilon >= 4.567." in words
    )
    assert "in at most 5% of all cases" in words
    assert "Of 200 guesses, 160 were right." in words
    assert "- Few canaries." in text
    assert "- Fair coins decided membership." in text
    assert "epsilon, lower bound  4.567\n" in text
    assert "AUC                   0.75 (0.6999 to 0.8001)\n" in text
    assert "p-value               0.0012\n" in text


def test_text_of_a_claim_rejected_at_another_delta():
    text = " ".join(str(reports.make_report(is_rejected=True)).split())
    assert "is false: the scores contradict it." in text
    assert "at another delta" in text
    assert "epsilon >= 1.25, which is not above the claim" in text


def test_text_without_a_leak_warns_of_weak_attacks():
    text = " ".join(str(reports.make_report(epsilon_lower=0.0)).split())
    assert "An attack too weak to find any would say the same." in text


def test_bounds_are_rounded_down_in_the_text():
    text = str(reports.make_report(epsilon_lower=1.99999999))
    assert "epsilon, lower bound  1.999\n" in text


def test_rates_stand_beside_what_the_claim_allows():
    report = reports.make_report(
        claim_curve=None, claimed_epsilon=1.0, delta=0.01
    )
    allowed = 0.01 + math.e * 0.01
    assert report.compute_allowed_rates(0.01)[0] == pytest.approx(allowed)
    row = next(r for r in str(report).splitlines() if "0.0625" in r)
    assert row.split() == ["0.01", "0.0625", "0.04", "0.09", "0.03719"]


def test_a_claimed_curve_allows_less_than_its_epsilon_alone():
    curve, point = reports.make_report(), reports.make_report(claim_curve=None)
    assert curve.compute_allowed_rates(0.1) < point.compute_allowed_rates(0.1)
    with pytest.raises(ValueError, match="^claimed_epsilon must be given"):
        reports.make_bare_report().compute_allowed_rates(0.1)


def test_terms_are_explained_only_where_used():
    text = str(reports.make_report())
    for term in ("epsilon, delta:", "AUC:", "members found:", "exposure:"):
        assert f"\n- {term}" in text
    bare = str(reports.make_bare_report())
    assert "\n- epsilon, delta:" in bare
    assert "\n- AUC:" not in bare and "\n- exposure:" not in bare


@pytest.mark.parametrize(
    "kind, words",
    [("pipeline", "no real data"), ("exposure", "secrets"), ("x", "members")],
)
def test_each_kind_says_what_was_tested(kind, words):
    text = str(reports.make_bare_report(kind=kind, num_members=7))
    assert words in text.split("What was tested")[1]


def test_no_line_of_text_is_too_long_or_steers_the_terminal():
    report = reports.make_report(
        title="\x1b[31m" + "long title " * 20,
        warnings=("word " * 60 + "\x1b[0m",),
        figures=(("a\nb", "c\rd " * 30),),
    )
    text = str(report)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text and "\r" not in text


def test_the_most_exposed_secrets_come_first_and_the_rest_is_counted():
    count = 45
    exposures = {
        "secret": [f"s{i:02d}" for i in range(count)],
        "exposure": np.linspace(0.0, 20.0, count),
        "upper": [*[20.5] * (count - 1), math.inf],
    }
    text = str(reports.make_report(exposures=exposures))
    assert text.index("s44") < text.index("s43") < text.index("s25")
    assert "s24" not in text and "25 more are not shown." in text
    assert " inf" in text


class WithColumns:
    def columns(self):
        return {"secret": ["from columns"], "exposure": [3.0]}


class WithFrame:
    def to_frame(self):
        columns = {"secret": ["from frame"], "exposure": [3.0], "rank": [None]}
        return tables.make_frame(columns)


@pytest.mark.parametrize(
    "exposures, name", [(WithColumns(), "columns"), (WithFrame(), "frame")]
)
def test_exposures_of_any_form(exposures, name):
    report = reports.make_report(exposures=exposures)
    assert report.exposures is exposures
    assert f"from {name}" in str(report)
    assert f"from {name}" in report.to_json()


def refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


def test_json_is_strict_and_comes_back_equal():
    report = reports.make_report(
        exposures={
            "secret": ["é"],
            "exposure": [0.1 + 0.2],
            "upper": [math.inf],
        }
    )
    text = report.to_json()
    fields = json.loads(text, parse_constant=refuse_constant)
    assert fields["verdict"] == "claim_not_rejected"
    assert fields["epsilon_lower"] == 1.25 and fields["is_rejected"] is None
    assert fields["exposures"]["upper"] == ["inf"]
    back = report_lib.AuditReport.from_json(text)
    assert back.to_json() == text
    assert str(back) == str(report)
    assert dataclasses.replace(back, exposures=None) == dataclasses.replace(
        report, exposures=None
    )


def test_json_refuses_nan_among_the_exposures():
    report = reports.make_report(
        exposures={"secret": ["a"], "exposure": [math.nan]}
    )
    with pytest.raises(ValueError, match=r".*exposures.* must not be NaN"):
        report.to_json()


def test_json_changed_by_hand_is_refused():
    text = reports.make_report(epsilon_lower=4.0).to_json()
    calm = text.replace('"claim_rejected"', '"claim_not_rejected"')
    with pytest.raises(ValueError, match="^verdict must follow"):
        report_lib.AuditReport.from_json(calm)
    for wrong in ("{}", "[1]", text.replace('"title"', '"tittle"')):
        with pytest.raises(ValueError, match="^text must be a report"):
            report_lib.AuditReport.from_json(wrong)
    with pytest.raises(ValueError, match="^confidence must be"):
        report_lib.AuditReport.from_json(text.replace("0.95", "1.5"))


def test_frame_has_one_row_for_each_figure():
    frame = reports.make_report().to_frame().set_index("figure")
    assert list(frame.columns) == ["value", "lower", "upper"]
    assert frame.index.is_unique
    assert frame.loc["epsilon_lower", "value"] == 1.25
    assert frame.loc["auc"].tolist() == [0.75, 0.7, 0.8]
    assert frame.loc["tpr_at_fpr=0.01"].tolist() == [0.0625, 0.04, 0.09]
    assert frame.loc["p-value", "value"] == "0.0012"
    assert frame.loc["verdict", "value"] == "claim_not_rejected"


def test_long_roc_keeps_its_shape_and_its_smallest_rates():
    count = 200_000
    rates = np.arange(count + 1) / count
    for power in (0.05, 0.5, 1.0):
        report = reports.make_report(roc=(rates, rates**power))
        x, y = map(np.array, report.roc)
        assert x.size <= 1000
        assert (x[0], x[1], x[-1]) == (0.0, 1 / count, 1.0)
        np.testing.assert_array_equal(y, x**power)
        assert np.diff(x).max() < 0.01
        assert np.diff(np.log(x[1:])).max() < math.log(2.0) + 1e-9


def test_thinned_roc_keeps_the_members_found_without_a_mistake():
    # The first half of the members is found before any non-member.
    x = np.concatenate([np.zeros(5001), np.linspace(0, 1, 5000)])
    y = np.concatenate([np.linspace(0, 0.5, 5001), np.linspace(0.5, 1, 5000)])
    report = reports.make_report(roc=(x, y))
    x, y = map(np.array, report.roc)
    assert y[0] == 0.0 and y[x == 0.0].max() == 0.5
    chosen = report_fields.choose_points(np.array([0.0, 1.0]))
    assert chosen.tolist() == [0, 1]


@pytest.mark.parametrize("lower, is_bound", [(3.5, True), (3.5, False)])
def test_assert_ok_raises_for_a_broken_claim(lower, is_bound):
    report = reports.make_report(epsilon_lower=lower, is_bound=is_bound)
    with pytest.raises(AssertionError) as caught:
        report.assert_ok()
    message = str(caught.value)
    assert message.startswith("The claim of epsilon = 3 at delta = 1e-05")
    assert str(report) in message
    assert is_bound != ("estimate, not a proof" in message)


def test_assert_ok_raises_for_the_whole_curve():
    with pytest.raises(AssertionError, match="the scores contradict it"):
        reports.make_report(is_rejected=True).assert_ok()


def test_assert_ok_holds_limits():
    report = reports.make_report()
    report.assert_ok()
    report.assert_ok(max_epsilon_lower=1.25, max_auc=0.75)
    with pytest.raises(AssertionError, match="^epsilon_lower must be at most"):
        report.assert_ok(max_epsilon_lower=1.2499)
    with pytest.raises(AssertionError, match="^auc must be at most max_auc"):
        report.assert_ok(max_auc=0.7499)
    reports.make_bare_report().assert_ok(max_epsilon_lower=0.0)


def test_assert_ok_that_cannot_fail_is_refused():
    with pytest.raises(ValueError, match="^assert_ok must have something"):
        reports.make_bare_report(epsilon_lower=50.0).assert_ok()
    with pytest.raises(ValueError, match="^max_auc must be of a figure"):
        reports.make_bare_report().assert_ok(max_auc=0.6)
    for limit in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match="^max_auc must be a finite"):
            reports.make_report().assert_ok(max_auc=limit)


@pytest.mark.parametrize(
    "error, message, changes",
    [
        (ValueError, "epsilon_lower must be", {"epsilon_lower": math.nan}),
        (ValueError, "epsilon_lower must be", {"epsilon_lower": math.inf}),
        (ValueError, "epsilon_lower must be", {"epsilon_lower": -0.1}),
        (TypeError, "epsilon_lower must be", {"epsilon_lower": "1"}),
        (ValueError, "claimed_epsilon must be", {"claimed_epsilon": math.nan}),
        (ValueError, "claimed_epsilon must be", {"claimed_epsilon": None}),
        (ValueError, "delta must be", {"delta": 1.0}),
        (ValueError, "delta must be", {"delta": math.nan}),
        (ValueError, "delta must be given", {"delta": None}),
        (ValueError, "confidence must be", {"confidence": 95.0}),
        (TypeError, "is_bound must be", {"is_bound": 1}),
        (TypeError, "is_rejected must be", {"is_rejected": "no"}),
        (TypeError, "title must be", {"title": " "}),
        (TypeError, "kind must be", {"kind": None}),
        (ValueError, "num_members must be", {"num_members": -1}),
        (ValueError, "num_non_members must be", {"num_non_members": 1.5}),
        (ValueError, "num_correct must be", {"num_correct": 201}),
        (ValueError, "num_correct must be given", {"num_guesses": None}),
        (ValueError, "auc must be", {"auc": math.nan}),
        (ValueError, "auc must be given", {"auc": None}),
        (ValueError, "auc_interval must hold", {"auc_interval": (0.8, 0.9)}),
        (ValueError, "auc_interval must be", {"auc_interval": (0.7, math.nan)}),
        (ValueError, "tpr_at_fpr must have", {"tpr_at_fpr": ((0.1, 0.2),)}),
        (
            ValueError,
            "tpr_at_fpr must hold",
            {"tpr_at_fpr": ((0.1, 0.2, 0.3, 0.4),)},
        ),
        (TypeError, "assumptions must be a tuple", {"assumptions": "one"}),
        (TypeError, "warnings must be text", {"warnings": (1,)}),
        (TypeError, "figures must be text", {"figures": (("a", 1.0),)}),
        (ValueError, "slices must have", {"slices": (("a", 0.5),)}),
        (ValueError, "roc must be two vectors", {"roc": ([0.0, 1.0], [0.0])}),
        (ValueError, "roc must be rates", {"roc": ([0.0, 0.9], [0.0, 1.0])}),
        (
            ValueError,
            "roc must be rates",
            {"roc": ([0.0, math.nan, 1.0], [0.0, 0.5, 1.0])},
        ),
        (
            ValueError,
            "roc must be rates",
            {"roc": ([0.0, 0.6, 0.5, 1.0], [0.0, 0.5, 0.6, 1.0])},
        ),
        (ValueError, "claim_curve must be", {"claim_curve": ([1, 0], [0, 0])}),
        (TypeError, "table must be", {"exposures": 5}),
        (
            ValueError,
            "columns must be of one length",
            {"exposures": {"a": [1], "b": []}},
        ),
        (
            ValueError,
            "epsilon_lower must be",
            {"epsilon_lower": 3.1, "is_rejected": False},
        ),
        (
            ValueError,
            "claimed_epsilon must be given",
            {
                "claimed_epsilon": None,
                "claim_curve": None,
                "is_rejected": False,
            },
        ),
    ],
)
def test_wrong_fields_are_refused(error, message, changes):
    with pytest.raises(error, match=f"^{message}"):
        reports.make_report(**changes)


def test_a_report_does_not_change():
    report = reports.make_report(roc=reports.ROC)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.epsilon_lower = 0.0
    assert isinstance(report.roc[0], tuple)
    with pytest.raises(TypeError):
        report_lib.AuditReport("one_run", "title")
