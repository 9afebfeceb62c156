# SPDX-License-Identifier: Apache-2.0
"""Check that one example contributes to real steps no more than the clip says.

Coordinates of canaries that were in the data hold a contribution and noise. If
the claim is true a contribution is at most one clip, in the steps that include
the canary, and nothing in the others. Contributions that are too large show in
the largest observation, and contributions a little too large, or too frequent,
in the sum of all.
"""

import dataclasses
import math

import numpy as np
from scipy import special
from scipy import stats

from tf_privacy import _checks
from tf_privacy.audit import binomial
from tf_privacy.audit import dirac_scores
from tf_privacy.audit import lower_bounds

# What one unit may move the clipped sum by: one clip, and float32's rounding.
_LARGEST_CONTRIBUTION = 1.0 + 1e-5
# Below this the canaries do not test the clip in full.
_WEAK_CONTRIBUTION = 0.99
# Counts as improbable as this are left out, and added to the p-value.
_NEGLIGIBLE = 1e-15
# In clips; a smallest contribution above it is not looked for.
_FAR = 1e6
_ASSUMPTIONS = (
    "the noise is N(0, noise_multiplier^2), independent, as noise_check tests",
    "each member joins each step by a coin of its own with the claimed "
    "probability",
    "members' gradients lie in coordinates of their own",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClippingCheck:
    """How much the members' gradients contributed to the steps.

    Attributes:
        passed: Whether contributions of at most one clip explain what was seen.
            If they are, it is so with probability at least confidence.
        p_value: Of what was seen, if contributions are at most one clip; an
            upper bound, in [0, 1].
        sensitivity_lower: In clips, >= 0; lower bound on the largest
            contribution, never above `largest`.
        weakest_upper: In clips, >= 0; upper bound on the smallest contribution:
            far below 1, the canaries do not test the clip. inf if members
            joined too few steps to tell.
        largest: Largest absolute observation, in clips.
        mean_contribution: Estimate, in clips, of the mean of the contributions
            in the steps that include them.
        num_steps: Steps looked at.
        num_members: Members looked at, in each step.
        confidence: Of each of the two bounds; in (0, 1).
        assumptions: What must be true, one sentence each.
        warnings: What the caller can mend, one sentence each.
    """

    passed: bool
    p_value: float
    sensitivity_lower: float
    weakest_upper: float
    largest: float
    mean_contribution: float
    num_steps: int
    num_members: int
    confidence: float
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        verdict = (
            "one clip from each member explains it"
            if self.passed
            else "MORE than one clip from a member, or from more steps than "
            "claimed: the guarantee is broken"
        )
        lines = [
            "largest contribution >= "
            f"{lower_bounds.show_down(self.sensitivity_lower)} clips, "
            f"confidence {self.confidence:g}, p-value {self.p_value:.2g}",
            f"  {verdict}",
            f"  {self.num_steps} steps, {self.num_members} members; mean "
            f"contribution about {self.mean_contribution:.4g} clips, largest "
            f"observation {self.largest:.4g}",
            "  Holds if:",
            *(f"    - {text}" for text in self.assumptions),
            *(f"  Warning: {text}" for text in self.warnings),
        ]
        return "\n".join(lines)


def estimate_clipping(
    observations: np.ndarray,
    *,
    is_member: np.ndarray,
    noise_multiplier: float,
    sampling_probability: float,
    confidence: float,
) -> ClippingCheck:
    """Returns whether members contribute at most one clip to each step.

    With z the noise, n observations of members, Q the normal tail and B a
    binomial(n, sampling_probability) count, contributions of at most c clips
    have

        P[largest >= a] <= 2 n Q((a - c) / z)
        P[sum >= s]     <= P[c B + z sqrt(n) N(0, 1) >= s]

    Each rejects the c that make it smaller than half of 1 - confidence, and
    sensitivity_lower is the largest such c. The first sees
    a clip left out, in one step or for one member; the second sees a clip that
    is slightly too large, or too many steps for each member.

    Args:
        observations: `[T, M]` finite, in units of the clip; a column for each
            canary, pointing as its gradient does.
        is_member: `[M]` bool; which canaries are in the data, at least one.
        noise_multiplier: The claimed one; > 0. Too small a number makes clean
            contributions look large: if `noise_check` found more noise than
            claimed, pass the upper end of its interval.
        sampling_probability: The claimed one; in (0, 1].
        confidence: In (0, 1).

    Returns:
        `ClippingCheck`, with bounds rounded away from rejection.

    Raises:
        TypeError: If observations are not real numbers, or `is_member` is not
            bool.
        ValueError: If shapes do not fit, observations are not finite, there is
            no member, or a number is out of range.
    """
    observations = dirac_scores.check_observations("observations", observations)
    members = observations[:, _check_members(is_member, observations.shape[1])]
    noise = _checks.check_noise_multiplier(noise_multiplier)
    q = _checks.check_sampling_probability(sampling_probability)
    level = 1.0 - binomial.check_confidence(confidence)
    size, total = members.size, float(np.sum(members))
    largest = float(np.max(np.abs(members)))
    tail = _SumTail(size, q, noise)

    def compute_p_value(contribution):
        excess = (largest - contribution) / noise
        by_largest = 2.0 * size * special.ndtr(-excess)
        by_sum = tail.compute_upper(total, contribution)
        return min(1.0, 2.0 * min(by_largest, by_sum))

    # Where members hardly ever join, the sum may be too large for every c.
    sensitivity = _find_end(
        lambda c: c < largest and compute_p_value(c) < level
    )
    weakest = math.inf
    if tail.compute_lower(total, _FAR) < level:
        weakest = _find_end(lambda c: tail.compute_lower(total, c) >= level)
    warnings = ()
    if weakest < _WEAK_CONTRIBUTION:
        warnings = (
            f"some member contributes at most {weakest:.3g} clips. The audit "
            "sees less than the worst case; give canaries larger gradients.",
        )
    p_value = compute_p_value(_LARGEST_CONTRIBUTION)
    return ClippingCheck(
        passed=not p_value < level,
        p_value=p_value,
        sensitivity_lower=sensitivity,
        weakest_upper=weakest,
        largest=largest,
        mean_contribution=total / (size * q),
        num_steps=members.shape[0],
        num_members=members.shape[1],
        confidence=confidence,
        assumptions=_ASSUMPTIONS,
        warnings=warnings,
    )


class _SumTail:
    """Tails of c B + z sqrt(n) N(0, 1), B the number of inclusions.

    Args:
        size: n.
        sampling_probability: Of each inclusion.
        noise: z.
    """

    def __init__(self, size, sampling_probability, noise):
        ends = stats.binom.ppf(
            [_NEGLIGIBLE, 1.0 - _NEGLIGIBLE], size, sampling_probability
        )
        # The quantiles' own rounding is far below two counts.
        low, high = max(0.0, ends[0] - 2.0), min(float(size), ends[1] + 2.0)
        self._counts = np.arange(low, high + 1.0)
        self._masses = stats.binom.pmf(self._counts, size, sampling_probability)
        self._stddev = noise * math.sqrt(size)

    def _compute(self, shift) -> float:
        found = float(self._masses @ special.ndtr(shift / self._stddev))
        return min(1.0, found + 2.0 * _NEGLIGIBLE)

    def compute_upper(self, total, contribution) -> float:
        """Returns the probability of a sum >= total, rounded up."""
        return self._compute(contribution * self._counts - total)

    def compute_lower(self, total, contribution) -> float:
        """Returns the probability of a sum <= total, rounded up."""
        return self._compute(total - contribution * self._counts)


def _find_end(holds) -> float:
    """Returns the x >= 0 up to which a statement holds; 0 if it never does."""
    if not holds(0.0):
        return 0.0
    return lower_bounds.find_largest_rejected(holds, start=0.0)


def _check_members(is_member, num_canaries) -> np.ndarray:
    array = np.asarray(is_member)
    if array.dtype != bool:
        raise TypeError(
            f"is_member must be bool. Received: an array of {array.dtype}. "
            "Compare it with what marks a member."
        )
    if array.shape != (num_canaries,):
        raise ValueError(
            f"is_member must have the shape ({num_canaries},), one for each "
            f"column of observations. Received: {array.shape}."
        )
    if not np.any(array):
        raise ValueError(
            "is_member must mark at least one canary. Received: none of "
            f"{num_canaries}. Draw the coins again, or take more canaries."
        )
    return array
