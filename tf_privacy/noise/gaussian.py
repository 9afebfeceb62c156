# SPDX-License-Identifier: Apache-2.0
"""Gaussian noise on a clipped sum, from fresh entropy."""

import dataclasses
import hashlib
import math
import os
import secrets
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_privacy import _checks
from tf_privacy.clipping import clipped_sum
from tf_privacy.clipping.backend.execution import execution
from tf_privacy.clipping.backend.replicas import replicas
from tf_privacy.noise.backend import backend

# Entries of a draw are some 1e-5 to 7 standard deviations; all must be normal
# numbers of float32, 1e-38 to 3e38.
_SMALLEST_STDDEV, _LARGEST_STDDEV = 1e-30, 1e30

# Variables of fewer entries share one draw, larger ones have one each.
_LARGE = 2**18


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NoisedSum:
    """A clipped sum with its noise: what may leave the private side.

    Attributes:
        gradients: One float32 tensor for each variable.
        variables: The `keras.Variable`s that the gradients belong to.
        stddev: Standard deviation of the noise on each entry; gradient units;
            a float, or a float32 scalar tensor.
    """

    gradients: tuple[Any, ...]
    variables: tuple[Any, ...]
    stddev: Any


class NoiseSource:
    """Standard normal values that no other object and no other run has.

    The 192 bits of key and counter come from the operating system, not from
    any global seed. A copy, an unpickled or a deserialised source draws a new
    key: two sources never share noise. Made in the scope of a strategy of
    several processes, it is one source, which draws the same in all of them.

    Args:
        seed: None for real noise. An int fixes the noise for tests: whoever
            knows it can subtract the noise, so a model trained with it must
            not be released.
    """

    def __init__(self, seed: int | None = None):
        self._seed = seed
        self._scope = replicas.current_scope()
        if seed is None:
            words = replicas.share_words(_draw_words(), self._scope)
        else:
            seed = _checks.check_integer("seed", seed)
            _warn_fixed(seed)
            digest = hashlib.sha256(str(seed).encode()).digest()
            words = [
                int.from_bytes(digest[i : i + 8], "little")
                for i in range(0, 24, 8)
            ]
        self._generator = execution.run_outside_of_graph(
            lambda: backend.CounterGenerator(words)
        )
        self._process = os.getpid()

    @property
    def state_variables(self) -> list[keras.Variable]:
        """Where a step is a pure function, what is among its state."""
        return self._generator.state_variables

    @property
    def seed(self) -> int | None:
        """What fixes the noise; None for real noise."""
        return self._seed

    @property
    def scope(self):
        """The strategy in whose scope it was made, or None."""
        return self._scope

    def __deepcopy__(self, memo):
        del memo
        return NoiseSource(self._seed)

    def __copy__(self):
        return NoiseSource(self._seed)

    def __reduce__(self):
        return NoiseSource, (self._seed,)

    def normal(self, shapes):
        """Returns independent standard normal values.

        Args:
            shapes: A list of shapes.

        Returns:
            A list of float32 tensors of these shapes.
        """
        self._leave_siblings()
        sizes = [math.prod(shape) for shape in shapes]
        small = [size for size in sizes if size < _LARGE]
        large = [size for size in sizes if size >= _LARGE]
        shared, *own = self._generator.normals([sum(small), *large])
        own, ends = iter(own), iter(np.cumsum(small))
        flat = [
            next(own) if size >= _LARGE else _slice_to(shared, next(ends), size)
            for size in sizes
        ]
        return [
            ops.reshape(values, shape)
            for values, shape in zip(flat, shapes, strict=True)
        ]

    def normal_rows(self, num_rows, width: int):
        """Returns `[num_rows, width]` float32 independent standard normals.

        Args:
            num_rows: int scalar tensor.
            width: Values in a row.
        """
        self._leave_siblings()
        (values,) = self._generator.normals([num_rows * width])
        return ops.reshape(values, (num_rows, width))

    def _leave_siblings(self):
        if self._seed is None and os.getpid() != self._process:
            # Forked off. Its siblings would add the same noise, and the
            # difference of two of their models had none. Only here: what was
            # compiled before a fork waits for threads that are gone.
            words = replicas.share_words(_draw_words(), self._scope)
            self._generator.restart(words)
            self._process = os.getpid()


def _slice_to(values, end: int, size: int):
    return values[end - size : end]


def _draw_words() -> list[int]:
    return [secrets.randbits(64) for _ in range(3)]


def _warn_fixed(seed):
    warnings.warn(
        f"seed={seed} fixes the noise: whoever knows it can remove the noise, "
        "so the model is not private. Leave seed=None for any model that is "
        "released.",
        stacklevel=4,
    )


def compute_stddev(noise_multiplier: float, l2_sensitivity: float) -> float:
    """Returns the noise's standard deviation, in gradient units.

    Args:
        noise_multiplier: Standard deviation over sensitivity; > 0.
        l2_sensitivity: Of the sum that is noised; gradient units; > 0.

    Raises:
        ValueError: If float32 cannot hold noise of that size: what is flushed
            to zero hides nothing.
    """
    noise_multiplier = _checks.check_noise_multiplier(noise_multiplier)
    return _checks.check_real(
        "stddev, noise_multiplier * l2_norm_clip,",
        noise_multiplier * l2_sensitivity,
        at_least=_SMALLEST_STDDEV,
        at_most=_LARGEST_STDDEV,
        hint="Noise of that size is no number of float32.",
    )


def add_noise(
    clipped: clipped_sum.ClippedSum,
    *,
    noise_multiplier: float,
    source: NoiseSource,
) -> NoisedSum:
    """Returns the clipped sum plus one draw of Gaussian noise.

        gradients[i] + N(0, stddev^2),  stddev = noise_multiplier * sensitivity
    Drawn and added in float32, on the sum and before any division.

    Args:
        clipped: What the clipping engine made; nothing else is accepted.
        noise_multiplier: Standard deviation over sensitivity; > 0.
        source: Where the noise comes from.

    Returns:
        A NoisedSum.

    Raises:
        ValueError: If `noise_multiplier` is not a finite number > 0.
        TypeError: If `clipped` is not a ClippedSum: a raw gradient has no
            bound that the noise could be scaled to.
    """
    if not isinstance(clipped, clipped_sum.ClippedSum):
        raise TypeError(
            "clipped must be a ClippedSum. Received: "
            f"{type(clipped).__name__}. Get one from "
            "tf_privacy.clipped_gradients(...)."
        )
    stddev = compute_stddev(noise_multiplier, clipped.l2_sensitivity)
    return add_scaled_noise(clipped, stddev=stddev, source=source)


def add_scaled_noise(
    clipped: clipped_sum.ClippedSum, *, stddev: Any, source: NoiseSource
) -> NoisedSum:
    """Returns the clipped sum plus one draw of noise of a given size.

    Args:
        clipped: What the clipping engine made.
        stddev: From `compute_stddev`; a float, or a float32 scalar tensor.
        source: Where the noise comes from.
    """
    noise = source.normal([tuple(v.shape) for v in clipped.variables])
    return NoisedSum(
        gradients=tuple(
            g + stddev * z
            for g, z in zip(clipped.gradients, noise, strict=True)
        ),
        variables=clipped.variables,
        stddev=stddev,
    )
