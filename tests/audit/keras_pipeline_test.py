# SPDX-License-Identifier: Apache-2.0
"""Tests of what real steps release about canaries."""

import keras
import numpy as np
import pytest

import tf_privacy
from tf_privacy.audit import keras_pipeline


def make_private(model, loss, *, optimizer=None):
    model = tf_privacy.privatize(model)
    model.compile(
        optimizer=optimizer
        or tf_privacy.DPSGD(0.25, l2_norm_clip=2.0, noise_multiplier=1e-3),
        loss=loss,
    )
    return model


def test_dirac_steps_are_in_units_of_the_clip():
    is_member = np.arange(40) % 2 == 0
    steps = keras_pipeline.record_dirac_steps(
        make_private,
        is_member=is_member,
        l2_norm_clip=2.0,
        expected_batch_size=10,
        num_steps=30,
    )
    assert steps.shape == (30, 40)
    # Noise of 1e-3 shows who was in which batch; 6 standard deviations.
    near_0, near_1 = abs(steps) < 6e-3, abs(steps - 1.0) < 6e-3
    assert np.all(near_0[:, ~is_member])
    assert np.all(near_0 | near_1)
    # 600 coins of probability 1/4: outside of this once in 10^6.
    assert 98 <= near_1.sum() <= 205


@pytest.mark.parametrize(
    "inner",
    [
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.optimizers.SGD(0.1, weight_decay=0.1),
        keras.optimizers.SGD(0.1, clipnorm=0.5),
        keras.optimizers.SGD(0.1, global_clipnorm=0.5),
        keras.optimizers.Adam(0.1),
    ],
)
def test_other_inner_optimizers_are_refused(inner):
    optimizer = tf_privacy.DPOptimizer(
        inner, l2_norm_clip=1.0, noise_multiplier=1.0
    )
    with pytest.raises(ValueError, match="make_private must compile with"):
        keras_pipeline.record_dirac_steps(
            lambda model, loss: make_private(model, loss, optimizer=optimizer),
            is_member=np.ones(8, dtype=bool),
            l2_norm_clip=1.0,
            expected_batch_size=4,
            num_steps=2,
        )


def test_steps_that_cannot_be_seen_one_by_one_are_refused():
    def make(model, loss):
        model = tf_privacy.privatize(model)
        optimizer = tf_privacy.DPSGD(
            0.1, l2_norm_clip=1.0, noise_multiplier=1.0
        )
        model.compile(optimizer=optimizer, loss=loss, steps_per_execution=2)
        return model

    with pytest.raises(ValueError, match="make_private must give a model that"):
        keras_pipeline.record_dirac_steps(
            make,
            is_member=np.ones(8, dtype=bool),
            l2_norm_clip=1.0,
            expected_batch_size=4,
            num_steps=4,
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda model, loss: None,
        lambda model, loss: model,
        lambda model, loss: model.compile("sgd", loss),
        lambda model, loss: make_private(model, "mse"),
    ],
)
def test_what_does_not_train_on_the_given_loss_is_refused(make):
    with pytest.raises(ValueError, match="make_private must return the model"):
        keras_pipeline.record_dirac_steps(
            make,
            is_member=np.ones(8, dtype=bool),
            l2_norm_clip=1.0,
            expected_batch_size=4,
            num_steps=2,
        )


def test_a_schedule_is_read_at_the_step_it_is_for():
    rate = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    optimizer = tf_privacy.DPSGD(rate, l2_norm_clip=2.0, noise_multiplier=1e-3)
    steps = keras_pipeline.record_dirac_steps(
        lambda model, loss: make_private(model, loss, optimizer=optimizer),
        is_member=np.ones(20, dtype=bool),
        l2_norm_clip=2.0,
        expected_batch_size=20,
        num_steps=6,
    )
    np.testing.assert_allclose(steps, 1.0, atol=8e-3)
