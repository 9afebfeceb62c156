# SPDX-License-Identifier: Apache-2.0
"""Noise that remembers: styles whose steps share draws, and their generator.

The noise of a step is a new normal draw and a mix of what was held from steps
before. A style says what the mix of each step is; the generator holds the
copies. Whoever has them can subtract them from what was released, so they are
never saved and never copied.
"""

import abc
import dataclasses
import math
from typing import Any

import keras
from keras import ops

from tf_privacy import _checks
from tf_privacy.accounting import participation_pattern
from tf_privacy.clipping.backend.execution import execution
from tf_privacy.noise import gaussian
from tf_privacy.noise import noise_style


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Mix:
    """How the noise of one step is made, for draws of standard deviation 1.

    Attributes:
        draw_weight: float32 scalar; of the step's own standard normal draw.
        noise_weights: `[R]` float32; of the copies, in the step's noise.
        added_weights: `[R]` float32; of the copies, in what is held beyond the
            noise itself; None if the noise is what is held.
        slot: int32 scalar; the copy that is replaced; R for none.
        stddev: float32 scalar; of the step's noise.
    """

    draw_weight: Any
    noise_weights: Any
    added_weights: Any
    slot: Any
    stddev: Any


class CorrelatedStyle(noise_style.NoiseStyle):
    """A style whose noise is correlated over the steps of a release.

    A subclass has the fields `noise_multiplier`, `num_steps`,
    `min_separation` and `max_participations`.
    """

    # Plain attributes, so that a subclass can have fields of these names.
    min_separation = 1
    max_participations = None

    @property
    def steps_per_release(self) -> int:
        """Steps whose noise belongs together; then all begins anew."""
        return self.num_steps

    @property
    @abc.abstractmethod
    def num_copies(self) -> int:
        """Copies of the weights that the noise holds in memory."""

    @abc.abstractmethod
    def make_mix(self, position) -> Mix:
        """Returns how the noise of one step is made.

        Args:
            position: int32 scalar tensor; in [0, num_steps). At 0 the mix has
                no part of any copy.
        """

    def make_generator(self, variables, source):
        """Returns a generator that holds `num_copies` copies."""
        return CorrelatedGenerator(
            self, [tuple(v.shape) for v in variables], source
        )


def check_fields(style: CorrelatedStyle) -> None:
    """Checks the fields that correlated styles share and keeps plain numbers.

    Args:
        style: A frozen dataclass under construction.

    Raises:
        TypeError: If one is not a number.
        ValueError: If one is out of range.
    """
    noise_style.check_multiplier(style)
    num_steps = _checks.check_integer(
        "num_steps", style.num_steps, at_least=1, at_most=2**31 - 2
    )
    most = style.max_participations
    pattern = participation_pattern.check_pattern(
        num_steps, style.min_separation, most
    )
    checked = {
        "num_steps": num_steps,
        "min_separation": pattern.separation,
        "max_participations": None if most is None else int(most),
    }
    for name, value in checked.items():
        object.__setattr__(style, name, value)


class CorrelatedGenerator(noise_style.NoiseGenerator):
    """Makes the noise of a style and holds the copies that it takes.

    The copies have standard deviation about 1 and are scaled when they are
    used: where the clip moves from step to step, each step's noise keeps its
    ratio to that step's clip, which is what the sensitivity is counted in.

    Positions must follow each other, or go back to 0. At any other the noise is
    NaN: without the copies of the steps before, it would hide less than the
    accountant states.

    Args:
        style: How each step's noise is made.
        shapes: Shapes of the variables.
        source: Where new draws come from.
    """

    def __init__(
        self,
        style: CorrelatedStyle,
        shapes: list[tuple[int, ...]],
        source: gaussian.NoiseSource,
    ):
        self._style = style
        self._shapes = shapes
        self._source = source
        self._sizes = [math.prod(shape) for shape in shapes]
        # Plain Python holds them: no optimizer and no checkpoint finds them.
        # All weights in one: a copy is replaced as a whole, without a pass
        # over the others.
        with execution.outside_of_graph():
            self._copies = [
                _make_variable((sum(self._sizes),), "float32")
                for _ in range(style.num_copies)
            ]
            self._next_position = _make_variable((), "int32")

    @property
    def state_variables(self):
        """The copies, and which step is next."""
        return [*self._copies, self._next_position]

    def __reduce__(self):
        raise TypeError(
            f"{type(self).__name__} must not be copied or pickled: whoever has "
            "what it holds can subtract the noise. Received: a request for its "
            "state. Save the optimizer, or make a new one from its "
            "get_config()."
        )

    def add_noise(self, clipped, *, stddev, position):
        """Returns the clipped sum with the noise of one step.

        Args:
            clipped: What the clipping engine made, for variables of the
                shapes that the generator was made for.
            stddev: Of one draw, in the sum's units; > 0.
            position: int32 scalar; the last one plus 1, or 0.

        Raises:
            ValueError: If the shapes are others.
        """
        if [tuple(v.shape) for v in clipped.variables] != self._shapes:
            raise ValueError(
                "clipped must be of the variables that the noise was made "
                f"for, of shapes {self._shapes}. Received: "
                f"{[tuple(v.shape) for v in clipped.variables]}. Make a new "
                "optimizer for another model."
            )
        position = ops.cast(position, "int32")
        mix = self._style.make_mix(position)
        noise = self._make_noise(mix)
        scale = ops.cast(stddev, "float32")
        scale = ops.where(self._take_position(position), scale, math.nan)
        ends = [sum(self._sizes[: i + 1]) for i in range(len(self._sizes))]
        parts = [
            ops.reshape(noise[end - size : end], shape)
            for end, size, shape in zip(
                ends, self._sizes, self._shapes, strict=True
            )
        ]
        return gaussian.NoisedSum(
            gradients=tuple(
                g + scale * part
                for g, part in zip(clipped.gradients, parts, strict=True)
            ),
            variables=clipped.variables,
            stddev=scale * mix.stddev,
        )

    def _make_noise(self, mix):
        """Returns `[size]` noise, after holding what later steps need."""
        (draw,) = self._source.normal([(sum(self._sizes),)])
        noise = self._add_copies(mix.draw_weight * draw, mix.noise_weights)
        held = noise
        if mix.added_weights is not None:
            held = self._add_copies(noise, mix.added_weights)
        stores = [lambda c=c: c.assign(held) for c in self._copies]
        if stores:
            execution.switch(mix.slot, [*stores, lambda: held])
        return noise

    def _add_copies(self, total, weights):
        # One after the other in float32: a matrix product would round to
        # TensorFloat-32 on a GPU.
        for index, held in enumerate(self._copies):
            total = total + weights[index] * held
        return total

    def _take_position(self, position):
        """Returns whether the position is one that may come now."""
        follows = (position == 0) | (position == self._next_position)
        self._next_position.assign(position + 1)
        return follows & (position < self._style.num_steps)


def _make_variable(shape, dtype):
    # Of this process: its replicas have one noise.
    return execution.run_outside_of_graph(
        lambda: keras.Variable(
            "zeros", shape=shape, dtype=dtype, trainable=False, autocast=False
        )
    )
