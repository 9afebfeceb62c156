# SPDX-License-Identifier: Apache-2.0
"""Poisson sampling: every example joins every batch by its own coin.

Bounds have a false-alarm probability of at most 1e-6.
"""

import dataclasses
import random
from concurrent import futures

import numpy as np
import pytest
from scipy import stats

from tf_privacy.sampling import poisson

FALSE_ALARM = 1e-6


def make(num_examples=100, sampling_probability=0.1):
    return poisson.PoissonSampling(
        num_examples=num_examples, sampling_probability=sampling_probability
    )


def draw_many(sampling, num_batches, seed=None):
    rng = poisson.make_rng(seed)
    return [sampling.draw(rng) for _ in range(num_batches)]


def membership(sampling, batches):
    joined = np.zeros((len(batches), sampling.num_examples), bool)
    for row, indices in zip(joined, batches, strict=True):
        row[indices] = True
    return joined


def check_proportion(successes, trials, probability):
    test = stats.binomtest(int(successes), int(trials), probability)
    assert test.pvalue > FALSE_ALARM


@pytest.mark.parametrize("seed", [None, 1])
def test_sizes_are_binomial(seed):
    sampling = make(40, 0.25)
    sizes = [len(b) for b in draw_many(sampling, 20_000, seed)]
    expected = 20_000 * stats.binom.pmf(np.arange(41), 40, 0.25)
    observed = np.bincount(sizes, minlength=41)
    # Cells with few expected counts are put together.
    few = expected < 20
    observed = [*observed[~few], observed[few].sum()]
    expected = [*expected[~few], expected[few].sum()]
    assert stats.chisquare(observed, expected).pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    "num_examples, sampling_probability",
    [(10, 0.5), (500, 0.01), (20_000, 0.0005), (20_000, 0.1)],
)
def test_every_example_joins_with_the_stated_probability(
    num_examples, sampling_probability
):
    """numpy has three algorithms for a draw; these sizes reach all of them."""
    sampling = make(num_examples, sampling_probability)
    batches = draw_many(sampling, 400)
    counts = np.zeros(num_examples)
    for indices in batches:
        assert indices.dtype == np.int64
        assert np.all(np.diff(indices) > 0)
        counts[indices] += 1
    check_proportion(counts.sum(), 400 * num_examples, sampling_probability)
    # Ten groups by position, and the first and last example by themselves.
    for group in np.array_split(counts, 10):
        check_proportion(group.sum(), 400 * group.size, sampling_probability)
    for index in (0, -1):
        check_proportion(counts[index], 400, sampling_probability)


def test_every_subset_is_as_likely_as_its_coins_make_it():
    sampling = make(4, 0.3)
    joined = membership(sampling, draw_many(sampling, 40_000))
    codes = joined @ (1 << np.arange(4))
    observed = np.bincount(codes, minlength=16)
    sizes = np.array([bin(c).count("1") for c in range(16)])
    expected = 40_000 * 0.3**sizes * 0.7 ** (4 - sizes)
    assert stats.chisquare(observed, expected).pvalue > FALSE_ALARM


def test_coins_of_two_batches_are_independent():
    sampling = make(50, 0.5)
    joined = membership(sampling, draw_many(sampling, 2_000))
    for lag in (1, 2, 50):
        agree = joined[lag:] == joined[:-lag]
        check_proportion(agree.sum(), agree.size, 0.5)


def test_probability_one_takes_every_example_every_time():
    sampling = make(20, 1.0)
    for indices in draw_many(sampling, 10):
        np.testing.assert_array_equal(indices, np.arange(20))


def test_a_batch_may_be_empty():
    batches = draw_many(make(10, 0.01), 50)
    empty = [b for b in batches if len(b) == 0]
    assert empty  # All 50 are not with probability 1e-51.
    assert empty[0].shape == (0,) and empty[0].dtype == np.int64


def test_the_cost_is_that_of_the_batch():
    """One coin for each of 10**12 examples would never end."""
    (indices,) = draw_many(make(10**12, 1e-10), 1)
    assert 40 < len(indices) < 180
    assert len(np.unique(indices)) == len(indices)


