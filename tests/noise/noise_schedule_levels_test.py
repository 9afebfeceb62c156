# SPDX-License-Identifier: Apache-2.0
"""Levels of noise: nowhere below the curve, and no higher than needed."""

import math

import mpmath
import numpy as np
import pytest

from tf_privacy.noise import noise_schedule_levels

SHAPES = ["linear", "exponential", "cosine"]
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES)


def make(num_steps, start, end, num_levels, shape="linear"):
    return noise_schedule_levels.make_noise_levels(
        num_steps,
        start_multiplier=start,
        end_multiplier=end,
        num_levels=num_levels,
        shape=shape,
    )


def exact_curve(num_steps, start, end, shape):
    """Returns the curve at every step with 40 digits."""
    values = []
    with mpmath.workdps(40):
        a, b = mpmath.mpf(start), mpmath.mpf(end)
        for step in range(num_steps):
            u = mpmath.mpf(step) / max(num_steps - 1, 1)
            values.append(
                {
                    "linear": lambda u=u: a + u * (b - a),
                    "exponential": lambda u=u: a * (b / a) ** u,
                    "cosine": lambda u=u: (
                        b + (a - b) * (1 + mpmath.cos(mpmath.pi * u)) / 2
                    ),
                }[shape]()
            )
    return values


def every_step(boundaries, multipliers, num_steps):
    levels = np.searchsorted(boundaries, np.arange(num_steps), side="right")
    return multipliers[levels]


@EVERY_SHAPE
@pytest.mark.parametrize("ends", [(3.0, 0.7), (0.7, 3.0), (1.1, 1.1 + 1e-9)])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (7, 3), (100, 9), (50, 50)])
def test_never_below_the_curve_and_never_above_its_largest(shape, ends, sizes):
    num_steps, num_levels = sizes
    boundaries, multipliers = make(num_steps, *ends, num_levels, shape)
    noise = every_step(boundaries, multipliers, num_steps)
    curve = exact_curve(num_steps, *ends, shape)
    assert all(n >= c for n, c in zip(noise, curve, strict=True))
    assert len(multipliers) <= num_levels
    assert multipliers.min() >= min(ends) and multipliers.max() <= max(ends)
    parts = np.split(np.arange(num_steps), boundaries)
    for part, level in zip(parts, multipliers, strict=True):
        largest = max(curve[i] for i in part)
        assert level <= float(largest) * (1 + 1e-13)


@EVERY_SHAPE
def test_parts_are_of_equal_size(shape):
    boundaries, multipliers = make(103, 2.0, 1.0, 10, shape)
    sizes = np.diff([0, *boundaries, 103])
    assert set(sizes) <= {10, 11}
    assert len(multipliers) == 10
    assert np.all(np.diff(multipliers) < 0)
    assert boundaries.dtype == np.int64


def test_a_level_for_each_step_is_the_curve():
    _, multipliers = make(5, 1.0, 3.0, 99)
    np.testing.assert_allclose(multipliers, [1, 1.5, 2, 2.5, 3], 1e-14)
    _, multipliers = make(3, 1.0, 4.0, 3, "exponential")
    np.testing.assert_allclose(multipliers, [1, 2, 4], 1e-14)
    _, multipliers = make(5, 1.0, 3.0, 5, "cosine")
    halves = [1, 2 - math.sqrt(0.5), 2, 2 + math.sqrt(0.5), 3]
    np.testing.assert_allclose(multipliers, halves, 1e-14)


@EVERY_SHAPE
def test_constant_noise_is_one_level(shape):
    boundaries, multipliers = make(100, 1.3, 1.3, 8, shape)
    assert boundaries.size == 0
    assert multipliers.tolist() == [1.3]


@EVERY_SHAPE
def test_one_level_is_the_larger_end(shape):
    for ends in [(2.0, 0.5), (0.5, 2.0)]:
        _, multipliers = make(10, *ends, 1, shape)
        assert multipliers.tolist() == [2.0]


@pytest.mark.parametrize(
    "change",
    [
        {"num_steps": 0},
        {"num_steps": 2.5},
        {"start_multiplier": 0.0},
        {"start_multiplier": float("nan")},
        {"end_multiplier": -1.0},
        {"end_multiplier": float("inf")},
        {"num_levels": 0},
        {"shape": "step"},
    ],
    ids=str,
)
def test_arguments_are_checked(change):
    arguments = {
        "num_steps": 10,
        "start_multiplier": 2.0,
        "end_multiplier": 1.0,
        "num_levels": 3,
        "shape": "linear",
        **change,
    }
    num_steps = arguments.pop("num_steps")
    with pytest.raises(ValueError, match=f"^{next(iter(change))} must be"):
        noise_schedule_levels.make_noise_levels(num_steps, **arguments)
