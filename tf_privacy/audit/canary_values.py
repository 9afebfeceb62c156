# SPDX-License-Identifier: Apache-2.0
"""Draws what canaries are made of: odd images, and rows of odd tables."""

import math

import numpy as np

from tf_privacy import _checks

# Blocks along each side of an image.
_NUM_BLOCKS = 8


def check_range(low, high, *, dtype: np.dtype) -> tuple[float, float]:
    """Returns both as floats once low < high and the type holds them.

    Args:
        low, high: Finite numbers; whole ones for integers.
        dtype: Of floats or integers.

    Raises:
        TypeError: If one is no number.
        ValueError: If not.
    """
    low = _checks.check_real("low", low)
    if high is None:
        raise ValueError(
            f"high must be given for images of {dtype}. Received: None. It is "
            "the brightest value that the model takes, 255 for example."
        )
    high = _checks.check_real("high", high, above=low)
    if dtype.kind not in "iuf":
        raise ValueError(
            f"dtype must be a type of floats or integers. Received: {dtype}. "
            'Images are "float32" or "uint8".'
        )
    with np.errstate(over="ignore", invalid="ignore"):
        held = np.array([low, high]).astype(dtype)
    whole = dtype.kind == "f" or np.array_equal(held, [low, high])
    if not (np.all(np.isfinite(held)) and whole):
        raise ValueError(
            f"dtype must hold low and high. Received: {dtype} for {low:g} and "
            f"{high:g}. Give the range of your images in their own type."
        )
    return low, high


def draw_images(
    shape: tuple[int, ...],
    *,
    pattern: str,
    low: float,
    high: float,
    dtype: np.dtype,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns images of a pattern that nature does not make.

    Args:
        shape: (number of images, height, width, ...).
        pattern: "noise", "blocks" or "dot".
        low, high: As `check_range` returned them.
        dtype: Of the images.
        rng: Source of the draws.

    Returns:
        An array of `shape` and `dtype`, from `low` to `high`.

    Raises:
        ValueError: If images of blocks have no width.
    """
    if pattern == "noise" and dtype.kind in "iu":
        return rng.integers(
            int(low), int(high), size=shape, dtype=dtype, endpoint=True
        )
    if pattern == "noise":
        drawn = rng.random(shape, dtype=np.result_type(dtype, np.float32))
        # Not low + drawn * (high - low): the difference may overflow.
        mixed = low * (1 - drawn) + high * drawn
        return np.clip(mixed, low, high).astype(dtype)
    is_bright = _draw_dots if pattern == "dot" else _draw_blocks
    bright, dark = np.array([high, low]).astype(dtype)
    return np.where(is_bright(shape, rng), bright, dark)


def draw_marginals(
    num_rows: int,
    array: np.ndarray,
    *,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns rows whose columns are each drawn from that column, alone.

    Args:
        num_rows: M; rows to draw.
        array: `[N, ...]` of any type; the columns.
        rng: Source of the draws.

    Returns:
        `[M, ...]` of the same type.
    """
    flat = array.reshape(len(array), -1)
    rows = rng.integers(len(flat), size=(num_rows, flat.shape[1]))
    drawn = np.take_along_axis(flat, rows, axis=0)
    return drawn.reshape(num_rows, *array.shape[1:])


def draw_outliers(
    num_rows: int,
    array: np.ndarray,
    *,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns rows one to two ranges beyond the ends of each column.

    Args:
        num_rows: M; rows to draw.
        array: `[N, ...]` finite floats; the columns.
        rng: Source of the draws.

    Returns:
        `[M, ...]` of the same type; finite.

    Raises:
        ValueError: If the array holds anything but finite floats, or so large
            ones that there is nothing beyond.
    """
    if array.dtype.kind != "f" or not np.all(np.isfinite(array)):
        raise ValueError(
            "x must be finite floats to have outliers. Received: "
            f'{array.dtype}. Use style="marginals", or fill in what is missing.'
        )
    flat = array.reshape(len(array), -1).astype(np.float64)
    low, high = flat.min(axis=0), flat.max(axis=0)
    size = (num_rows, flat.shape[1])
    is_high = rng.integers(2, size=size).astype(bool)
    with np.errstate(over="ignore"):
        spread = high - low
        # A column of one value has no range; any other value is odd there.
        spread = np.where(spread > 0.0, spread, np.maximum(np.abs(high), 1.0))
        beyond = spread * rng.uniform(1.0, 2.0, size=size)
        drawn = np.where(is_high, high + beyond, low - beyond)
        drawn = drawn.astype(array.dtype)
    if not np.all(np.isfinite(drawn)):
        raise ValueError(
            "x must leave room for outliers. Received: numbers up to "
            f"{np.max(np.abs(flat)):g} in {array.dtype}. Scale the columns."
        )
    return drawn.reshape(num_rows, *array.shape[1:])


def _draw_dots(shape, rng: np.random.Generator) -> np.ndarray:
    """Returns one True in each image, in another place as long as may be."""
    num_images, num_pixels = shape[0], math.prod(shape[1:])
    pixels = rng.permutation(num_pixels)
    images = np.arange(num_images)
    bright = np.zeros((num_images, num_pixels), dtype=bool)
    bright[images, pixels[images % num_pixels]] = True
    return bright.reshape(shape)


def _draw_blocks(shape, rng: np.random.Generator) -> np.ndarray:
    """Returns squares of True and False by fair coins."""
    if len(shape) < 3:
        raise ValueError(
            "shape must have height and width for blocks. Received: "
            f'{shape[1:]}. Use pattern="noise".'
        )
    num_images, height, width, *rest = shape
    grid = (num_images, _NUM_BLOCKS, _NUM_BLOCKS, *rest)
    bright = rng.integers(2, size=grid).astype(bool)
    rows = np.arange(height) * _NUM_BLOCKS // height
    columns = np.arange(width) * _NUM_BLOCKS // width
    return bright[:, rows][:, :, columns]
