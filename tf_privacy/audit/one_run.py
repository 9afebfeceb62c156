# SPDX-License-Identifier: Apache-2.0
"""A lower bound on epsilon from one training run with many canaries.

Each canary is put into the training set or left out by its own fair coin. From
the trained model the attacker guesses some of the coins. Under (epsilon,
delta)-DP with respect to one canary no attacker, and no dependence between
canaries, makes more right guesses than this: with W ~ Binomial(num_guesses,
1 / (1 + e^-epsilon)),

    P[right guesses >= v] <= P[W >= v]
        + 2 num_canaries delta max_{i in 1..v} P[v - i <= W < v] / i

The numbers of guesses, in and out, must not depend on the coins. The delta term
wants delta far below 1 / num_canaries. It may be too small where right guesses
are more likely than not, P[W >= v] > 1/2 (4 canaries, epsilon 0, delta 0.05,
v = 1: an attack reaches 0.984, the formula says 0.9625). There 1 takes its
place, and nothing is claimed.

Source: Steinke, Nasr and Jagielski 2023, arXiv:2305.08846.
"""

import dataclasses
import math

import numpy as np
from scipy import special
from scipy import stats

from tf_privacy import _checks
from tf_privacy.audit import binomial
from tf_privacy.audit import guesses as guesses_lib
from tf_privacy.audit import lower_bounds

# Above the relative errors of scipy's binomials, with up to 1e6 guesses.
_ROUND_UP = 1.0 + 1e-9
# What stands for probabilities too small for floats.
_SMALLEST = 1e-300


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneRunResult(guesses_lib.GuessingResult):
    """A lower bound on epsilon from one run, and the guesses that gave it.

    Attributes:
        p_value: Of the claim epsilon = 0 (with this delta), from the best test
            and times num_tests; at most 1 (rounded up).
    """

    p_value: float

    def describe(self) -> tuple[str, ...]:
        """Returns lines of text on how the bound was found."""
        p_value = lower_bounds.show_up(self.p_value)
        return (*super().describe(), f"p-value of no leak {p_value}")


def compute_one_run_p_value(
    epsilon: float,
    *,
    num_canaries: int,
    num_guesses: int,
    num_correct: int,
    delta: float,
) -> float:
    """Returns how probable so many right guesses are under (epsilon, delta)-DP.

    The formula is this module's. No guess, or none right, gives 1; so does a
    positive delta where so many right guesses are more likely than not.

    Args:
        epsilon: Nats; >= 0.
        num_canaries: In and out together; >= 1.
        num_guesses: Canaries guessed; in [0, num_canaries], and chosen without
            a look at the coins.
        num_correct: Right guesses; in [0, num_guesses].
        delta: Probability in [0, 1).

    Returns:
        Probability in [0, 1]; an upper bound (rounded up).

    Raises:
        ValueError: If an argument is out of range.

    Source: Steinke, Nasr and Jagielski 2023, arXiv:2305.08846.
    """
    epsilon = _checks.check_real("epsilon", epsilon, at_least=0.0)
    counts = guesses_lib.check_counts(num_canaries, num_guesses, num_correct)
    return _bound_p_value(epsilon, *counts, lower_bounds.check_delta(delta))


def compute_one_run_epsilon(
    *,
    num_canaries: int,
    num_guesses: int,
    num_correct: int,
    delta: float,
    confidence: float,
) -> float:
    """Returns the epsilon below which so many right guesses are too improbable.

        result = sup {epsilon: p-value < 1 - confidence}, or 0

    A mechanism that is (epsilon, delta)-DP gets a result above its epsilon with
    probability at most 1 - confidence. To try several numbers of guesses, use
    `estimate_one_run_epsilon`.

    Args:
        num_canaries: In and out together; >= 1.
        num_guesses: Canaries guessed; in [0, num_canaries], and chosen without
            a look at the coins.
        num_correct: Right guesses; in [0, num_guesses].
        delta: Probability in [0, 1).
        confidence: In (0, 1).

    Returns:
        epsilon in nats, >= 0; a lower bound (rounded down).

    Raises:
        ValueError: If an argument is out of range.

    Source: Steinke, Nasr and Jagielski 2023, arXiv:2305.08846.
    """
    counts = guesses_lib.check_counts(num_canaries, num_guesses, num_correct)
    delta = lower_bounds.check_delta(delta)
    level = 1.0 - binomial.check_confidence(confidence)
    epsilon, _ = lower_bounds.find_best_test(
        [counts], lambda test, e: _is_rejected(e, *test, delta, level)
    )
    return epsilon


