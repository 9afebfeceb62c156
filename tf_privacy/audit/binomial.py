# SPDX-License-Identifier: Apache-2.0
"""Bounds on a probability from a count of successes, valid at any size."""

import numpy as np
from scipy import stats

from tf_privacy import _checks


def _check_counts(num_successes, num_trials):
    successes = np.asarray(num_successes, dtype=np.float64)
    trials = np.asarray(num_trials, dtype=np.float64)
    good = (successes >= 0) & (successes <= trials) & (trials < np.inf)
    good &= (successes == np.floor(successes)) & (trials == np.floor(trials))
    if not np.all(good):
        raise ValueError(
            "num_successes must be whole numbers between 0 and num_trials. "
            f"Received: {num_successes!r} of {num_trials!r}."
        )
    return np.broadcast_arrays(successes, trials)


def compute_lower_bound(
    num_successes, num_trials, *, confidence: float
) -> np.ndarray:
    """Returns the Clopper-Pearson lower bound on a probability.

    It lies above the truth with probability at most 1 - confidence, whatever
    the truth is. No success, or no trial, gives 0.

    Args:
        num_successes: Counts, any shape; whole numbers >= 0.
        num_trials: Counts, same shape or broadcast; >= `num_successes`.
        confidence: Of this side alone; in (0, 1).

    Returns:
        float64 of the broadcast shape; in [0, 1].

    Raises:
        ValueError: If a count or the confidence is out of range.

    Source: Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404.
    """
    confidence = check_confidence(confidence)
    successes, trials = _check_counts(num_successes, num_trials)
    some = successes > 0
    bounds = stats.beta.ppf(
        1.0 - confidence, np.where(some, successes, 1), trials - successes + 1
    )
    return np.where(some, bounds, 0.0)


def compute_upper_bound(
    num_successes, num_trials, *, confidence: float
) -> np.ndarray:
    """Returns the Clopper-Pearson upper bound on a probability.

    It lies below the truth with probability at most 1 - confidence, whatever
    the truth is. Nothing but successes, or no trial, gives 1.

    Args:
        num_successes: Counts, any shape; whole numbers >= 0.
        num_trials: Counts, same shape or broadcast; >= `num_successes`.
        confidence: Of this side alone; in (0, 1).

    Returns:
        float64 of the broadcast shape; in [0, 1].

    Raises:
        ValueError: If a count or the confidence is out of range.

    Source: Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404.
    """
    successes, trials = _check_counts(num_successes, num_trials)
    return 1.0 - compute_lower_bound(
        trials - successes, trials, confidence=confidence
    )


def check_confidence(value, *, name: str = "confidence") -> float:
    """Returns a confidence level in (0, 1).

    Args:
        value: What the caller passed.
        name: The parameter's name as the caller wrote it.
    """
    return _checks.check_real(
        name,
        value,
        above=0.0,
        below=1.0,
        hint="0.95 means that at most one audit in twenty is wrong.",
    )
