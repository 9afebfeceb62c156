# SPDX-License-Identifier: Apache-2.0
"""Tests of a whole claim of privacy on the scores of independent trials.

A claim is a set of pairs (epsilon, delta). Each pair says of every threshold
that TPR <= e^epsilon FPR + delta and TNR <= e^epsilon FNR + delta. All of this
is held against one set of bounds on the rates (`rate_bounds`), which hold at
once: neither the number of pairs costs anything, nor the number of claims. What
the functions here say of the same scores, at the same thresholds and
confidence, rests on one event and is true together.

Trials are independent if each is a model trained anew, or if the canaries of
one model do not interact, as Dirac canaries do not.

Source: Wasserman and Zhou 2010, arXiv:0811.2501; Nasr et al. 2021,
arXiv:2101.04535.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import claim as claim_lib
from tf_privacy.audit import lower_bounds
from tf_privacy.audit import rate_bounds
from tf_privacy.audit import roc

# Searches for a noise multiplier widen by this, end this close, and stop this
# far from where they began.
_NOISE_STEP = 1.5
_NOISE_TOLERANCE = 1e-3
_LARGEST_NOISE_RATIO = 8.0
_FAMILY = "the run is one of those claimed for some noise multiplier"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """Whether a claim is contradicted, and where it is most.

    Attributes:
        rejected: Whether some pair is contradicted by some threshold. A true
            claim is rejected with probability at most 1 - confidence.
        epsilon: Nats; of the pair that comes closest to a contradiction, or
            that is contradicted by most.
        delta: Of that pair; in [0, 1].
        epsilon_lower: Nats, >= 0; lower bound on epsilon at that delta.
        threshold: Where it was found.
        side: Whose rate was bounded from below: "members" above the threshold,
            or "non_members" under it.
        tpr_lower: Lower bound on members at or above the threshold, in [0, 1].
        fpr_upper: Upper bound on non-members at or above it, in [0, 1].
        num_tests: Bounds that had to hold at once: two for each threshold.
        confidence: In (0, 1).
        is_bound: True: it holds at any number of trials.
        claim: What was claimed, in words.
        assumptions: What must be true for that, one sentence each.
        warnings: What the caller can mend, one sentence each.
    """

    rejected: bool
    epsilon: float
    delta: float
    epsilon_lower: float
    threshold: float
    side: str
    tpr_lower: float
    fpr_upper: float
    num_tests: int
    confidence: float
    is_bound: bool
    claim: str
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        verdict = "REJECTED" if self.rejected else "not rejected"
        shown = lower_bounds.show_down(self.epsilon_lower)
        lines = [
            f"Claim {verdict}, confidence {self.confidence:g}: {self.claim}",
            f"  at delta {self.delta:.4g}: claimed epsilon {self.epsilon:.4f}, "
            f"found epsilon >= {shown}",
            f"  {_describe(self)}",
            "  Holds if:",
            *(f"    - {text}" for text in self.assumptions),
            *(f"  Warning: {text}" for text in self.warnings),
        ]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedThresholdsResult(lower_bounds.EpsilonResult):
    """A lower bound on epsilon at one delta, from thresholds fixed before.

    Attributes:
        threshold: The one that gives most.
        side: As in `ClaimResult`.
        tpr_lower: As in `ClaimResult`.
        fpr_upper: As in `ClaimResult`.
        num_tests: As in `ClaimResult`.
    """

    threshold: float
    side: str
    tpr_lower: float
    fpr_upper: float
    num_tests: int

    def describe(self) -> tuple[str, ...]:
        """Returns lines of text on how the bound was found."""
        return (_describe(self),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseBound:
    """An upper bound on the noise that a run really had.

    Attributes:
        noise_multiplier_upper: The run has less noise than this, with
            probability at least confidence; inf if nothing was found.
        claimed_noise_multiplier: What was said.
        rejected: Whether the claimed noise is too much to be true.
        implied_epsilon: Nats; what the accountant states at `delta` for the
            bound: at least so much was spent, up to the accountant's own error.
        delta: Probability in [0, 1).
        num_tests: As in `ClaimResult`.
        confidence: In (0, 1).
        is_bound: True: it holds at any number of trials.
        assumptions: What must be true for that, one sentence each.
    """

    noise_multiplier_upper: float
    claimed_noise_multiplier: float
    rejected: bool
    implied_epsilon: float
    delta: float
    num_tests: int
    confidence: float
    is_bound: bool
    assumptions: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"noise_multiplier <= {_show_up(self.noise_multiplier_upper)} "
            f"(claimed {self.claimed_noise_multiplier:g}), confidence "
            f"{self.confidence:g}",
            f"  so that epsilon is at least about {self.implied_epsilon:.4g} "
            f"at delta {self.delta:g}",
            "  Holds if:",
            *(f"    - {text}" for text in self.assumptions),
        ]
        return "\n".join(lines)


def estimate_claim_violation(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    claim: claim_lib.Claim,
    confidence: float,
    thresholds: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> ClaimResult:
    """Returns whether the scores contradict a claim, at any of its pairs.

    It is rejected if at some threshold, for some pair (epsilon, delta),

        TPR_lo > e^epsilon FPR_up + delta, or
        1 - FPR_up > e^epsilon (1 - TPR_lo) + delta

    which happens to a true claim with probability at most 1 - confidence, for
    any mechanism and any number of trials. If the scores are log-likelihood
    ratios, thresholds near plus and minus the claim's epsilons are best as long
    as the run is nearly as claimed.

    Args:
        member_scores: `[M]` finite, M >= 1; higher means more likely a member.
        non_member_scores: `[N]` finite, N >= 1.
        claim: What is said to hold.
        confidence: In (0, 1).
        thresholds: `[K]` finite, fixed before the scores were seen; or None.
        rng: Instead of `thresholds`: draws the trials that choose one, as
            `rate_bounds.choose_threshold` does.

    Returns:
        `ClaimResult`, rounded against rejection.

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If they are too few, not vectors or not finite, or not one
            of `thresholds` and `rng` is given.
    """
    if (thresholds is None) == (rng is None):
        raise ValueError(
            "thresholds must be given, or else rng. Received: thresholds "
            f"{thresholds!r}, rng {rng!r}. Without thresholds fixed "
            "beforehand, pass numpy.random.default_rng()."
        )
    if thresholds is None:
        left = rate_bounds.choose_threshold(
            member_scores,
            non_member_scores,
            claim=claim,
            confidence=confidence,
            rng=rng,
        )
        thresholds = [left.threshold]
        member_scores = left.member_scores
        non_member_scores = left.non_member_scores
    rates = rate_bounds.estimate_rate_bounds(
        member_scores,
        non_member_scores,
        thresholds=thresholds,
        confidence=confidence,
    )
    excesses = rate_bounds.compute_excesses(rates, claim=claim)
    best = np.unravel_index(np.argmax(excesses), excesses.shape)
    epsilon = claim.epsilons[best[1]]
    return ClaimResult(
        rejected=bool(excesses[best] > 0.0),
        epsilon=epsilon,
        delta=claim.deltas[best[1]],
        epsilon_lower=max(0.0, float(excesses[best]) + epsilon),
        confidence=confidence,
        is_bound=True,
        claim=claim.description,
        assumptions=rate_bounds.ASSUMPTIONS,
        warnings=roc.make_sign_warnings(member_scores, non_member_scores),
        **_list_best(rates, best[0], best[2]),
    )


def estimate_profile_epsilon(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    delta: float,
    thresholds: np.ndarray,
    confidence: float,
) -> FixedThresholdsResult:
    """Returns a lower bound on epsilon at one delta, from fixed thresholds.

        result = max(0, max_t log((TPR_lo - delta) / FPR_up),
                        max_t log((1 - FPR_up - delta) / (1 - TPR_lo)))

    It exceeds the true epsilon with probability at most 1 - confidence, for any
    mechanism and any number of trials; also at the worst of many deltas.

    Args:
        member_scores: `[M]` finite, M >= 1; higher means more likely a member.
        non_member_scores: `[N]` finite, N >= 1.
        delta: Probability in [0, 1).
        thresholds: `[K]` finite, fixed before these scores were seen.
        confidence: In (0, 1).

    Returns:
        A lower bound (rounded down), and where it was found.

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If they are empty, not vectors or not finite, or a number
            is out of range.
    """
    delta = lower_bounds.check_delta(delta)
    rates = rate_bounds.estimate_rate_bounds(
        member_scores,
        non_member_scores,
        thresholds=thresholds,
        confidence=confidence,
    )
    nothing = claim_lib.Claim.from_pair(0.0, delta)
    excesses = rate_bounds.compute_excesses(rates, claim=nothing)[:, 0]
    best = np.unravel_index(np.argmax(excesses), excesses.shape)
    return FixedThresholdsResult(
        epsilon_lower=max(0.0, float(excesses[best])),
        delta=delta,
        confidence=confidence,
        is_bound=True,
        assumptions=rate_bounds.ASSUMPTIONS,
        warnings=roc.make_sign_warnings(member_scores, non_member_scores),
        **_list_best(rates, *best),
    )


def estimate_noise_multiplier(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    make_claim_at: Callable[[float], claim_lib.Claim],
    claimed_noise_multiplier: float,
    delta: float,
    thresholds: np.ndarray,
    confidence: float,
) -> NoiseBound:
    """Returns an upper bound on the noise multiplier of the run.

    The result is the smallest noise multiplier whose claim is rejected, by the
    rule of `estimate_claim_violation`. A run with more noise than that would
    keep to the contradicted pair as well; so the run had less, unless one of
    the bounds on rates failed, which happens with probability at most
    1 - confidence: the number of noise multipliers tried costs nothing.

    Args:
        member_scores: `[M]` finite, M >= 1; higher means more likely a member.
        non_member_scores: `[N]` finite, N >= 1.
        make_claim_at: From a noise multiplier to the claim of the same run with
            that noise; its deltas fall as the noise grows.
        claimed_noise_multiplier: What was said; > 0. The search starts here,
            and ends at about 8 times more or less.
        delta: Of `implied_epsilon`; in [0, 1), and within the claims.
        thresholds: `[K]` finite, fixed before these scores were seen.
        confidence: In (0, 1).

    Returns:
        `NoiseBound`, rounded up by at most 0.1%.

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If they are empty, not vectors or not finite, or a number
            is out of range.
    """
    claimed = _checks.check_noise_multiplier(
        claimed_noise_multiplier, name="claimed_noise_multiplier"
    )
    delta = lower_bounds.check_delta(delta)
    rates = rate_bounds.estimate_rate_bounds(
        member_scores,
        non_member_scores,
        thresholds=thresholds,
        confidence=confidence,
    )
    # Raises now rather than after the search if delta is not in the claims.
    make_claim_at(claimed).get_epsilon(delta)

    def is_rejected(noise):
        excesses = rate_bounds.compute_excesses(
            rates, claim=make_claim_at(noise)
        )
        return bool(np.max(excesses) > 0.0)

    upper = _find_smallest_noise(is_rejected, claimed)
    implied = 0.0
    if upper < math.inf:
        implied = make_claim_at(upper).get_epsilon(delta)
    return NoiseBound(
        noise_multiplier_upper=upper,
        claimed_noise_multiplier=claimed,
        rejected=upper <= claimed,
        implied_epsilon=implied,
        delta=delta,
        num_tests=2 * rates.thresholds.size,
        confidence=confidence,
        is_bound=True,
        assumptions=(*rate_bounds.ASSUMPTIONS, _FAMILY),
    )


def _find_smallest_noise(is_rejected, claimed) -> float:
    """Returns the smallest noise that is rejected, from above; inf if none."""
    low = high = claimed
    if is_rejected(claimed):
        while is_rejected(low := high / _NOISE_STEP):
            high = low
            if high < claimed / _LARGEST_NOISE_RATIO:
                return high
    else:
        while not is_rejected(high := low * _NOISE_STEP):
            low = high
            if low > claimed * _LARGEST_NOISE_RATIO:
                return math.inf
    while high > low * (1.0 + _NOISE_TOLERANCE):
        middle = math.sqrt(low * high)
        if is_rejected(middle):
            high = middle
        else:
            low = middle
    return high


def _list_best(rates, side, index) -> dict:
    """Returns the fields of a result that say where it was found."""
    return {
        "threshold": float(rates.thresholds[index]),
        "side": rate_bounds.SIDES[side],
        "tpr_lower": float(rates.tpr_lower[index]),
        "fpr_upper": float(rates.fpr_upper[index]),
        "num_tests": 2 * rates.thresholds.size,
    }


def _describe(result) -> str:
    return (
        f"scores >= {result.threshold:.6g}: of members at least "
        f"{result.tpr_lower:.4g}, of non-members at most "
        f"{result.fpr_upper:.4g}; {result.num_tests} bounds at once, used from "
        f"the side of {result.side}"
    )


def _show_up(number: float) -> str:
    """Returns a number with four decimals, rounded up."""
    if number == math.inf:
        return "inf"
    return f"{math.ceil(number * 1e4) / 1e4:.4f}"
