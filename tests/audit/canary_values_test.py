# SPDX-License-Identifier: Apache-2.0
"""Tests of what canaries are made of."""

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import canary_values


def make_rng(seed=0):
    return np.random.default_rng(seed)


def draw(shape, pattern, low=0.0, high=1.0, dtype="float32"):
    return canary_values.draw_images(
        shape,
        pattern=pattern,
        low=low,
        high=high,
        dtype=np.dtype(dtype),
        rng=make_rng(),
    )


def test_whole_numbers_of_noise_are_equally_likely():
    images = draw((100, 20, 20), "noise", 3, 7, "uint8")
    counts = np.bincount(images.reshape(-1), minlength=8)
    assert not np.any(counts[:3])
    assert stats.chisquare(counts[3:]).pvalue > 1e-6


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_noise_is_uniform_and_pixels_are_independent(dtype):
    images = draw((200, 10, 10), "noise", -2.0, 3.0, dtype)
    assert images.dtype == dtype
    flat = images.astype(np.float64).reshape(200, -1)
    # 40 bins hide the rounding of float16.
    counts, _ = np.histogram(flat, bins=40, range=(-2, 3))
    assert stats.chisquare(counts).pvalue > 1e-7 or dtype == "float16"
    assert abs(flat.mean() - 0.5) < 6 * 5 / np.sqrt(12 * flat.size)
    correlation = np.corrcoef(flat[:, :-1].ravel(), flat[:, 1:].ravel())[0, 1]
    assert abs(correlation) < 6 / np.sqrt(flat.size)


def test_dots_are_single_and_in_places_of_their_own():
    images = draw((40, 4, 5), "dot", 1.0, 9.0)
    flat = images.reshape(40, -1)
    assert np.all((flat == 9).sum(axis=1) == 1)
    assert np.all((flat == 1).sum(axis=1) == 19)
    places = flat.argmax(axis=1)
    assert sorted(places[:20]) == sorted(places[20:]) == list(range(20))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("share", [1.0, 0.1, 1e-3])
def test_noise_is_finite_and_in_range_whatever_the_range_is(dtype, share):
    # high - low overflows where each of them does not.
    most = float(np.finfo(dtype).max) * share
    for low, high in ((-most, most), (0.99 * most, most), (-0.1, most)):
        images = draw((50, 6, 6), "noise", low, high, dtype)
        assert np.all(np.isfinite(images))
        assert images.min() >= np.array(low).astype(dtype)
        assert images.max() <= np.array(high).astype(dtype)
        assert len(np.unique(images)) > 5


@pytest.mark.parametrize("shape", [(300, 16, 24, 2), (300, 5, 30), (3, 8, 8)])
def test_blocks_are_of_one_value_each(shape):
    images = draw(shape, "blocks", -1.0, 1.0)
    assert set(np.unique(images)) == {-1.0, 1.0}
    assert abs(images.mean()) < 6 / np.sqrt(images.size / shape[1] / shape[2])
    rows = np.arange(shape[1]) * 8 // shape[1]
    columns = np.arange(shape[2]) * 8 // shape[2]
    for row in np.unique(rows):
        for column in np.unique(columns):
            block = images[:, rows == row][:, :, columns == column]
            assert np.all(block == block[:, :1, :1])


def test_blocks_need_two_sides():
    with pytest.raises(ValueError, match="shape must have height and width"):
        draw((3, 8), "blocks")


@pytest.mark.parametrize(
    "low, high, dtype, message",
    [
        (0.0, 256.0, "uint8", "dtype must hold low and high"),
        (-1.0, 1.0, "uint8", "dtype must hold low and high"),
        (0.0, 0.5, "int32", "dtype must hold low and high"),
        (0.0, 1e6, "float16", "dtype must hold low and high"),
        (0.0, 1.0, "U3", "dtype must be a type of floats or integers"),
        (0.0, 1.0, "bool", "dtype must be a type of floats or integers"),
        (0.0, float("nan"), "float32", "high must be a finite number"),
        (float("-inf"), 1.0, "float32", "low must be a finite number"),
        (2.0, 1.0, "float32", "high must be a finite number > 2"),
    ],
)
def test_bad_ranges_are_refused(low, high, dtype, message):
    with pytest.raises(ValueError, match=message):
        canary_values.check_range(low, high, dtype=np.dtype(dtype))


def test_marginals_take_each_column_on_its_own():
    table = np.stack([np.arange(50), np.arange(50)], axis=1)
    drawn = canary_values.draw_marginals(20_000, table, rng=make_rng())
    for column in drawn.T:
        counts = np.bincount(column, minlength=50)
        assert stats.chisquare(counts).pvalue > 1e-6 / 2
    # Equal columns are drawn apart.
    share = np.mean(drawn[:, 0] == drawn[:, 1])
    assert abs(share - 0.02) < 6 * np.sqrt(0.02 * 0.98 / 20_000)


def test_marginals_of_any_type_and_shape():
    table = np.array([["a", "b"], ["c", "d"]])[:, :, None]
    drawn = canary_values.draw_marginals(9, table, rng=make_rng())
    assert drawn.shape == (9, 2, 1) and drawn.dtype == table.dtype
    assert set(drawn[:, 0, 0]) == {"a", "c"}
    missing = np.array([1.0, np.nan])
    drawn = canary_values.draw_marginals(99, missing, rng=make_rng())
    assert 0 < np.isnan(drawn).sum() < 99


def test_outliers_are_one_to_two_ranges_beyond():
    table = np.array([[0.0, 5.0, 0.0], [10.0, 5.0, 0.0]], dtype=np.float32)
    drawn = canary_values.draw_outliers(4000, table, rng=make_rng())
    assert drawn.shape == (4000, 3) and drawn.dtype == np.float32
    for column, low, high, spread in zip(
        drawn.T, [0, 5, 0], [10, 5, 0], [10, 5, 1], strict=True
    ):
        beyond = np.maximum(low - column, column - high) / spread
        assert beyond.min() >= 1.0 and beyond.max() <= 2.0
        assert beyond.min() < 1.01 and beyond.max() > 1.99
        above = np.mean(column > high)
        assert abs(above - 0.5) < 6 * 0.5 / np.sqrt(4000)


@pytest.mark.parametrize(
    "table", [np.arange(3), np.array([1.0, np.nan]), np.array(["a"])]
)
def test_outliers_need_finite_floats(table):
    with pytest.raises(ValueError, match="x must be finite floats to have out"):
        canary_values.draw_outliers(2, table, rng=make_rng())


def test_outliers_need_room():
    for most, dtype in ((6e4, np.float16), (1.5e308, np.float64)):
        table = np.array([-most, most], dtype=dtype)
        with pytest.raises(ValueError, match="x must leave room for outliers"):
            canary_values.draw_outliers(2, table, rng=make_rng())
