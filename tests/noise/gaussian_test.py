# SPDX-License-Identifier: Apache-2.0
"""Noise: Gaussian, of the stated size, fresh, and never used twice.

Every random bound has a false-alarm probability of at most 1e-6. With 200,000
values the standard deviation is known to 0.8%: an error of 2% fails.
"""

import copy
import pickle
import random
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from tensorflow.python.framework import config

from tests import normality
from tf_privacy.clipping import clipped_sum
from tf_privacy.noise import gaussian
from tf_privacy.noise.backend import backend

NUM_VALUES = 200_000


def make_sum(*shapes, l2_norm_clip=1.0, gradients=None, dtype="float32"):
    variables = [keras.Variable(np.zeros(s), dtype=dtype) for s in shapes]
    if gradients is None:
        gradients = [np.zeros(s, np.float32) for s in shapes]
    return clipped_sum.ClippedSum(
        gradients=tuple(tf.constant(g) for g in gradients),
        variables=tuple(variables),
        l2_sensitivity=l2_norm_clip,
    )


def draw(source, clipped, noise_multiplier=1.0):
    noised = gaussian.add_noise(
        clipped, noise_multiplier=noise_multiplier, source=source
    )
    return [np.asarray(g) for g in noised.gradients]


def first_values(source):
    return draw(source, make_sum((1000,)))[0]


def check_uncorrelated(a, b):
    a, b = (v.astype(np.float64).ravel() - v.mean() for v in (a, b))
    correlation = a @ b / np.sqrt((a @ a) * (b @ b))
    z = stats.norm.isf(normality.FALSE_ALARM / 2)
    assert abs(correlation) < z / np.sqrt(a.size)


def differ(a, b):
    """Single values may meet by chance, a hundredth of 1000 does not."""
    return np.mean(a == b) < 0.01


@pytest.fixture(scope="module")
def noise():
    """Two draws of an unseeded source: a large variable and smaller ones."""
    source = gaussian.NoiseSource()
    clipped = make_sum((400, 500), (200_000,), (), (3, 1), (0, 4), (7,))
    return draw(source, clipped), draw(source, clipped)


def test_noise_has_the_shapes_of_the_variables(noise):
    shapes = [n.shape for n in noise[0]]
    assert shapes == [(400, 500), (200_000,), (), (3, 1), (0, 4), (7,)]
    assert all(n.dtype == np.float32 for n in noise[0])


def test_noise_is_standard_normal(noise):
    values = noise[0][0].ravel()
    assert np.isfinite(values).all()
    normality.check_stddev(values, 1.0)
    z = stats.norm.isf(normality.FALSE_ALARM / 2)
    assert abs(values.mean()) < z / np.sqrt(values.size)
    assert stats.kstest(values, "norm").pvalue > normality.FALSE_ALARM


def test_noise_differs_between_draws_variables_and_entries(noise):
    first, second = noise
    for a, b in zip(first, second, strict=True):
        assert a.size == 0 or np.any(a != b)
    check_uncorrelated(first[0], second[0])
    check_uncorrelated(first[0], first[1])
    flat = first[0].ravel()
    for lag in (1, 2, 500, 100_000):
        check_uncorrelated(flat[lag:], flat[:-lag])
        # Values made in pairs must not share their size either.
        check_uncorrelated(flat[lag:] ** 2, flat[:-lag] ** 2)


def test_large_variables_get_noise_of_their_own():
    # An odd number of values; a small variable between two large ones.
    size = 2**18 + 1
    source = gaussian.NoiseSource()
    clipped = make_sum((size,), (7,), (size,))
    first, second = draw(source, clipped), draw(source, clipped)
    assert [n.shape for n in first] == [(size,), (7,), (size,)]
    arrays = [first[0], first[2], second[0], second[2]]
    for i, a in enumerate(arrays):
        normality.check_stddev(a, 1.0)
        for b in arrays[:i]:
            check_uncorrelated(a, b)
    assert len(np.unique(np.concatenate([first[1], second[1]]))) >= 13


def test_small_variables_get_noise_of_their_own(noise):
    small = [np.concatenate([n.ravel() for n in d[2:]]) for d in noise]
    values = np.concatenate(small)
    assert values.size == 22
    assert len(np.unique(values)) >= 20


