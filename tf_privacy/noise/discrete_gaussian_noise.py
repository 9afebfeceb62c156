# SPDX-License-Identifier: Apache-2.0
"""Secure noise: integer noise on a grid, safe from floating-point attacks.

A floating-point Gaussian is no Gaussian: which numbers it can reach depends on
what it is added to, and the low bits of a noisy sum may tell the sum. Here the
sum is rounded to a grid and gets exact integer noise, of which every integer is
possible whatever the sum; what follows is computed from that alone.

Source: Mironov 2012, "On significance of the least significant bits for
    differential privacy" (the attack); Canonne, Kamath and Steinke 2020,
    arXiv:2004.00010 (the noise).
"""

import copy
import dataclasses
import hashlib
import itertools
import math
import os
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from tf_privacy import _checks
from tf_privacy.clipping.backend.replicas import replicas
from tf_privacy.noise import discrete_gaussian
from tf_privacy.noise import gaussian
from tf_privacy.noise import noise_style
from tf_privacy.noise.backend.host_calls import host_calls

# Of a clipped sum's sensitivity: ten times what ClippedSum states.
_SUM_ERROR = 1e-4
# More than the rounding of the few operations of `compute_grid`.
_ROUND_UP = 1.0 + 1e-12
# Entries beyond are cut, in grid spacings: with the noise, all fit int64.
_LARGEST_ENTRY = 2.0**61
# From the smallest on, a spacing and float32 numbers of its size are normal
# numbers, which no processor flushes to zero.
_SMALLEST_STDDEV, _LARGEST_STDDEV = 1e-20, 1e30
# Entries that are noised together.
_CHUNK = 2**18


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntegerGrid:
    """A grid on the weights' sums, and the noise that belongs to it.

    Attributes:
        spacing: A power of two; gradient units.
        sensitivity: L2 bound on what one unit moves the rounded sum, in
            spacings, rounded up.
        scale: Parameter of the integer noise, its standard deviation in
            spacings, rounded up.
    """

    spacing: float
    sensitivity: float
    scale: float


def compute_grid(
    stddev: float, *, l2_sensitivity: float, num_weights: int, grid_bits: int
) -> IntegerGrid:
    """Returns the grid, and noise that hides what rounding to it adds.

        2^-(grid_bits + 1) stddev < spacing <= 2^-grid_bits stddev
        sensitivity = l2_sensitivity (1 + 1e-4) / spacing + sqrt(num_weights)
        scale = stddev / l2_sensitivity * sensitivity
    Let a and b be the sums of two neighbors, in spacings. Rounding moves each
    entry by at most 1/2, so an entry of round(a) - round(b) is at most 1 away
    from that of a - b, and by the triangle inequality

        ||round(a) - round(b)|| <= ||a - b|| + sqrt(num_weights) <= sensitivity
    The noise thus has the stated ratio stddev / l2_sensitivity to what one unit
    moves the rounded sum. It is larger than `stddev` by the factor
    1 + 1e-4 + sqrt(num_weights) spacing / l2_sensitivity.

    Args:
        stddev: Of the noise that is asked for; gradient units; > 0.
        l2_sensitivity: Of the sum; gradient units; > 0.
        num_weights: Entries of the sum in all variables; >= 0.
        grid_bits: Log2 of the spacings in a standard deviation.
    """
    exponent = math.frexp(stddev)[1]
    spacing = math.ldexp(1.0, exponent - 1 - grid_bits)
    moved = l2_sensitivity * (1.0 + _SUM_ERROR) / spacing
    sensitivity = (moved + math.sqrt(num_weights)) * _ROUND_UP
    return IntegerGrid(
        spacing=spacing,
        sensitivity=sensitivity,
        scale=stddev / l2_sensitivity * sensitivity * _ROUND_UP,
    )


def round_to_grid(array: np.ndarray, spacing: float) -> np.ndarray:
    """Returns the nearest multiples of the grid's spacing, as integers.

    Entries beyond 2^61 spacings are cut to that, which brings no two sums
    further apart.

    Args:
        array: float32, of any shape; gradient units.
        spacing: A power of two, so that the division is exact.

    Returns:
        int64, of the same shape.

    Raises:
        ValueError: If an entry is NaN: a sum of clipped gradients has none.
    """
    if np.isnan(array).any():
        raise ValueError(
            "clipped must hold numbers. Received: NaN. Please report this as "
            "a defect."
        )
    scaled = np.rint(array.astype(np.float64) / spacing)
    return np.clip(scaled, -_LARGEST_ENTRY, _LARGEST_ENTRY).astype(np.int64)


