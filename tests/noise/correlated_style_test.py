# SPDX-License-Identifier: Apache-2.0
"""What the generator of correlated noise holds, and who can get at it."""

import copy
import dataclasses
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import signal
from scipy import stats

from tests import normality
from tests.noise import noise_sequences
from tf_privacy.noise import correlated_style
from tf_privacy.noise import gaussian
from tf_privacy.noise import toeplitz_noise
from tf_privacy.noise import tree_noise

COEFFICIENTS = (1.0, 0.5, 0.375)
STYLES = [
    toeplitz_noise.ToeplitzNoise(
        noise_multiplier=1.0,
        num_steps=8,
        coefficients=COEFFICIENTS,
        min_separation=3,
    ),
    tree_noise.TreeNoise(noise_multiplier=1.0, num_steps=8, min_separation=1),
]
both = pytest.mark.parametrize("style", STYLES, ids=["toeplitz", "tree"])


def make_draws(num_steps, size):
    rng = np.random.default_rng(7)
    return rng.normal(size=(num_steps, size)).astype(np.float32)


def filter_draws(draws):
    return signal.lfilter([1.0], COEFFICIENTS, draws, axis=0)


def draw(generator, clipped, position, stddev=1.0):
    noised = generator.add_noise(clipped, stddev=stddev, position=position)
    return np.concatenate([np.ravel(g) for g in noised.gradients])


def check_unrelated(rows, others):
    """No row of one is correlated with one of the other."""
    count = rows.shape[1]
    normal = [
        r / np.linalg.norm(r, axis=1, keepdims=True) for r in (rows, others)
    ]
    found = np.abs(normal[0] @ normal[1].T)
    chance = normality.FALSE_ALARM / found.size
    assert np.max(found) < stats.norm.isf(chance / 2) / np.sqrt(count)


@both
def test_noise_is_added_to_the_sum_of_each_variable(style):
    shapes = [(2, 3), (), (0, 4), (5,)]
    sums = [np.full(s, 10.0 * i, np.float32) for i, s in enumerate(shapes)]
    clipped = noise_sequences.make_sum(*shapes, gradients=sums)
    zero = noise_sequences.make_sum(*shapes)
    draws = make_draws(8, 12)
    for each in (clipped, zero):
        source = noise_sequences.KnownDraws(draws)
        generator = noise_sequences.make_generator(style, each, source)
        noised = [
            generator.add_noise(each, stddev=1.0, position=position)
            for position in range(8)
        ]
        if each is clipped:
            with_sums = noised
    for a, b in zip(with_sums, noised, strict=True):
        assert a.variables is clipped.variables
        for value, plain, added in zip(
            a.gradients, b.gradients, sums, strict=True
        ):
            assert value.dtype == "float32"
            assert value.shape == added.shape
            np.testing.assert_allclose(value - plain, added, atol=1e-5)


@both
def test_stated_stddev_is_that_of_the_step(style):
    clipped = noise_sequences.make_sum((200_000,))
    source = gaussian.NoiseSource()
    generator = noise_sequences.make_generator(style, clipped, source)
    for position in range(8):
        noised = generator.add_noise(clipped, stddev=2.0, position=position)
        normality.check_stddev(
            np.asarray(noised.gradients[0]), float(noised.stddev)
        )


@both
def test_noise_of_a_moving_clip_is_scaled_when_it_is_used(style):
    clipped = noise_sequences.make_sum((4,))
    draws = make_draws(8, 4)
    stddevs = np.linspace(0.5, 4.0, 8, dtype=np.float32)
    runs = []
    for scales in (stddevs, np.ones(8, np.float32)):
        generator = noise_sequences.make_generator(
            style, clipped, noise_sequences.KnownDraws(draws)
        )
        runs.append(
            [draw(generator, clipped, t, s) for t, s in enumerate(scales)]
        )
    np.testing.assert_allclose(runs[0], stddevs[:, None] * runs[1], rtol=1e-5)