def test_tails_are_gaussian_and_finite():
    """2**24 values: 9.6 are expected beyond 5 standard deviations."""
    values = draw(gaussian.NoiseSource(), make_sum((2**24,)))[0]
    assert np.isfinite(values).all()
    for bound in (3.0, 4.0, 5.0):
        expected = values.size * 2 * stats.norm.sf(bound)
        low, high = stats.poisson.ppf(
            [normality.FALSE_ALARM / 2, 1 - normality.FALSE_ALARM / 2], expected
        )
        assert low <= np.count_nonzero(np.abs(values) > bound) <= high


@pytest.mark.parametrize("noise_multiplier", [0.3, 1.1, 40.0])
@pytest.mark.parametrize("l2_norm_clip", [0.01, 2.5])
def test_stddev_is_noise_multiplier_times_clip(noise_multiplier, l2_norm_clip):
    gradient = np.full(NUM_VALUES, 3.0, np.float32)
    clipped = make_sum(
        (NUM_VALUES,), l2_norm_clip=l2_norm_clip, gradients=[gradient]
    )
    noised = gaussian.add_noise(
        clipped,
        noise_multiplier=noise_multiplier,
        source=gaussian.NoiseSource(),
    )
    assert noised.stddev == noise_multiplier * l2_norm_clip
    assert noised.variables == clipped.variables
    normality.check_stddev(np.asarray(noised.gradients[0]) - 3.0, noised.stddev)


def test_noise_is_float32_for_a_low_precision_variable():
    """In bfloat16 a value of 1 would keep no noise below 1/256."""
    clipped = make_sum(
        (1000,), dtype="bfloat16", gradients=[np.ones(1000, "f")]
    )
    (noised,) = draw(gaussian.NoiseSource(), clipped, noise_multiplier=1e-4)
    assert noised.dtype == np.float32
    assert len(np.unique(noised)) > 500


def set_every_seed(seed):
    keras.utils.set_random_seed(seed)
    tf.random.set_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def test_global_seeds_do_not_fix_the_noise():
    draws = []
    for _ in range(2):
        set_every_seed(0)
        source = gaussian.NoiseSource()
        set_every_seed(0)
        draws.append(first_values(source))
    assert differ(draws[0], draws[1])


def test_a_seed_set_between_draws_does_not_repeat_them():
    source = gaussian.NoiseSource()
    set_every_seed(0)
    first = first_values(source)
    set_every_seed(0)
    assert differ(first, first_values(source))


def test_op_determinism_does_not_fix_the_noise():
    tf.config.experimental.enable_op_determinism()
    try:
        keras.utils.set_random_seed(0)
        first = first_values(gaussian.NoiseSource())
        keras.utils.set_random_seed(0)
        second = first_values(gaussian.NoiseSource())
    finally:
        config.disable_op_determinism()
    assert differ(first, second)


def unpickle(source):
    return pickle.loads(pickle.dumps(source))


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy, unpickle])
def test_a_copy_has_noise_of_its_own(make_copy):
    source = gaussian.NoiseSource()
    first = first_values(source)
    one, two = make_copy(source), make_copy(source)
    draws = [first, *map(first_values, (one, two, source))]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert differ(a, b)


def test_sources_differ():
    starts = {
        tuple(first_values(gaussian.NoiseSource())[:4]) for _ in range(50)
    }
    assert len(starts) == 50


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_compiled_function_draws_anew_at_every_call(jit_compile):
    source = gaussian.NoiseSource()
    clipped = make_sum((400, 500))

    @tf.function(jit_compile=jit_compile)
    def step():
        noised = gaussian.add_noise(
            clipped, noise_multiplier=2.0, source=source
        )
        return noised.gradients[0]

    draws = [step().numpy(), step().numpy(), draw(source, clipped, 2.0)[0]]
    for i, a in enumerate(draws):
        normality.check_stddev(a, 2.0)
        for b in draws[:i]:
            check_uncorrelated(a, b)


