# SPDX-License-Identifier: Apache-2.0
"""Tests of the test of a claim."""

import functools
import math

import numpy as np
import pytest
from scipy import stats

from tf_privacy import accounting
from tf_privacy.audit import claim as claim_lib
from tf_privacy.audit import claim_check
from tf_privacy.audit import dirac_scores
from tf_privacy.audit import rate_bounds

NAN = float("nan")
PAIRS = claim_lib.Claim(
    epsilons=(0.0, 0.5, 1.0, 3.0),
    deltas=(0.4, 0.1, 1e-2, 1e-5),
    description="a run",
)
THRESHOLDS = np.linspace(-4.0, 4.0, 9)
# Noise, sampling probability, steps.
SETTINGS = [(1.0, 1.0, 1), (0.6, 0.05, 400), (1.0, 0.05, 400), (2.0, 0.2, 400)]


@functools.cache
def make_claim(noise, q, num_steps):
    return claim_lib.make_claim(
        [
            accounting.SampledGaussianSteps(
                noise_multiplier=noise,
                sampling_probability=q,
                num_steps=num_steps,
            )
        ]
    )


def make_gaussian_claim(noise):
    """The exact curve of one Gaussian release, without the accountant."""
    mu = 1 / noise
    epsilons = np.linspace(0, mu * (mu / 2 + 5), 30)
    deltas = stats.norm.sf(epsilons / mu - mu / 2) - np.exp(
        epsilons
    ) * stats.norm.sf(epsilons / mu + mu / 2)
    return claim_lib.Claim(
        epsilons=epsilons, deltas=deltas, description=f"Gaussian({noise})"
    )


def run_dp_sgd(setting, num_canaries, seed, noise_factor=1.0):
    """Simulated steps, scored as claimed: scores of members and others."""
    noise, q, num_steps = setting
    rng = np.random.default_rng(seed)
    is_member = rng.random(num_canaries) < 0.5
    shape = (num_steps, num_canaries)
    observations = noise * noise_factor * rng.standard_normal(shape)
    observations += is_member * (rng.random(shape) < q)
    scores = dirac_scores.compute_log_likelihood_ratios(
        observations, noise_multiplier=noise, sampling_probability=q
    )
    return scores[is_member], scores[~is_member]


def draw_gaussian_scores(rng, num_trials, noise=1.0):
    """Log-likelihood ratios of one release with noise multiplier 1."""
    is_member = rng.random(num_trials) < 0.5
    scores = noise * rng.standard_normal(num_trials) + is_member - 0.5
    return scores[is_member], scores[~is_member]


def find_violation_by_hand(members, others, claim, thresholds):
    """The largest excess over all thresholds, sides, pairs; by loops."""
    confidence = 1 - 2 * 0.05 / (2 * len(thresholds))
    best = -math.inf
    for threshold in thresholds:
        tpr, fpr = (
            stats.binomtest(
                sum(s >= threshold for s in scores), len(scores)
            ).proportion_ci(confidence, method="exact")
            for scores in (members, others)
        )
        for gain, loss in ((tpr.low, fpr.high), (1 - fpr.high, 1 - tpr.low)):
            for epsilon, delta in zip(
                claim.epsilons, claim.deltas, strict=True
            ):
                if gain > delta:
                    found = math.log((gain - delta) / loss)
                    best = max(best, found - epsilon)
    return best


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0, 4.0, -3.0])
def test_strongest_violation_is_that_of_all_pairs_and_thresholds(shift):
    rng = np.random.default_rng(0)
    members = rng.normal(shift, 1, 150).tolist()
    others = rng.normal(0, 1, 120).tolist()
    thresholds = [-1.0, 0.3, 2.0]
    result = claim_check.estimate_claim_violation(
        members, others, claim=PAIRS, confidence=0.95, thresholds=thresholds
    )
    excess = find_violation_by_hand(members, others, PAIRS, thresholds)
    assert result.rejected == (excess > 0)
    assert result.num_tests == 6
    if excess + result.epsilon > 0:
        assert result.epsilon_lower - result.epsilon == pytest.approx(
            excess, abs=1e-8
        )
    assert result.delta == PAIRS.deltas[PAIRS.epsilons.index(result.epsilon)]


