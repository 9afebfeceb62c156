# SPDX-License-Identifier: Apache-2.0
"""Toeplitz strategies for correlated noise, and how much noise they leave.

The noise of a run's steps is y = C^{-1} z, with z independent normals and C
lower triangular with C[i, j] = coefficients[i - j]:

    y[t] = (z[t] - sum_{k >= 1} coefficients[k] y[t - k]) / coefficients[0]

Later noise takes back some of the earlier, so that what the weights have
gathered, a prefix sum of all steps, has less. What it costs is the sensitivity
of C: `tf_privacy.accounting.correlated_noise.compute_toeplitz_sensitivity`.
Coefficients that never rise and are > 0 keep the recurrence stable and that
sensitivity exact; both makers here give such.
"""

import dataclasses
import math

import numpy as np
from scipy import optimize
from scipy import signal

from tf_privacy import _checks
from tf_privacy.accounting import participation_pattern


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixSumError:
    """Noise on the sums of all steps so far, over all steps of a release.

    Attributes:
        root_mean_square: Over the steps; in units of one draw's stddev.
        largest: Standard deviation at the worst step; the same units.
    """

    root_mean_square: float
    largest: float

    def __str__(self) -> str:
        return (
            f"noise of the prefix sums: {self.root_mean_square:.4g} (root "
            f"mean square), at most {self.largest:.4g}"
        )


def summarize_variances(variances) -> PrefixSumError:
    """Returns the error of prefix sums with these variances.

    Args:
        variances: `[T]` float64; of the noise of the sum up to each step.
    """
    return PrefixSumError(
        root_mean_square=math.sqrt(np.mean(variances)),
        largest=math.sqrt(np.max(variances)),
    )


def check_coefficients(coefficients) -> tuple[float, ...]:
    """Returns coefficients as floats, the first of them > 0.

    Args:
        coefficients: The first column of C; real numbers.

    Raises:
        TypeError: If one is not a real number.
        ValueError: If there is none, one is not finite, or the first is not
            > 0.
    """
    name = "coefficients"
    values = tuple(_checks.check_real(name, c) for c in coefficients)
    if not values or not values[0] > 0.0:
        raise ValueError(
            f"{name} must begin with a number > 0. Received: {values[:3]!r}. "
            "Take calibrate_banded_coefficients(...)."
        )
    return values


def _apply_inverse(coefficients, rows):
    """Returns C^{-1} rows; rows has the length of a release."""
    kept = np.asarray(coefficients)[: len(rows)]
    return signal.lfilter([1.0], kept, rows)


def compute_inverse(coefficients, *, num_steps: int) -> np.ndarray:
    """Returns the first column of C^{-1}, which is Toeplitz too.

    Args:
        coefficients: The first column of C without its zeros; the first > 0.
        num_steps: Rows of C; >= 1.

    Returns:
        `[num_steps]` float64; inf or NaN where it exceeds float64.

    Raises:
        ValueError: If an argument is out of range.
    """
    coefficients = check_coefficients(coefficients)
    num_steps = _checks.check_integer("num_steps", num_steps, at_least=1)
    with np.errstate(over="ignore", invalid="ignore"):
        return _apply_inverse(coefficients, np.eye(1, num_steps)[0])


def compute_prefix_sum_error(coefficients, *, num_steps: int) -> PrefixSumError:
    """Returns the noise that C leaves on the prefix sums of a release.

        variance[t] = sum_{s <= t} (sum_{r <= s} inverse[r])^2

    Times noise_multiplier * l2_norm_clip it is in gradient units. The single
    coefficient 1 is independent noise: sqrt(t + 1) at step t.

    Args:
        coefficients: The first column of C without its zeros; the first > 0.
        num_steps: Steps of a release; >= 1.

    Returns:
        A PrefixSumError, for z of standard deviation 1.

    Raises:
        ValueError: If an argument is out of range.
    """
    inverse = compute_inverse(coefficients, num_steps=num_steps)
    return summarize_variances(np.cumsum(np.cumsum(inverse) ** 2))


