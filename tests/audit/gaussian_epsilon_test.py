# SPDX-License-Identifier: Apache-2.0
"""Estimates in the Gaussian family: golden, the best attack, calibration."""

import json
import math
import pathlib
import time

import numpy as np
import pytest
from scipy import optimize
from scipy import stats

from tests.audit import worst_mechanisms
from tf_privacy.audit import gaussian_epsilon

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "audit.json").read_text()
)
ONE_RUN = GOLDEN["one_run"]
DELTA = 1e-5


def compute_delta(mu, epsilon):
    x = epsilon / mu - mu / 2
    return stats.norm.sf(x) - np.exp(epsilon) * stats.norm.sf(x + mu)


def compute_exact_epsilon(mu, delta=DELTA):
    return optimize.brentq(
        lambda e: math.log(compute_delta(mu, e) / delta),
        0,
        mu * (mu / 2 + 6),
        xtol=1e-12,
    )


def compute_fdp(canaries, guesses, correct, *, delta=DELTA, confidence=0.95):
    return gaussian_epsilon.compute_fdp_one_run_epsilon(
        num_canaries=canaries,
        num_guesses=guesses,
        num_correct=correct,
        delta=delta,
        confidence=confidence,
    )


def compute_gdp(tp, members, fp, others, *, delta=DELTA, confidence=0.95):
    return gaussian_epsilon.compute_gdp_audit_epsilon(
        num_true_positives=tp,
        num_members=members,
        num_false_positives=fp,
        num_non_members=others,
        delta=delta,
        confidence=confidence,
    )


def estimate_fdp(members, others, *, delta=DELTA, confidence=0.95, **sizes):
    return gaussian_epsilon.estimate_fdp_one_run_epsilon(
        members, others, delta=delta, confidence=confidence, **sizes
    )


def estimate_gdp(members, others, rng, *, delta=DELTA, confidence=0.95):
    return gaussian_epsilon.estimate_held_out_gdp_epsilon(
        members, others, delta=delta, confidence=confidence, rng=rng
    )


def draw_scores(rng, mu, num_canaries):
    size = rng.binomial(num_canaries, 0.5)
    return rng.normal(mu, 1, size), rng.normal(0, 1, num_canaries - size)


@pytest.mark.parametrize(
    "row", [r for r in ONE_RUN["rows"] if r["eps_lb_fdp_gaussian"] is not None]
)
def test_golden_values_of_one_run(row):
    epsilon = compute_fdp(
        row["m"],
        row["guesses"],
        row["correct"],
        delta=row["delta"],
        confidence=1 - row["alpha"],
    )
    assert epsilon == pytest.approx(
        row["eps_lb_fdp_gaussian"], abs=ONE_RUN["tolerance"]
    )


@pytest.mark.parametrize("row", GOLDEN["gdp_eps"]["rows"])
def test_counts_give_the_golden_epsilon_of_their_mu(row):
    # Counts so large that the interval is a point, at the rates of mu.
    size = 10**14
    found = round(size * stats.norm.cdf(row["mu"] / 2))
    epsilon = compute_gdp(
        found, size, size - found, size, delta=row["delta"], confidence=0.5
    )
    assert row["eps"] - 2e-4 <= epsilon <= row["eps"]


@pytest.mark.parametrize(
    "tp, fp, confidence", [(90, 10, 0.95), (50, 0, 0.9), (100, 3, 0.99)]
)
def test_one_threshold_is_the_formula_rounded_down(tp, fp, confidence):
    tail = (1 - confidence) / 2
    true_rate = stats.beta.ppf(tail, tp, 101 - tp)
    false_rate = stats.beta.ppf(1 - tail, fp + 1, 120 - fp)
    mu = stats.norm.ppf(true_rate) - stats.norm.ppf(false_rate)
    exact = compute_exact_epsilon(mu)
    got = compute_gdp(tp, 100, fp, 120, confidence=confidence)
    assert exact - 1e-6 <= got <= exact


def test_counts_without_evidence_give_zero():
    assert compute_gdp(5, 10, 5, 10) == 0.0
    assert compute_gdp(0, 10, 0, 10) == 0.0
    assert compute_gdp(10, 10, 10, 10) == 0.0
    assert compute_fdp(100, 100, 50) == 0.0
    assert compute_fdp(100, 0, 0) == compute_fdp(100, 10, 0) == 0.0


def compute_smallest_level(mu, coins, correct):
    """Returns one minus the confidence from which mu is rejected."""
    delta = 1e-3
    epsilon = compute_exact_epsilon(mu, delta)

    def is_rejected(level):
        found = compute_fdp(
            coins, coins, correct, delta=delta, confidence=1 - level
        )
        return found > epsilon

    low, high = 1e-6, 1 - 1e-6
    for _ in range(14):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if is_rejected(middle) else (middle, high)
    return high


@pytest.mark.parametrize("mu", [0.5, 1.5])
@pytest.mark.parametrize("coins", [1, 2, 3])
def test_no_attack_on_a_gaussian_curve_is_more_probable(mu, coins):
    epsilons = np.linspace(0, mu * (mu / 2 + 4), 40)
    for correct in range(1, coins + 1):
        chance = worst_mechanisms.compute_best_chance(
            coins,
            correct,
            epsilons=epsilons,
            deltas=compute_delta(mu, epsilons),
        )
        level = compute_smallest_level(mu, coins, correct)
        # Forty points of the curve allow a little more than all of it.
        assert level >= chance - 2e-4
        if correct == coins:
            assert level == pytest.approx(chance, abs=5e-4)


