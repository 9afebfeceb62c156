# SPDX-License-Identifier: Apache-2.0
"""Noise styles: what is added to the clipped sums of a run, and how.

A style says how the noise of different steps belongs together, and with that
what the accountant must know. It is a value: it holds settings and no state,
and is saved with the optimizer. Its generator holds the state; that is secret
and is never saved.
"""

import abc
import dataclasses
from typing import Any

import keras

from tf_privacy import _checks
from tf_privacy.clipping import clipped_sum
from tf_privacy.noise import gaussian

# What the accountant tells apart; a ledger stores the index.
FAMILIES = ("gaussian", "discrete_gaussian", "tree", "matrix")


class NoiseGenerator(abc.ABC):
    """Makes the noise of one run; holds its state.

    Attributes:
        is_stateless: Whether noise that is drawn and thrown away changes
            nothing; then it is drawn before the step is known to be allowed.
    """

    is_stateless = False

    @property
    def state_variables(self) -> list[keras.Variable]:
        """The variables that a step reads and writes."""
        return []

    def __deepcopy__(self, memo):
        """Refuses: a copy in the middle of a release would break it."""
        raise TypeError(
            f"{type(self).__name__} must not be copied: the noise of both "
            "copies would be related. Make a new optimizer with "
            "type(optimizer).from_config(optimizer.get_config())."
        )

    @abc.abstractmethod
    def add_noise(
        self, clipped: clipped_sum.ClippedSum, *, stddev: Any, position: Any
    ) -> gaussian.NoisedSum:
        """Returns the clipped sum with the noise of one step.

        Called once for each step that is released, inside of the compiled
        step.

        Args:
            clipped: What the clipping engine made.
            stddev: Standard deviation of one independent draw, in the sum's
                units; > 0; a float, or a float32 scalar tensor.
            position: int32 scalar tensor; which step of its release this is,
                in [0, steps_per_release). At 0 all state is to be as new.
        """


class NoiseStyle(abc.ABC):
    """How the noise of a run is made.

    A subclass is a frozen, keyword-only dataclass that has `noise_multiplier`
    (standard deviation of one independent draw over l2_norm_clip; > 0) among
    its fields and is registered with Keras.
    """

    family = "gaussian"

    @property
    def noise_multipliers(self) -> tuple[float, ...]:
        """The levels of noise that steps may have; one, as a rule."""
        return (self.noise_multiplier,)

    def choose_level(self, step):
        """Returns which of `noise_multipliers` a step has, int32 scalar.

        Args:
            step: int32 scalar tensor; updates made before.
        """
        return 0 * step

    def count_levels(self, step: int, num_steps: int) -> list[int]:
        """Returns how many of the next steps have each level.

        Args:
            step: Updates made before; >= 0.
            num_steps: How many steps from there on; >= 0.
        """
        del step
        return [num_steps]

    @property
    def is_correlated(self) -> bool:
        """Whether the noise of several steps belongs together."""
        return self.family in ("tree", "matrix")

    @property
    def is_independent(self) -> bool:
        """Whether it is ordinary Gaussian noise, new in every step."""
        return self.family == "gaussian"

    @property
    def steps_per_release(self) -> int:
        """Steps whose noise belongs together; 1 where it is independent."""
        return 1

    @property
    def sensitivity(self) -> float:
        """L2 norm that one unit adds to a release, over l2_norm_clip.

        An upper bound, where a unit takes part in one release at most
        `max_participations` times and at least `min_separation` steps apart.
        """
        return 1.0

    @property
    def num_participations(self) -> int:
        """Most participations of a unit in one release."""
        fit = -(-self.steps_per_release // self.min_separation)
        return min(fit, self.max_participations or fit)

    @property
    def min_separation(self) -> int:
        """Steps from one participation of a unit in a release to its next."""
        return 1

    @property
    def max_participations(self) -> int | None:
        """Most participations of a unit in a release; None for no limit."""
        return None

    @abc.abstractmethod
    def make_generator(
        self, variables, source: gaussian.NoiseSource
    ) -> NoiseGenerator:
        """Returns what makes the noise for these variables.

        Args:
            variables: The `keras.Variable`s whose gradients are noised.
            source: Where randomness comes from.
        """

    def get_config(self) -> dict:
        """Returns the fields."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config):
        """Returns the style that `get_config()` describes."""
        return cls(**config)


def check_multiplier(style: NoiseStyle) -> None:
    """Checks a style's `noise_multiplier` and keeps it as a float.

    Args:
        style: A frozen dataclass under construction.

    Raises:
        ValueError: If it is not a finite number > 0.
    """
    value = _checks.check_noise_multiplier(style.noise_multiplier)
    object.__setattr__(style, "noise_multiplier", value)
