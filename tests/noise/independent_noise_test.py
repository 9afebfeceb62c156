# SPDX-License-Identifier: Apache-2.0
"""Noise schedules: which update has which noise."""

import keras
import numpy as np
import pytest

import tf_privacy
from tf_privacy.noise import independent_noise

SCHEDULE = tf_privacy.NoiseSchedule(
    boundaries=(3, 7), multipliers=(2.0, 1.5, 1.0)
)
LEVELS = [0] * 3 + [1] * 4 + [2] * 10


def test_each_update_is_in_its_stretch():
    chosen = [int(SCHEDULE.choose_level(np.int32(i))) for i in range(17)]
    assert chosen == LEVELS
    assert SCHEDULE.noise_multiplier == 1.0


@pytest.mark.parametrize("start", range(10))
@pytest.mark.parametrize("num_steps", [0, 1, 5, 7])
def test_the_stretches_of_updates_to_come_are_counted(start, num_steps):
    ahead = LEVELS[start : start + num_steps]
    expected = [ahead.count(level) for level in range(3)]
    assert SCHEDULE.count_levels(start, num_steps) == expected


def test_a_number_is_independent_noise():
    style = independent_noise.as_style(1.1)
    assert style == independent_noise.IndependentNoise(noise_multiplier=1.1)
    assert style.noise_multipliers == (1.1,)
    assert style.count_levels(5, 9) == [9]
    assert independent_noise.as_style(SCHEDULE) is SCHEDULE


def test_a_decay_is_nowhere_below_its_curve():
    schedule = tf_privacy.NoiseSchedule.decay(
        num_steps=100, start_multiplier=3.0, end_multiplier=1.0, num_levels=5
    )
    assert len(schedule.multipliers) == 5
    for step in range(150):
        level = int(schedule.choose_level(np.int32(step)))
        curve = 3.0 - 2.0 * min(step, 99) / 99
        assert schedule.multipliers[level] >= curve - 1e-12


def test_a_schedule_survives_serialisation():
    config = keras.saving.serialize_keras_object(SCHEDULE)
    assert keras.saving.deserialize_keras_object(config) == SCHEDULE


@pytest.mark.parametrize(
    "boundaries, multipliers, message",
    [
        ((3, 3), (1.0, 1.0, 1.0), "boundaries must rise"),
        ((3,), (1.0,), "boundaries must rise"),
        ((0,), (1.0, 1.0), "boundaries must be"),
        ((3,), (1.0, 0.0), "multipliers must be"),
        ((3,), (1.0, np.nan), "multipliers must be"),
    ],
)
def test_a_schedule_refuses(boundaries, multipliers, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        tf_privacy.NoiseSchedule(boundaries=boundaries, multipliers=multipliers)
