# SPDX-License-Identifier: Apache-2.0
"""Secure noise: on the grid, of the stated size, and exactly distributed.

Every random bound has a false-alarm probability of at most 1e-6.
"""

import copy
import math
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests import normality
from tf_privacy.clipping import clipped_sum
from tf_privacy.noise import discrete_gaussian
from tf_privacy.noise import discrete_gaussian_noise
from tf_privacy.noise import gaussian

NUM_VALUES = 200_000


def make_sum(*gradients, l2_norm_clip=1.0):
    gradients = [np.asarray(g, np.float32) for g in gradients]
    return clipped_sum.ClippedSum(
        gradients=tuple(tf.constant(g) for g in gradients),
        variables=tuple(keras.Variable(np.zeros(g.shape)) for g in gradients),
        l2_sensitivity=l2_norm_clip,
    )


def make_generator(clipped, grid_bits=24, source=None, noise_multiplier=1.0):
    style = discrete_gaussian_noise.DiscreteGaussianNoise(
        noise_multiplier=noise_multiplier, grid_bits=grid_bits
    )
    return style.make_generator(
        clipped.variables, source or gaussian.NoiseSource()
    )


def add_noise(clipped, *, stddev=1.0, **settings):
    generator = make_generator(clipped, **settings)
    return generator.add_noise(clipped, stddev=stddev, position=0)


def compute_grid(stddev=1.0, l2_sensitivity=1.0, num_weights=1, grid_bits=24):
    return discrete_gaussian_noise.compute_grid(
        stddev,
        l2_sensitivity=l2_sensitivity,
        num_weights=num_weights,
        grid_bits=grid_bits,
    )


GRIDS = [
    {"stddev": s, "l2_sensitivity": c, "num_weights": d, "grid_bits": b}
    for s, c, d, b in [
        (1.0, 1.0, 10, 24),
        (0.37, 0.1, 1000, 8),
        (2.0**-40 * 1.999, 3e-10, 10**6, 20),
        (1e9, 3.0, 5, 32),
        (1.0, 1.0, 0, 24),
    ]
]


@pytest.mark.parametrize("settings", GRIDS)
def test_noise_has_the_stated_ratio_to_the_moves_of_the_rounded_sum(settings):
    grid = compute_grid(**settings)
    ratio = settings["stddev"] / settings["l2_sensitivity"]
    assert grid.scale >= ratio * grid.sensitivity
    assert grid.scale <= ratio * grid.sensitivity * (1 + 1e-11)
    assert math.frexp(grid.spacing)[0] == 0.5
    spacings = settings["stddev"] / grid.spacing
    bits = settings["grid_bits"]
    assert 2**bits <= spacings < 2 ** (bits + 1)
    # Never less than what was asked for, and little more.
    extra = grid.scale * grid.spacing / settings["stddev"] - 1
    rounding = math.sqrt(settings["num_weights"]) * grid.spacing
    wanted = 1e-4 + rounding / settings["l2_sensitivity"]
    assert extra == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("num_weights", [1, 7, 1000])
@pytest.mark.parametrize("grid_bits", [8, 16])
def test_rounding_moves_neighbors_no_further_than_is_accounted(
    num_weights, grid_bits
):
    grid = compute_grid(0.5, 1.0, num_weights, grid_bits)
    rng = np.random.default_rng(0)
    for length in (1.0, 0.1, grid.spacing, 0.0):
        for _ in range(50):
            sums = rng.normal(0, 3, num_weights)
            # Half of the sums lie where rounding moves them furthest.
            sums = np.round(sums / grid.spacing) * grid.spacing
            sums += rng.integers(0, 2) * 0.499 * grid.spacing
            direction = rng.normal(size=num_weights)
            direction = np.where(rng.random() < 0.5, direction, 1.0)
            direction *= length / np.linalg.norm(direction)
            a, b = (
                discrete_gaussian_noise.round_to_grid(
                    s.astype(np.float32), grid.spacing
                )
                for s in (sums, sums + direction)
            )
            assert np.linalg.norm(a - b) <= grid.sensitivity


def test_what_rounding_adds_is_needed():
    """An arbitrarily small move of the sum can reach almost all of it."""
    num_weights, spacing = 10_000, 2.0**-8
    sums = np.full(num_weights, 0.4999 * spacing, np.float32)
    moved = sums + np.float32(0.0002 * spacing)
    a, b = (
        discrete_gaussian_noise.round_to_grid(s, spacing) for s in (sums, moved)
    )
    assert np.linalg.norm(moved - sums) < 0.05 * spacing * 1.001
    assert np.linalg.norm(a - b) == math.sqrt(num_weights)