def test_more_right_guesses_and_less_confidence_give_more():
    found = [compute_fdp(200, 60, v) for v in range(61)]
    assert np.all(np.diff(found) >= -1e-9) and found[30] == 0 < found[45]
    assert compute_fdp(200, 60, 50, confidence=0.9) > found[50]
    # In one with fewer guesses among the same canaries, they are surer.
    assert compute_fdp(1000, 60, 50) < found[50]


@pytest.mark.parametrize("num_canaries", [50, 1000])
@pytest.mark.parametrize("decimals", [9, 0], ids=["distinct", "tied"])
def test_scores_that_say_nothing_raise_no_alarm(num_canaries, decimals):
    rng = np.random.default_rng(0)
    runs = 2000
    alarms = 0
    for _ in range(runs):
        members, others = draw_scores(rng, 0.0, num_canaries)
        found = estimate_fdp(members.round(decimals), others.round(decimals))
        alarms += found.mu_lower > 0
    assert alarms / runs <= 0.065


@pytest.mark.parametrize("size", [25, 500])
def test_held_out_raises_no_alarm(size):
    rng = np.random.default_rng(1)
    runs = 2000
    alarms = sum(
        estimate_gdp(*rng.normal(size=(2, size)), rng).epsilon_lower > 0
        for _ in range(runs)
    )
    assert alarms / runs <= 0.065


@pytest.mark.parametrize("method", ["one run", "held out"])
def test_epsilon_of_a_gaussian_is_not_exceeded(method):
    rng = np.random.default_rng(2)
    truth = compute_exact_epsilon(1.0)
    runs = 2000
    exceeded = 0
    for _ in range(runs):
        scores = draw_scores(rng, 1.0, 60)
        if method == "one run":
            found = estimate_fdp(*scores)
        else:
            found = estimate_gdp(*scores, rng)
        exceeded += found.epsilon_lower > truth
    assert exceeded / runs <= 0.065


def test_gaussian_scores_are_found():
    rng = np.random.default_rng(3)
    members, others = rng.normal(1, 1, 2500), rng.normal(0, 1, 2500)
    truth = compute_exact_epsilon(1.0)
    found = estimate_fdp(members, others)
    assert 2.2 < found.epsilon_lower < truth and not found.is_bound
    held_out = estimate_gdp(members, others, rng)
    assert 3.3 < held_out.epsilon_lower < truth and not held_out.is_bound
    for result in (found, held_out):
        assert "curve is that of a Gaussian" in result.assumptions[0]


def test_grid_is_paid_for():
    rng = np.random.default_rng(4)
    members, others = draw_scores(rng, 1.5, 400)
    found = estimate_fdp(members, others)
    alone = compute_fdp(
        400,
        found.guesses.num_guesses,
        found.num_correct,
        confidence=1 - 0.05 / found.num_tests,
    )
    assert found.num_tests == 12
    assert found.epsilon_lower == pytest.approx(alone, abs=1e-7)
    chosen = estimate_fdp(members, others, num_guesses_in=50)
    assert chosen.num_tests == 1
    assert chosen.epsilon_lower == compute_fdp(400, 50, chosen.num_correct)


def test_wrong_sign_is_told():
    rng = np.random.default_rng(5)
    members, others = rng.normal(2, 1, 200), rng.normal(0, 1, 200)
    for found in (
        estimate_fdp(-members, -others),
        estimate_gdp(-members, -others, rng),
    ):
        assert found.epsilon_lower == 0
        assert any("Pass minus the scores" in text for text in found.warnings)


def test_bad_arguments_are_refused():
    rng = np.random.default_rng(6)
    # Pure DP is infinitely far from a Gaussian.
    for delta in (0.0, 1.0, math.nan):
        for call in (
            lambda delta: compute_fdp(10, 5, 5, delta=delta),
            lambda delta: compute_gdp(5, 10, 1, 10, delta=delta),
            lambda delta: estimate_fdp([1.0], [0.0], delta=delta),
            lambda delta: estimate_gdp([1.0, 2], [0.0, 1], rng, delta=delta),
        ):
            with pytest.raises(ValueError, match="^delta must be"):
                call(delta)
    with pytest.raises(ValueError, match="^num_correct must be"):
        compute_fdp(10, 5, 6)
    with pytest.raises(ValueError, match="^num_true_positives must be"):
        compute_gdp(11, 10, 1, 10)
    with pytest.raises(ValueError, match="^member_scores must be finite"):
        estimate_fdp([math.nan], [1.0])
    with pytest.raises(ValueError, match="^non_member_scores must be finite"):
        estimate_gdp([1.0, 2.0], [1.0, math.inf], rng)
    with pytest.raises(ValueError, match="^confidence must be"):
        compute_fdp(10, 5, 5, confidence=math.nan)


def test_a_hundred_thousand_scores_take_no_time():
    rng = np.random.default_rng(7)
    members, others = draw_scores(rng, 1.0, 100_000)
    start = time.perf_counter()
    estimate_fdp(members, others)
    # 0.06 s on one core.
    assert time.perf_counter() - start < 3.0


def test_text_can_be_read():
    rng = np.random.default_rng(8)
    members, others = draw_scores(rng, 2.0, 400)
    for found in (
        estimate_fdp(members, others),
        estimate_gdp(members, others, rng),
    ):
        text = str(found)
        assert "ESTIMATE, not a bound" in text and "Gaussian mu >= " in text
