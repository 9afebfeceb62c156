# SPDX-License-Identifier: Apache-2.0
"""Faults measured in other auditing libraries, each as a test of this one.

Each comment names the library and what was measured. `ELSEWHERE` lists the
faults that the test of the module concerned looks for.
"""

import functools
import json
import pathlib
import time

import numpy as np
import pytest
from scipy import stats

from tf_privacy import audit

HERE = pathlib.Path(__file__).parent
NOTHING = audit.Claim.from_pair(0.0, 1e-6)
# Fixed before any score is seen; the scores below lie in [0, 1].
THRESHOLDS = np.linspace(0.1, 0.9, 9)
METHODS = ("one_run", "held_out", "fdp_one_run", "membership")


def make_rng(seed=0):
    return np.random.default_rng(seed)


def run_one_run(members, others, *, delta=1e-6, confidence=0.95, **sizes):
    return audit.estimate_one_run_epsilon(
        members, others, delta=delta, confidence=confidence, **sizes
    )


def run_fdp(members, others):
    return audit.estimate_fdp_one_run_epsilon(
        members, others, delta=1e-6, confidence=0.95
    )


def run_held_out(members, others):
    return audit.estimate_held_out_epsilon(
        members, others, delta=1e-6, confidence=0.95, rng=make_rng(7)
    )


def run_held_out_gdp(members, others):
    return audit.estimate_held_out_gdp_epsilon(
        members, others, delta=1e-6, confidence=0.95, rng=make_rng(7)
    )


def run_profile(members, others):
    return audit.estimate_profile_epsilon(
        members, others, delta=1e-6, confidence=0.95, thresholds=THRESHOLDS
    )


def run_claim(members, others):
    return audit.estimate_claim_violation(
        members, others, claim=NOTHING, confidence=0.95, rng=make_rng(7)
    )


def run_audit(members, others, method, **settings):
    settings = {"delta": 1e-6, "membership": "fair_coins"} | settings
    return audit.audit(
        members, others, method=method, rng=make_rng(7), **settings
    )


RULES = {
    "one_run": run_one_run,
    "fdp_one_run": run_fdp,
    "held_out": run_held_out,
    "held_out_gdp": run_held_out_gdp,
    "profile": run_profile,
    "claim": run_claim,
}


def split_by_coins(rng, scores):
    is_member = rng.random(len(scores)) < 0.5
    return scores[is_member], scores[~is_member]


def count_alarms(run, num_canaries, num_runs):
    """Returns how often scores that say nothing give an epsilon above 0."""
    rng = make_rng(num_canaries)
    return sum(
        run(*split_by_coins(rng, rng.random(num_canaries))).epsilon_lower > 0
        for _ in range(num_runs)
    )


# TensorFlow Privacy 97% at 1000 a class (Bailey), ml_privacy_meter 48% at 1000
# and 54% at 5000, JAX-Privacy 7.5% at 1000 and 9.0% at 10,000; stated: 5%.
@pytest.mark.parametrize(
    "rule, num_canaries, num_runs",
    [
        # The other four have 2000 runs at this size in their own tests.
        ("profile", 1000, 2000),
        ("claim", 1000, 2000),
        # Slow, so 1000 runs: a rate of 9% stays below 6.5% once in 300 times.
        *((rule, 10_000, 1000) for rule in RULES),
    ],
)
def test_bounds_keep_their_confidence(rule, num_canaries, num_runs):
    alarms = count_alarms(RULES[rule], num_canaries, num_runs)
    assert alarms <= 0.065 * num_runs


# What the test above would see of a rule that picks the best of its tests and
# does not pay for them, as ml_privacy_meter's does.
def test_unpaid_choice_of_the_number_of_guesses_would_raise_alarms():
    paid = run_one_run(*split_by_coins(make_rng(), np.arange(1000.0)))
    unpaid = 1 - 0.05 * paid.num_tests
    run = functools.partial(run_one_run, confidence=unpaid)
    assert count_alarms(run, 1000, 500) > 0.065 * 500