def test_result_contradicts_its_own_pair():
    members, others = draw_gaussian_scores(np.random.default_rng(1), 5000, 0.2)
    for flip in (1, -1):
        # Many sure non-members are a leak as many sure members are.
        a, b = (members, others) if flip == 1 else (-others, -members)
        result = claim_check.estimate_claim_violation(
            a, b, claim=PAIRS, confidence=0.95, thresholds=[flip * 0.5]
        )
        t, f = result.tpr_lower, result.fpr_upper
        if result.side == "non_members":
            t, f = 1 - f, 1 - t
        assert result.rejected
        assert t > math.exp(result.epsilon) * f + result.delta
        assert result.epsilon_lower == pytest.approx(
            math.log((t - result.delta) / f), abs=1e-8
        )


@pytest.mark.parametrize("way", ["fixed thresholds", "held-out trials"])
def test_true_claim_is_rejected_in_one_run_of_twenty_at_most(way):
    # The curve is exact and the scores are the best there are: no claim is
    # harder to keep apart. More than 149 of 2000 have a probability < 1e-6.
    claim = make_gaussian_claim(1.0)
    rng = np.random.default_rng(2)
    given = {"rng": rng}
    if way == "fixed thresholds":
        given = {"thresholds": THRESHOLDS}
    rejected = sum(
        claim_check.estimate_claim_violation(
            *draw_gaussian_scores(rng, 200),
            claim=claim,
            confidence=0.95,
            **given,
        ).rejected
        for _ in range(2000)
    )
    assert rejected <= stats.binom.isf(1e-6, 2000, 0.05)


@pytest.mark.parametrize("setting", SETTINGS)
def test_true_claim_of_dp_sgd_is_not_rejected(setting):
    for seed in range(3):
        result = claim_check.estimate_claim_violation(
            *run_dp_sgd(setting, 1000, seed),
            claim=make_claim(*setting),
            confidence=0.95,
            rng=np.random.default_rng(seed),
        )
        assert not result.rejected


@pytest.mark.parametrize("setting", SETTINGS)
def test_half_of_the_noise_is_found_by_1000_canaries(setting):
    for seed in range(3):
        result = claim_check.estimate_claim_violation(
            *run_dp_sgd(setting, 1000, seed, noise_factor=0.5),
            claim=make_claim(*setting),
            confidence=0.95,
            rng=np.random.default_rng(seed),
        )
        assert result.rejected


@pytest.mark.parametrize("setting", SETTINGS[1:])
def test_four_fifths_of_the_noise_are_found_by_5000_canaries(setting):
    result = claim_check.estimate_claim_violation(
        *run_dp_sgd(setting, 5000, 7, noise_factor=0.8),
        claim=make_claim(*setting),
        confidence=0.95,
        rng=np.random.default_rng(0),
    )
    assert result.rejected
    assert result.epsilon_lower > result.epsilon


def test_four_fifths_of_the_noise_of_one_step_with_thresholds_of_theory():
    setting = SETTINGS[0]
    result = claim_check.estimate_claim_violation(
        *run_dp_sgd(setting, 5000, 0, noise_factor=0.8),
        claim=make_claim(*setting),
        confidence=0.95,
        thresholds=THRESHOLDS,
    )
    assert result.rejected


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_noise_at_all_is_found(setting):
    result = claim_check.estimate_claim_violation(
        *run_dp_sgd(setting, 1000, 0, noise_factor=0.0),
        claim=make_claim(*setting),
        confidence=0.95,
        rng=np.random.default_rng(0),
    )
    assert result.rejected


def test_one_pair_is_a_weaker_claim_than_the_whole_curve():
    setting = SETTINGS[3]
    scores = run_dp_sgd(setting, 5000, 1, noise_factor=0.8)
    whole = make_claim(*setting)
    pair = claim_lib.Claim.from_pair(whole.get_epsilon(1e-5), 1e-5)
    results = [
        claim_check.estimate_claim_violation(
            *scores,
            claim=claim,
            confidence=0.95,
            rng=np.random.default_rng(0),
        )
        for claim in (whole, pair)
    ]
    assert results[0].rejected
    assert not results[1].rejected


