# SPDX-License-Identifier: Apache-2.0
"""Means over rows that belong to users, and how certain they are."""

import numpy as np
from scipy import stats

# A standard error below it is round-off of 0.
_ROUNDING = 1e-12


def estimate_mean(
    values: np.ndarray, counted: np.ndarray, rows_per_user: int
) -> tuple[float, float]:
    """Returns the mean over the counted rows, and its standard error.

    Users are independent, the rows of one user need not be:
        stderr^2 = sum over users of (sum of its rows' deviations)^2
                   / (number of counted rows)^2
    which for one row a user and values of 0 and 1 is the binomial
    p (1 - p) / n. Where all rows agree, one user's weight is taken instead of
    0: nothing is certain for being all alike.

    Args:
        values: `[N]`.
        counted: `[N]` bool; one or more true.
        rows_per_user: Consecutive rows; divides N.
    """
    weights = counted.astype(np.float64)
    total = weights.sum()
    mean = float(np.dot(weights, values) / total)
    deviations = weights * (values - mean)
    by_user = deviations.reshape(-1, rows_per_user).sum(axis=1)
    least = weights.reshape(-1, rows_per_user).sum(axis=1).max() / total
    stderr = float(np.sqrt(np.sum(by_user**2)) / total)
    return mean, float(stderr if stderr > _ROUNDING else least)


def is_above_zero(
    values: np.ndarray,
    counted: np.ndarray,
    *,
    rows_per_user: int,
    alpha: float,
) -> bool:
    """Returns whether a mean is above zero by more than luck explains.

    A one-sided t-test over the users.

    Args:
        values: `[N]`; such as differences of two models on the same rows.
        counted: `[N]` bool.
        rows_per_user: Consecutive rows; divides N.
        alpha: Probability of a false alarm where the mean is zero.
    """
    mean, stderr = estimate_mean(values, counted, rows_per_user)
    num_users = len(values) // rows_per_user
    return mean > compute_deviations(alpha, num_users) * stderr


def compute_lower_limit(num_right: int, count: int, *, alpha: float) -> float:
    """Returns the Clopper-Pearson lower limit of a share.

    Args:
        num_right: Successes.
        count: Trials; >= 1.
        alpha: Probability that the limit is above the truth.
    """
    if num_right == 0:
        return 0.0
    return float(stats.beta.ppf(alpha, num_right, count - num_right + 1))


def compute_p_value(num_right: int, count: int, *, chance: float) -> float:
    """Returns the probability to be right as often by luck.

    Args:
        num_right: Successes.
        count: Trials.
        chance: Probability of each.
    """
    return float(stats.binom.sf(num_right - 1, count, chance))


def compute_deviations(alpha: float, num_users: int) -> float:
    """Returns how many standard errors luck exceeds with chance alpha.

    By Student's t: of few users the standard error is itself uncertain, and of
    one there is none.

    Args:
        alpha: Of one side; in (0, 0.5).
        num_users: Whom the standard error was estimated from.
    """
    if num_users < 2:
        return float("inf")
    return float(stats.t.isf(alpha, num_users - 1))
