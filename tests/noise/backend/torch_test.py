# SPDX-License-Identifier: Apache-2.0
"""Noise under PyTorch: normal, keyed by all bits, and never used twice."""

import keras
import numpy as np
import pytest
from scipy import stats

from tests import normality

if keras.backend.backend() == "torch":
    import torch

    from tf_privacy.noise.backend import torch as backend
    from tf_privacy.noise.backend.host_calls import torch as host_calls

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="needs KERAS_BACKEND=torch"
)

WORDS = [3, 2**64 - 1, 2**63]


def draw(generator, *sizes):
    return [v.numpy() for v in generator.normals(list(sizes))]


def test_noise_is_standard_normal():
    # 400,000 values: a standard deviation that is 1% off fails.
    values = np.concatenate(
        draw(backend.CounterGenerator(WORDS), *[200_000] * 2)
    )
    assert values.dtype == np.float32
    normality.check_stddev(values, 1.0)
    z = stats.norm.isf(normality.FALSE_ALARM / 2)
    assert abs(values.mean()) < z / np.sqrt(values.size)
    assert stats.kstest(values, "norm").pvalue > normality.FALSE_ALARM
    # Two in a million are beyond 4.75; none of a cut tail would be.
    assert np.abs(values).max() > 4.0


@pytest.mark.parametrize("size", [0, 1, 5])
def test_each_array_has_its_size(size):
    arrays = draw(backend.CounterGenerator(WORDS), size, 3, torch.tensor(size))
    assert [a.shape for a in arrays] == [(size,), (3,), (size,)]


def test_no_value_comes_twice():
    generator = backend.CounterGenerator(WORDS)
    one, other = draw(generator, 1000, 1000)
    (third,) = draw(generator, 1000)
    for a, b in [(one, other), (one, third), (other, third)]:
        assert np.mean(a == b) < 0.01


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bit", [0, 31, 32, 63])
def test_every_bit_of_the_words_counts(place, bit):
    words = list(WORDS)
    words[place] ^= 1 << bit
    (one,) = draw(backend.CounterGenerator(WORDS), 1000)
    (other,) = draw(backend.CounterGenerator(words), 1000)
    assert np.mean(one == other) < 0.01


def test_the_same_words_give_the_same_noise_whatever_the_global_seed():
    generator = backend.CounterGenerator([1, 2, 3])
    (one,) = draw(generator, 1000)
    torch.manual_seed(0)
    np.random.seed(0)
    generator.restart([1, 2, 3])
    (other,) = draw(generator, 1000)
    np.testing.assert_array_equal(one, other)


def test_noise_leaves_the_generators_of_pytorch_alone():
    before = torch.random.get_rng_state()
    draw(backend.CounterGenerator(WORDS), 1000)
    assert torch.equal(before, torch.random.get_rng_state())


def test_rows_are_found_and_put_in_their_places():
    mask = torch.tensor([False, True, False, True])
    indices = backend.find_true(mask)
    assert indices.dtype == torch.int32
    np.testing.assert_array_equal(indices, [1, 3])
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    got = backend.as_row_gradient(indices, rows, (4, 2))
    np.testing.assert_array_equal(got, [[0, 0], [1, 2], [0, 0], [3, 4]])
    none = backend.find_true(torch.zeros(4, dtype=torch.bool))
    got = backend.as_row_gradient(none, torch.zeros((0, 2)), (4, 2))
    np.testing.assert_array_equal(got, np.zeros((4, 2)))


def test_a_numpy_function_runs_at_every_call():
    calls = []

    def function(array):
        calls.append(array.dtype)
        return array + len(calls)

    tensor = torch.zeros(3)
    for expected in (1.0, 2.0):
        got = host_calls.map_on_host(function, tensor)
        np.testing.assert_array_equal(got, [expected] * 3)
    assert calls == [np.float32] * 2