def test_expected_batch_size():
    assert make(1000, 0.032).expected_batch_size == 1000 * 0.032


def test_a_seed_fixes_the_coins():
    for a, b in zip(
        draw_many(make(), 5, seed=3), draw_many(make(), 5, seed=3), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_without_a_seed_nothing_fixes_them():
    draws = []
    for _ in range(2):
        np.random.seed(0)
        random.seed(0)
        draws.append(membership(make(), draw_many(make(), 20)))
    assert np.any(draws[0] != draws[1])


@pytest.mark.parametrize("value", [0, -1, 1.5, np.nan, np.inf])
def test_num_examples_must_be_a_count(value):
    with pytest.raises(ValueError, match="^num_examples must be"):
        make(num_examples=value)


@pytest.mark.parametrize("value", [0.0, -0.1, 1.0001, np.nan, np.inf])
def test_sampling_probability_must_be_in_range(value):
    with pytest.raises(ValueError, match="^sampling_probability must be"):
        make(sampling_probability=value)


@pytest.mark.parametrize("value", [True, "0.1", None])
def test_types_are_checked(value):
    with pytest.raises(TypeError, match="^sampling_probability must be"):
        make(sampling_probability=value)
    with pytest.raises(TypeError, match="^num_examples must be"):
        make(num_examples=value)


def test_a_whole_float_counts_as_the_number_it_is():
    """It passes the check, so a batch can be drawn from it."""
    sampling = make(num_examples=100.0)
    assert max(draw_many(sampling, 1, seed=0)[0], default=0) < 100


def test_a_sampling_is_a_value_that_stays():
    assert make() == make()
    assert hash(make()) == hash(make())
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().num_examples = 7


# Streams of coins.


def take(stream, num_batches, sampling=None):
    sampling = sampling or make()
    return [
        sampling.draw(stream.take()[0]).tolist() for _ in range(num_batches)
    ]


def test_a_stream_goes_on_from_its_state():
    stream, other = poisson.CoinStream(), poisson.CoinStream()
    take(stream, 3)
    state = stream.get_state()
    assert state.position == 3
    batches = take(stream, 5)
    assert take(other, 5) != batches
    other.set_state(state)
    assert take(other, 5) == batches


def test_a_stream_goes_on_from_any_position_that_it_gave():
    stream = poisson.CoinStream()
    positions = [stream.take()[1] for _ in range(4)]
    assert positions == [1, 2, 3, 4]
    state = stream.get_state(2)
    batches = take(stream, 1)
    stream.set_state(state)
    assert take(stream, 3)[2] == batches[0]


def test_coins_of_two_batches_of_a_stream_are_independent():
    sampling = make(50, 0.5)
    joined = membership(sampling, take(poisson.CoinStream(), 2_000, sampling))
    for lag in (1, 2, 50):
        agree = joined[lag:] == joined[:-lag]
        check_proportion(agree.sum(), agree.size, 0.5)
    check_proportion(joined.sum(), joined.size, 0.5)


def test_a_seed_fixes_a_stream_and_nothing_else_does():
    assert take(poisson.CoinStream(3), 5) == take(poisson.CoinStream(3), 5)
    np.random.seed(0)
    first = take(poisson.CoinStream(), 5)
    np.random.seed(0)
    assert take(poisson.CoinStream(), 5) != first


def test_threads_take_different_coins():
    stream = poisson.CoinStream()
    with futures.ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: stream.take()[1], range(2_000)))
    assert sorted(taken) == list(range(1, 2_001))


def test_a_state_does_not_show_its_key():
    state = poisson.CoinStream().get_state()
    assert not any(str(word) in f"{state!r} {state}" for word in state.key)


@pytest.mark.parametrize(
    "change", [{"key": (1,)}, {"key": (1, -1)}, {"position": -1}]
)
def test_a_state_is_checked(change):
    with pytest.raises(ValueError, match=f"^{next(iter(change))} must be"):
        poisson.CoinState(**{"key": (1, 2), "position": 0, **change})
