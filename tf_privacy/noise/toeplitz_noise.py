# SPDX-License-Identifier: Apache-2.0
"""Noise that takes back some of its past: DP-FTRL by matrix factorization."""

import dataclasses
import functools

import keras
import numpy as np
from keras import ops

from tf_privacy.accounting import correlated_noise
from tf_privacy.noise import correlated_style
from tf_privacy.noise import toeplitz_strategy

# Rounding of the float32 recurrence, in units of float32's, that a step's noise
# may have beside its draw.
_LARGEST_GROWTH = 1000.0


@keras.saving.register_keras_serializable(package="tf_privacy")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ToeplitzNoise(correlated_style.CorrelatedStyle):
    """Noise y = C^{-1} z on the sums, C a lower triangular Toeplitz matrix.

        y[t] = (z[t] - sum_{k >= 1} coefficients[k] y[t - k]) / coefficients[0]
        z[t] = N(0, (noise_multiplier * l2_norm_clip)^2)
    Sums x with noise y are C^{-1} (C x + z): a run of num_steps is one Gaussian
    mechanism, of noise multiplier noise_multiplier / sensitivity. It holds for
    any order of the data in which no unit comes more often than stated: no
    sampling is needed, and none makes it better. A longer run is one such
    release after the other, each with new noise.

    Keeps len(coefficients) - 1 copies of the weights in memory.

    Attributes:
        noise_multiplier: Standard deviation of one draw over l2_norm_clip; > 0.
        num_steps: Steps of a release; >= 1.
        coefficients: First column of C without its zeros; the first > 0. From
            `calibrate_banded_coefficients` or `compute_banded_square_root`.
        min_separation: Steps from one participation of a unit to its next, at
            least; >= 1. The data's order must keep it.
        max_participations: Most participations of a unit in a release; >= 1,
            or None if min_separation alone limits them.

    Raises:
        ValueError: If a field is out of range, or the recurrence is not stable.

    Source: Denisov et al. 2022, arXiv:2202.08312; Choquette-Choo et al. 2023,
        arXiv:2306.08153 (bands).
    """

    noise_multiplier: float
    num_steps: int
    coefficients: tuple[float, ...]
    min_separation: int = dataclasses.field()
    max_participations: int | None = None

    family = "matrix"

    def __post_init__(self):
        correlated_style.check_fields(self)
        coefficients = toeplitz_strategy.check_coefficients(self.coefficients)
        object.__setattr__(self, "coefficients", coefficients)
        first = np.array(coefficients[: self.num_steps])
        size = np.sum(np.abs(first)) * float(self._stddevs[-1])
        if not size <= _LARGEST_GROWTH:
            raise ValueError(
                "coefficients must give a noise that float32 can compute. "
                f"Received: {coefficients[:3]!r}..., of which rounding errors "
                f"grow {size:.3g} times in {self.num_steps} steps. Take "
                "coefficients > 0 that never rise."
            )

    @classmethod
    def banded(
        cls,
        *,
        noise_multiplier: float,
        num_steps: int,
        num_bands: int,
        min_separation: int,
        max_participations: int | None = None,
    ) -> "ToeplitzNoise":
        """Returns the noise of the banded C that suits such a run best.

        Args:
            noise_multiplier: Standard deviation of one draw over l2_norm_clip;
                > 0. Has no part in the choice of C: take `sensitivity` from
                here for `calibrate_correlated_noise_multiplier`.
            num_steps: Steps of a release; >= 1.
            num_bands: Coefficients; >= 1. num_bands - 1 copies of the weights
                are held. As a rule no more than min_separation.
            min_separation: Steps from one participation of a unit to its next;
                >= 1.
            max_participations: Most participations of a unit; >= 1, or None if
                min_separation alone limits them.

        Raises:
            ValueError: If an argument is out of range.
        """
        return cls(
            noise_multiplier=noise_multiplier,
            num_steps=num_steps,
            coefficients=toeplitz_strategy.calibrate_banded_coefficients(
                num_steps=num_steps,
                num_bands=num_bands,
                min_separation=min_separation,
                max_participations=max_participations,
            ),
            min_separation=min_separation,
            max_participations=max_participations,
        )

    @property
    def sensitivity(self) -> float:
        """L2 norm of what one unit adds to C x, over l2_norm_clip."""
        return _compute_sensitivity(
            self.coefficients,
            self.num_steps,
            self.min_separation,
            self.max_participations,
        )

    @property
    def num_copies(self) -> int:
        """Copies of the weights that the noise holds in memory."""
        return min(len(self.coefficients), self.num_steps) - 1

    def compute_prefix_sum_error(self) -> toeplitz_strategy.PrefixSumError:
        """Returns the noise on sums of all steps, in units of l2_norm_clip."""
        return toeplitz_strategy.compute_prefix_sum_error(
            np.array(self.coefficients) / self.noise_multiplier,
            num_steps=self.num_steps,
        )

    def make_mix(self, position):
        """Returns the recurrence; step t is held in slot t mod num_copies."""
        first = self.coefficients[0]
        ratios = np.array(self.coefficients[: self.num_copies + 1]) / first
        count = max(1, self.num_copies)
        slots = ops.arange(self.num_copies, dtype="int32")
        lags = 1 + ops.mod(position - 1 - slots, count)
        # At the start of a release what is held is of the release before.
        weights = ops.where(
            lags <= position,
            -ops.take(ratios.astype(np.float32), lags),
            0.0,
        )
        return correlated_style.Mix(
            draw_weight=1.0 / first,
            noise_weights=weights,
            added_weights=None,
            slot=ops.mod(position, count),
            stddev=ops.take(self._stddevs, position),
        )

    @property
    def _stddevs(self):
        """`[num_steps]` float32: of each step's noise, for z of 1."""
        return _compute_stddevs(self.coefficients, self.num_steps)


@functools.lru_cache(maxsize=64)
def _compute_sensitivity(coefficients, num_steps, separation, most) -> float:
    return correlated_noise.compute_toeplitz_sensitivity(
        coefficients,
        num_steps=num_steps,
        min_separation=separation,
        max_participations=most,
    )


@functools.lru_cache(maxsize=64)
def _compute_stddevs(coefficients, num_steps):
    inverse = toeplitz_strategy.compute_inverse(
        coefficients, num_steps=num_steps
    )
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sqrt(np.cumsum(inverse**2)).astype(np.float32)
