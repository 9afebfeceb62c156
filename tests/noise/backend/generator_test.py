# SPDX-License-Identifier: Apache-2.0
"""Normals from a key and a counter, on whichever Keras backend is in use.

Random bounds have a false-alarm probability of at most 1e-6.
"""

import keras
import numpy as np
import pytest
from scipy import stats

from tests import normality
from tf_privacy.noise.backend import backend

WORDS = [2**64 - 3, 5, 0x0123456789ABCDEF]


def draw(generator, *sizes):
    to_numpy = keras.ops.convert_to_numpy
    return [np.array(to_numpy(a)) for a in generator.normals(list(sizes))]


def test_values_are_standard_normals():
    (values,) = draw(backend.CounterGenerator(WORDS), 200_001)
    assert values.dtype == np.float32
    normality.check_stddev(values, 1.0)
    assert abs(np.mean(values)) < 5.0 / np.sqrt(values.size)
    assert stats.kstest(values, "norm").pvalue > 1e-6
    # A tail beyond 4.2 standard deviations is there: 5 values on average.
    assert 0 < np.sum(np.abs(values) > 4.2) < 30


@pytest.mark.parametrize("sizes", [(0,), (1,), (1, 2, 3), (5, 0, 4)])
def test_arrays_have_the_sizes_that_were_asked_for(sizes):
    arrays = draw(backend.CounterGenerator(WORDS), *sizes)
    assert [a.shape for a in arrays] == [(size,) for size in sizes]
    values = np.concatenate(arrays)
    assert np.all(np.isfinite(values))
    assert len(np.unique(values)) == values.size


def test_no_draw_has_values_of_another():
    """Beyond what 2^24 floats share by chance."""
    generator = backend.CounterGenerator(WORDS)
    draws = [draw(generator, 4000)[0] for _ in range(4)]
    draws += draw(generator, 4000, 4000)
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert len(np.intersect1d(one, other)) < 40
            assert abs(np.corrcoef(one, other)[0, 1]) < 5.0 / np.sqrt(4000)


def test_key_and_counter_fix_the_sequence_and_each_word_counts():
    (first,) = draw(backend.CounterGenerator(WORDS), 64)
    generator = backend.CounterGenerator(WORDS)
    draw(generator, 10)
    generator.restart(WORDS)
    np.testing.assert_array_equal(draw(generator, 64)[0], first)
    for place in range(3):
        for bit in (0, 31, 32, 63):
            words = list(WORDS)
            words[place] ^= 2**bit
            (other,) = draw(backend.CounterGenerator(words), 64)
            assert np.mean(other == first) < 0.2


def test_state_is_in_no_variable_that_a_model_tracks():
    generator = backend.CounterGenerator(WORDS)
    expected = 1 if keras.backend.backend() == "jax" else 0
    assert len(generator.state_variables) == expected
    layer = keras.layers.Dense(1)
    layer.generator = generator
    layer.build((None, 1))
    assert len(layer.variables) == 2