# JAX-Privacy divides by the corners of the ROC hull, 8 to 12 of 1001, which
# the memberships choose.
def test_number_of_tests_does_not_depend_on_who_is_a_member():
    members, others = split_by_coins(make_rng(), np.arange(1000.0))
    cases = [
        (members, others),
        (members + 1000, others),
        (members, others + 1000),
        (np.zeros(len(members)), np.zeros(len(others))),
    ]
    for run in (run_one_run, run_fdp):
        assert len({run(*scores).num_tests for scores in cases}) == 1


def draw_failures():
    """Returns scores of which only those of some non-members say something.

    One example in six that the model has not seen is misclassified, and no
    member is.
    """
    rng = make_rng(1)
    members, others = split_by_coins(rng, rng.uniform(0.5, 1.0, 5000))
    others[: len(others) // 6] -= 0.5
    return members, others


# JAX-Privacy, one-sided by default: 0.26 where both sides give 3.09.
@pytest.mark.parametrize("rule", RULES)
def test_signal_only_in_non_members_is_found(rule):
    assert RULES[rule](*draw_failures()).epsilon_lower > 2.0


# What the test above would see of guesses on one side.
@pytest.mark.parametrize("num_guesses", [16, 250, 2500])
def test_side_of_the_members_alone_would_miss_it(num_guesses):
    found = run_one_run(*draw_failures(), num_guesses_in=num_guesses)
    assert found.epsilon_lower < 0.3


# JAX-Privacy: AUROC .605, .552 and .519 with 20, 100 and 1000 a class, TPR at
# 1% FPR .029 and .015 with 100 and 1000; all on scores that say nothing.
@pytest.mark.parametrize("size", [20, 100, 1000])
def test_roc_is_no_hull(size):
    rng = make_rng(2)
    curves = [audit.compute_roc(*rng.random((2, size))) for _ in range(400)]
    aucs = [curve.auc for curve in curves]
    error = (2 * size + 1) ** 0.5 / (12**0.5 * size)
    assert np.mean(aucs) == pytest.approx(0.5, abs=5 * error / 20)
    # Above the k-th highest of n non-members there are k / (n + 1) on average.
    rates = [curve.get_true_positive_rate(0.01) for curve in curves]
    k = size // 100 + 1
    error = np.std(rates) / 20
    assert np.mean(rates) == pytest.approx(k / (size + 1), abs=5 * error)


# JAX-Privacy: AUROC .500 on flipped scores, whose true AUC was 0.0 or .24.
@pytest.mark.parametrize("method", METHODS)
def test_wrong_sign_is_told_and_not_hidden(method):
    rng = make_rng(3)
    members, others = rng.normal(1, 1, 1000), rng.normal(0, 1, 1000)
    right = run_audit(members, others, method)
    wrong = run_audit(-members, -others, method)
    assert wrong.auc == pytest.approx(1 - right.auc) and wrong.auc < 0.3
    assert not wrong.epsilon_lower
    assert "score lower than non-members" in "".join(wrong.warnings)
    assert "score lower than non-members" not in "".join(right.warnings)


SCORE_FUNCTIONS = {
    **RULES,
    **{
        f"audit {method}": functools.partial(run_audit, method=method)
        for method in METHODS
    },
    "roc": audit.compute_roc,
    "auc": functools.partial(audit.estimate_auc, confidence=0.95),
    "tpr": functools.partial(
        audit.estimate_true_positive_rate,
        false_positive_rate=0.1,
        confidence=0.95,
    ),
    "membership": functools.partial(
        audit.estimate_membership, attack="loss", confidence=0.95
    ),
    "slices": functools.partial(
        audit.estimate_slices,
        member_groups={"class": np.zeros(50, int)},
        non_member_groups={"class": np.zeros(50, int)},
        confidence=0.95,
        false_positive_rate=0.1,
    ),
    "noise multiplier": functools.partial(
        audit.estimate_noise_multiplier,
        make_claim_at=lambda noise: NOTHING,
        claimed_noise_multiplier=1.0,
        delta=1e-6,
        thresholds=THRESHOLDS,
        confidence=0.95,
    ),
}


# JAX-Privacy: NaN scores accepted, AUROC nan where a member's score is +inf.
@pytest.mark.parametrize("name", SCORE_FUNCTIONS)
def test_scores_that_are_not_finite_are_refused(name):
    run = SCORE_FUNCTIONS[name]
    run(np.arange(50.0), np.arange(50.0))
    for bad in (np.nan, np.inf, -np.inf):
        broken = np.append(np.arange(49.0), bad)
        with pytest.raises(ValueError, match="^member_scores .*index 49"):
            run(broken, np.arange(50.0))
        with pytest.raises(ValueError, match="^non_member_scores .*index 49"):
            run(np.arange(50.0), broken)


# JAX-Privacy: the one-run audit refuses delta 0.
@pytest.mark.parametrize("method", ["one_run", "held_out", "membership"])
def test_pure_dp_can_be_audited(method):
    rng = make_rng(4)
    members, others = rng.normal(2, 1, 1000), rng.normal(0, 1, 1000)
    report = run_audit(members, others, method, delta=0.0, claimed_epsilon=0.1)
    assert report.delta == 0.0
    if method != "membership":
        assert report.epsilon_lower > 1.0
        with pytest.raises(AssertionError, match="0.1"):
            report.assert_ok()
    assert json.loads(report.to_json())["delta"] == 0.0
    assert type(report).from_json(report.to_json()) == report
    assert "at delta = 0 is" in str(report)
    assert report.to_html().startswith("<!")


# JAX-Privacy: a TypeError where counts are as small as the least count.
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [1.0, -1.0, 0.0])
def test_two_of_each_prove_nothing(method, value):
    report = run_audit([value, value], [0.0, 0.0], method)
    assert not report.epsilon_lower
    assert report.auc == (1 + value) / 2


