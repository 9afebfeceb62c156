# SPDX-License-Identifier: Apache-2.0
"""Lower bounds on epsilon from the error rates of one threshold.

An (epsilon, delta)-DP mechanism keeps every test of membership to

    TPR <= e^epsilon FPR + delta    and    TNR <= e^epsilon FNR + delta

A rate counted in independent trials, and bounded by Clopper-Pearson, turns this
into a lower bound on epsilon. Trials are independent if each is a model trained
anew, or if the canaries of one model do not interact (as gradients in
coordinates of their own). For canaries that share a model, use `one_run`.

The threshold must not be chosen from the trials that are counted: the best of
all thresholds on scores that say nothing "proves" epsilon > 0 in most runs.

Source: Jagielski, Ullman and Oprea 2020, arXiv:2006.07709; Nasr et al. 2021,
arXiv:2101.04535.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import binomial
from tf_privacy.audit import lower_bounds
from tf_privacy.audit import roc
from tf_privacy.audit import scores as scores_lib

# Above the errors of Clopper-Pearson rates from 1e-7 up.
_ROUND_DOWN = 1e-9
_NUM_CANDIDATES = 100
ASSUMPTIONS = (
    "trials are independent: models trained anew, or canaries that do not "
    "interact",
    "each trial's example was in or out by a coin of its own, or is the same "
    "in all trials",
    "no score was computed with the help of who is a member",
    "each trial adds or removes examples_per_trial units of the claim",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutCounts:
    """A threshold chosen on one half, and what it finds in the other.

    Attributes:
        threshold: Scores at or above it are guessed members.
        num_true_positives: Members at or above it, in the second half.
        num_members: Members in the second half.
        num_false_positives: Non-members at or above it, in the second half.
        num_non_members: Non-members in the second half.
    """

    threshold: float
    num_true_positives: int
    num_members: int
    num_false_positives: int
    num_non_members: int

    def __str__(self) -> str:
        return (
            f"scores >= {self.threshold:.6g} in the second half: "
            f"{self.num_true_positives} of {self.num_members} members, "
            f"{self.num_false_positives} of {self.num_non_members} non-members"
        )

    def list_counts(self) -> dict[str, int]:
        """Returns the four counts under their names."""
        counts = dataclasses.asdict(self)
        del counts["threshold"]
        return counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThresholdResult(lower_bounds.EpsilonResult):
    """A lower bound on epsilon from one threshold's error rates.

    Attributes:
        side: Whose rate was bounded from below: "members" above the threshold,
            or "non_members" under it; chosen on the first half.
        counts: The threshold, and the counts in the second half.
        examples_per_trial: Examples that a trial adds or removes.
    """

    side: str
    counts: HeldOutCounts
    examples_per_trial: int

    def describe(self) -> tuple[str, ...]:
        """Returns lines of text on how the bound was found."""
        return (str(self.counts), f"bound from the side of {self.side}")


def compute_threshold_epsilon(
    *,
    num_true_positives: int,
    num_members: int,
    num_false_positives: int,
    num_non_members: int,
    delta: float,
    confidence: float,
    examples_per_trial: int = 1,
) -> float:
    """Returns a lower bound on epsilon from the counts of one fixed threshold.

    With TPR_lo and FPR_up the Clopper-Pearson bounds, each wrong with
    probability at most (1 - confidence) / 2, and k examples in each trial:

        k = 1:  result = max(0, log((TPR_lo - delta) / FPR_up))
        k > 1:  result = sup {e: TPR_lo > e^{k e} FPR_up
                                 + delta (e^{k e} - 1) / (e^e - 1)}, or 0

    The second is the group privacy of k examples; with delta = 0 it is the
    first over k. For the other inequality pass true negatives as true
    positives, and so on; to take the better of both, choose beforehand.

    Args:
        num_true_positives: Members that are guessed members.
        num_members: Independent trials with the example in; >= 1.
        num_false_positives: Non-members that are guessed members.
        num_non_members: Independent trials with the example out; >= 1.
        delta: Of one example; probability in [0, 1).
        confidence: In (0, 1).
        examples_per_trial: Examples that a trial adds or removes; >= 1.

    Returns:
        epsilon of one example in nats, >= 0; a lower bound (rounded down).

    Raises:
        ValueError: If an argument is out of range.

    Source: Jagielski, Ullman and Oprea 2020, arXiv:2006.07709; group privacy:
        Vadhan 2017, "The Complexity of Differential Privacy", Lemma 2.2.
    """
    delta = lower_bounds.check_delta(delta)
    counts = check_trial_counts(
        num_true_positives=num_true_positives,
        num_members=num_members,
        num_false_positives=num_false_positives,
        num_non_members=num_non_members,
    )
    rates = compute_rate_bounds(**counts, confidence=confidence)
    true_rate, false_rate = map(float, rates)
    size = _checks.check_integer(
        "examples_per_trial", examples_per_trial, at_least=1
    )
    if size == 1:
        epsilon = float(_compute_epsilons(true_rate, false_rate, delta))
        return max(0.0, epsilon - _ROUND_DOWN)

    def is_rejected(epsilon):
        # More than log(1 / rate) is never rejected, and would overflow.
        exponent = min(size * epsilon, 1.0 - math.log(false_rate))
        growth = math.expm1(exponent) / math.expm1(epsilon) if epsilon else size
        least = math.exp(exponent) * false_rate + delta * growth
        return true_rate > least * (1.0 + _ROUND_DOWN)

    if not is_rejected(0.0):
        return 0.0
    return lower_bounds.find_largest_rejected(is_rejected, start=0.0)


def estimate_held_out_epsilon(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    delta: float,
    confidence: float,
    rng: np.random.Generator,
    examples_per_trial: int = 1,
) -> ThresholdResult:
    """Returns a lower bound on epsilon at a threshold chosen on other trials.

    Members and non-members are split at random into halves. The threshold and
    the side (members above it, or non-members under it) are those that give
    most on the first half; the bound is that of `compute_threshold_epsilon` on
    the second. It holds for independent trials only; scores of one model's
    interacting canaries are no such trials.

    Args:
        member_scores: `[M]` finite, M >= 2; higher means more likely a member.
        non_member_scores: `[N]` finite, N >= 2.
        delta: Of one example; probability in [0, 1).
        confidence: In (0, 1).
        rng: Draws the halves.
        examples_per_trial: Examples that a trial adds or removes; >= 1.

    Returns:
        A lower bound (rounded down), with the second half's counts.

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If they are too few, not vectors or not finite, or a number
            is out of range.
    """
    delta = lower_bounds.check_delta(delta)
    examples_per_trial = _checks.check_integer(
        "examples_per_trial", examples_per_trial, at_least=1
    )

    def compute_gains(counts):
        members_first = compute_rate_bounds(**counts, confidence=confidence)
        others_first = compute_rate_bounds(
            **swap_sides(counts), confidence=confidence
        )
        return np.stack(
            [
                _compute_epsilons(*rates, delta)
                for rates in (members_first, others_first)
            ]
        )

    side, counts = choose_and_count(
        member_scores,
        non_member_scores,
        compute_gains=compute_gains,
        rng=rng,
    )
    ordered = counts.list_counts()
    epsilon = compute_threshold_epsilon(
        **(swap_sides(ordered) if side else ordered),
        delta=delta,
        confidence=confidence,
        examples_per_trial=examples_per_trial,
    )
    return ThresholdResult(
        epsilon_lower=epsilon,
        delta=delta,
        confidence=confidence,
        is_bound=True,
        assumptions=ASSUMPTIONS,
        warnings=roc.make_sign_warnings(member_scores, non_member_scores),
        side=("members", "non_members")[side],
        counts=counts,
        examples_per_trial=examples_per_trial,
    )


def check_trial_counts(
    *,
    num_true_positives: int,
    num_members: int,
    num_false_positives: int,
    num_non_members: int,
) -> dict[str, int]:
    """Returns the four counts under their names, once they are whole and fit.

    Args:
        num_true_positives: In [0, num_members].
        num_members: >= 1.
        num_false_positives: In [0, num_non_members].
        num_non_members: >= 1.
    """
    counts = {}
    for trials, total, positives, found in (
        ("num_members", num_members, "num_true_positives", num_true_positives),
        (
            "num_non_members",
            num_non_members,
            "num_false_positives",
            num_false_positives,
        ),
    ):
        counts[trials] = _checks.check_integer(trials, total, at_least=1)
        counts[positives] = _checks.check_integer(
            positives,
            found,
            at_least=0,
            at_most=counts[trials],
            hint=f"It counts some of {trials}.",
        )
    return counts


def compute_rate_bounds(
    *,
    num_true_positives: np.ndarray,
    num_members: int,
    num_false_positives: np.ndarray,
    num_non_members: int,
    confidence: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a lower bound on the TPR and an upper bound on the FPR.

    Args:
        num_true_positives: Counts, any shape.
        num_members: Trials with the example in; >= 1.
        num_false_positives: Counts, same shape.
        num_non_members: Trials with the example out; >= 1.
        confidence: That both hold; in (0, 1). Each has half of the risk.
    """
    one_side = 0.5 + 0.5 * binomial.check_confidence(confidence)
    return (
        binomial.compute_lower_bound(
            num_true_positives, num_members, confidence=one_side
        ),
        binomial.compute_upper_bound(
            num_false_positives, num_non_members, confidence=one_side
        ),
    )


