# SPDX-License-Identifier: Apache-2.0
"""Scores of Dirac canaries: what the steps say about who was in the data.

A Dirac canary's gradient is one clip long and lies in a coordinate of its own.
Divided by the clip, that coordinate of the noised sum of step t is

    observations[t, j] = included[t, j] * is_member[j] + N(0, z^2)

with noise multiplier z, and included[t, j] true with the sampling probability.
"""

import numpy as np

from tf_privacy import _checks

# In clips; the square of anything larger might overflow.
_LARGEST = 1e100


def compute_log_likelihood_ratios(
    observations: np.ndarray,
    *,
    noise_multiplier: float | np.ndarray,
    sampling_probability: float | np.ndarray,
) -> np.ndarray:
    """Returns how much more likely each canary's steps are with it in.

    With x = observations[t, j], z and q of step t, in nats:

        result[j] = sum_t log(1 - q + q exp((2 x - 1) / (2 z^2)))

    No other score tells members from non-members better, if z and q are those
    of the steps (Neyman and Pearson 1933, doi:10.1098/rsta.1933.0009). If they
    are not, it is still a valid score, of less power.

    Args:
        observations: `[T, M]` finite, in units of the clip; T, M >= 1.
        noise_multiplier: The claimed one, or `[T]`, one for each step; > 0.
        sampling_probability: The claimed one, or `[T]`; in (0, 1].

    Returns:
        `[M]` float64 in nats; higher means more likely a member.

    Raises:
        TypeError: If an argument is not made of real numbers.
        ValueError: If an argument is out of range, or the observations are so
            large that a score is not finite.
    """
    observations = check_observations("observations", observations)
    num_steps = len(observations)
    noises = _check_steps(
        "noise_multiplier",
        noise_multiplier,
        num_steps,
        _checks.check_noise_multiplier,
    )
    probabilities = _check_steps(
        "sampling_probability",
        sampling_probability,
        num_steps,
        _checks.check_sampling_probability,
    )
    with np.errstate(divide="ignore", over="ignore"):
        log_absent = np.log1p(-probabilities)
        log_present = np.log(probabilities)
        # One step at a time: the memory is that of a vector.
        scores = np.zeros(observations.shape[1])
        for t, row in enumerate(observations):
            exponent = (row - 0.5) / noises[t] / noises[t]
            scores += np.logaddexp(log_absent[t], log_present[t] + exponent)
    if not np.all(np.isfinite(scores)):
        raise ValueError(
            "observations must be in units of the clip. Received: up to "
            f"{np.max(np.abs(observations)):g}, at which scores overflow. "
            "Divide the noised sums by l2_norm_clip."
        )
    return scores


def check_observations(name: str, observations) -> np.ndarray:
    """Returns observations as a float64 matrix once all can be squared.

    A NaN compares false with everything and would pass a test of the largest.

    Args:
        name: The parameter's name as the caller wrote it.
        observations: `[T, M]` real numbers; T, M >= 1.

    Raises:
        TypeError: If they are not real numbers.
        ValueError: If they are no matrix, empty, not all finite or above 1e100;
            the first place is named.
    """
    array = np.asarray(observations)
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"{name} must be real numbers. Received: an array of "
            f"{array.dtype}. Pass what the steps released, over the clip."
        )
    if not (array.ndim == 2 and array.size):
        raise ValueError(
            f"{name} must be a matrix, a row for each step and a column for "
            f"each canary. Received: shape {array.shape}. For one step, add a "
            "first axis."
        )
    array = array.astype(np.float64)
    bad = np.argwhere(~(np.abs(array) <= _LARGEST))
    if bad.size:
        step, canary = bad[0]
        raise ValueError(
            f"{name} must be finite, and at most {_LARGEST:g} clips. Received: "
            f"{array[step, canary]} in step {step}, canary {canary}, "
            f"{len(bad)} such numbers in all. The steps themselves are broken: "
            "mend them first."
        )
    return array


def _check_steps(name, values, num_steps, check) -> np.ndarray:
    """Returns `[T]` checked values from one number or one for each step."""
    if np.ndim(values) == 0:
        return np.full(num_steps, check(values))
    array = np.asarray(values)
    if array.shape != (num_steps,):
        raise ValueError(
            f"{name} must be a number or one for each of the {num_steps} "
            f"steps. Received: shape {array.shape}."
        )
    return np.array([check(value) for value in array])