def compute_banded_square_root(
    *, num_bands: int, momentum: float = 0.0, weight_decay: float = 0.0
) -> tuple[float, ...]:
    """Returns the first coefficients of the square root of a workload.

    The workload is what SGD makes of its gradients: their prefix sums, or with
    momentum and decay the Toeplitz matrix of the power series

        1 / ((1 - (1 - weight_decay) x) (1 - momentum x))

    whose square root C, cut to num_bands, is close to the best strategy for it.
    The coefficients are > 0 and never rise.

    Args:
        num_bands: How many; >= 1. No more than min_separation keep a unit's
            participations apart.
        momentum: Of the optimizer; in [0, 1).
        weight_decay: Share of the weights that a step takes away, learning
            rate included; in [0, 1).

    Returns:
        `num_bands` floats; the first is 1.

    Raises:
        ValueError: If an argument is out of range.

    Source: Kalinin and Lampert 2024, arXiv:2405.13763, Theorem 1.
    """
    num_bands = _checks.check_integer("num_bands", num_bands, at_least=1)
    momentum = _checks.check_real("momentum", momentum, at_least=0.0, below=1.0)
    decay = _checks.check_real(
        "weight_decay", weight_decay, at_least=0.0, below=1.0
    )
    index = np.arange(1, num_bands)
    # (1 - x)^(-1/2): each coefficient is 1 - 1 / (2 k) of the one before.
    root = np.concatenate([[1.0], np.cumprod(1.0 - 0.5 / index)])
    index = np.arange(num_bands)
    product = signal.convolve(
        (1.0 - decay) ** index * root, momentum**index * root, method="direct"
    )
    # Momentum 1 would leave them equal; rounding must not make them rise.
    return tuple(np.minimum.accumulate(product[:num_bands]).tolist())


class _Objective:
    """Logarithm of squared sensitivity times mean squared error.

    Its argument holds the logarithms of the falls from one coefficient to the
    next, so that no coefficient rises: the worst pattern is the earliest.
    """

    def __init__(self, num_steps, num_bands, pattern):
        self._num_steps = num_steps
        starts = pattern.separation * np.arange(pattern.count)
        self._spikes = np.zeros(num_steps)
        self._spikes[starts] = 1.0
        self._places = starts[:, None] + np.arange(num_bands)
        # Prefix sum t has the noise of steps up to t.
        self._weights = np.arange(num_steps, 0, -1) / num_steps

    def make_coefficients(self, logits):
        """Returns coefficients that begin with 1, and their falls."""
        falls = np.exp(logits - np.max(logits))
        total = np.cumsum(falls[::-1])[::-1]
        return total / total[0], falls / total[0]

    def compute(self, logits):
        """Returns the value and its gradient."""
        coefficients, falls = self.make_coefficients(logits)
        squared, by_sensitivity = self._square_sensitivity(coefficients)
        error, by_error = self._square_error(coefficients)
        slope = np.cumsum(by_sensitivity / squared + by_error / error)
        value = math.log(squared) + math.log(error)
        return value, falls * (slope - falls @ slope)

    def _square_sensitivity(self, coefficients):
        summed = signal.lfilter(coefficients, [1.0], self._spikes)
        padded = np.append(summed, np.zeros(len(coefficients)))
        return summed @ summed, 2.0 * padded[self._places].sum(axis=0)

    def _square_error(self, coefficients):
        sums = _apply_inverse(coefficients, np.ones(self._num_steps))
        weighted = self._weights * sums
        back = _apply_inverse(coefficients, weighted[::-1])[::-1]
        slope = [
            -2.0 * (back[k:] @ sums[: self._num_steps - k])
            for k in range(len(coefficients))
        ]
        return weighted @ sums, np.array(slope)


def calibrate_banded_coefficients(
    *,
    num_steps: int,
    num_bands: int,
    min_separation: int,
    max_participations: int | None = None,
) -> tuple[float, ...]:
    """Returns the banded coefficients of least error at equal privacy.

    Searches for what minimises, over coefficients > 0 that never rise,

        sensitivity * root mean square error of the prefix sums

    by L-BFGS from the banded square root; a second or less for 2000 steps and
    64 bands. It depends on no data, and where it ends is no matter of privacy:
    the sensitivity is computed from the coefficients.

    Args:
        num_steps: Steps of a release; >= 1.
        num_bands: Coefficients; >= 1, where 1 is independent noise. The noise
            takes num_bands - 1 copies of the weights in memory. As a rule no
            more than min_separation.
        min_separation: Steps from one participation of a unit to its next;
            >= 1.
        max_participations: Most participations of a unit; >= 1, or None if
            min_separation alone limits them.

    Returns:
        min(num_bands, num_steps) floats; the first is 1.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If one is not a whole number >= 1.

    Source: Choquette-Choo et al. 2023, arXiv:2306.08153; McKenna 2024,
        arXiv:2405.15913 (Toeplitz).
    """
    num_steps = _checks.check_integer("num_steps", num_steps, at_least=1)
    num_bands = _checks.check_integer("num_bands", num_bands, at_least=1)
    pattern = participation_pattern.check_pattern(
        num_steps, min_separation, max_participations
    )
    num_bands = min(num_bands, num_steps)
    objective = _Objective(num_steps, num_bands, pattern)
    root = np.array(compute_banded_square_root(num_bands=num_bands))
    found = optimize.minimize(
        objective.compute,
        np.log(root - np.append(root[1:], 0.0)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 1000, "maxfun": 2000, "ftol": 1e-12},
    )
    coefficients, _ = objective.make_coefficients(found.x)
    return tuple(coefficients.tolist())
