# SPDX-License-Identifier: Apache-2.0
"""The one-run bound against exact fractions, the best attack, and chance."""

import fractions
import json
import math
import pathlib
import time

import mpmath
import numpy as np
import pytest
from scipy import special
from scipy import stats

from tests.audit import worst_mechanisms
from tf_privacy.audit import one_run

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "audit.json").read_text()
)["one_run"]


def compute_p_value(epsilon, canaries, guesses, correct, delta):
    return one_run.compute_one_run_p_value(
        epsilon,
        num_canaries=canaries,
        num_guesses=guesses,
        num_correct=correct,
        delta=delta,
    )


def compute_epsilon(canaries, guesses, correct, *, delta=0.0, confidence=0.95):
    return one_run.compute_one_run_epsilon(
        num_canaries=canaries,
        num_guesses=guesses,
        num_correct=correct,
        delta=delta,
        confidence=confidence,
    )


def estimate(members, others, *, delta=0.0, confidence=0.95, **sizes):
    return one_run.estimate_one_run_epsilon(
        members, others, delta=delta, confidence=confidence, **sizes
    )


def draw_null(rng, num_canaries, draw_scores):
    size = rng.binomial(num_canaries, 0.5)
    scores = draw_scores(rng, num_canaries)
    return scores[:size], scores[size:]


def draw_responses(rng, epsilon, num_canaries):
    """Returns the scores of randomized response, exactly epsilon-DP."""
    coins = rng.random(num_canaries) < 0.5
    kept = rng.random(num_canaries) < special.expit(epsilon)
    scores = (coins == kept) + 1e-9 * rng.random(num_canaries)
    return scores[coins], scores[~coins]


@pytest.mark.parametrize("row", GOLDEN["rows"])
def test_golden_values(row):
    epsilon = compute_epsilon(
        row["m"],
        row["guesses"],
        row["correct"],
        delta=row["delta"],
        confidence=1 - row["alpha"],
    )
    assert epsilon == pytest.approx(
        row["eps_lb_steinke2023"], abs=GOLDEN["tolerance"]
    )


def compute_exact_p_value(odds, canaries, guesses, correct, delta):
    """Returns the formula in fractions, at epsilon = log(odds)."""
    q = fractions.Fraction(odds, odds + 1)
    masses = [
        math.comb(guesses, w) * q**w * (1 - q) ** (guesses - w)
        for w in range(guesses + 1)
    ]
    means = [
        sum(masses[correct - i : correct]) / i for i in range(1, correct + 1)
    ]
    delta = fractions.Fraction(delta)
    return sum(masses[correct:]) + 2 * canaries * delta * max(means)


@pytest.mark.parametrize("odds", [1, 2, 5, 40])
@pytest.mark.parametrize("delta", [0.0, 1e-6, 0.01])
def test_p_value_is_the_formula_rounded_up(odds, delta):
    for guesses in (1, 7, 60):
        for correct in range(1, guesses + 1):
            exact = compute_exact_p_value(odds, 80, guesses, correct, delta)
            got = compute_p_value(math.log(odds), 80, guesses, correct, delta)
            assert got >= min(exact, 1)
            if delta == 0.0 or got < 0.5:
                assert got <= float(exact) * (1 + 1e-8)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0, 8.0, 13.0])
@pytest.mark.parametrize("deviations", [0.0, 3.0, 8.0])
def test_p_value_of_a_million_guesses(epsilon, deviations):
    size = 1_000_000
    with mpmath.workdps(40):
        wrong = 1 / (1 + mpmath.e**epsilon)
        mean = size * wrong
        allowed = int(max(0, mean - deviations * mpmath.sqrt(mean)))
        mass = mpmath.exp(
            mpmath.loggamma(size + 1)
            - mpmath.loggamma(allowed + 1)
            - mpmath.loggamma(size - allowed + 1)
            + allowed * mpmath.log(wrong)
            + (size - allowed) * mpmath.log1p(-wrong)
        )
        total, k = mpmath.mpf(0), allowed
        while k >= 0 and mass > total * mpmath.mpf(10) ** -20:
            total += mass
            mass *= k * (1 - wrong) / ((size - k + 1) * wrong)
            k -= 1
    got = compute_p_value(epsilon, size, size, size - allowed, 0.0)
    assert float(total) <= got <= float(total) * (1 + 1e-8)