def add_integer_noise(
    array: np.ndarray,
    *,
    spacing: float,
    sampler: discrete_gaussian.DiscreteGaussianSampler,
) -> np.ndarray:
    """Returns an array on the grid, with noise.

        spacing (round(array / spacing) + noise),  noise discrete Gaussian
    The sum in brackets is one of exact integers. What it is multiplied with and
    rounded to depends on nothing else.

    Args:
        array: `[N]` float32; gradient units.
        spacing: Of the grid; a power of two; gradient units.
        sampler: Makes the noise, in spacings.

    Returns:
        `[N]` float32.
    """
    noised = np.empty_like(array)
    for start in range(0, array.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        rounded = round_to_grid(array[part], spacing)
        noised[part] = spacing * (rounded + sampler.sample(rounded.size))
    return noised


class DiscreteGaussianGenerator(noise_style.NoiseGenerator):
    """Draws new integer noise in every step; has no state of its own.

    Args:
        grid_bits: Log2 of the spacings in a standard deviation.
        source: Says whether a seed fixes the noise, for tests. Without one,
            all bits are the operating system's.
    """

    is_stateless = True

    def __init__(self, grid_bits: int, source: gaussian.NoiseSource):
        self._grid_bits = grid_bits
        self._source = source
        self._draw_bytes = _choose_bytes(source)

    def __deepcopy__(self, memo):
        """Returns a generator with a source of its own."""
        source = copy.deepcopy(self._source, memo)
        return DiscreteGaussianGenerator(self._grid_bits, source)

    def add_noise(self, clipped, *, stddev, position):
        """Returns the clipped sum, rounded to the grid, with noise.

        Its `stddev` is that of the noise, which is somewhat more than what is
        asked for: see `compute_grid`.

        Args:
            clipped: What the clipping engine made.
            stddev: Standard deviation that is asked for, in the sum's units; a
                float in [1e-20, 1e30].
            position: Not used: steps are independent.

        Raises:
            TypeError: If `stddev` is no float: the grid must not move.
            ValueError: If it is out of range.
        """
        del position
        stddev = _checks.check_real(
            "stddev",
            stddev,
            at_least=_SMALLEST_STDDEV,
            at_most=_LARGEST_STDDEV,
            hint="DiscreteGaussianNoise needs a clip and a noise multiplier "
            "that stay the same.",
        )
        sizes = [math.prod(v.shape) for v in clipped.variables]
        grid = compute_grid(
            stddev,
            l2_sensitivity=clipped.l2_sensitivity,
            num_weights=sum(sizes),
            grid_bits=self._grid_bits,
        )
        sampler = discrete_gaussian.DiscreteGaussianSampler(
            grid.scale, draw_bytes=self._draw_bytes
        )
        flat = [ops.reshape(g, (-1,)) for g in clipped.gradients]
        noised = host_calls.map_on_host(
            lambda array: add_integer_noise(
                array, spacing=grid.spacing, sampler=sampler
            ),
            ops.concatenate(flat),
        )
        ends = itertools.accumulate(sizes)
        return gaussian.NoisedSum(
            gradients=tuple(
                ops.reshape(noised[end - size : end], v.shape)
                for end, size, v in zip(
                    ends, sizes, clipped.variables, strict=True
                )
            ),
            variables=clipped.variables,
            stddev=grid.scale * grid.spacing,
        )


def _choose_bytes(source) -> Callable[[int], bytes]:
    """Returns where a generator's random bytes come from."""
    if source.seed is None:
        return os.urandom
    digest = hashlib.sha256(str(source.seed).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "little")).bytes


@keras.saving.register_keras_serializable(package="tf_privacy")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscreteGaussianNoise(noise_style.NoiseStyle):
    """Integer noise from a secure source, safe from floating-point attacks.

        spacing (round(clipped_sum / spacing) + N_Z(0, scale^2))
    with a power of two as the spacing of the grid, N_Z the discrete Gaussian,
    sampled exactly from the operating system's random bits, and a scale that is
    `noise_multiplier` times what one unit moves the rounded sum at most:
    `compute_grid` proves it. It is accounted by Renyi divergences that are
    proved for this law, whose epsilon is somewhat above the Gaussian's.

    Slower than the ordinary noise, as the processor makes it. XLA cannot
    compile the step, and the clip must stay the same. The sum itself is added
    up in float32: that one unit moves it by l2_norm_clip (1 + 1e-4) at most is
    relied upon.

    Attributes:
        noise_multiplier: Standard deviation of the noise over the largest move
            of the rounded sum; > 0.
        grid_bits: Log2 of the spacings in a standard deviation, rounded down;
            whole, in [8, 32]. The guarantee is the same for all: coarser grids
            get more noise.

    Source: Canonne, Kamath and Steinke 2020, arXiv:2004.00010; Kairouz, Liu and
        Steinke 2021, arXiv:2102.06387 (rounded sums of gradients).
    """

    noise_multiplier: float
    grid_bits: int = 24

    family = "discrete_gaussian"

    def __post_init__(self):
        noise_style.check_multiplier(self)
        grid_bits = _checks.check_integer(
            "grid_bits", self.grid_bits, at_least=8, at_most=32
        )
        object.__setattr__(self, "grid_bits", grid_bits)

    def make_generator(self, variables, source):
        """Returns a generator without state.

        Args:
            variables: Not used.
            source: Says whether a seed fixes the noise.

        Raises:
            NotImplementedError: Where several processes train together: each
                would ask its own system for random bits.
        """
        del variables
        count = replicas.num_processes(source.scope)
        if count > 1:
            raise NotImplementedError(
                "noise_multiplier must not be DiscreteGaussianNoise where "
                "several processes train together: each would draw noise of "
                f"its own. Received: {count} processes. Use a "
                "number, or one process and a MirroredStrategy."
            )
        return DiscreteGaussianGenerator(self.grid_bits, source)