def swap_sides(counts: dict) -> dict:
    """Returns the counts with non-members under the threshold as the finds.

    Args:
        counts: The four counts under the names of `compute_rate_bounds`.
    """
    members, others = counts["num_members"], counts["num_non_members"]
    return {
        "num_true_positives": others - counts["num_false_positives"],
        "num_members": others,
        "num_false_positives": members - counts["num_true_positives"],
        "num_non_members": members,
    }


def choose_and_count(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    compute_gains: Callable[[dict], np.ndarray],
    rng: np.random.Generator,
) -> tuple[int, HeldOutCounts]:
    """Returns the side and the second half's counts at the best threshold.

    Args:
        member_scores: `[M]`, unchecked.
        non_member_scores: `[N]`, unchecked.
        compute_gains: From the four counts of the first half, arrays `[T]` for
            T thresholds, to `[S, T]`: what each side promises.
        rng: Draws the halves.
    """
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng must be a numpy.random.Generator. Received: {rng!r}. Pass "
            "numpy.random.default_rng(), or one with a seed."
        )
    halves = []
    for name, scores in (
        ("member_scores", member_scores),
        ("non_member_scores", non_member_scores),
    ):
        checked = scores_lib.check_scores(name, scores, at_least_count=2)
        rng.shuffle(checked)
        halves.append(np.array_split(checked, 2))
    (members, members_left), (others, others_left) = halves
    thresholds = _make_candidates(np.concatenate([members, others]))
    gains = compute_gains(_count(members, others, thresholds))
    side, best = np.unravel_index(np.argmax(gains), gains.shape)
    counts = _count(members_left, others_left, thresholds[best])
    return int(side), HeldOutCounts(
        threshold=float(thresholds[best]),
        **{name: int(count) for name, count in counts.items()},
    )


def _count(members, others, thresholds) -> dict:
    members, others = np.sort(members), np.sort(others)
    return {
        "num_true_positives": members.size
        - np.searchsorted(members, thresholds),
        "num_members": members.size,
        "num_false_positives": others.size
        - np.searchsorted(others, thresholds),
        "num_non_members": others.size,
    }


def _make_candidates(pooled) -> np.ndarray:
    """Returns some of the scores, more densely towards both ends."""
    pooled = np.sort(pooled)
    ranks = np.geomspace(1, pooled.size, _NUM_CANDIDATES).astype(int) - 1
    return np.unique(pooled[np.concatenate([ranks, pooled.size - 1 - ranks])])


def _compute_epsilons(true_rate, false_rate, delta):
    """Returns log((true_rate - delta) / false_rate), or -inf."""
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(true_rate - delta, 0.0)) - np.log(false_rate)
