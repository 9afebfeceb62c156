# SPDX-License-Identifier: Apache-2.0
"""Clips that move in training: by a noised query, or by a schedule.

The clip in force is l2_norm_clip * scale, with `scale` in a variable of the
optimizer that starts at 1. The engine measures gradients in units of `scale`,
so that a step is the same mechanism whatever the clip: a sum that one unit
moves by at most l2_norm_clip. What is scaled back is already noised.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_privacy import _checks
from tf_privacy.clipping import styles

_PACKAGE = "tf_privacy"
# The scale stays where float32 arithmetic is safe.
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-6, 1e6
# Noise on the query over its sensitivity, in units of the noise multiplier:
# a query of that size raises the noise on the gradients by 2%.
_QUIET_QUERY = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovingClip(styles.ClippingStyle):
    """A flat clip that is another one in every step.

    Attributes:
        l2_norm_clip: The clip of the first step; gradient units.
    """

    def scale_factors(self, norms, num_groups: int):
        """Returns min(1, clip / norm)."""
        clip = self.l2_norm_clip / math.sqrt(num_groups)
        return clip / ops.maximum(norms, clip)

    def next_scale(self, scale, *, query_mean, step):
        """Returns the scale of the next step, kept in a safe range.

        Args:
            scale: float32 scalar; of the step just made.
            query_mean: float32 scalar; the noised query over the expected
                batch size, or None if there is no query.
            step: int scalar; updates made so far, this step included.
        """
        moved = self.move_scale(scale, query_mean=query_mean, step=step)
        # What is no number is never kept: the clip stays where it was.
        is_sound = ops.isfinite(moved)
        if query_mean is not None:
            is_sound = is_sound & ops.isfinite(query_mean)
        moved = ops.where(is_sound, moved, scale)
        return ops.clip(moved, _SMALLEST_SCALE, _LARGEST_SCALE)

    @abc.abstractmethod
    def move_scale(self, scale, *, query_mean, step):
        """Returns the scale of the next step.

        Args:
            scale: As in `next_scale`.
            query_mean: As in `next_scale`.
            step: As in `next_scale`.
        """

    def choose_query_stddev(
        self, noise_multiplier: float, expected_batch_size: float
    ) -> float | None:
        """Returns the standard deviation of the noise on the query, or None.

        Args:
            noise_multiplier: What gradients and query are noised to together.
            expected_batch_size: Units.
        """
        del noise_multiplier, expected_batch_size
        return None

    def describe(self, query_mean) -> dict:
        """Returns what the noised query says, for the logs.

        Args:
            query_mean: float32 scalar; a moving average of it.
        """
        del query_mean
        return {}


def _check_optional(name: str, style) -> float | None:
    value = getattr(style, name)
    if value is None:
        return None
    return _checks.check_real(name, value, above=0.0, at_most=1e15)


@keras.saving.register_keras_serializable(package=_PACKAGE)
@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantileClipping(MovingClip):
    """The clip follows a quantile of the gradient norms.

        unclipped = noised fraction of units with norm <= clip
        clip <- clip * exp(-learning_rate * (unclipped - target_quantile))
    The count behind the fraction, of terms -1/2 and 1/2, is noised. It is paid
    for: `noise_multiplier` of the optimizer is that of gradients and count
    together, and the gradients get a little more noise than it says.

    Attributes:
        l2_norm_clip: The clip of the first step; gradient units. Any guess:
            it moves by up to 10% a step.
        target_quantile: Fraction of units that are to stay unclipped; [0, 1].
        learning_rate: Of the logarithm of the clip; > 0.
        count_stddev: Noise stddev on the count, in units; > 0. None takes a
            twentieth of the expected batch size, or 2.5 noise multipliers if
            that is more: then the gradients' noise is at most 2.1% larger.

    Source: Andrew, Thakkar, McMahan and Ramaswamy 2021, arXiv:1905.03871.
    """

    target_quantile: float = 0.5
    learning_rate: float = 0.2
    count_stddev: float | None = None

    def __post_init__(self):
        super().__post_init__()
        for name, value in (
            (
                "target_quantile",
                _checks.check_real(
                    "target_quantile",
                    self.target_quantile,
                    at_least=0.0,
                    at_most=1.0,
                ),
            ),
            (
                "learning_rate",
                _checks.check_real(
                    "learning_rate", self.learning_rate, above=0.0, at_most=10.0
                ),
            ),
            ("count_stddev", _check_optional("count_stddev", self)),
        ):
            object.__setattr__(self, name, value)

    @property
    def query_sensitivity(self) -> float:
        """1/2: a unit adds 1/2 if it stays unclipped, -1/2 if not."""
        return 0.5

    def query_values(self, norms):
        """Returns 1/2 where the norm is within the clip, else -1/2."""
        return ops.where(norms <= self.l2_norm_clip, 0.5, -0.5)

    def choose_query_stddev(self, noise_multiplier, expected_batch_size):
        """Returns count_stddev, or the default for this batch size."""
        if self.count_stddev is not None:
            return self.count_stddev
        quiet = _QUIET_QUERY * self.query_sensitivity * noise_multiplier
        return max(expected_batch_size / 20.0, quiet)

    def move_scale(self, scale, *, query_mean, step):
        """Returns the scale after one geometric step to the quantile."""
        del step
        unclipped = query_mean + 0.5
        return scale * ops.exp(
            -self.learning_rate * (unclipped - self.target_quantile)
        )

    def describe(self, query_mean) -> dict:
        """Returns the noised fraction of units that were clipped."""
        return {"clipped_fraction": ops.clip(0.5 - query_mean, 0.0, 1.0)}


@keras.saving.register_keras_serializable(package=_PACKAGE)
@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanNormClipping(MovingClip):
    """The clip follows the mean gradient norm (van der Veen et al.).

        mean = noised sum of min(norm, bound * clip) / expected batch size
        clip <- multiple * mean
    Paid for like the count of `QuantileClipping`, which is the better rule:
    this one can rise no faster than `multiple * bound` a step, and its noise
    grows with the clip. A step multiplies the clip by at least 1/4.

    Attributes:
        l2_norm_clip: The clip of the first step; gradient units. The paper
            takes the mean norm on one batch of random noise.
        multiple: Clip over mean norm (the paper's alpha); > 0.
        bound: Norms are clipped to so many clips in the mean (the paper's
            beta); > 1.
        query_noise_multiplier: Noise stddev on the sum of norms over its bound
            (the paper's sigma); > 0. None takes a fiftieth of the expected
            batch size, or 5 noise multipliers if that is more.

    Source: van der Veen, Seggers, Bloem and Patrini 2018, arXiv:1812.02890,
        section 3.2.
    """

    multiple: float = 1.0
    bound: float = 2.0
    query_noise_multiplier: float | None = None

    def __post_init__(self):
        super().__post_init__()
        for name, value in (
            (
                "multiple",
                _checks.check_real(
                    "multiple", self.multiple, above=0.0, at_most=1e3
                ),
            ),
            (
                "bound",
                _checks.check_real("bound", self.bound, above=1.0, at_most=1e3),
            ),
            (
                "query_noise_multiplier",
                _check_optional("query_noise_multiplier", self),
            ),
        ):
            object.__setattr__(self, name, value)

    @property
    def query_sensitivity(self) -> float:
        """1: a unit adds its norm over the bound, and at most 1."""
        return 1.0

    def query_values(self, norms):
        """Returns the norms over their bound, and at most 1."""
        return ops.minimum(norms / (self.bound * self.l2_norm_clip), 1.0)

    def choose_query_stddev(self, noise_multiplier, expected_batch_size):
        """Returns the noise on the sum of norms over their bound."""
        if self.query_noise_multiplier is not None:
            return self.query_noise_multiplier
        return max(expected_batch_size / 50.0, _QUIET_QUERY * noise_multiplier)

    def move_scale(self, scale, *, query_mean, step):
        """Returns the scale at which the clip is a multiple of the mean."""
        del step
        return scale * ops.maximum(
            self.multiple * self.bound * query_mean, 0.25
        )


@keras.saving.register_keras_serializable(package=_PACKAGE)
@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSchedule(MovingClip):
    """The clip follows a schedule that was fixed before training.

    Attributes:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`, from the
            number of updates to the clip; gradient units; > 0.
        l2_norm_clip: The clip of the first step, schedule(0); leave it out.
    """

    l2_norm_clip: float | None = None
    schedule: Callable

    def __post_init__(self):
        kind = keras.optimizers.schedules.LearningRateSchedule
        if not isinstance(self.schedule, kind):
            raise TypeError(
                "schedule must be a keras.optimizers.schedules."
                f"LearningRateSchedule. Received: {self.schedule!r}. Example: "
                "keras.optimizers.schedules.CosineDecay(1.0, 1000)."
            )
        first = float(ops.convert_to_numpy(self.schedule(0)))
        object.__setattr__(self, "l2_norm_clip", first)
        super().__post_init__()

    def move_scale(self, scale, *, query_mean, step):
        """Returns schedule(step) over the first clip."""
        del query_mean
        clip = ops.cast(self.schedule(step), "float32")
        # A schedule that ends at 0 would take the noise with it.
        return ops.where(clip > 0.0, clip / self.l2_norm_clip, scale)

    def get_config(self) -> dict:
        """Returns the schedule, serialised."""
        return {"schedule": keras.saving.serialize_keras_object(self.schedule)}

    @classmethod
    def from_config(cls, config):
        """Returns the style that `get_config()` describes."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule=schedule)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CurrentClip(styles.ClippingStyle):
    """How the next step is to be clipped: `optimizer.current_clip`.

    Attributes:
        l2_norm_clip: The clip at scale 1; the sum's sensitivity, whatever the
            scale.
        style: The style.
        scale: float32 scalar; clip in force over l2_norm_clip; None for 1.
        scales: None, or a `scaling.Scale` for each trainable variable, by
            which gradients are multiplied before the clip.
        selects_rows: Whether to count which rows of tables are looked up.
    """

    style: styles.ClippingStyle
    scale: Any
    scales: tuple[Any, ...] | None = None
    selects_rows: bool = False

    @classmethod
    def of(
        cls,
        style: styles.ClippingStyle,
        scale,
        *,
        scales=None,
        selects_rows=False,
    ) -> "CurrentClip":
        """Returns a style at a scale.

        Args:
            style: The style.
            scale: As for the class.
            scales: As for the class.
            selects_rows: As for the class.
        """
        return cls(
            l2_norm_clip=style.l2_norm_clip,
            style=style,
            scale=scale,
            scales=scales,
            selects_rows=selects_rows,
        )

    def at_rest(self) -> "CurrentClip":
        """Returns the style at scale 1, gradients multiplied by ones."""
        scales = self.scales
        if scales is not None:
            scales = tuple(scale.as_ones() for scale in scales)
        return dataclasses.replace(self, scale=1.0, scales=scales)

    def group_variables(self, variables) -> list[int]:
        """Returns the style's groups."""
        return self.style.group_variables(variables)

    @property
    def query_sensitivity(self) -> float | None:
        """The style's."""
        return self.style.query_sensitivity

    def query_values(self, norms):
        """Returns the style's answers, for norms in units of the scale."""
        if self.scale is None:
            return self.style.query_values(norms)
        return self.style.query_values(norms / self.scale)

    def scale_factors(self, norms, num_groups: int):
        """Returns the style's factors, for gradients in units of the scale."""
        if self.scale is None:
            return self.style.scale_factors(norms, num_groups)
        factors = self.style.scale_factors(norms / self.scale, num_groups)
        return factors / self.scale