def test_epsilon_exceeds_the_truth_in_one_run_of_twenty_at_most():
    true = accounting.compute_gdp_epsilon(1.0, delta=1e-2)
    rng = np.random.default_rng(4)
    found = [
        claim_check.estimate_profile_epsilon(
            *draw_gaussian_scores(rng, 200),
            delta=1e-2,
            thresholds=[-1.0, 1.0],
            confidence=0.95,
        ).epsilon_lower
        for _ in range(2000)
    ]
    above = np.count_nonzero(np.array(found) > true)
    assert above <= stats.binom.isf(1e-6, 2000, 0.05)
    assert np.median(found) > 0


def test_epsilon_is_the_best_of_all_thresholds_and_sides():
    rng = np.random.default_rng(5)
    members, others = draw_gaussian_scores(rng, 4000, 0.5)
    result = claim_check.estimate_profile_epsilon(
        members, others, delta=1e-5, thresholds=THRESHOLDS, confidence=0.95
    )
    claim = claim_lib.Claim.from_pair(0.0, 1e-5)
    wanted = find_violation_by_hand(
        members.tolist(), others.tolist(), claim, THRESHOLDS.tolist()
    )
    assert result.epsilon_lower == pytest.approx(wanted, abs=1e-8)
    assert result.epsilon_lower <= wanted
    assert (
        1.0
        < result.epsilon_lower
        < accounting.compute_gdp_epsilon(2.0, delta=1e-5)
    )
    assert result.num_tests == 18
    assert result.is_bound


def bound_noise(members, others, make_claim_at=make_gaussian_claim, **changes):
    given = {
        "make_claim_at": make_claim_at,
        "claimed_noise_multiplier": 1.0,
        "delta": 1e-5,
        "thresholds": THRESHOLDS,
        "confidence": 0.95,
        **changes,
    }
    return claim_check.estimate_noise_multiplier(members, others, **given)


def test_noise_is_below_the_bound_in_nineteen_runs_of_twenty():
    rng = np.random.default_rng(6)
    misses = sum(
        bound_noise(*draw_gaussian_scores(rng, 300, 0.7)).noise_multiplier_upper
        < 0.7
        for _ in range(200)
    )
    assert misses <= stats.binom.isf(1e-6, 200, 0.05)


@pytest.mark.parametrize("noise", [0.5, 0.8, 1.0, 1.3])
def test_noise_bound_is_where_the_claims_begin_to_be_rejected(noise):
    scores = draw_gaussian_scores(np.random.default_rng(7), 5000, noise)
    bound = bound_noise(*scores)
    upper = bound.noise_multiplier_upper
    assert noise < upper < 1.3 * noise

    def is_rejected(at):
        return claim_check.estimate_claim_violation(
            *scores,
            claim=make_gaussian_claim(at),
            confidence=0.95,
            thresholds=THRESHOLDS,
        ).rejected

    assert is_rejected(upper)
    assert not is_rejected(upper * 0.998)
    assert bound.rejected == is_rejected(1.0)
    # Between the pairs of the grid, which decide it, and the exact curve.
    implied = accounting.compute_gdp_epsilon(1 / upper, delta=1e-5)
    assert implied * 0.999 <= bound.implied_epsilon <= implied * 1.1


def test_noise_of_dp_sgd_is_bounded_within_a_tenth():
    noise, q, num_steps = SETTINGS[1]
    claim = make_claim(noise, q, num_steps)
    left = rate_bounds.choose_threshold(
        *run_dp_sgd(SETTINGS[1], 5000, 3),
        claim=claim,
        confidence=0.95,
        rng=np.random.default_rng(0),
    )

    def make_claim_at(at):
        # The curve of 400 steps at three noises, and between them the looser.
        for known in (0.72, 0.66, 0.6):
            if at >= known:
                return make_claim(known, q, num_steps)
        return make_claim(0.4, q, num_steps)

    bound = bound_noise(
        left.member_scores,
        left.non_member_scores,
        make_claim_at,
        claimed_noise_multiplier=noise,
        thresholds=[left.threshold],
    )
    assert 0.6 < bound.noise_multiplier_upper <= 0.66 * 1.001
    assert not bound.rejected


