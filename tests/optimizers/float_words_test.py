# SPDX-License-Identifier: Apache-2.0
"""Float64 values pass through int32 tensors of any backend unchanged."""

import struct

import keras
import numpy as np
import pytest
from keras import ops

from tf_privacy.optimizers import float_words

VALUES = [
    0.0,
    1.0,
    -1.0,
    1 / 3,
    1.1 + 2**-50,
    5e-324,
    1.7976931348623157e308,
    float(2**52 - 1),
    float(2**32),
    np.inf,
    -np.inf,
]


@pytest.mark.parametrize("value", VALUES)
def test_words_are_the_bits_of_ieee_754(value):
    words = float_words.to_words([value])
    assert words.dtype == np.int32
    assert words.tolist() == list(
        struct.unpack("<ii", struct.pack("<d", value))
    )


def test_values_come_back_through_a_variable():
    values = np.array(VALUES[:10]).reshape(2, 5)
    words = float_words.to_words(values)
    assert words.shape == (2, 10)
    variable = keras.Variable(words, dtype="int32", trainable=False)
    back = float_words.from_words(ops.convert_to_numpy(variable.value))
    assert back.dtype == np.float64
    assert np.array_equal(back, values)


def test_random_bits_come_back():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**64, size=1000, dtype=np.uint64).view(float)
    values = values[np.isfinite(values)]
    back = float_words.from_words(float_words.to_words(values))
    assert back.tobytes() == values.tobytes()


def test_nan_stays_nan():
    assert np.isnan(
        float_words.from_words(float_words.to_words([np.nan]))
    ).all()


def test_slices_and_other_dtypes_are_taken_by_value():
    table = np.arange(12.0).reshape(3, 4)
    for values in (
        table.T,
        table[:, 1:3],
        table[::2],
        table.astype(np.float32),
    ):
        back = float_words.from_words(float_words.to_words(values))
        assert np.array_equal(back, values)
    words = float_words.to_words(table)
    assert np.array_equal(float_words.from_words(words[:, 2:4]), table[:, 1:2])


def test_nothing_stays_nothing():
    empty = float_words.to_words(np.zeros((0, 3)))
    assert empty.shape == (0, 6)
    assert float_words.from_words(empty).shape == (0, 3)


def test_only_zero_is_zero():
    values = np.array([*VALUES, -0.0, np.nan])
    words = float_words.to_words(values).reshape(-1, float_words.NUM_WORDS)
    found = float_words.is_nonzero(ops.convert_to_tensor(words))
    assert np.array_equal(ops.convert_to_numpy(found), values != 0.0)


def test_both_zeros_have_the_same_words():
    words = float_words.to_words([0.0, -0.0])
    assert words.tolist() == [0, 0, 0, 0]
