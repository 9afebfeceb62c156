# SPDX-License-Identifier: Apache-2.0
"""Scale, then privatise; and an Adam that knows the noise: through a step.

Random bounds have a false-alarm probability of at most 1e-6 and detect a
standard deviation that is wrong by 2%.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_privacy
from tests import normality
from tests import oracles
from tf_privacy import accounting

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype("float32")
Y = RNG.normal(size=(12, 3)).astype("float32")
SCALING = tf_privacy.GradientScaling(granularity="axes", decay=0.5)


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


def make_optimizer(inner=None, **changes):
    settings = {
        "l2_norm_clip": 0.5,
        "noise_multiplier": 1e-9,
        "expected_batch_size": 12.0,
        "gradient_scaling": SCALING,
        **changes,
    }
    inner = inner or keras.optimizers.SGD(1.0)
    return tf_privacy.DPOptimizer(inner, **settings)


def feed(optimizer, variables, rng):
    """Lets the scales learn from released gradients of unequal sizes."""
    for _ in range(5):
        gradients = [rng.normal(size=v.shape) * 10.0 for v in variables]
        gradients[0][0] *= 100.0
        optimizer._noise.preconditioner.update(
            [tf.constant(g, tf.float32) for g in gradients]
        )


@pytest.mark.parametrize("granularity", ["variables", "axes", "entries"])
def test_a_step_clips_the_scaled_gradients_and_scales_back(granularity):
    model = make_model()
    scaling = tf_privacy.GradientScaling(granularity=granularity, decay=0.5)
    optimizer = make_optimizer(gradient_scaling=scaling)
    optimizer.build(model.trainable_variables)
    feed(optimizer, model.trainable_variables, np.random.default_rng(1))
    scales = [
        s.multiply(np.ones(v.shape, "float32"))
        for s, v in zip(
            optimizer.current_clip.scales,
            model.trainable_variables,
            strict=True,
        )
    ]
    scales = [np.asarray(s, np.float64) for s in scales]
    assert max(s.max() for s in scales) > 3 * min(s.min() for s in scales)
    expected = [np.zeros(s.shape) for s in scales]
    for gradients in oracles.loop_gradients(model, X, Y):
        scaled = [s * g for s, g in zip(scales, gradients, strict=True)]
        factor = min(1.0, 0.5 / oracles.global_norm(scaled))
        for total, own, scale in zip(expected, scaled, scales, strict=True):
            total += factor * own / scale / 12.0
    before = [np.array(v.value) for v in model.trainable_variables]
    clipped = tf_privacy.clipped_gradients(
        model, X, Y, l2_norm_clip=optimizer.current_clip
    ).clipped_sum
    optimizer.apply(clipped)
    for variable, old, update in zip(
        model.trainable_variables, before, expected, strict=True
    ):
        np.testing.assert_allclose(
            np.array(variable.value) - old, -update, rtol=1e-3, atol=1e-6
        )


def test_noise_is_scaled_back_too():
    optimizer = make_optimizer(noise_multiplier=2.0)
    variable = keras.Variable(np.zeros((2, 200_000)))
    optimizer.build([variable])
    gradient = np.ones((2, 200_000), np.float32)
    gradient[0] *= 10.0
    for _ in range(5):
        optimizer._noise.preconditioner.update([tf.constant(gradient)])
    clip = optimizer.current_clip
    optimizer.apply(
        tf_privacy.ClippedSum(
            gradients=(tf.zeros(variable.shape),),
            variables=(variable,),
            l2_sensitivity=0.5,
            scales=clip.scales,
        )
    )
    ones = np.ones(variable.shape, "float32")
    scale = np.array(clip.scales[0].multiply(ones))[:, 0]
    assert scale[1] > 2 * scale[0]
    for row, own in zip(np.array(variable.value), scale, strict=True):
        normality.check_stddev(row, 2.0 * 0.5 / 12.0 / own)


@pytest.mark.parametrize("granularity", ["variables", "axes", "entries"])
def test_fit_costs_what_it_costs_without_scaling(granularity, tmp_path):
    model = tf_privacy.privatize(make_model())
    model.compile(
        tf_privacy.DPAdam(
            0.01,
            l2_norm_clip=0.5,
            noise_multiplier=1.0,
            microbatch_size=2,
            gradient_scaling=tf_privacy.GradientScaling(
                granularity=granularity
            ),
        ),
        "mse",
    )
    model.fit(X, Y, batch_size=6, epochs=2, verbose=0)
    seen = float(model.optimizer._noise.preconditioner.variables[-2].value)
    assert seen > 0.0
    assert model.privacy_statement(1e-5).epsilon == accounting.compute_epsilon(
        noise_multiplier=1.0,
        sampling_probability=0.5,
        num_steps=4,
        delta=1e-5,
    )
    model.save(tmp_path / "model.keras")
    restored = tf_privacy.load_model(tmp_path / "model.keras")
    again = restored.optimizer._noise.preconditioner.variables
    assert float(again[-2].value) == seen


@pytest.mark.parametrize("style", ["number", "schedule", "moving", "tree"])
def test_adam_is_told_the_noise_of_each_step(style):
    noise = {
        "schedule": tf_privacy.NoiseSchedule(
            boundaries=(1,), multipliers=(4.0, 2.0)
        ),
        "tree": tf_privacy.TreeNoise(
            noise_multiplier=2.0, num_steps=4, min_separation=1
        ),
    }.get(style, 2.0)
    clip = 0.5
    if style == "moving":
        clip = tf_privacy.ClipSchedule(
            schedule=keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
        )
    told = []

    class Listener(tf_privacy.NoiseCorrectedAdam):
        def observe_noise(self, variance):
            told.append(float(variance))
            super().observe_noise(variance)

    optimizer = make_optimizer(
        Listener(0.01),
        l2_norm_clip=clip,
        noise_multiplier=noise,
        gradient_scaling=None,
    )
    variable = keras.Variable(np.zeros(5))
    for _ in range(2):
        optimizer.apply(
            tf_privacy.ClippedSum(
                gradients=(tf.zeros(5),),
                variables=(variable,),
                l2_sensitivity=0.5,
                scale=optimizer.current_clip.scale,
            )
        )
    stddevs = {
        "number": [1.0, 1.0],
        "schedule": [2.0, 1.0],
        "moving": [1.0, 0.5],
        # A leaf; then a node of two steps less that leaf: its draw, and
        # 1/3 of the leaf as its child less the whole of it.
        "tree": [1.0, np.sqrt((1 / 3) * 2 - 1 / 9 + 4 / 9)],
    }[style]
    expected = (np.array(stddevs) / 12.0) ** 2
    np.testing.assert_allclose(told, expected, rtol=1e-5)


def test_what_does_not_go_together_is_refused():
    selection = tf_privacy.RowSelection(threshold=1.0, budget_fraction=0.1)
    with pytest.raises(ValueError, match="^gradient_scaling must be None"):
        make_optimizer(row_selection=selection)
    with pytest.raises(ValueError, match="^inner_optimizer must not correct"):
        make_optimizer(tf_privacy.NoiseCorrectedAdam(0.01))
    with pytest.raises(ValueError, match="^optimizer must be built"):
        make_optimizer().current_clip  # noqa: B018
