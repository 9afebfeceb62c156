# SPDX-License-Identifier: Apache-2.0
"""Tests of the step from scores to a verdict on the claim."""

import numpy as np
import pytest
from scipy import stats

from tf_privacy import accounting
from tf_privacy.audit import claim as claim_lib
from tf_privacy.audit import one_run
from tf_privacy.audit import report as report_lib
from tf_privacy.audit import verdict

METHODS = ["one_run", "held_out", "fdp_one_run", "membership"]
Verdict = report_lib.Verdict


def draw_scores(mu, *, num_canaries=4000, seed=3):
    """Scores of a Gaussian mechanism with noise 1 / mu, and fair coins."""
    rng = np.random.default_rng(seed)
    is_member = rng.random(num_canaries) < 0.5
    scores = rng.normal(size=num_canaries) + mu * is_member
    return scores[is_member], scores[~is_member]


def run(mu, **settings):
    settings = {"delta": 1e-5, "membership": "fair_coins"} | settings
    rng = np.random.default_rng(5)
    return verdict.audit(*draw_scores(mu), rng=rng, **settings)


@pytest.mark.parametrize("method", METHODS)
def test_leak_contradicts_a_small_claim(method):
    # mu = 4 is epsilon 25 at delta 1e-5.
    report = run(4.0, claimed_epsilon=0.5, method=method)
    is_bound = method in ("one_run", "held_out")
    expected = Verdict.CLAIM_REJECTED if is_bound else Verdict.CLAIM_DOUBTED
    assert report.verdict is expected
    assert report.is_bound is is_bound
    with pytest.raises(AssertionError, match="0.5"):
        report.assert_ok()


@pytest.mark.parametrize("method", METHODS)
def test_true_claim_is_not_rejected(method):
    epsilon = accounting.compute_gdp_epsilon(2.0, delta=1e-5)
    report = run(2.0, claimed_epsilon=epsilon, method=method)
    assert report.verdict is Verdict.CLAIM_NOT_REJECTED
    report.assert_ok()


@pytest.mark.parametrize("method", METHODS)
def test_without_fair_coins_there_is_no_bound(method):
    report = run(4.0, claimed_epsilon=0.5, method=method, membership="given")
    assert not report.is_bound
    assert report.verdict is Verdict.CLAIM_DOUBTED
    assert verdict.NOT_BY_COIN in report.warnings


def test_given_is_what_is_assumed():
    members, others = draw_scores(1.0)
    assert not verdict.audit(members, others, delta=1e-5).is_bound


def test_figures_are_those_of_the_method():
    members, others = draw_scores(3.0)
    report = run(3.0, confidence=0.9)
    expected = one_run.estimate_one_run_epsilon(
        members, others, delta=1e-5, confidence=0.9
    )
    assert report.epsilon_lower == expected.epsilon_lower > 1.0
    assert report.num_correct == expected.num_correct
    assert report.num_guesses == (
        expected.num_guesses_in + expected.num_guesses_out
    )
    assert (report.num_members, report.num_non_members) == (
        len(members),
        len(others),
    )
    u = stats.mannwhitneyu(members, others).statistic
    assert report.auc == pytest.approx(u / (len(members) * len(others)))
    assert report.verdict is Verdict.NO_CLAIM
    assert "NO_CLAIM" not in str(report)


def test_epsilon_of_the_claimed_curve_is_taken_at_delta():
    claim = claim_lib.make_claim([accounting.Gaussian(0.25)])
    exact = accounting.compute_gdp_epsilon(4.0, delta=1e-5)
    report = run(4.0, claim=claim)
    # A curve of finitely many pairs claims no more than this.
    assert exact <= report.claimed_epsilon < 1.2 * exact
    assert report.claim_curve is not None
    assert report.verdict is Verdict.CLAIM_NOT_REJECTED


def test_rates_too_low_for_so_few_non_members_are_left_out():
    members, others = draw_scores(1.0, num_canaries=400)
    report = verdict.audit(members, others, delta=1e-5)
    assert [row[0] for row in report.tpr_at_fpr] == [1e-1]


@pytest.mark.parametrize("method", ["one_run", "membership"])
def test_wrong_sign_is_told(method):
    members, others = draw_scores(1.0)
    report = verdict.audit(-members, -others, delta=1e-5, method=method)
    assert any("lower than non-members" in w for w in report.warnings)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "guess"}, "method must be one of"),
        ({"membership": "coins"}, "membership must be one of"),
        ({"confidence": 1.0}, "confidence must be"),
        ({"delta": 1.0}, "delta must be"),
        ({"claimed_epsilon": float("nan")}, "claimed_epsilon must be"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        run(1.0, **change)


def test_two_claims_are_refused():
    claim = claim_lib.Claim.from_pair(0.5, 1e-5)
    with pytest.raises(ValueError, match="claimed_epsilon must be None"):
        run(1.0, claimed_epsilon=8.0, claim=claim)


def test_attack_alone_says_what_was_compared():
    report = run(1.0, claimed_epsilon=8.0, method="membership")
    assert any("rates 0.01, 0.1" in text for text in report.warnings)


@pytest.mark.parametrize("name", ["member_scores", "non_member_scores"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused_by_index(name, bad):
    scores = {"member_scores": np.ones(5), "non_member_scores": np.ones(5)}
    scores[name][3] = bad
    with pytest.raises(ValueError, match=f"{name} must be finite.*index 3"):
        verdict.audit(*scores.values(), delta=1e-5)
