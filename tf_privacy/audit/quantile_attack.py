# SPDX-License-Identifier: Apache-2.0
"""A threshold for each example, from non-members alone: no shadow models.

The score that a non-member with these features exceeds with a given
probability is fitted by linear quantile regression on half of the non-members.
The other half shifts it so that the false positive rate holds in finite
samples, however bad the fit.
"""

import dataclasses
import math

import numpy as np
from scipy import optimize

from tf_privacy import _checks
from tf_privacy.audit import scores as scores_lib
from tf_privacy.audit import shadow_arrays


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class QuantileAttack:
    """Thresholds that are linear in the features.

    Attributes:
        coefficients: `[D]` float64, of the features.
        fitted_intercept: The fitted quantile where all features are 0.
        shift: Added to every threshold so that the rate holds.
        false_positive_rate: Largest chance that a non-member is above its
            threshold; in (0, 1).
        num_non_members: Non-members the thresholds were made from.
    """

    coefficients: np.ndarray
    fitted_intercept: float
    shift: float
    false_positive_rate: float
    num_non_members: int

    @property
    def intercept(self) -> float:
        """The threshold where all features are 0."""
        return self.fitted_intercept + self.shift

    def compute_scores(self, scores, *, features) -> np.ndarray:
        """Returns how far each score is above its threshold.

        Args:
            scores: `[N]` finite; higher means more likely a member.
            features: `[N, D]` finite, of the same examples.

        Returns:
            `[N]` float64; above 0 the attack says "member".

        Raises:
            TypeError: If an argument is not of real numbers.
            ValueError: If shapes differ or a number is not finite.
        """
        scores = scores_lib.check_scores("scores", scores)
        features = shadow_arrays.check_matrix(
            "features", features, shape=(scores.size, self.coefficients.size)
        )
        return self._compute_residuals(scores, features) - self.shift

    def _compute_residuals(self, scores, features) -> np.ndarray:
        # Row by row in one order, whatever the number of rows: a score that
        # equals its threshold must not come out above it by round-off.
        lines = np.sum(features * self.coefficients, axis=1)
        return scores - (lines + self.fitted_intercept)

    def __str__(self) -> str:
        return (
            f"Quantile attack on {self.coefficients.size} features from "
            f"{self.num_non_members} non-members: false positive rate at most "
            f"{self.false_positive_rate:g}"
        )


def calibrate_quantile_attack(
    non_member_scores,
    *,
    features,
    false_positive_rate: float,
    rng: np.random.Generator,
) -> QuantileAttack:
    """Returns thresholds that a non-member exceeds with a given probability.

    For a new non-member, drawn as those given were, the chance to be above its
    threshold is at most `false_positive_rate`, averaged over the draws of both.
    Do not measure the attack on the non-members given here.

    Args:
        non_member_scores: `[N]` finite; higher means more likely a member.
        features: `[N, D]` finite, D >= 1; what may tell hard examples from
            easy ones but not members from others: the class, a public model's
            score.
        false_positive_rate: In (0, 1); at least about 2 / N.
        rng: Parts the non-members in halves.

    Returns:
        The attack.

    Raises:
        TypeError: If an argument is not of real numbers.
        ValueError: If shapes differ, a number is not finite or out of range,
            or there are too few non-members for the false positive rate.

    Source: Bertran et al. 2023, arXiv:2307.03694; Romano, Patterson and Candes
    2019, arXiv:1905.03222, Theorem 1.
    """
    rate = _checks.check_real(
        "false_positive_rate", false_positive_rate, above=0.0, below=1.0
    )
    scores = scores_lib.check_scores("non_member_scores", non_member_scores)
    features = shadow_arrays.check_matrix(
        "features", features, shape=(scores.size, None)
    )
    order = rng.permutation(scores.size)
    fitted, held_out = np.array_split(order, 2)
    # Of held_out.size + 1 exchangeable examples, so many may be above.
    num_above = math.floor(rate * (held_out.size + 1))
    if num_above < 1:
        raise ValueError(
            "non_member_scores must be at least "
            f"{2 * math.ceil(1.0 / rate)} for a false_positive_rate of "
            f"{rate:g}. Received: {scores.size}. Use more, or a higher rate."
        )
    coefficients, intercept = _fit_quantile(
        scores[fitted], features[fitted], level=1.0 - rate
    )
    unshifted = QuantileAttack(
        coefficients=coefficients,
        fitted_intercept=float(intercept),
        shift=0.0,
        false_positive_rate=rate,
        num_non_members=scores.size,
    )
    left = unshifted.compute_scores(
        scores[held_out], features=features[held_out]
    )
    shift = float(np.sort(left)[held_out.size - num_above])
    return dataclasses.replace(unshifted, shift=shift)


def _fit_quantile(scores: np.ndarray, features: np.ndarray, *, level: float):
    """Returns the coefficients and intercept of least pinball loss.

    The linear program's dual has a variable for each example and a constraint
    for each coefficient; the coefficients are the constraints' prices.
    """
    center = features.mean(axis=0)
    spread = features.std(axis=0)
    spread[spread == 0.0] = 1.0
    design = np.column_stack(
        [(features - center) / spread, np.ones(scores.size)]
    )
    found = optimize.linprog(
        -scores,
        A_eq=design.T,
        b_eq=(1.0 - level) * design.sum(axis=0),
        bounds=(0.0, 1.0),
        method="highs",
    )
    if not found.success:
        raise ValueError(
            "features must allow a linear fit. Received: features for which "
            f"the solver stopped: {found.message} Scale them or leave some out."
        )
    *slopes, intercept = -found.eqlin.marginals
    coefficients = np.asarray(slopes) / spread
    return coefficients, intercept - center @ coefficients
