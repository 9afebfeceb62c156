# SPDX-License-Identifier: Apache-2.0
"""Estimates of epsilon for mechanisms with a Gaussian trade-off curve.

A mechanism is mu-GDP if no test of membership does better than telling N(0, 1)
from N(mu, 1). If the curve of the mechanism under audit is a Gaussian one, with
mu unknown, error rates give a lower bound on mu, and mu gives epsilon at any
delta. That "if" is not tested: for other mechanisms the result may exceed the
true epsilon, and so all results here are estimates. DP-SGD with many steps is
nearly Gaussian; randomized response is not.

Source: Dong, Roth and Su 2022, arXiv:1905.02383; Nasr et al. 2023,
arXiv:2302.07956; Mahloujifar, Melis and Chaudhuri 2024, arXiv:2410.22235.
"""

import dataclasses

import numpy as np
from scipy import special

from tf_privacy import accounting
from tf_privacy.audit import binomial
from tf_privacy.audit import guesses as guesses_lib
from tf_privacy.audit import lower_bounds
from tf_privacy.audit import roc
from tf_privacy.audit import threshold_epsilon

# More than the conversion to epsilon rounds up.
_ROUND_DOWN = 1.0 - 1e-9
_ROUND_UP = 1.0 + 1e-9
# Gains this small relative to the sum cannot grow again before they end.
_SMALLEST_GAIN = 1e-12
_GAUSSIAN = "the mechanism's trade-off curve is that of a Gaussian"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GdpResult(lower_bounds.EpsilonResult):
    """An estimate of epsilon from one threshold, for Gaussian mechanisms.

    Attributes:
        mu_lower: Lower bound on mu; >= 0.
        counts: The threshold, and the counts in the second half.
    """

    mu_lower: float
    counts: threshold_epsilon.HeldOutCounts

    def describe(self) -> tuple[str, ...]:
        """Returns lines of text on how the estimate was found."""
        mu = lower_bounds.show_down(self.mu_lower)
        return (str(self.counts), f"Gaussian mu >= {mu}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FdpOneRunResult(guesses_lib.GuessingResult):
    """An estimate of epsilon from one run, for Gaussian mechanisms.

    Attributes:
        mu_lower: Lower bound on mu; >= 0.
    """

    mu_lower: float

    def describe(self) -> tuple[str, ...]:
        """Returns lines of text on how the estimate was found."""
        mu = lower_bounds.show_down(self.mu_lower)
        return (*super().describe(), f"Gaussian mu >= {mu}")


def compute_gdp_audit_epsilon(
    *,
    num_true_positives: int,
    num_members: int,
    num_false_positives: int,
    num_non_members: int,
    delta: float,
    confidence: float,
) -> float:
    """Returns an estimate of epsilon from one fixed threshold's counts.

    With FPR_up and FNR_up Clopper-Pearson bounds, each wrong with probability
    at most (1 - confidence) / 2, and Phi the normal distribution:

        mu = Phi^-1(1 - FPR_up) - Phi^-1(FNR_up)

    and the result is the epsilon of mu-GDP at delta. If the trade-off curve is
    a Gaussian one and trials are independent, it exceeds the true epsilon with
    probability at most 1 - confidence.

    Args:
        num_true_positives: Members that are guessed members.
        num_members: Independent trials with the example in; >= 1.
        num_false_positives: Non-members that are guessed members.
        num_non_members: Independent trials with the example out; >= 1.
        delta: Probability in (0, 1).
        confidence: In (0, 1).

    Returns:
        epsilon in nats, >= 0 (rounded down).

    Raises:
        ValueError: If an argument is out of range.

    Source: Nasr et al. 2023, arXiv:2302.07956.
    """
    delta = lower_bounds.check_delta(delta, positive=True)
    counts = threshold_epsilon.check_trial_counts(
        num_true_positives=num_true_positives,
        num_members=num_members,
        num_false_positives=num_false_positives,
        num_non_members=num_non_members,
    )
    return _convert_down(float(_bound_mu(counts, confidence)), delta)


def estimate_held_out_gdp_epsilon(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    delta: float,
    confidence: float,
    rng: np.random.Generator,
) -> GdpResult:
    """Returns an estimate of epsilon at a threshold chosen on other trials.

    Members and non-members are split at random into halves; the threshold with
    the largest mu on the first is used on the second.

    Args:
        member_scores: `[M]` finite, M >= 2; higher means more likely a member.
        non_member_scores: `[N]` finite, N >= 2.
        delta: Probability in (0, 1).
        confidence: In (0, 1).
        rng: Draws the halves.

    Returns:
        An estimate (rounded down), with the second half's counts.

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If they are too few, not vectors or not finite, or a number
            is out of range.
    """
    delta = lower_bounds.check_delta(delta, positive=True)
    _, counts = threshold_epsilon.choose_and_count(
        member_scores,
        non_member_scores,
        compute_gains=lambda counts: _bound_mu(counts, confidence)[np.newaxis],
        rng=rng,
    )
    mu = float(_bound_mu(counts.list_counts(), confidence))
    return GdpResult(
        epsilon_lower=_convert_down(mu, delta),
        delta=delta,
        confidence=confidence,
        is_bound=False,
        assumptions=(_GAUSSIAN, *threshold_epsilon.ASSUMPTIONS),
        warnings=roc.make_sign_warnings(member_scores, non_member_scores),
        mu_lower=max(0.0, mu),
        counts=counts,
    )


def compute_fdp_one_run_epsilon(
    *,
    num_canaries: int,
    num_guesses: int,
    num_correct: int,
    delta: float,
    confidence: float,
) -> float:
    """Returns an estimate of epsilon from the right guesses of one run.

    A mu is rejected if, with f its trade-off curve, a = 1 - confidence, m
    canaries, r guesses and v right ones, the recursion over i = v-1, ..., 0

        start: wrong = a (r - v) / m,  right = a v / m
        step:  gain = max(0, f^-1(right) - wrong)
               wrong += gain,  right += gain i / (r - i)

    ends with right + wrong > r / m. The result is the epsilon at delta of the
    largest mu that is rejected. It exceeds the true epsilon with probability at
    most 1 - confidence if the curve is a Gaussian one.

    Args:
        num_canaries: In and out together, by fair coins; >= 1.
        num_guesses: Canaries guessed; in [0, num_canaries], and chosen without
            a look at the coins.
        num_correct: Right guesses; in [0, num_guesses].
        delta: Probability in (0, 1).
        confidence: In (0, 1).

    Returns:
        epsilon in nats, >= 0 (rounded down).

    Raises:
        ValueError: If an argument is out of range.

    Source: Mahloujifar, Melis and Chaudhuri 2024, arXiv:2410.22235.
    """
    counts = guesses_lib.check_counts(num_canaries, num_guesses, num_correct)
    delta = lower_bounds.check_delta(delta, positive=True)
    level = 1.0 - binomial.check_confidence(confidence)
    mu, _ = lower_bounds.find_best_test(
        [counts], lambda test, mu: _is_rejected(mu, *test, level)
    )
    return _convert_down(mu, delta)


def estimate_fdp_one_run_epsilon(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    delta: float,
    confidence: float,
    num_guesses_in: int | None = None,
    num_guesses_out: int | None = None,
) -> FdpOneRunResult:
    """Returns an estimate of epsilon from the scores of one run's canaries.

    Guesses are those of `one_run.estimate_one_run_epsilon`, ties included: K
    pairs of counts, each tested at level (1 - confidence) / K.

    Args:
        member_scores: `[M]` finite, M >= 1, of all canaries that were in;
            higher means more likely a member.
        non_member_scores: `[N]` finite, N >= 1, of all that were out.
        delta: Probability in (0, 1).
        confidence: In (0, 1).
        num_guesses_in: Number of highest scores to guess in, for one test
            instead of K; chosen before seeing the coins; in [0, M + N].
        num_guesses_out: As above, lowest scores to guess out. Left out, it is
            0 if the other is given.

    Returns:
        An estimate (rounded down), with the best pair's counts.

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If they are empty, not vectors or not finite, if fair coins
            do not give M members of M + N, or a number is out of range.

    Source: Mahloujifar, Melis and Chaudhuri 2024, arXiv:2410.22235.
    """
    delta = lower_bounds.check_delta(delta, positive=True)
    level = 1.0 - binomial.check_confidence(confidence)
    tests = guesses_lib.make_tests(
        member_scores,
        non_member_scores,
        num_guesses_in=num_guesses_in,
        num_guesses_out=num_guesses_out,
    )
    counts = [(t.num_canaries, t.num_guesses, t.num_correct) for t in tests]
    share = level / len(tests)
    mu, best = lower_bounds.find_best_test(
        counts, lambda test, mu: _is_rejected(mu, *test, share)
    )
    if best is None:
        best = int(np.argmax([test.excess for test in tests]))
    return FdpOneRunResult(
        epsilon_lower=_convert_down(mu, delta),
        delta=delta,
        confidence=confidence,
        is_bound=False,
        assumptions=(_GAUSSIAN, *guesses_lib.ASSUMPTIONS),
        warnings=guesses_lib.make_warnings(
            member_scores, non_member_scores, tests[best]
        ),
        mu_lower=mu,
        guesses=tests[best],
        num_tests=len(tests),
    )


def _bound_mu(counts, confidence):
    """Returns the lower bound on mu, -inf where the rates say nothing."""
    true_rate, false_rate = threshold_epsilon.compute_rate_bounds(
        **counts, confidence=confidence
    )
    return -special.ndtri(false_rate) + special.ndtri(true_rate)


def _convert_down(mu, delta) -> float:
    """Returns the epsilon of mu-GDP, rounded down."""
    if not mu > 0.0:
        return 0.0
    return accounting.compute_gdp_epsilon(mu * _ROUND_DOWN, delta=delta)


def _is_rejected(mu, canaries, guesses, correct, level) -> bool:
    """Returns whether mu-GDP makes so many right guesses too improbable.

    Once nothing is gained, nothing will be. Stopping early never rejects more.
    """
    limit = guesses / canaries * _ROUND_UP
    right = level * correct / canaries
    wrong = level * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        gain = float(special.ndtr(special.ndtri(right) - mu)) - wrong
        if not gain > _SMALLEST_GAIN * wrong:
            return False
        wrong += gain
        right += gain * i / (guesses - i)
        if right + wrong > limit:
            return True
    return False