def find_first_digits(secrets):
    digits = [int(secret[0]) for secret in secrets]
    return np.bincount(digits, minlength=10)


# TensorFlow Privacy: 100,000 random 9-digit secrets, first digits 0 to 4 only:
# once a secret comes twice, the smallest ones are kept.
def test_secrets_of_which_some_came_twice_are_uniform():
    plan = audit.make_text_canaries("{digit:9}", num_canaries=100_000, seed=5)
    # Five pairs are expected among as many independent draws: the drawing
    # again of what came twice is part of this test. False alarm 1e-6.
    assert len(set(plan.values)) == 100_000
    counts = find_first_digits(plan.values)
    assert stats.chisquare(counts).pvalue > 5e-7
    references = plan.make_references(100_000, rng=make_rng(6))
    counts = find_first_digits(references)
    assert stats.chisquare(counts).pvalue > 5e-7
    assert not set(references) & set(plan.values)
    # That rule itself.
    drawn = np.unique(make_rng().integers(10**9, size=200_000))[:100_000]
    counts = find_first_digits(f"{number:09d}" for number in drawn)
    assert not np.any(counts[6:])


# TensorFlow Privacy: references come sorted; none asked for gives the secrets.
def test_references_are_unsorted_and_none_are_none():
    plan = audit.make_text_canaries("{digit:6}", num_canaries=50, seed=6)
    references = plan.make_references(1000)
    rises = np.mean(np.diff([int(text) for text in references]) > 0)
    # Six deviations.
    assert abs(rises - 0.5) < 6 / (12 * 999) ** 0.5
    assert len(plan.make_references(0)) == 0
    with pytest.raises(ValueError, match="^reference_bits must hold"):
        audit.estimate_exposure_by_sampling([1.0], [])


# JAX-Privacy: 4.3 s for 200,000 scores; PrivacyGuard: 11 to 158 s a call.
@pytest.mark.parametrize("method", METHODS)
def test_hundred_thousand_scores_take_seconds_at_most(method):
    rng = make_rng(8)
    members, others = split_by_coins(rng, rng.normal(size=100_000))
    start = time.process_time()
    str(run_audit(members + 1, others, method, delta=1e-8))
    # 0.2 s on one core.
    assert time.process_time() - start < 5.0


