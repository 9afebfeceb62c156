# SPDX-License-Identifier: Apache-2.0
"""Bounds on true and false positive rates that hold at many thresholds at once.

With K thresholds t that do not depend on the trials counted, the rates TPR and
FPR of the test "the score is at least t" get Clopper-Pearson bounds TPR_lo and
FPR_up at level (1 - confidence) / (2 K) each. By the union bound all 2 K hold
at once with probability at least confidence, at any number of trials. As TNR is
1 - FPR and FNR is 1 - TPR, they bound these two rates as well.

If all of them hold, no true pair (epsilon, delta) is ever contradicted:

    TPR_lo     <= TPR <= e^epsilon FPR + delta <= e^epsilon FPR_up + delta
    1 - FPR_up <= TNR <= e^epsilon FNR + delta <= e^epsilon (1 - TPR_lo) + delta

So any number of pairs, and of claims, may be held against the same bounds.

Source: Wasserman and Zhou 2010, arXiv:0811.2501; Clopper and Pearson 1934,
doi:10.1093/biomet/26.4.404.
"""

import dataclasses
import math

import numpy as np

from tf_privacy.audit import binomial
from tf_privacy.audit import claim as claim_lib
from tf_privacy.audit import scores as scores_lib
from tf_privacy.audit import threshold_epsilon

# What the trials must be for the bounds to hold.
ASSUMPTIONS = (
    "trials are independent: models trained anew, or canaries that do not "
    "interact",
    "each trial's example was in or out by a coin of its own, and is one unit "
    "of the claim",
    "no score was computed with the help of who is a member",
    "thresholds were fixed before the trials that are counted, or chosen on "
    "others",
)
# The two rows of `compute_excesses`: whose rate is bounded from below.
SIDES = ("members", "non_members")
# Above the errors of Clopper-Pearson rates from 1e-7 up.
_ROUND_DOWN = 1e-9
# Of all trials, how many choose the threshold. A small share chooses almost as
# well as a large one, and leaves more to count.
_CHOOSING_SHARE = 0.15
_NUM_CANDIDATES = 500


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RateBounds:
    """Bounds on the rates at some thresholds, all true at once.

    Attributes:
        thresholds: `[K]` rising; scores at or above are guessed members.
        tpr_lower: `[K]`; of members at least so many are guessed.
        fpr_upper: `[K]`; of non-members at most so many are guessed.
        confidence: That all 2 K bounds hold; in (0, 1).
    """

    thresholds: np.ndarray
    tpr_lower: np.ndarray
    fpr_upper: np.ndarray
    confidence: float

    def __str__(self) -> str:
        lines = [f"At once, confidence {self.confidence:g}:"]
        lines += [
            f"  scores >= {t:.6g}: TPR >= {lower:.4g}, FPR <= {upper:.4g}"
            for t, lower, upper in zip(
                self.thresholds, self.tpr_lower, self.fpr_upper, strict=True
            )
        ]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutTrials:
    """A threshold chosen on a part of the trials, and the trials left.

    Attributes:
        threshold: Scores at or above it are guessed members.
        member_scores: `[M]` float64; not used in choosing.
        non_member_scores: `[N]` float64; not used in choosing.
    """

    threshold: float
    member_scores: np.ndarray
    non_member_scores: np.ndarray

    def __str__(self) -> str:
        return (
            f"scores >= {self.threshold:.6g}, to be tested on "
            f"{self.member_scores.size} members and "
            f"{self.non_member_scores.size} non-members"
        )


def estimate_rate_bounds(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    thresholds: np.ndarray,
    confidence: float,
) -> RateBounds:
    """Returns bounds on both rates at each threshold, all true at once.

    Args:
        member_scores: `[M]` finite, M >= 1; higher means more likely a member.
        non_member_scores: `[N]` finite, N >= 1.
        thresholds: `[K]` finite, K >= 1, fixed before the scores were seen;
            equal ones count once.
        confidence: That all bounds hold; in (0, 1).

    Returns:
        `RateBounds`.

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If they are empty, not vectors or not finite, or
            `confidence` is out of range.
    """
    members = scores_lib.check_scores("member_scores", member_scores)
    others = scores_lib.check_scores("non_member_scores", non_member_scores)
    thresholds = np.unique(
        scores_lib.check_scores(
            "thresholds",
            thresholds,
            hint="Fix at least one before the scores are seen.",
        )
    )
    level = 1.0 - binomial.check_confidence(confidence)
    tpr_lower, fpr_upper = _bound_rates(
        members, others, thresholds, 1.0 - level / thresholds.size
    )
    return RateBounds(
        thresholds=thresholds,
        tpr_lower=tpr_lower,
        fpr_upper=fpr_upper,
        confidence=confidence,
    )