def estimate_one_run_epsilon(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    delta: float,
    confidence: float,
    num_guesses_in: int | None = None,
    num_guesses_out: int | None = None,
) -> OneRunResult:
    """Returns a lower bound on epsilon from the scores of one run's canaries.

    The highest scores are guessed in, the lowest out. How many depends on the
    number of canaries alone: K pairs of counts (`guesses.make_guess_grid`),
    each tested at level (1 - confidence) / K, so that all K together are wrong
    with probability at most 1 - confidence. Equal scores count against the
    attack; for a random order instead, add tiny noise to all scores.

    Args:
        member_scores: `[M]` finite, M >= 1, of all canaries that were in;
            higher means more likely a member.
        non_member_scores: `[N]` finite, N >= 1, of all that were out.
        delta: Probability in [0, 1), best far below 1 / (M + N).
        confidence: In (0, 1).
        num_guesses_in: Number of highest scores to guess in, for one test
            instead of K; chosen before seeing the coins; in [0, M + N].
        num_guesses_out: As above, lowest scores to guess out. Left out, it is
            0 if the other is given.

    Returns:
        A lower bound (rounded down), with the best pair's counts.

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If they are empty, not vectors or not finite, if fair coins
            do not give M members of M + N, or a number is out of range.

    Source: Steinke, Nasr and Jagielski 2023, arXiv:2305.08846.
    """
    delta = lower_bounds.check_delta(delta)
    level = 1.0 - binomial.check_confidence(confidence)
    tests = guesses_lib.make_tests(
        member_scores,
        non_member_scores,
        num_guesses_in=num_guesses_in,
        num_guesses_out=num_guesses_out,
    )
    counts = [(t.num_canaries, t.num_guesses, t.num_correct) for t in tests]
    share = level / len(tests)
    epsilon, best = lower_bounds.find_best_test(
        counts, lambda test, e: _is_rejected(e, *test, delta, share)
    )
    if best is None:
        best = int(np.argmax([test.excess for test in tests]))
    p_value = len(tests) * _bound_p_value(0.0, *counts[best], delta)
    return OneRunResult(
        epsilon_lower=epsilon,
        delta=delta,
        confidence=confidence,
        is_bound=True,
        assumptions=guesses_lib.ASSUMPTIONS,
        warnings=(
            *_make_delta_warnings(tests[best].num_canaries, delta, level),
            *guesses_lib.make_warnings(
                member_scores, non_member_scores, tests[best]
            ),
        ),
        guesses=tests[best],
        num_tests=len(tests),
        p_value=min(1.0, p_value),
    )


def _make_delta_warnings(num_canaries, delta, level) -> tuple[str, ...]:
    """Returns a warning if delta is too large for so many canaries."""
    if 2.0 * num_canaries * delta <= 0.1 * level:
        return ()
    return (
        f"delta {delta:g} is large for {num_canaries} canaries and weakens the "
        f"bound. Use one below {0.05 * level / num_canaries:.1g}, and the "
        "epsilon claimed at that delta.",
    )


def _compute_binomial_tail(epsilon, guesses, correct) -> float:
    """Returns P[W >= correct], in the form that is exact for few wrong."""
    if correct == 0:
        return 1.0
    wrong = special.expit(-epsilon)
    return float(special.betaincc(guesses - correct + 1, correct, wrong))


def _bound_p_value(epsilon, canaries, guesses, correct, delta) -> float:
    """Returns the p-value, rounded up; where it is below 1, it rises.

    For each i the bound is a function of W's success probability whose
    derivative has the sign of (1 - c) + c P[W' = v - i - 1] / P[W' = v - 1],
    with c = 2 m delta / i and W' of one trial less. The ratio falls, so that
    the bound rises and then perhaps falls, to its limit 1: below 1 it rises.
    """
    tail = _compute_binomial_tail(epsilon, guesses, correct)
    if delta > 0.0:
        if tail > 0.5:
            return 1.0
        mean = _compute_largest_mean(epsilon, guesses, correct)
        tail += 2.0 * canaries * delta * mean
    return min(1.0, max(_SMALLEST, tail) * _ROUND_UP)


def _is_rejected(epsilon, canaries, guesses, correct, delta, level) -> bool:
    """Returns whether the p-value is below the level."""
    # Most tests are settled by the term that costs less.
    if not _compute_binomial_tail(epsilon, guesses, correct) < level:
        return False
    return _bound_p_value(epsilon, canaries, guesses, correct, delta) < level


def _compute_largest_mean(epsilon, guesses, correct) -> float:
    """Returns max_i P[v - i <= W < v] / i, the mean of i probabilities.

    They are those of one more wrong guess than there were, two more, ... As
    they rise up to the mode and then fall, the mean does too: it stops to rise
    before the far side of the mode, where probabilities vanish.
    """
    wrong = special.expit(-epsilon)
    first = guesses - correct + 1
    far = guesses * wrong + 12.0 * math.sqrt(guesses * wrong) + 40.0
    last = min(guesses, max(first, math.ceil(far)))
    masses = stats.binom.pmf(np.arange(first, last + 1), guesses, wrong)
    return float(np.max(np.cumsum(masses) / np.arange(1, masses.size + 1)))