@pytest.mark.parametrize("num_coins", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "epsilon, delta",
    [(0.0, 0.0), (1.0, 0.0), (0.0, 0.05), (0.3, 0.01), (1.0, 0.1), (2.0, 0.05)],
)
def test_no_attack_on_any_mechanism_beats_the_p_value(
    num_coins, epsilon, delta
):
    for correct in range(1, num_coins + 1):
        chance = worst_mechanisms.compute_best_chance(
            num_coins, correct, epsilons=[epsilon], deltas=[delta]
        )
        p_value = compute_p_value(epsilon, num_coins, num_coins, correct, delta)
        assert p_value >= chance - 1e-9
        if delta == 0.0:
            assert p_value == pytest.approx(chance, abs=1e-7)


@pytest.mark.parametrize("guesses", [2, 3, 5, 10, 25, 60])
@pytest.mark.parametrize("q", [0.5, 0.73, 0.95])
def test_delta_term_covers_mechanisms_that_adapt(guesses, q):
    """Tests the delta term against one with a proof for every mechanism.

    Reveal the coins in random order, and count the others as right with
    probability q. Each coin raises the chance of `correct` right ones by at
    most its excess over q times the chance that it decides; excesses sum up to
    (1 - q) num_canaries delta, whatever the mechanism adapts to; and the chance
    to decide, if w of the others are right, is the mean over a of
    P[Hypergeometric(a of them) + Binomial(the rest, q) = correct - 1].
    """
    deciding = np.zeros((guesses, guesses))
    rights = np.arange(guesses)
    for a in range(guesses):
        drawn = stats.hypergeom.pmf(
            np.arange(a + 1), guesses - 1, rights[:, np.newaxis], a
        )
        rest = stats.binom.pmf(np.arange(guesses - a), guesses - 1 - a, q)
        for w in rights:
            deciding[w] += np.convolve(drawn[w], rest) / guesses
    canaries, delta = 1000, 1e-6
    for correct in range(1, guesses + 1):
        tail = stats.binom.sf(correct - 1, guesses, q)
        if tail > 0.5 + 1e-9:
            continue
        proven = (1 - q) * canaries * delta * np.max(deciding[:, correct - 1])
        got = compute_p_value(
            float(special.logit(q)), canaries, guesses, correct, delta
        )
        assert got >= (tail + proven) * (1 - 1e-9)


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3, 0.2])
def test_p_value_rises_with_epsilon_where_it_can_reject(delta):
    for correct in (30, 35, 40):
        values = np.array(
            [
                compute_p_value(epsilon, 100, 40, correct, delta)
                for epsilon in np.linspace(0, 6, 121)
            ]
        )
        assert np.all(np.diff(np.minimum(values, 0.5)) >= -1e-12)


@pytest.mark.parametrize("delta", [0.0, 1e-4, 1e-3])
def test_epsilon_is_the_last_that_is_rejected(delta):
    epsilon = compute_epsilon(200, 100, 90, delta=delta)
    assert epsilon > 0
    level = 1 - 0.95
    assert compute_p_value(epsilon, 200, 100, 90, delta) < level
    assert compute_p_value(epsilon + 2e-9, 200, 100, 90, delta) >= level


def test_more_right_guesses_less_delta_and_confidence_prove_more():
    found = [compute_epsilon(500, 100, v, delta=1e-5) for v in range(101)]
    assert np.all(np.diff(found) >= 0) and found[50] == 0 < found[61]
    assert compute_epsilon(500, 100, 90, delta=1e-4) < found[90]
    assert compute_epsilon(900, 100, 90, delta=1e-5) < found[90]
    assert compute_epsilon(500, 100, 90, delta=1e-5, confidence=0.9) > found[90]