def test_rounding_is_to_the_nearest_integer_and_cut_at_the_ends():
    array = np.array([0.0, 0.26, -0.26, 0.24, np.inf, -np.inf, 3e38], "f")
    rounded = discrete_gaussian_noise.round_to_grid(array, 0.5)
    assert rounded.dtype == np.int64
    assert rounded.tolist() == [0, 1, -1, 0, 2**61, -(2**61), 2**61]


def test_a_sum_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="^clipped must hold numbers"):
        discrete_gaussian_noise.round_to_grid(np.array([1.0, np.nan]), 0.5)


def test_noise_on_the_grid_has_the_exact_law():
    """Whatever the sum's own low bits: here a third of the spacing."""
    gradient = np.full(NUM_VALUES, 7.0 + 1 / 3 / 256, np.float32)
    noised = add_noise(make_sum(gradient), grid_bits=8)
    grid = compute_grid(1.0, 1.0, NUM_VALUES, 8)
    units = np.asarray(noised.gradients[0]).astype(np.float64) / grid.spacing
    noise = units - 7 * 256
    np.testing.assert_array_equal(noise, np.round(noise))
    values = np.arange(-7 * int(grid.scale), 7 * int(grid.scale) + 1)
    chances = np.exp(-0.5 * (values / grid.scale) ** 2)
    chances /= chances.sum()
    counts = np.bincount((noise - values[0]).astype(int), minlength=values.size)
    expected = NUM_VALUES * chances
    # Groups of neighbors with equal chances of about 1/500.
    group = np.minimum(np.cumsum(chances) * 500, 499.0).astype(int)
    observed, wanted = (
        np.bincount(group, weights=w) for w in (counts, expected)
    )
    statistic = np.sum((observed - wanted) ** 2 / wanted)
    assert statistic < stats.chi2.isf(normality.FALSE_ALARM, wanted.size - 1)
    # Odd and even, by sign: no low bit is lost.
    for part in (noise[noise > 0], noise[noise < 0]):
        odd = int(np.sum(part % 2))
        assert stats.binomtest(odd, part.size).pvalue > normality.FALSE_ALARM


@pytest.mark.parametrize("stddev", [3e-12, 0.3, 1e6])
@pytest.mark.parametrize("grid_bits", [8, 24, 32])
def test_noise_has_the_stated_size(stddev, grid_bits):
    clipped = make_sum(np.zeros(NUM_VALUES), l2_norm_clip=stddev / 1.5)
    noised = add_noise(clipped, stddev=stddev, grid_bits=grid_bits)
    settings = stddev, stddev / 1.5, NUM_VALUES, grid_bits
    grid = compute_grid(*settings)
    assert noised.stddev == pytest.approx(grid.scale * grid.spacing)
    assert noised.stddev >= stddev
    assert noised.variables == clipped.variables
    normality.check_stddev(np.asarray(noised.gradients[0]), noised.stddev)


def test_at_the_default_the_noise_is_hardly_larger_than_the_ordinary():
    """0.1% for a hundred million weights."""
    grid = compute_grid(1.0, 1.0, 10**8, 24)
    assert 1.0 < grid.scale * grid.spacing < 1.001


def test_noise_has_the_shapes_of_the_variables():
    """Also of more entries than are noised together."""
    shapes = [(2, 3), (), (0, 4), (2**18 + 1,), (1,)]
    clipped = make_sum(*(np.full(s, 5.0) for s in shapes))
    noised = add_noise(clipped)
    arrays = [np.asarray(g) for g in noised.gradients]
    assert [a.shape for a in arrays] == shapes
    assert all(a.dtype == np.float32 for a in arrays)
    flat = np.concatenate([a.ravel() for a in arrays]) - 5.0
    assert len(np.unique(flat[:100])) > 95
    normality.check_stddev(flat, noised.stddev)
    assert abs(np.corrcoef(flat[: 2**17], flat[-(2**17) :])[0, 1]) < 0.02


def differ(a, b):
    return np.mean(np.asarray(a) == np.asarray(b)) < 0.01


def test_a_compiled_function_draws_anew_at_every_call():
    clipped = make_sum(np.zeros((40, 50)), np.zeros(7))
    generator = make_generator(clipped)

    @tf.function
    def step():
        noised = generator.add_noise(clipped, stddev=2.0, position=0)
        return noised.gradients

    draws = [step(), step()]
    assert [g.shape for g in step.get_concrete_function().outputs] == [
        (40, 50),
        (7,),
    ]
    assert differ(draws[0][0], draws[1][0])
    for draw in draws:
        normality.check_stddev(np.asarray(draw[0]), 2.0)