def test_a_compiled_loop_draws_anew_at_every_pass():
    source = gaussian.NoiseSource()
    clipped = make_sum((400, 500))

    @tf.function
    def loop():
        passes = tf.TensorArray(tf.float32, 3)
        for i in tf.range(3):
            (noise,) = gaussian.add_noise(
                clipped, noise_multiplier=1.0, source=source
            ).gradients
            passes = passes.write(i, noise)
        return passes.stack()

    passes = loop().numpy()
    for i in range(3):
        normality.check_stddev(passes[i], 1.0)
        check_uncorrelated(passes[i], passes[i - 1])


@pytest.mark.parametrize(
    "words", [(0, 0, 0), (2**64 - 1,) * 3, (2**63, 2**63 - 1, 5)]
)
def test_the_whole_range_of_keys_and_counters_works(words):
    """The counter wraps around without standing still."""
    generator = backend.CounterGenerator(list(words))
    source = gaussian.NoiseSource()
    source._generator = generator
    first, second = first_values(source), first_values(source)
    assert np.isfinite([first, second]).all()
    assert len(np.unique([first, second])) > 1990


def test_a_fixed_seed_warns_and_repeats():
    with pytest.warns(UserWarning, match="^seed=5 fixes the noise"):
        one = first_values(gaussian.NoiseSource(5))
    with pytest.warns(UserWarning):
        two = first_values(gaussian.NoiseSource(5))
    with pytest.warns(UserWarning):
        other = first_values(gaussian.NoiseSource(6))
    np.testing.assert_array_equal(one, two)
    assert differ(one, other)


def test_no_seed_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gaussian.NoiseSource()


@pytest.mark.parametrize(
    "seed, error",
    [(True, TypeError), ("0", TypeError), (0.5, ValueError)],
)
def test_a_seed_that_is_no_whole_number_is_refused(seed, error):
    with pytest.raises(error, match="^seed must be"):
        gaussian.NoiseSource(seed)


@pytest.mark.parametrize(
    "gradients", [None, [np.ones(3)], tf.ones(3), np.ones(3)]
)
def test_only_a_clipped_sum_is_accepted(gradients):
    with pytest.raises(TypeError, match="^clipped must be a ClippedSum"):
        gaussian.add_noise(
            gradients, noise_multiplier=1.0, source=gaussian.NoiseSource()
        )


@pytest.mark.parametrize("noise_multiplier", [0.0, -1.0, np.nan, np.inf])
def test_a_noise_multiplier_that_is_no_noise_is_refused(noise_multiplier):
    """The last line of defence: no caller may get a sum without noise."""
    with pytest.raises(ValueError, match="^noise_multiplier must be"):
        gaussian.add_noise(
            make_sum((3,)),
            noise_multiplier=noise_multiplier,
            source=gaussian.NoiseSource(),
        )


def test_gradients_that_are_not_aligned_are_refused():
    with pytest.raises(ValueError, match="^gradients must hold one tensor"):
        make_sum((3,), (4,), gradients=[np.ones(3, "f")])


@pytest.mark.parametrize("sensitivity", [0.0, -1.0, np.nan, np.inf])
def test_a_sum_without_a_bound_is_refused(sensitivity):
    with pytest.raises(ValueError, match="^l2_sensitivity must be"):
        make_sum((3,), l2_norm_clip=sensitivity)


def test_a_forked_process_has_noise_of_its_own(monkeypatch):
    """Two copies of one state, as forks make them."""
    draws = []
    for process in (-1, -2):
        source = gaussian.NoiseSource()
        source._generator = backend.CounterGenerator([1, 2, 3])
        with monkeypatch.context() as patch:
            patch.setattr(gaussian.os, "getpid", lambda p=process: p)
            draws.append([first_values(source), first_values(source)])
    assert differ(draws[0][0], draws[1][0])
    assert differ(draws[0][0], draws[0][1])
    # One process goes on from where it is.
    restarted = gaussian.NoiseSource()
    restarted._generator = backend.CounterGenerator([1, 2, 3])
    again = gaussian.NoiseSource()
    again._generator = backend.CounterGenerator([1, 2, 3])
    np.testing.assert_array_equal(first_values(restarted), first_values(again))
