# SPDX-License-Identifier: Apache-2.0
"""Tests of the table of choices."""

import json
import math

import pytest

from tf_privacy import accounting

GOOD = {
    "num_examples": 50_000,
    "target_epsilon": 2.0,
    "target_delta": 1e-5,
    "num_epochs": 10,
}


def test_every_choice_meets_the_target_with_the_least_noise():
    made = accounting.plan(**GOOD, expected_batch_sizes=[100, 1000, 50_000])
    for choice in made.choices:
        run = {
            "sampling_probability": choice.expected_batch_size / 50_000,
            "num_steps": choice.num_steps,
            "delta": 1e-5,
        }
        epsilon = accounting.compute_epsilon(
            noise_multiplier=choice.noise_multiplier, **run
        )
        assert epsilon == choice.epsilon <= 2.0
        less = accounting.compute_epsilon(
            noise_multiplier=choice.noise_multiplier * (1 - 1e-5), **run
        )
        assert less > 2.0


def test_signal_rises_with_the_batch_at_fixed_epochs():
    made = accounting.plan(**GOOD)
    sizes = [choice.expected_batch_size for choice in made.choices]
    assert sizes == [1 << k for k in range(7, 15)]
    signals = [choice.signal_to_noise for choice in made.choices]
    noises = [choice.noise_of_mean for choice in made.choices]
    assert signals == sorted(signals) and noises == sorted(noises)[::-1]
    first = made.choices[0]
    wanted = math.sqrt(first.num_steps) * 128 / first.noise_multiplier
    assert first.signal_to_noise == pytest.approx(wanted)


def test_fixed_steps_and_json():
    settings = {**GOOD, "num_epochs": None, "num_steps": 300}
    made = accounting.plan(**settings, expected_batch_sizes=[500])
    fields = json.loads(made.to_json())
    assert fields == made.to_dict()
    assert fields["choices"][0]["num_epochs"] == pytest.approx(3.0)


def test_tiny_data_still_has_a_choice():
    made = accounting.plan(**{**GOOD, "num_examples": 5})
    assert [c.expected_batch_size for c in made.choices] == [1, 2]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_examples": 0}, "num_examples must be"),
        ({"num_epochs": None}, "num_epochs must be given"),
        ({"num_steps": 5}, "num_epochs must be given"),
        ({"num_epochs": float("nan")}, "num_epochs must be"),
        ({"target_epsilon": 1e-12}, "target_epsilon must be attainable"),
        ({"target_delta": 1.0}, "target_delta must be"),
        ({"expected_batch_sizes": [0]}, "expected_batch_sizes must be"),
        ({"expected_batch_sizes": [60_000]}, "expected_batch_sizes must be"),
    ],
)
def test_refuses_bad_values(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        accounting.plan(**{**GOOD, **changes})
