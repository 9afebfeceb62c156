# SPDX-License-Identifier: Apache-2.0
"""Scales for gradients before the clip, learned from released gradients."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from tf_privacy import _checks
from tf_privacy.clipping import scaling
from tf_privacy.clipping.backend.execution import execution

_GRANULARITIES = ("variables", "axes", "entries")
# Means of squares below it are too close to an underflow to divide by.
_SMALLEST_MEAN = 1e-30


@keras.saving.register_keras_serializable(package="tf_privacy")
@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientScaling:
    """How gradients are scaled before the clip and back after the noise.

        (sum over units of clip(D g) + noise) / (D expected_batch_size)
    D is small where released gradients were large, so that noise and clip
    share themselves out in proportion to the gradients: entries with small
    gradients get less noise, those with large ones more.

        D = sqrt((1 + damping) / (ratio + damping))
        ratio = second moment of the released gradients over its mean
    The mean of 1 / D^2 over all entries is 1: the noise of all entries together
    is as large as without scaling, and so is the norm of a gradient in
    proportion to 1 / D. So l2_norm_clip keeps its meaning.

    Costs no privacy. D is a function of gradients that were released, with
    their noise, before the step. One unit moves the sum of the scaled and
    clipped gradients by at most l2_norm_clip whatever D is, so that each step
    is the same Gaussian mechanism after a public linear map, chosen adaptively;
    the division by D is post-processing.

    Attributes:
        granularity: "variables": one number for each variable, free of cost.
            "axes": one vector for each axis of a variable, from the mean
            second moment along it; what is multiplied or looked up costs next
            to nothing. "entries": one number for each entry; per-unit
            gradients of what is used at several positions are then made, as a
            whole or piece by piece.
        decay: Of the average of squares; in [0, 1). Until it has seen enough,
            the rest of the average is as if all entries had the same moment.
        damping: Share of the mean second moment that is added to all; in
            [1e-6, 1e6]. A larger one makes the scales more equal. It bounds
            what one factor scales up: sqrt(1 + 1 / damping); "axes" has a
            factor for each axis and one for the variable.
        update_every: Steps after which the squares are averaged anew, from
            the mean gradient of these steps, whose noise is less; >= 1.

    Raises:
        ValueError: If an argument is out of range.

    Source: Ganesh, McMahan and Thakurta 2025, arXiv:2507.01129, algorithm 8
        (update_every=1); Li et al. 2023, arXiv:2212.00309 (delayed).
    """

    granularity: str = "axes"
    decay: float = 0.99
    damping: float = 0.1
    update_every: int = 1

    def __post_init__(self):
        _checks.check_choice("granularity", self.granularity, _GRANULARITIES)
        decay = _checks.check_real("decay", self.decay, at_least=0.0, below=1.0)
        damping = _checks.check_real(
            "damping", self.damping, at_least=1e-6, at_most=1e6
        )
        every = _checks.check_integer(
            "update_every", self.update_every, at_least=1
        )
        object.__setattr__(self, "decay", decay)
        object.__setattr__(self, "damping", damping)
        object.__setattr__(self, "update_every", every)

    def get_config(self) -> dict:
        """Returns the arguments."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        """Returns the settings that `get_config()` describes."""
        return cls(**config)


class Preconditioner:
    """Averages the squares of released gradients and makes scales of them.

    Args:
        settings: A GradientScaling.
        variables: The `keras.Variable`s that are trained.
        add_variable: `add_variable(shape, dtype=..., name=...)` of the
            optimizer, which saves the state with its own.
    """

    def __init__(self, settings: GradientScaling, variables, add_variable):
        self._settings = settings
        self._shapes = [tuple(v.shape) for v in variables]
        self._moments = [
            [
                add_variable(kept, dtype="float32", name="scaling_moment")
                for kept in _kept_shapes(shape, settings.granularity)
            ]
            for shape in self._shapes
        ]
        # The share of the average that was seen: 1 - decay^updates.
        self._seen = add_variable((), dtype="float32", name="scaling_seen")
        self._count = add_variable((), dtype="int32", name="scaling_count")
        self._sums = []
        if settings.update_every > 1:
            self._sums = [
                add_variable(shape, dtype="float32", name="scaling_sum")
                for shape in self._shapes
            ]

    @property
    def variables(self) -> list:
        """All state, in a fixed order, to save and restore."""
        moments = [m for group in self._moments for m in group]
        return [*moments, self._seen, self._count, *self._sums]

    def save(self, store) -> None:
        """Writes the state, which is public, to where an optimizer is saved.

        Args:
            store: A dict of arrays, or what Keras passes for one.
        """
        for index, variable in enumerate(self.variables):
            store[f"scaling_{index}"] = variable.numpy()

    def load(self, store) -> None:
        """Takes a saved state; stays as it is where there is none.

        Args:
            store: From `save`.
        """
        for index, variable in enumerate(self.variables):
            key = f"scaling_{index}"
            if key in store:
                variable.assign(np.array(store[key]))

    def make_scales(self) -> tuple[scaling.Scale, ...]:
        """Returns the scale of each variable, from what was released so far.

        All 1 before the first update. Always finite and > 0.
        """
        means = [ops.mean(moments[0]) for moments in self._moments]
        sizes = [math.prod(shape) for shape in self._shapes]
        whole = sum(
            mean * (size / sum(sizes))
            for mean, size in zip(means, sizes, strict=True)
        )
        return tuple(
            scaling.Scale(
                shape=shape,
                factors=self._factors(shape, moments, mean, whole),
            )
            for shape, moments, mean in zip(
                self._shapes, self._moments, means, strict=True
            )
        )

    def _factors(self, shape, moments, mean, whole):
        if self._settings.granularity == "entries":
            return (self._factor(moments[0], whole),)
        one = ops.reshape(mean, (1,) * len(shape))
        factors = [self._factor(one, whole)]
        if self._settings.granularity == "axes" and shape:
            factors += [self._factor(moment, mean) for moment in moments]
        return tuple(factors)

    def _factor(self, moment, mean):
        seen, damping = self._seen, self._settings.damping
        usable = ops.logical_and(mean >= _SMALLEST_MEAN, ops.isfinite(mean))
        known = ops.where(usable, moment / ops.where(usable, mean, 1.0), 1.0)
        ratio = seen * known + (1.0 - seen)
        return ops.sqrt((1.0 + damping) / (ratio + damping))

    def update(self, gradients) -> None:
        """Takes in the gradients of one step, after they were released.

        Args:
            gradients: One float32 tensor for each variable: the noised mean
                gradient, scaled back. Nothing else may be given: what was
                not noised would be released through the scales.
        """
        every = self._settings.update_every
        if every == 1:
            self._average(gradients)
            return
        self._count.assign_add(ops.ones((), "int32"))
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.assign_add(gradient)
        execution.cond(
            ops.equal(self._count % every, 0),
            self._average_sums,
            lambda: None,
        )

    def _average_sums(self):
        every = self._settings.update_every
        self._average([total / every for total in self._sums])
        for total in self._sums:
            total.assign(ops.zeros_like(total))

    def _average(self, gradients):
        rest = 1.0 - self._settings.decay
        for moments, gradient in zip(self._moments, gradients, strict=True):
            square = ops.square(gradient)
            for moment in moments:
                value = _mean_to(square, tuple(moment.shape))
                # A square that overflows would stay in the average for good.
                value = ops.where(ops.isfinite(value), value, moment.value)
                moment.assign(moment + (value - moment) * rest)
        self._seen.assign(self._seen + (1.0 - self._seen) * rest)


def _kept_shapes(shape, granularity: str):
    """Returns the shapes of the means that are kept of a variable's squares."""
    if granularity == "entries":
        return [shape]
    if granularity == "variables" or not shape:
        return [(1,) * len(shape)]
    return [
        tuple(n if i == axis else 1 for i, n in enumerate(shape))
        for axis in range(len(shape))
    ]


def _mean_to(array, shape):
    """Returns the mean of an array along the axes where `shape` is 1."""
    axes = tuple(i for i, n in enumerate(shape) if n != array.shape[i])
    return ops.mean(array, axis=axes, keepdims=True) if axes else array