@both
def test_a_new_release_has_new_noise(style):
    clipped = noise_sequences.make_sum((50_000,))
    generator = noise_sequences.make_generator(
        style, clipped, gaussian.NoiseSource()
    )
    before = np.stack([draw(generator, clipped, t) for t in range(5)])
    after = np.stack([draw(generator, clipped, t) for t in range(8)])
    check_unrelated(before, after)


@both
def test_two_generators_never_share_noise(style):
    clipped = noise_sequences.make_sum((50_000,))
    source = gaussian.NoiseSource()
    generators = [
        noise_sequences.make_generator(style, clipped, each)
        for each in (source, source, gaussian.NoiseSource())
    ]
    rows = [[] for _ in generators]
    for position in range(4):
        for generator, own in zip(generators, rows, strict=True):
            own.append(draw(generator, clipped, position))
    first, second, third = (np.stack(own) for own in rows)
    check_unrelated(first, second)
    check_unrelated(first, third)
    check_unrelated(second, third)


@both
def test_held_noise_is_neither_copied_nor_pickled(style):
    clipped = noise_sequences.make_sum((3,))
    generator = noise_sequences.make_generator(
        style, clipped, gaussian.NoiseSource()
    )
    draw(generator, clipped, 0)
    for take in (copy.deepcopy, copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="must not be copied"):
            take(generator)
    # The style is but settings.
    assert pickle.loads(pickle.dumps(style)) == style
    assert copy.deepcopy(style) == style
    assert set(vars(style)) == {f.name for f in dataclasses.fields(style)}


def list_stored(path, **objects):
    path = tf.train.Checkpoint(**objects).save(str(path))
    return set(tf.train.load_checkpoint(path).get_variable_to_shape_map())


