# SPDX-License-Identifier: Apache-2.0
"""LiRA: how far a score looks like one of a model trained on the example.

Shadow models are trained on random halves of the data. Of each example's
scores, those of the models trained on it ("in") and of the others ("out") are
taken as normal, and the target model's score is held against both.

Scores should be near to normal: `membership_scores.compute_logit_scores`. They
may have an axis of augmentations, `[A]`: each is fitted by itself, and the
results are averaged.

Source: Carlini et al. 2022, arXiv:2112.03570, Algorithm 1 and Section VI.
"""

import math

import numpy as np
from scipy import special

from tf_privacy import _checks
from tf_privacy.audit import shadow_arrays

VARIANCES = ("per_example", "pooled")


def compute_lira_scores(
    target_scores, *, shadow_scores, is_member, variance: str
) -> np.ndarray:
    """Returns the log of how much better "in" explains the score than "out".

    With phi = target_scores and the means and standard deviations of each
    example's shadow scores (dividing by the count, not the count - 1):

        result = log N(phi; mean_in, std_in) - log N(phi; mean_out, std_out)

    It needs shadow models trained on the examples themselves. It proves
    nothing by itself: hand it to an estimate or to an audit with coins.

    Args:
        target_scores: `[N]` or `[A, N]`; the scores of the model under attack.
        shadow_scores: `[S, N]` or `[S, A, N]`; those of S other models.
        is_member: `[S, N]` bool; whether model s was trained on example n.
        variance: "per_example", from many models, or "pooled", one standard
            deviation "in" and one "out" for all examples, from few (under
            about 64).

    Returns:
        `[N]` float64, nats; higher means more likely a member.

    Raises:
        TypeError: If scores are not real numbers, or `is_member` not bool.
        ValueError: If shapes differ, a score is not finite, an example is in
            all shadow models or in none, or a standard deviation is 0.
    """
    _checks.check_choice("variance", variance, VARIANCES)
    target, shadow, member = shadow_arrays.check_shadow_scores(
        target_scores, shadow_scores=shadow_scores, is_member=is_member
    )
    mean_in, std_in = _fit(shadow, member, variance, "in")
    mean_out, std_out = _fit(shadow, ~member, variance, "out of")
    z_in, z_out = (target - mean_in) / std_in, (target - mean_out) / std_out
    ratios = 0.5 * (z_out**2 - z_in**2) + np.log(std_out / std_in)
    return ratios.mean(axis=0)


def compute_offline_lira_scores(
    target_scores, *, shadow_scores, is_member, variance: str
) -> np.ndarray:
    """Returns the log of the chance that a model trained without scores less.

        result = log P[Z <= phi],  Z ~ N(mean_out, std_out)

    It needs only shadow models that were not trained on the example, which can
    be trained once, before the examples are known. Scores more than 38
    standard deviations above the mean all give 0.

    Args:
        target_scores: `[N]` or `[A, N]`; the scores of the model under attack.
        shadow_scores: `[S, N]` or `[S, A, N]`; those of S other models.
        is_member: `[S, N]` bool; whether model s was trained on example n:
            those scores are not used.
        variance: "per_example", from many models, or "pooled", one standard
            deviation for all examples, from few (under about 64).

    Returns:
        `[N]` float64, at most 0; higher means more likely a member.

    Raises:
        TypeError: If scores are not real numbers, or `is_member` not bool.
        ValueError: If shapes differ, a score is not finite, an example is in
            all shadow models, or a standard deviation is 0.
    """
    _checks.check_choice("variance", variance, VARIANCES)
    target, shadow, member = shadow_arrays.check_shadow_scores(
        target_scores, shadow_scores=shadow_scores, is_member=is_member
    )
    mean, std = _fit(shadow, ~member, variance, "out of")
    return special.log_ndtr((target - mean) / std).mean(axis=0)


def _fit(shadow: np.ndarray, used: np.ndarray, variance: str, side: str):
    """Returns `[A, N]` means and standard deviations over the used models.

    Args:
        shadow: `[S, A, N]` float64.
        used: `[S, N]` bool.
        variance: One of `VARIANCES`.
        side: For messages: "in" or "out of".
    """
    mean = shadow_arrays.compute_means(shadow, used=used, side=side)
    squares = np.where(used[:, None, :], (shadow - mean) ** 2, 0.0)
    variances = squares.sum(axis=0) / used.sum(axis=0)
    if variance == "pooled":
        pooled = float(variances.mean())
        if not pooled > 0.0:
            raise ValueError(
                f"shadow_scores must differ between the models {side} which an "
                "example is. Received: scores that are equal for every "
                "example. Train more than one model, from different seeds."
            )
        return mean, math.sqrt(pooled)
    bad = np.flatnonzero(~np.all(variances > 0.0, axis=0))
    if bad.size:
        raise ValueError(
            "shadow_scores must differ between the models for variance="
            f'"per_example". Received: equal scores of all '
            f"{used[:, bad[0]].sum()} models {side} which example {bad[0]} is, "
            f'{bad.size} such examples in all. Use variance="pooled" or more '
            "models."
        )
    return mean, np.sqrt(variances)