def test_a_keras_model_trains_with_it():
    """In `fit`, and under a condition, as the optimizer does."""

    class Model(keras.Model):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.noised = self.add_weight(shape=(500,), name="noised")
            self.stddevs = []

        def train_step(self, data):
            x = keras.ops.reshape(data[0], (-1,))
            clipped = clipped_sum.ClippedSum(
                gradients=(x,), variables=(self.noised,), l2_sensitivity=1.0
            )

            def release():
                noised = generator.add_noise(clipped, stddev=1.0, position=0)
                self.stddevs.append(noised.stddev)
                return noised.gradients[0]

            total = keras.ops.sum(keras.ops.abs(x))
            self.noised.assign_add(
                keras.ops.cond(total < 1.0, release, lambda: x)
            )
            return {"loss": total}

    model = Model()
    generator = make_generator(make_sum(np.zeros(500)))
    model.compile(jit_compile=False)
    before = np.asarray(model.noised)
    model.fit(np.zeros((30, 500), "f"), batch_size=1, verbose=0)
    moved = np.asarray(model.noised) - before
    normality.check_stddev(moved, math.sqrt(30) * model.stddevs[0])
    model.fit(np.ones((2, 500), "f"), batch_size=1, verbose=0)
    np.testing.assert_allclose(
        np.asarray(model.noised) - before - moved, 2.0, atol=1e-5
    )


def test_global_seeds_do_not_fix_the_noise():
    draws = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        np.random.seed(0)
        random.seed(0)
        draws.append(add_noise(make_sum(np.zeros(1000))).gradients[0])
    assert differ(*draws)


def make_seeded(seed):
    with pytest.warns(UserWarning, match="^seed="):
        return gaussian.NoiseSource(seed)


def test_a_fixed_seed_repeats():
    clipped = make_sum(np.zeros(1000))
    one, two, other = (
        add_noise(clipped, source=make_seeded(seed)).gradients[0]
        for seed in (-5, -5, 6)
    )
    np.testing.assert_array_equal(one, two)
    assert differ(one, other)


def test_a_fixed_seed_goes_on_from_step_to_step():
    clipped = make_sum(np.zeros(1000))
    generator = make_generator(clipped, source=make_seeded(5))
    one, two = (
        generator.add_noise(clipped, stddev=1.0, position=0).gradients[0]
        for _ in range(2)
    )
    assert differ(one, two)


def test_a_copy_has_noise_of_its_own():
    clipped = make_sum(np.zeros(1000))
    generator = make_generator(clipped)
    one, two = (
        each.add_noise(clipped, stddev=1.0, position=0).gradients[0]
        for each in (generator, copy.deepcopy(generator))
    )
    assert differ(one, two)


@pytest.mark.parametrize("stddev", [tf.constant(1.0), None, "1", True])
def test_a_size_that_is_no_float_is_refused(stddev):
    with pytest.raises(TypeError, match="^stddev must be .* DiscreteGaussian"):
        add_noise(make_sum(np.zeros(3)), stddev=stddev)


@pytest.mark.parametrize("stddev", [0.0, -1.0, np.nan, np.inf, 1e-30, 1e31])
def test_a_size_that_is_no_noise_is_refused(stddev):
    with pytest.raises(ValueError, match="^stddev must be"):
        add_noise(make_sum(np.zeros(3)), stddev=stddev)


@pytest.mark.parametrize("noise_multiplier", [0.0, -1.0, np.nan, np.inf])
def test_a_noise_multiplier_that_is_no_noise_is_refused(noise_multiplier):
    with pytest.raises(ValueError, match="^noise_multiplier must be"):
        discrete_gaussian_noise.DiscreteGaussianNoise(
            noise_multiplier=noise_multiplier
        )


@pytest.mark.parametrize("grid_bits", [7, 33, 8.5, np.nan])
def test_a_grid_out_of_range_is_refused(grid_bits):
    with pytest.raises(ValueError, match="^grid_bits must be a whole number"):
        discrete_gaussian_noise.DiscreteGaussianNoise(
            noise_multiplier=1.0, grid_bits=grid_bits
        )


def test_a_style_is_a_value_that_keras_saves():
    style = discrete_gaussian_noise.DiscreteGaussianNoise(
        noise_multiplier=1, grid_bits=20.0
    )
    assert style.family == "discrete_gaussian"
    assert style.steps_per_release == 1 and style.sensitivity == 1.0
    assert style.get_config() == {"noise_multiplier": 1.0, "grid_bits": 20}
    saved = keras.saving.serialize_keras_object(style)
    again = keras.saving.deserialize_keras_object(saved)
    assert again == style and hash(again) == hash(style)


def test_the_largest_scales_of_the_accountant_are_within_the_samplers_range():
    """A thousand of noise multiplier, and a trillion weights."""
    grid = compute_grid(1000.0, 1.0, 10**12, 32)
    assert grid.scale < discrete_gaussian.LARGEST_SCALE