def test_all_right_without_delta_has_a_closed_form():
    for guesses in (5, 100, 1_000_000):
        q = 0.05 ** (1 / guesses)
        assert compute_epsilon(guesses, guesses, guesses) == pytest.approx(
            math.log(q) - math.log(-math.expm1(math.log(0.05) / guesses)),
            abs=1e-8,
        )


def test_p_value_too_small_for_floats_is_not_zero():
    assert 0 < compute_p_value(0.0, 10_000, 10_000, 10_000, 0.0) < 1e-299


def test_no_guess_or_no_right_guess_says_nothing():
    for guesses in (0, 10):
        assert compute_p_value(1.0, 10, guesses, 0, 1e-5) == 1.0
        assert compute_epsilon(10, guesses, 0) == 0.0


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 3.0])
def test_randomized_response_exceeds_its_epsilon_at_most_as_often(epsilon):
    # Exact: right guesses are binomial.
    for guesses in (20, 300):
        counts = np.arange(guesses + 1)
        exceeds = [
            compute_epsilon(guesses, guesses, v) > epsilon for v in counts
        ]
        chances = stats.binom.pmf(counts, guesses, special.expit(epsilon))
        assert np.sum(chances[exceeds]) <= 0.05
    # With many guesses the steps of the counts are small.
    assert np.sum(chances[exceeds]) > 0.02


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_whole_audit_keeps_its_confidence_on_randomized_response(epsilon):
    rng = np.random.default_rng(0)
    runs = 2000
    exceeded = sum(
        estimate(*draw_responses(rng, epsilon, 200)).epsilon_lower > epsilon
        for _ in range(runs)
    )
    # 1% expected. At a rate of 5%, 65 per mille has probability 1e-3.
    assert exceeded / runs <= 0.065


@pytest.mark.parametrize("num_canaries", [50, 1000])
@pytest.mark.parametrize(
    "draw_scores",
    [
        lambda rng, size: rng.random(size),
        lambda rng, size: rng.integers(0, 3, size),
        lambda rng, size: np.zeros(size),
    ],
    ids=["distinct", "tied", "all equal"],
)
def test_scores_that_say_nothing_raise_no_alarm(num_canaries, draw_scores):
    rng = np.random.default_rng(1)
    runs = 2000
    alarms = 0
    for _ in range(runs):
        found = estimate(*draw_null(rng, num_canaries, draw_scores), delta=1e-6)
        alarms += found.epsilon_lower > 0
        assert (found.p_value < 0.05) == (found.epsilon_lower > 0)
    # 2% expected; the peers' rules give 7.5% to 48% with 1000 canaries.
    assert alarms / runs <= 0.065


def test_randomized_response_is_found():
    rng = np.random.default_rng(2)
    members, others = draw_responses(rng, 3.0, 5000)
    found = estimate(members, others, delta=1e-6)
    assert 2.6 < found.epsilon_lower < 3.0
    # The delta term alone is 24 * 2 * 5000 * 1e-6 / 2245.
    assert 1e-4 < found.p_value < 1.1e-4 and found.is_bound
    assert estimate(members, others).p_value < 1e-200
    # The same without the noise that breaks ties: they cost something.
    tied = estimate(members.round(), others.round(), delta=1e-6)
    assert 2.0 < tied.epsilon_lower <= found.epsilon_lower
    assert any("equal scores" in text for text in tied.warnings)


def test_gaussian_scores_are_found():
    rng = np.random.default_rng(3)
    members, others = rng.normal(1, 1, 2500), rng.normal(0, 1, 2500)
    # Its true epsilon at this delta is 4.4.
    assert 1.5 < estimate(members, others, delta=1e-5).epsilon_lower < 4.4


def test_both_ends_are_searched():
    rng = np.random.default_rng(4)
    plain = rng.normal(0, 1, 1000)
    members, others = plain[:500], plain[500:]
    low = np.where(np.arange(500) < 100, -9.0 - rng.random(500), others)
    found = estimate(members, low)
    assert found.epsilon_lower > 1 and found.num_guesses_in == 0
    found = estimate(-low, -members)
    assert found.epsilon_lower > 1 and found.num_guesses_out == 0