def compute_excesses(
    rates: RateBounds, *, claim: claim_lib.Claim
) -> np.ndarray:
    """Returns how far the epsilon that was found exceeds the one claimed.

        result[0, e, k] = log((tpr_lower[k] - deltas[e]) / fpr_upper[k])
                          - epsilons[e]
        result[1, e, k] = log((1 - fpr_upper[k] - deltas[e])
                              / (1 - tpr_lower[k])) - epsilons[e]

    A number above 0 contradicts the pair; -inf is no evidence at all.

    Args:
        rates: Bounds at K thresholds.
        claim: Of E pairs.

    Returns:
        `[2, E, K]` nats, by side, pair and threshold (rounded down).
    """
    epsilons = np.array(claim.epsilons)[:, np.newaxis]
    deltas = np.array(claim.deltas)[:, np.newaxis]
    found = np.stack([rates.tpr_lower, 1.0 - rates.fpr_upper])
    false = np.stack([rates.fpr_upper, 1.0 - rates.tpr_lower])
    with np.errstate(divide="ignore"):
        gains = np.log(np.maximum(found[:, np.newaxis] - deltas, 0.0))
    lower = gains - np.log(false)[:, np.newaxis] - _ROUND_DOWN
    return lower - epsilons


def choose_threshold(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    claim: claim_lib.Claim,
    confidence: float,
    rng: np.random.Generator,
) -> HeldOutTrials:
    """Returns the threshold that most contradicts a claim on some trials.

    A random 15% of members and of non-members choose; the others are returned
    for the test. Thresholds fixed by theory cost no trials, but miss scores
    that lie elsewhere because the steps are not those of the theory.

    Args:
        member_scores: `[M]` finite, M >= 2; higher means more likely a member.
        non_member_scores: `[N]` finite, N >= 2.
        claim: What is to be contradicted.
        confidence: Of the test that follows; in (0, 1).
        rng: Draws the parts.

    Returns:
        `HeldOutTrials`: the threshold and the trials left, in random order.

    Raises:
        TypeError: If scores are not real numbers, or `rng` no generator.
        ValueError: If scores are too few, not vectors or not finite.
    """
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng must be a numpy.random.Generator. Received: {rng!r}. Pass "
            "numpy.random.default_rng(), or one with a seed."
        )
    parts = []
    for name, scores in (
        ("member_scores", member_scores),
        ("non_member_scores", non_member_scores),
    ):
        scores = scores_lib.check_scores(name, scores, at_least_count=2)
        rng.shuffle(scores)
        size = math.ceil(_CHOOSING_SHARE * scores.size)
        parts.append((scores[:size], scores[size:]))
    (members, members_left), (others, others_left) = parts
    pooled = np.unique(np.concatenate([members, others]))
    candidates = pooled[:: -(-pooled.size // _NUM_CANDIDATES)]
    # Each at the confidence of one alone: the best is wanted, not a proof.
    tpr_lower, fpr_upper = _bound_rates(
        members, others, candidates, binomial.check_confidence(confidence)
    )
    rates = RateBounds(
        thresholds=candidates,
        tpr_lower=tpr_lower,
        fpr_upper=fpr_upper,
        confidence=confidence,
    )
    gains = compute_excesses(rates, claim=claim)
    return HeldOutTrials(
        threshold=float(candidates[np.argmax(np.max(gains, axis=(0, 1)))]),
        member_scores=members_left,
        non_member_scores=others_left,
    )


def _bound_rates(members, others, thresholds, confidence):
    """Returns both bounds at each threshold, for checked arguments.

    Args:
        members: `[M]`.
        others: `[N]`.
        thresholds: `[K]`.
        confidence: That the two bounds of one threshold hold.
    """
    members, others = np.sort(members), np.sort(others)
    return threshold_epsilon.compute_rate_bounds(
        num_true_positives=members.size - np.searchsorted(members, thresholds),
        num_members=members.size,
        num_false_positives=others.size - np.searchsorted(others, thresholds),
        num_non_members=others.size,
        confidence=confidence,
    )
