# SPDX-License-Identifier: Apache-2.0
"""Moving clips: bounded at every scale, and they go where they should."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_privacy
from tests import oracles
from tf_privacy.clipping import engine
from tf_privacy.clipping import microbatches
from tf_privacy.clipping import moving_clips

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype("float32")
Y = RNG.normal(size=(12, 3)).astype("float32")
STYLES = [
    tf_privacy.QuantileClipping(l2_norm_clip=0.5),
    tf_privacy.MeanNormClipping(l2_norm_clip=0.5),
    tf_privacy.ClipSchedule(
        schedule=keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    ),
]


def make_model():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )
    model.compile("sgd", "mse")
    return model


def unit_norms(model):
    return np.array(
        [
            oracles.global_norm(each)
            for each in oracles.loop_gradients(model, X, Y)
        ]
    )


def at(style, scale):
    return moving_clips.CurrentClip.of(
        style, tf.convert_to_tensor(scale, tf.float32)
    )


def as_numpy(clipped):
    return np.concatenate([np.ravel(g) for g in clipped.gradients])


@pytest.mark.parametrize("style", STYLES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 8.0, 1e6])
def test_no_unit_passes_the_bound_at_any_scale(style, scale):
    norms = np.concatenate([[0.0], np.logspace(-15, 15, 200)])
    squared = tf.constant(np.square(norms), tf.float32)
    current = at(style, scale)
    (factors,), present = current.compute_factors([squared])
    assert np.all(present)
    lengths = np.array(factors) * norms
    assert np.all(lengths <= 0.5 * (1 + 1e-6))
    # Scaled back, it is a clip at the clip in force.
    expected = np.minimum(norms, 0.5 * scale) / scale
    np.testing.assert_allclose(lengths, expected, rtol=1e-5)


@pytest.mark.parametrize("style", STYLES[:2], ids=lambda s: type(s).__name__)
def test_no_unit_moves_the_query_by_more_than_its_sensitivity(style):
    norms = np.concatenate(
        [[0.0, np.nan, np.inf, -1.0], np.logspace(-19, 19, 50)]
    )
    for scale in (1e-6, 1.0, 1e6):
        parts = [
            float(at(style, scale).sum_query(tf.constant([n], tf.float32)))
            for n in norms
        ]
        assert np.all(np.abs(parts) <= style.query_sensitivity)
        # NaN, inf and NaN from a negative number count as absent.
        assert parts[1] == parts[2] == 0.0
        total = at(style, scale).sum_query(tf.constant(norms, tf.float32))
        np.testing.assert_allclose(total, sum(parts), rtol=1e-5)


class _Lying(tf_privacy.QuantileClipping):
    def query_values(self, norms):
        return 1e6 * norms


def test_a_query_of_the_users_own_is_held_to_its_sensitivity():
    style = _Lying(l2_norm_clip=1.0)
    part = style.sum_query(tf.constant([4.0, 9.0]))
    assert float(part) == 2 * 0.5


def test_padding_does_not_answer():
    style = STYLES[0]
    counted = tf.constant([True, False, False])
    part = style.sum_query(tf.constant([0.01, 0.01, 9.0]), counted)
    assert float(part) == 0.5


@pytest.mark.parametrize("way", ["whole", "pieces", "compiled"])
@pytest.mark.parametrize("style", STYLES, ids=lambda s: type(s).__name__)
def test_the_sum_is_the_loops_in_units_of_the_scale(style, way):
    model = make_model()
    norms = unit_norms(model)
    scale = float(np.median(norms)) / 0.5
    settings = engine.ClipSettings(style=at(style, scale))
    if way == "whole":
        data = engine.prepare_data((X, Y, None), settings)
        clipped = engine.clip_prepared(model, data, settings).clipped_sum
    else:
        clipped = microbatches.sum_over_microbatches(
            model,
            (X, Y, None),
            settings,
            units_per_piece=5,
            compiled=way == "compiled",
            observe=lambda step, piece, counted: None,
        )
    expected, _ = oracles.loop_clipped_sum(
        model, X, Y, l2_norm_clip=0.5 * scale
    )
    expected = np.concatenate([np.ravel(g) for g in expected])
    np.testing.assert_allclose(
        as_numpy(clipped) * scale, expected, rtol=1e-4, atol=1e-6
    )
    assert clipped.l2_sensitivity == 0.5
    if style is STYLES[0]:
        count = np.sum(norms <= 0.5 * scale) - len(norms) / 2
        assert float(clipped.query_sum) == count
    elif style is STYLES[1]:
        mean = np.sum(np.minimum(norms / (2.0 * 0.5 * scale), 1.0))
        np.testing.assert_allclose(clipped.query_sum, mean, rtol=1e-5)
    else:
        assert clipped.query_sum is None


def test_sums_of_pieces_add_up_with_their_queries():
    model = make_model()
    norms = unit_norms(model)
    clip = at(STYLES[0], 2.0)
    parts = [
        tf_privacy.clipped_gradients(
            model, X[rows], Y[rows], l2_norm_clip=clip
        ).clipped_sum
        for rows in (slice(0, 5), slice(5, 12))
    ]
    whole = parts[0] + parts[1]
    assert float(whole.query_sum) == np.sum(norms <= 1.0) - 6
    plain = tf_privacy.clipped_gradients(model, X, Y, l2_norm_clip=0.5)
    with pytest.raises(ValueError, match="^other must be a ClippedSum of the"):
        parts[0] + plain.clipped_sum


def follow(style, norms, *, num_steps=1000, stddev=0.0):
    """Returns the clips of a run on units of given norms."""
    noise = stddev * np.random.default_rng(1).normal(size=num_steps)
    squared = tf.constant(np.square(norms), tf.float32)

    @tf.function
    def step(scale, addend):
        query = at(style, scale).sum_query(squared)
        mean = (query + addend) / len(norms)
        return style.next_scale(scale, query_mean=mean, step=1)

    scale, clips = tf.constant(1.0), []
    for addend in noise.astype("float32"):
        scale = step(scale, addend)
        clips.append(float(scale) * style.l2_norm_clip)
    return np.array(clips)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("start", [1e-2, 1e3])
def test_the_quantile_rule_finds_the_quantile(quantile, start):
    norms = np.random.default_rng(0).lognormal(1.0, 1.0, 1000)
    style = tf_privacy.QuantileClipping(
        l2_norm_clip=start, target_quantile=quantile
    )
    clips = follow(style, norms, stddev=50.0)[-100:]
    reached = np.mean(norms[:, None] <= clips)
    assert abs(reached - quantile) < 0.03


@pytest.mark.parametrize("start", [1e-2, 1e3])
def test_the_mean_rule_finds_a_multiple_of_the_mean(start):
    norms = np.random.default_rng(0).uniform(1.0, 3.0, 1000)
    style = tf_privacy.MeanNormClipping(l2_norm_clip=start, multiple=1.1)
    clips = follow(style, norms, stddev=10.0)
    np.testing.assert_allclose(np.mean(clips[-100:]), 1.1 * 2.0, rtol=0.05)


def test_a_schedule_is_followed():
    schedule = keras.optimizers.schedules.ExponentialDecay(2.0, 10, 0.5)
    style = tf_privacy.ClipSchedule(schedule=schedule)
    assert style.l2_norm_clip == 2.0
    for step in (0, 1, 25):
        scale = style.next_scale(1.0, query_mean=None, step=step)
        np.testing.assert_allclose(2.0 * scale, 2.0 * 0.5 ** (step / 10))


@pytest.mark.parametrize("mean", [np.nan, np.inf, -np.inf])
def test_a_mean_that_is_no_number_moves_the_clip_to_no_nonsense(mean):
    for style in STYLES[:2]:
        scale = style.next_scale(
            tf.constant(3.0), query_mean=tf.constant(mean), step=1
        )
        assert 0.1 < float(scale) <= 1e6


@pytest.mark.parametrize("style", STYLES, ids=lambda s: type(s).__name__)
def test_styles_survive_serialisation(style):
    config = keras.saving.serialize_keras_object(style)
    restored = keras.saving.deserialize_keras_object(config)
    assert type(restored) is type(style)
    assert restored.get_config() == style.get_config()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"l2_norm_clip": 0.0}, "l2_norm_clip must be"),
        ({"target_quantile": 1.5}, "target_quantile must be"),
        ({"learning_rate": np.nan}, "learning_rate must be"),
        ({"count_stddev": 0.0}, "count_stddev must be"),
    ],
)
def test_the_quantile_rule_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        tf_privacy.QuantileClipping(**{"l2_norm_clip": 1.0, **arguments})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"multiple": -1.0}, "multiple must be"),
        ({"bound": 1.0}, "bound must be"),
        ({"query_noise_multiplier": np.inf}, "query_noise_multiplier must be"),
    ],
)
def test_the_mean_rule_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        tf_privacy.MeanNormClipping(l2_norm_clip=1.0, **arguments)


def test_a_schedule_must_be_one_of_keras():
    with pytest.raises(TypeError, match="^schedule must be"):
        tf_privacy.ClipSchedule(schedule=lambda step: 1.0)
    rising = keras.optimizers.schedules.PolynomialDecay(0.0, 10, 1.0)
    with pytest.raises(ValueError, match="^l2_norm_clip must be"):
        tf_privacy.ClipSchedule(schedule=rising)
