# SPDX-License-Identifier: Apache-2.0
"""RMIA: whether a model favors an example more than it favors others.

The target model's confidence in an example x is divided by p(x), what it would
be whether or not x was a member; the score of x is the share of a population
(examples that no model was trained on) over which x wins:

    ratio(x) = target(x) / p(x)
    result[x] = share of z with ratio(x) / ratio(z) > gamma

It works with few shadow models, even one. Scores are confidences in the true
label, `membership_scores.compute_confidence_scores`; the result takes at most
Z + 1 values, so that a false positive rate well below 1 / Z is out of reach.

Source: Zarifzadeh, Liu and Shokri 2024, arXiv:2312.03262.
"""

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import shadow_arrays


def compute_rmia_scores(
    target_scores,
    *,
    shadow_scores,
    is_member,
    population_target_scores,
    population_shadow_scores,
    gamma: float = 1.0,
) -> np.ndarray:
    """Returns the share of the population that an example wins over.

        p(x) = (mean_in(x) + mean_out(x)) / 2,  p(z) = mean(z)

    Args:
        target_scores: `[N]` confidences in [0, 1] of the model under attack.
        shadow_scores: `[S, N]`; those of S other models.
        is_member: `[S, N]` bool; whether model s was trained on example n.
        population_target_scores: `[Z]`; the model's confidences in examples
            that neither it nor a shadow model was trained on.
        population_shadow_scores: `[S, Z]`; those of the other models.
        gamma: By how much a ratio must exceed another to win; > 0.

    Returns:
        `[N]` float64 in [0, 1]; higher means more likely a member.

    Raises:
        TypeError: If scores are not real numbers, or `is_member` not bool.
        ValueError: If shapes differ, a score is not in [0, 1], an example is
            in all shadow models or in none, or a p is 0.
    """
    arrays = _check(
        target_scores,
        shadow_scores,
        is_member,
        population_target_scores,
        population_shadow_scores,
    )
    target, shadow, member, population, population_shadow = arrays
    p_in = shadow_arrays.compute_means(shadow, used=member, side="in")
    p_out = shadow_arrays.compute_means(shadow, used=~member, side="out of")
    return _compute_wins(
        _divide("shadow_scores", target, (p_in + p_out)[0] / 2.0),
        _divide(
            "population_shadow_scores",
            population,
            population_shadow.mean(axis=0),
        ),
        gamma,
    )


def compute_offline_rmia_scores(
    target_scores,
    *,
    shadow_scores,
    is_member,
    population_target_scores,
    population_shadow_scores,
    a: float = 0.3,
    gamma: float = 1.0,
) -> np.ndarray:
    """Returns the same share, from models not trained on the example.

    What a model trained on the example would say is taken to lie on a line
    from what the others say to 1, mean_in = a mean_out + 1 - a:

        p(x) = ((1 + a) mean_out(x) + 1 - a) / 2,  p(z) likewise

    Args:
        target_scores: `[N]` confidences in [0, 1] of the model under attack.
        shadow_scores: `[S, N]`; those of S other models.
        is_member: `[S, N]` bool; whether model s was trained on example n:
            those scores are not used.
        population_target_scores: `[Z]`; the model's confidences in examples
            that neither it nor a shadow model was trained on.
        population_shadow_scores: `[S, Z]`; those of the other models.
        a: Slope of the line, in [0, 1]; to be tuned on a shadow model in the
            place of the target, never on the target's members.
        gamma: By how much a ratio must exceed another to win; > 0.

    Returns:
        `[N]` float64 in [0, 1]; higher means more likely a member.

    Raises:
        TypeError: If scores are not real numbers, or `is_member` not bool.
        ValueError: If shapes differ, a score is not in [0, 1], an example is
            in all shadow models, or a p is 0.
    """
    a = _checks.check_real("a", a, at_least=0.0, at_most=1.0)
    arrays = _check(
        target_scores,
        shadow_scores,
        is_member,
        population_target_scores,
        population_shadow_scores,
    )
    target, shadow, member, population, population_shadow = arrays
    p_out = shadow_arrays.compute_means(shadow, used=~member, side="out of")[0]
    p_population = population_shadow.mean(axis=0)
    return _compute_wins(
        _divide("shadow_scores", target, ((1.0 + a) * p_out + 1.0 - a) / 2.0),
        _divide(
            "population_shadow_scores",
            population,
            ((1.0 + a) * p_population + 1.0 - a) / 2.0,
        ),
        gamma,
    )


def _compute_wins(ratios, population_ratios, gamma: float) -> np.ndarray:
    """Returns for each ratio the share of the population's gamma below it."""
    gamma = _checks.check_real("gamma", gamma, above=0.0)
    rising = np.sort(population_ratios)
    wins = np.searchsorted(rising, ratios / gamma, side="left")
    return wins / rising.size


def _divide(name: str, scores: np.ndarray, p: np.ndarray) -> np.ndarray:
    zero = np.flatnonzero(~(p > 0.0))
    if zero.size:
        raise ValueError(
            f"{name} must give every example some confidence. Received: 0 from "
            f"all models for example {zero[0]}, {zero.size} such examples in "
            "all. Compute probabilities from logits, in float64."
        )
    return scores / p


def _check(target, shadow, is_member, population, population_shadow):
    size = np.size(target)
    target = shadow_arrays.check_matrix("target_scores", target, shape=(size,))
    shadow = shadow_arrays.check_matrix(
        "shadow_scores", shadow, shape=(None, size)
    )
    member = shadow_arrays.check_membership(is_member, shape=shadow.shape)
    population = shadow_arrays.check_matrix(
        "population_target_scores", population, shape=(None,)
    )
    population_shadow = shadow_arrays.check_matrix(
        "population_shadow_scores",
        population_shadow,
        shape=(len(shadow), population.size),
    )
    for name, scores in (
        ("target_scores", target),
        ("shadow_scores", shadow),
        ("population_target_scores", population),
        ("population_shadow_scores", population_shadow),
    ):
        if not np.all((scores >= 0.0) & (scores <= 1.0)):
            raise ValueError(
                f"{name} must be probabilities in [0, 1]. Received: scores "
                f"from {scores.min()} to {scores.max()}. Use "
                "membership_scores.compute_confidence_scores."
            )
    return target, shadow[:, None, :], member, population, population_shadow
