# SPDX-License-Identifier: Apache-2.0
"""DPAdamBC learns the size of the noise from the optimizer around it."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_privacy
from tf_privacy.noise import independent_noise
from tf_privacy.noise import tree_noise
from tf_privacy.optimizers import presets

STYLES = {
    "number": (1.5, [1.5] * 4),
    "schedule": (
        independent_noise.NoiseSchedule(
            boundaries=(2,), multipliers=(3.0, 1.0)
        ),
        [3.0, 3.0, 1.0, 1.0],
    ),
}


def make_sum(variable, sensitivity=0.5):
    return tf_privacy.ClippedSum(
        gradients=(tf.zeros(variable.shape),),
        variables=(variable,),
        l2_sensitivity=sensitivity,
    )


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("compiled", [False, True])
def test_average_of_the_noise_is_that_of_the_steps(style, compiled):
    noise, multipliers = STYLES[style]
    optimizer = presets.DPAdamBC(
        0.1,
        beta_2=0.9,
        l2_norm_clip=0.5,
        noise_multiplier=noise,
        expected_batch_size=8,
    )
    variable = keras.Variable(np.zeros(50000), dtype="float32")
    optimizer.build([variable])
    clipped = make_sum(variable)

    def step():
        optimizer.apply(clipped)

    if compiled:
        step = tf.function(step)
    expected = 0.0
    for multiplier in multipliers:
        step()
        expected += 0.1 * ((multiplier * 0.5 / 8) ** 2 - expected)
    inner = optimizer.inner_optimizer
    assert float(inner._noise_velocity) == pytest.approx(expected, rel=1e-5)
    # And it is what the squares of the noise average to.
    squares = float(tf.reduce_mean(inner._velocities[0].value))
    assert squares == pytest.approx(expected, rel=0.03)


def test_correlated_noise_tells_the_size_of_each_step():
    optimizer = presets.DPAdamBC(
        0.1,
        beta_2=0.9,
        l2_norm_clip=0.5,
        noise_multiplier=tree_noise.TreeNoise(
            noise_multiplier=1.5, num_steps=8, min_separation=8
        ),
        expected_batch_size=8,
    )
    variable = keras.Variable(np.zeros(50000), dtype="float32")
    clipped = make_sum(variable)
    for _ in range(8):
        optimizer.apply(clipped)
    inner = optimizer.inner_optimizer
    squares = float(tf.reduce_mean(inner._velocities[0].value))
    assert squares == pytest.approx(float(inner._noise_velocity), rel=0.05)


def test_moving_clip():
    model = tf_privacy.DPSequential([keras.Input((3,)), keras.layers.Dense(1)])
    optimizer = presets.DPAdamBC(
        0.1,
        beta_2=0.0,
        l2_norm_clip=tf_privacy.QuantileClipping(l2_norm_clip=4.0),
        noise_multiplier=1.0,
        expected_batch_size=8,
    )
    model.compile(optimizer, "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)) / 50, rng.normal(size=(8, 1)) / 50
    for _ in range(5):
        clip = 4.0 * float(optimizer.current_clip.scale)
        model.train_on_batch(x, y)
        variance = float(optimizer.inner_optimizer._noise_velocity)
        # The query takes up to 2.1% of the noise.
        assert (clip / 8) ** 2 <= variance <= (1.03 * clip / 8) ** 2
    assert clip < 3.9


def test_configuration_survives_json():
    optimizer = presets.DPAdamBC(
        0.25,
        noise_floor=0.5,
        weight_decay=0.125,
        l2_norm_clip=2.0,
        noise_multiplier=1.0,
    )
    config = keras.saving.serialize_keras_object(optimizer)
    restored = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(config))
    )
    assert type(restored) is presets.DPAdamBC
    assert restored.get_config() == optimizer.get_config()
    assert restored.inner_optimizer.noise_floor == 0.5