# TensorFlow Privacy: 8.5 s for 1,000,000 references.
def test_a_million_references_take_seconds_at_most():
    references = make_rng(9).gamma(20.0, size=1_000_000)
    canaries = references[:1000]
    start = time.process_time()
    exact = audit.compute_exact_exposure(canaries, references)
    sampled = audit.estimate_exposure_by_sampling(canaries, references)
    # 0.4 s on one core.
    assert time.process_time() - start < 5.0
    np.testing.assert_allclose(exact.exposures, sampled.exposures, atol=1.0)


ELSEWHERE = {
    "alarms of a threshold chosen on other trials": (
        "threshold_epsilon",
        "scores_that_say_nothing_raise_no_alarm",
    ),
    "alarms of a threshold chosen on the same trials": (
        "threshold_epsilon",
        "best_threshold_on_the_same_scores_would_raise_alarms",
    ),
    "alarms of guess counts, 1000 canaries": (
        "one_run",
        "scores_that_say_nothing_raise_no_alarm",
    ),
    "alarms within the Gaussian family": (
        "gaussian_epsilon",
        "scores_that_say_nothing_raise_no_alarm",
    ),
    "alarms of slices": (
        "slices",
        "luck_is_called_worse_in_less_than_one_run_of_twenty",
    ),
    "epsilon .341 where half the guesses are right": (
        "gaussian_epsilon",
        "counts_without_evidence_give_zero",
    ),
    "delta too large for so many canaries": ("one_run", "large_delta_is_told"),
    "1.21 from one side where two give 1.79": (
        "one_run",
        "gaussian_scores_are_found",
    ),
    "AUC .76 of scores whose AUC is .685": ("roc", "golden_values"),
    "bound where no coin decided who is a member": (
        "verdict",
        "without_fair_coins_there_is_no_bound",
    ),
    "bound from one attack on given members": (
        "membership",
        "it_is_never_a_bound_and_says_so",
    ),
    "half of the claimed noise, not found": (
        "claim_check",
        "half_of_the_noise_is_found_by_1000_canaries",
    ),
    "no noise at all, not found": ("claim_check", "no_noise_at_all_is_found"),
    "one pair in place of the claimed curve": (
        "claim_check",
        "one_pair_is_a_weaker_claim_than_the_whole_curve",
    ),
    "small digits only, 4 to 9 digits": (
        "canary_format",
        "every_position_of_the_secrets_is_uniform",
    ),
    "canaries among the references": (
        "canaries",
        "references_are_of_the_format_and_no_canaries",
    ),
    "exposures out of order": ("exposure", "ties_count_and_order_is_kept"),
    "NaN as the least exposed": (
        "exposure",
        "numbers_that_have_no_rank_are_refused",
    ),
    "exposure above log2 |R|": ("exposure", "known_size_caps_the_exposure"),
    "floor from one forward pass": (
        "exposure",
        "floor_holds_for_every_distribution",
    ),
    "far tail of the fitted curve": (
        "exposure",
        "extrapolated_tail_is_the_curve_to_60_digits",
    ),
    "14.29 bits, the ceiling of 20,000 references": (
        "secret_exposure",
        "memorised_secret_in_1e16_is_exact_and_beats_every_sample",
    ),
    "rank in a space too large to list": (
        "prefix_tree",
        "space_of_1e16_is_counted_in_a_second",
    ),
    "mean nats in place of summed bits": (
        "token_model",
        "nats_are_told_from_bits",
    ),
    "sign of LASS as printed": (
        "critical_samples",
        "the_sign_that_the_paper_prints_finds_nothing",
    ),
    "gradient where LASS starts": (
        "critical_samples",
        "gradient_is_taken_where_the_search_stands",
    ),
}


@pytest.mark.parametrize("fault", ELSEWHERE)
def test_fault_is_looked_for_elsewhere(fault):
    module, name = ELSEWHERE[fault]
    source = (HERE / f"{module}_test.py").read_text(encoding="utf-8")
    assert f"def test_{name}(" in source
