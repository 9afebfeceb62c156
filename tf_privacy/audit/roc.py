# SPDX-License-Identifier: Apache-2.0
"""How well scores separate members from non-members.

The curve is the empirical one, step by step. Its convex hull is not used: on
scores that say nothing the hull's area is above 1/2 (0.55 with 100 members and
100 non-members), and on scores whose sign is wrong it hides the mistake.

Higher scores mean more likely a member. Nothing here is a bound on epsilon.
"""

import dataclasses
import math

import numpy as np
from scipy import special

from tf_privacy import _checks
from tf_privacy.audit import binomial
from tf_privacy.audit import scores as scores_lib

_HIGHER = "Higher must mean more likely a member."
# A fixed false-alarm rate, low enough for a warning that is always computed.
_SIGN_CONFIDENCE = 0.999


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RocCurve:
    """Error rates of the rule "a member if score >= threshold".

    Attributes:
        false_positive_rates: `[T]` float64, rising from 0 to 1.
        true_positive_rates: `[T]` float64, rising from 0 to 1.
        thresholds: `[T]` float64, falling: inf, then each score that occurs.
        num_members: Members scored.
        num_non_members: Non-members scored.
    """

    false_positive_rates: np.ndarray
    true_positive_rates: np.ndarray
    thresholds: np.ndarray
    num_members: int
    num_non_members: int

    @property
    def auc(self) -> float:
        """Chance that a member scores above a non-member, ties half."""
        heights = self.true_positive_rates[1:] + self.true_positive_rates[:-1]
        widths = np.diff(self.false_positive_rates)
        return float(0.5 * np.dot(heights, widths))

    @property
    def advantage(self) -> float:
        """Largest true minus false positive rate; >= 0, biased upward."""
        return float(
            np.max(self.true_positive_rates - self.false_positive_rates)
        )

    def get_true_positive_rate(self, false_positive_rate: float) -> float:
        """Returns the largest true positive rate at no more false positives.

        Args:
            false_positive_rate: Of the non-members scored; in [0, 1].
        """
        return float(
            self.true_positive_rates[self._find_point(false_positive_rate)]
        )

    def get_threshold(self, false_positive_rate: float) -> float:
        """Returns the lowest threshold with no more false positives.

        Args:
            false_positive_rate: Of the non-members scored; in [0, 1].
        """
        return float(self.thresholds[self._find_point(false_positive_rate)])

    def _find_point(self, false_positive_rate) -> int:
        rate = _checks.check_real(
            "false_positive_rate", false_positive_rate, at_least=0.0, at_most=1
        )
        rates = self.false_positive_rates
        return int(np.searchsorted(rates, rate, side="right")) - 1

    def __str__(self) -> str:
        lines = [
            f"ROC of {self.num_members} members and {self.num_non_members} "
            f"non-members: AUC {self.auc:.4f}, advantage {self.advantage:.4f}",
            *(
                f"  true positive rate {self.get_true_positive_rate(rate):.4f}"
                f" at false positive rate {rate:g}"
                for rate in (0.001, 0.01, 0.1)
            ),
        ]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A number found from data, and a range around it.

    Attributes:
        value: The number.
        lower: Least plausible value.
        upper: Largest plausible value.
        confidence: In (0, 1), both sides together.
    """

    value: float
    lower: float
    upper: float
    confidence: float

    def __str__(self) -> str:
        return (
            f"{self.value:.4g} ({self.lower:.4g} to {self.upper:.4g} at "
            f"confidence {self.confidence:g})"
        )


def compute_roc(
    member_scores: np.ndarray, non_member_scores: np.ndarray
) -> RocCurve:
    """Returns the empirical ROC curve, one point for each distinct score.

    Args:
        member_scores: `[M]` finite, M >= 1; higher means more likely a member.
        non_member_scores: `[N]` finite, N >= 1.

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If they are empty, not vectors, or not finite.
    """
    members, others = check_both(member_scores, non_member_scores)
    members, others = np.sort(members), np.sort(others)
    pooled = np.sort(np.concatenate([members, others]), kind="stable")
    is_last = np.append(pooled[1:] != pooled[:-1], True)
    thresholds = np.append(pooled[is_last][::-1], -np.inf)
    # Points before each threshold: nobody, then all above the first score, ...
    found = members.size - np.searchsorted(members, thresholds, side="right")
    alarms = others.size - np.searchsorted(others, thresholds, side="right")
    return RocCurve(
        false_positive_rates=alarms / others.size,
        true_positive_rates=found / members.size,
        thresholds=np.concatenate([[np.inf], thresholds[:-1]]),
        num_members=members.size,
        num_non_members=others.size,
    )


def estimate_auc(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    confidence: float,
) -> Interval:
    """Returns the area under the ROC curve with DeLong's interval, no bound.

    It is the normal interval of log(AUC / (1 - AUC)). On the AUC's own scale it
    would be too short near 1: of 50 members and 50 non-members at an AUC of
    0.98, lower limits meant to fail in 0.25% of cases fail in 9%.

    The interval is right for many scores of independent examples. Examples of
    one trained model are not quite independent, and its confidence does not
    cover the choice of the model. Where all examples have the same share of
    wins, as when the scores separate perfectly, DeLong's variance is 0; there
    min(M, N) disjoint pairs give a Clopper-Pearson interval instead.

    Args:
        member_scores: `[M]` finite, M >= 1; higher means more likely a member.
        non_member_scores: `[N]` finite, N >= 1.
        confidence: Of both sides together; in (0, 1).

    Returns:
        AUC in [0, 1], ties half.

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If they are empty, not vectors, or not finite, or
            `confidence` is out of range.

    Source: DeLong, DeLong and Clarke-Pearson 1988, doi:10.2307/2531595.
    """
    confidence = binomial.check_confidence(confidence)
    members, others = check_both(member_scores, non_member_scores)
    wins = _compute_share_below(members, others)
    losses = _compute_share_below(others, members)
    auc = float(np.mean(wins))
    variance = sum(
        np.var(shares, ddof=1) / shares.size if shares.size > 1 else 0.0
        for shares in (wins, losses)
    )
    if variance > 0.0:
        reach = -special.ndtri(0.5 - 0.5 * confidence) * math.sqrt(variance)
        reach /= auc * (1.0 - auc)
        middle = special.logit(auc)
        lower = float(special.expit(middle - reach))
        upper = float(special.expit(middle + reach))
    else:
        pairs = min(members.size, others.size)
        lower, _ = _compute_interval(math.floor(auc * pairs), pairs, confidence)
        _, upper = _compute_interval(math.ceil(auc * pairs), pairs, confidence)
    return Interval(value=auc, lower=lower, upper=upper, confidence=confidence)


def estimate_true_positive_rate(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    false_positive_rate: float,
    confidence: float,
) -> Interval:
    """Returns the true positive rate at a false positive rate, no bound.

    The threshold is the lowest whose false positives among the non-members
    given are no more than asked for. The interval is Clopper-Pearson's on the
    true positive rate at that threshold; that the threshold's own false
    positive rate is uncertain it does not tell.

    Args:
        member_scores: `[M]` finite, M >= 1; higher means more likely a member.
        non_member_scores: `[N]` finite, N >= 1.
        false_positive_rate: In [0, 1].
        confidence: Of both sides together; in (0, 1).

    Returns:
        Rate in [0, 1].

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If they are empty, not vectors, or not finite, or a number
            is out of range.
    """
    confidence = binomial.check_confidence(confidence)
    curve = compute_roc(member_scores, non_member_scores)
    rate = curve.get_true_positive_rate(false_positive_rate)
    lower, upper = _compute_interval(
        round(rate * curve.num_members), curve.num_members, confidence
    )
    return Interval(value=rate, lower=lower, upper=upper, confidence=confidence)


def is_sign_wrong(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    confidence: float,
) -> bool:
    """Returns whether members score lower than non-members, beyond chance.

    True if the interval of `estimate_auc` lies below 1/2. On scores that say
    nothing it is so with probability of about (1 - confidence) / 2.

    Args:
        member_scores: `[M]` finite, M >= 1.
        non_member_scores: `[N]` finite, N >= 1.
        confidence: In (0, 1).

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If they are empty, not vectors, or not finite, or
            `confidence` is out of range.
    """
    interval = estimate_auc(
        member_scores, non_member_scores, confidence=confidence
    )
    return interval.upper < 0.5


def make_sign_warnings(
    member_scores: np.ndarray, non_member_scores: np.ndarray
) -> tuple[str, ...]:
    """Returns a warning if the scores' sign is wrong, else nothing.

    Args:
        member_scores: `[M]` finite, M >= 1.
        non_member_scores: `[N]` finite, N >= 1.
    """
    if not is_sign_wrong(
        member_scores, non_member_scores, confidence=_SIGN_CONFIDENCE
    ):
        return ()
    return (
        "members score lower than non-members. Pass minus the scores if lower "
        "means more likely a member.",
    )


def check_both(
    member_scores: np.ndarray, non_member_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both score vectors as float64, once finite and not empty.

    Args:
        member_scores: `[M]`, unchecked.
        non_member_scores: `[N]`, unchecked.
    """
    return (
        scores_lib.check_scores("member_scores", member_scores, hint=_HIGHER),
        scores_lib.check_scores(
            "non_member_scores", non_member_scores, hint=_HIGHER
        ),
    )


def _compute_share_below(queries, references):
    """Returns for each query the share of references below it, ties half."""
    references = np.sort(references)
    # Sorted queries find their places several times faster.
    queries = np.sort(queries)
    below = np.searchsorted(references, queries, side="left")
    up_to = np.searchsorted(references, queries, side="right")
    return (below + up_to) / (2.0 * references.size)


def _compute_interval(num_successes, num_trials, confidence):
    one_side = 0.5 + 0.5 * confidence
    return (
        float(
            binomial.compute_lower_bound(
                num_successes, num_trials, confidence=one_side
            )
        ),
        float(
            binomial.compute_upper_bound(
                num_successes, num_trials, confidence=one_side
            )
        ),
    )
