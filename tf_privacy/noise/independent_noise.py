# SPDX-License-Identifier: Apache-2.0
"""Noise that is independent from step to step: constant, or on a schedule."""

import copy
import dataclasses
import itertools

import keras
from keras import ops

from tf_privacy import _checks
from tf_privacy.noise import gaussian
from tf_privacy.noise import noise_schedule_levels
from tf_privacy.noise import noise_style

_PACKAGE = "tf_privacy"


class IndependentGenerator(noise_style.NoiseGenerator):
    """Draws new Gaussian noise in every step; has no state of its own.

    Args:
        source: Where the noise comes from.
    """

    is_stateless = True

    def __deepcopy__(self, memo):
        """Returns a generator with a source of its own."""
        return IndependentGenerator(copy.deepcopy(self._source, memo))

    def __init__(self, source: gaussian.NoiseSource):
        self._source = source

    def add_noise(self, clipped, *, stddev, position):
        """Returns the clipped sum with noise of its own."""
        del position
        return gaussian.add_scaled_noise(
            clipped, stddev=stddev, source=self._source
        )


@keras.saving.register_keras_serializable(package=_PACKAGE)
@dataclasses.dataclass(frozen=True, kw_only=True)
class IndependentNoise(noise_style.NoiseStyle):
    """Gaussian noise, independent from step to step: the ordinary DP-SGD.

    What a number for `noise_multiplier` means.

    Attributes:
        noise_multiplier: Standard deviation of the noise on the sum over
            l2_norm_clip; > 0.

    Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1.
    """

    noise_multiplier: float

    def __post_init__(self):
        noise_style.check_multiplier(self)

    def make_generator(self, variables, source):
        """Returns a generator without state."""
        del variables
        return IndependentGenerator(source)


@keras.saving.register_keras_serializable(package=_PACKAGE)
@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseSchedule(noise_style.NoiseStyle):
    """Independent Gaussian noise that is of another size in every stretch.

        noise_multiplier = multipliers[k]
            from update boundaries[k - 1] on, until update boundaries[k]
    Each stretch is counted and accounted with its own noise.

    Attributes:
        boundaries: Updates after which the next stretch begins; rising, >= 1.
        multipliers: Noise multiplier of each stretch, one more; > 0.
    """

    boundaries: tuple[int, ...]
    multipliers: tuple[float, ...]

    def __post_init__(self):
        boundaries = tuple(
            _checks.check_integer(
                "boundaries", b, at_least=1, at_most=2**31 - 1
            )
            for b in self.boundaries
        )
        multipliers = tuple(
            _checks.check_noise_multiplier(m, name="multipliers")
            for m in self.multipliers
        )
        rising = all(a < b for a, b in itertools.pairwise(boundaries))
        if not rising or len(multipliers) != len(boundaries) + 1:
            raise ValueError(
                "boundaries must rise, and be one fewer than the multipliers. "
                f"Received: boundaries {boundaries}, multipliers "
                f"{multipliers}. Example: NoiseSchedule(boundaries=(1000,), "
                "multipliers=(1.5, 1.0))."
            )
        object.__setattr__(self, "boundaries", boundaries)
        object.__setattr__(self, "multipliers", multipliers)

    @classmethod
    def decay(
        cls,
        *,
        num_steps: int,
        start_multiplier: float,
        end_multiplier: float,
        num_levels: int = 16,
        shape: str = "linear",
    ) -> "NoiseSchedule":
        """Returns stretches that follow a curve, nowhere with less noise.

        Args:
            num_steps: Updates over which the curve goes from start to end.
            start_multiplier: Noise multiplier of the first update; > 0.
            end_multiplier: Of the last one, and of all that follow; > 0.
            num_levels: Most stretches; >= 1.
            shape: "linear", "exponential" or "cosine".
        """
        boundaries, multipliers = noise_schedule_levels.make_noise_levels(
            num_steps,
            start_multiplier=start_multiplier,
            end_multiplier=end_multiplier,
            num_levels=num_levels,
            shape=shape,
        )
        return cls(
            boundaries=tuple(map(int, boundaries)),
            multipliers=tuple(map(float, multipliers)),
        )

    @property
    def noise_multiplier(self) -> float:
        """The smallest of the stretches'."""
        return min(self.multipliers)

    @property
    def noise_multipliers(self) -> tuple[float, ...]:
        """The stretches'."""
        return self.multipliers

    def choose_level(self, step):
        """Returns the stretch that an update is in."""
        step = ops.cast(step, "int32")
        passed = [ops.cast(step >= b, "int32") for b in self.boundaries]
        return sum(passed, 0 * step)

    def count_levels(self, step, num_steps):
        """Returns how many of the next updates are in each stretch."""
        stop = step + num_steps
        edges = [0, *self.boundaries, stop]
        edges = [min(max(edge, step), stop) for edge in edges]
        return [b - a for a, b in itertools.pairwise(edges)]

    def make_generator(self, variables, source):
        """Returns a generator without state."""
        del variables
        return IndependentGenerator(source)


def as_style(noise_multiplier) -> noise_style.NoiseStyle:
    """Returns the style that an argument `noise_multiplier` stands for.

    Args:
        noise_multiplier: A NoiseStyle, or a number, for independent noise.

    Raises:
        ValueError: If the number is out of range.
    """
    if isinstance(noise_multiplier, noise_style.NoiseStyle):
        return noise_multiplier
    return IndependentNoise(
        noise_multiplier=_checks.check_noise_multiplier(noise_multiplier)
    )