def test_without_evidence_nothing_is_said_of_the_noise():
    bound = bound_noise([0.0] * 3, [0.0] * 3)
    assert bound.noise_multiplier_upper == math.inf
    assert bound.implied_epsilon == 0.0
    assert not bound.rejected
    assert "noise_multiplier <= inf" in str(bound)


def test_search_for_the_noise_ends_below_the_claim():
    everything = claim_lib.Claim.from_pair(0.0, 0.0)
    bound = bound_noise(
        [1.0] * 50, [-1.0] * 50, lambda _: everything, delta=0.0
    )
    assert 0.05 < bound.noise_multiplier_upper < 0.125
    assert bound.rejected


def test_few_trials_prove_nothing():
    for scores in ([1.0], [1.0, 2.0]):
        result = claim_check.estimate_claim_violation(
            scores, [0.0], claim=PAIRS, confidence=0.95, thresholds=[0.5]
        )
        assert not result.rejected


def test_wrong_sign_is_a_warning():
    result = claim_check.estimate_claim_violation(
        np.zeros(100),
        np.ones(100),
        claim=PAIRS,
        confidence=0.95,
        thresholds=[0.5],
    )
    assert not result.rejected
    assert "members score lower" in result.warnings[0]
    assert "Warning" in str(result)


def test_texts_say_what_was_found():
    scores = draw_gaussian_scores(np.random.default_rng(8), 3000, 0.4)
    given = {"confidence": 0.95, "thresholds": THRESHOLDS}
    result = claim_check.estimate_claim_violation(*scores, claim=PAIRS, **given)
    assert str(result).startswith("Claim REJECTED, confidence 0.95: a run")
    result = claim_check.estimate_profile_epsilon(*scores, delta=1e-5, **given)
    assert "(lower bound)" in str(result)
    assert "18 bounds at once" in str(result)
    text = str(bound_noise(*scores))
    assert "(claimed 1), confidence 0.95" in text
    assert "one of those claimed" in text


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        ({"thresholds": None}, ValueError, "thresholds must be given"),
        (
            {"rng": np.random.default_rng(0)},
            ValueError,
            "thresholds must be given",
        ),
        ({"thresholds": None, "rng": 0}, TypeError, "rng must be"),
        ({"thresholds": [NAN]}, ValueError, "thresholds must be finite"),
        ({"confidence": 0.0}, ValueError, "confidence must be"),
    ],
)
def test_errors_of_the_claim_test(wrong, error, message):
    given = {
        "claim": PAIRS,
        "confidence": 0.95,
        "thresholds": [0.5],
        "rng": None,
        **wrong,
    }
    with pytest.raises(error, match=message):
        claim_check.estimate_claim_violation([1.0, 2.0], [0.0, 1.0], **given)


@pytest.mark.parametrize("bad", [NAN, math.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    given = {"confidence": 0.95, "thresholds": [0.5]}
    for members, others in (([1.0, bad], [0.0]), ([1.0], [0.0, bad])):
        with pytest.raises(ValueError, match=".*member_scores must be finite"):
            claim_check.estimate_claim_violation(
                members, others, claim=PAIRS, **given
            )
        with pytest.raises(ValueError, match=".*member_scores must be finite"):
            claim_check.estimate_profile_epsilon(
                members, others, delta=1e-5, **given
            )
        with pytest.raises(ValueError, match=".*member_scores must be finite"):
            bound_noise(members, others)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"delta": 1.0}, "delta must be"),
        ({"delta": NAN}, "delta must be"),
        ({"delta": 0.0}, "delta must be at least"),
        ({"claimed_noise_multiplier": 0.0}, "claimed_noise_multiplier must be"),
        ({"claimed_noise_multiplier": NAN}, "claimed_noise_multiplier must be"),
    ],
)
def test_errors_of_the_noise_bound(wrong, message):
    with pytest.raises(ValueError, match=message):
        bound_noise([1.0], [0.0], **wrong)