def test_wrong_sign_gives_nothing_and_is_told():
    rng = np.random.default_rng(5)
    members, others = rng.normal(2, 1, 300), rng.normal(0, 1, 300)
    assert estimate(members, others).warnings == ()
    found = estimate(-members, -others)
    assert found.epsilon_lower == 0 and found.p_value == 1.0
    assert any("Pass minus the scores" in text for text in found.warnings)


def test_chosen_guesses_are_one_test_at_the_full_level():
    rng = np.random.default_rng(6)
    members, others = rng.normal(1, 1, 500), rng.normal(0, 1, 500)
    found = estimate(members, others, num_guesses_in=100, num_guesses_out=50)
    assert found.num_tests == 1
    assert (found.num_guesses_in, found.num_guesses_out) == (100, 50)
    assert found.epsilon_lower == compute_epsilon(1000, 150, found.num_correct)
    assert found.p_value == compute_p_value(0, 1000, 150, found.num_correct, 0)


def test_grid_is_paid_for():
    rng = np.random.default_rng(7)
    members, others = rng.normal(1, 1, 500), rng.normal(0, 1, 500)
    found = estimate(members, others, delta=1e-6)
    alone = compute_epsilon(
        1000,
        found.guesses.num_guesses,
        found.num_correct,
        delta=1e-6,
        confidence=1 - 0.05 / found.num_tests,
    )
    assert found.num_tests == 15
    assert found.epsilon_lower == pytest.approx(alone, abs=1e-8)
    again = estimate(members[::-1], others[::-1], delta=1e-6)
    assert again == found


def test_large_delta_is_told():
    scores = np.arange(500.0)
    assert estimate(scores, scores, delta=1e-6).warnings == ()
    found = estimate(scores + 1e6, scores, delta=1e-3)
    (warning,) = found.warnings
    assert warning.startswith("delta 0.001 is large for 1000 canaries")
    assert found.epsilon_lower < estimate(scores + 1e6, scores).epsilon_lower


def test_one_member_and_one_non_member():
    found = estimate([1.0], [0.0], delta=1e-5)
    # Both guesses are right with chance 1/4, and three tests are paid for.
    assert found.epsilon_lower == 0 and 0.75 < found.p_value < 0.7501


def test_bad_scores_and_numbers_are_refused():
    with pytest.raises(ValueError, match="^member_scores must be finite.*x 1"):
        estimate([0.0, math.nan], [1.0])
    with pytest.raises(ValueError, match="^non_member_scores must be finite"):
        estimate([0.0, 1.0], [math.inf])
    with pytest.raises(ValueError, match="^member_scores must hold at least 1"):
        estimate([], [1.0])
    with pytest.raises(ValueError, match="^member_scores and non_member_score"):
        estimate(np.arange(900.0), np.arange(100.0))
    for delta in (-1e-9, 1.0, math.nan):
        with pytest.raises(ValueError, match="^delta must be"):
            estimate([1.0], [0.0], delta=delta)
    for confidence in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="^confidence must be"):
            estimate([1.0], [0.0], confidence=confidence)
    with pytest.raises(ValueError, match="^epsilon must be"):
        compute_p_value(math.nan, 10, 5, 5, 0.0)
    with pytest.raises(ValueError, match="^num_correct must be"):
        compute_epsilon(10, 5, 6)


def test_many_scores_take_no_time():
    rng = np.random.default_rng(8)
    members, others = rng.normal(1, 1, 50_000), rng.normal(0, 1, 50_000)
    start = time.perf_counter()
    estimate(members, others, delta=1e-9)
    # 0.07 s on one core.
    assert time.perf_counter() - start < 2.0


def test_text_can_be_read():
    found = estimate(np.arange(50.0) + 50, np.arange(50.0), delta=1e-6)
    text = str(found)
    assert text.startswith("epsilon >= 3.0144") and "(lower bound)" in text
    assert "100 of 100 guesses right (50 in, 50 out), 100 canaries" in text
    assert "best of 6 tests" in text and "fair coin" in text
    assert 1.9e-5 < found.p_value < 2e-5
    assert "p-value of no leak 2e-05" in text