@both
def test_no_optimizer_and_no_file_finds_the_held_noise(style, tmp_path):
    size = 1237
    model = keras.Sequential([keras.Input((size,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    variables = len(optimizer.variables), len(model.variables)
    stored = list_stored(tmp_path / "a", model=model, optimizer=optimizer)
    clipped = noise_sequences.make_sum((size,))
    generator = noise_sequences.make_generator(
        style, clipped, gaussian.NoiseSource()
    )
    optimizer.generator = model.generator = generator
    for position in range(3):
        draw(generator, clipped, position)
    held = [np.asarray(c.value) for c in generator._copies]
    assert any(np.any(h) for h in held)
    assert (len(optimizer.variables), len(model.variables)) == variables
    path = tmp_path / "b"
    assert stored == list_stored(path, model=model, optimizer=optimizer)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    files = [file.read_bytes() for file in tmp_path.iterdir()]
    # What is stored would be found, uncompressed as all of these are.
    assert any(model.get_weights()[0][:9].tobytes() in file for file in files)
    for values in held:
        assert not any(values[:9].tobytes() in f for f in files if values.any())


class Noising(keras.Model):
    """Adds noise in those steps whose row of data says so, and logs it."""

    def __init__(self, generator, clipped, num_rows):
        super().__init__()
        self._generator, self._clipped = generator, clipped
        size = sum(g.shape[0] for g in clipped.gradients)
        self.position = self.add_weight(
            shape=(), dtype="int32", initializer="zeros"
        )
        self.rows = self.add_weight(shape=(num_rows, size), initializer="zeros")

    def train_step(self, data):
        def release():
            position = self.position.value
            noised = self._generator.add_noise(
                self._clipped, stddev=1.0, position=position
            )
            row = keras.ops.concatenate(noised.gradients, axis=0)
            place = keras.ops.one_hot(position, self.rows.shape[0])
            self.rows.assign_add(place[:, None] * row)
            self.position.assign_add(1)

        keras.ops.cond(data[0, 0] > 0.5, release, lambda: None)
        return {"position": 1 * self.position.value}


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_works_in_a_condition_of_several_steps_of_fit(run_eagerly):
    # Refused steps draw nothing: the released ones have the filter's noise.
    allowed = np.array([1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1], np.float32)
    clipped = noise_sequences.make_sum((3,), (2,))
    draws = make_draws(8, 5)
    generator = noise_sequences.make_generator(
        STYLES[0], clipped, noise_sequences.KnownDraws(draws)
    )
    model = Noising(generator, clipped, 8)
    model.compile(
        optimizer="sgd",
        steps_per_execution=1 if run_eagerly else 4,
        run_eagerly=run_eagerly,
    )
    model.fit(allowed[:, None], batch_size=1, shuffle=False, verbose=0)
    assert int(model.position.value) == 8
    np.testing.assert_allclose(model.rows.value, filter_draws(draws), atol=1e-5)


def test_is_made_and_used_inside_of_a_compiled_step():
    clipped = noise_sequences.make_sum((3,))
    draws = make_draws(8, 3)
    source = noise_sequences.KnownDraws(draws)
    made = []

    @tf.function
    def step(position):
        if not made:
            made.append(
                noise_sequences.make_generator(STYLES[0], clipped, source)
            )
        noised = made[0].add_noise(clipped, stddev=1.0, position=position)
        return noised.gradients[0]

    rows = [step(tf.constant(position)) for position in range(8)]
    np.testing.assert_allclose(rows, filter_draws(draws), atol=1e-5)


@both
@pytest.mark.parametrize("compiled", [False, True])
def test_a_position_out_of_order_gives_no_noise_that_hides_less(
    style, compiled
):
    clipped = noise_sequences.make_sum((3,))

    def run(positions):
        generator = noise_sequences.make_generator(
            style, clipped, gaussian.NoiseSource()
        )

        def step(position):
            noised = generator.add_noise(clipped, stddev=1.0, position=position)
            return noised.gradients[0]

        if compiled:
            step = tf.function(step)
        rows = np.array([step(tf.constant(p)) for p in positions])
        assert np.all(np.isnan(rows) == np.isnan(rows[:, :1]))
        return np.isnan(rows[:, 0]).tolist()

    assert run([0, 1, 2, 0, 1]) == [False] * 5
    # A generator that was made in the middle, one that skips, one that repeats.
    assert run([3]) == [True]
    assert run([0, 2]) == [False, True]
    assert run([0, 1, 1]) == [False, False, True]


def test_a_position_past_the_release_gives_no_noise_that_hides_less():
    clipped = noise_sequences.make_sum((3,))
    generator = noise_sequences.make_generator(
        STYLES[1], clipped, gaussian.NoiseSource()
    )
    rows = np.array([draw(generator, clipped, t) for t in range(9)])
    assert np.all(np.isfinite(rows[:8]))
    assert np.all(np.isnan(rows[8]))


@both
def test_another_model_is_refused(style):
    clipped = noise_sequences.make_sum((3,), (2,))
    generator = noise_sequences.make_generator(
        style, clipped, gaussian.NoiseSource()
    )
    for shapes in ([(2,), (3,)], [(3,)], [(3,), (2,), (1,)]):
        with pytest.raises(
            ValueError, match="clipped must be of the variables"
        ):
            draw(generator, noise_sequences.make_sum(*shapes), 0)


@both
def test_a_model_without_weights_has_no_noise(style):
    clipped = noise_sequences.make_sum()
    generator = noise_sequences.make_generator(
        style, clipped, gaussian.NoiseSource()
    )
    noised = generator.add_noise(clipped, stddev=1.0, position=0)
    assert noised.gradients == ()


def test_low_precision_of_the_model_does_not_reach_the_noise():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        clipped = noise_sequences.make_sum((3,))
        draws = make_draws(4, 3)
        generator = noise_sequences.make_generator(
            STYLES[0], clipped, noise_sequences.KnownDraws(draws)
        )
        layer = keras.layers.Lambda(
            lambda x: tf.stack(
                [
                    generator.add_noise(
                        clipped, stddev=1.0, position=position
                    ).gradients[0]
                    for position in range(4)
                ]
            ),
            dtype="mixed_float16",
        )
        rows = layer(np.zeros((1, 1)))
    finally:
        keras.config.set_dtype_policy(before)
    assert rows.dtype == "float32"
    np.testing.assert_allclose(rows, filter_draws(draws), atol=1e-6)


def test_styles_are_correlated_styles():
    for style in STYLES:
        assert isinstance(style, correlated_style.CorrelatedStyle)
        assert style.steps_per_release == style.num_steps == 8
