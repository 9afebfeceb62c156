# SPDX-License-Identifier: Apache-2.0
"""Tests of the descriptions of what ran."""

import dataclasses

import pytest

from tf_privacy.accounting import mechanism

GOOD = {"noise_multiplier": 1, "sampling_probability": 0.1, "num_steps": 1e3}


def test_holds_checked_values():
    made = mechanism.SampledGaussianSteps(**GOOD)
    assert made.num_steps == 1000 and isinstance(made.num_steps, int)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.num_steps = 1


@pytest.mark.parametrize(
    "name, value",
    [
        (name, value)
        for name, bad in {
            "noise_multiplier": [0, -1.0, 0.009, 1000.1],
            "sampling_probability": [0, -0.1, 1e-9, 1.01],
            "num_steps": [-1, 0.5, 100_000_001],
        }.items()
        for value in [*bad, float("nan"), float("inf"), -float("inf")]
    ],
)
def test_refuses_values_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .* Received: "):
        mechanism.SampledGaussianSteps(**{**GOOD, name: value})


@pytest.mark.parametrize("name", list(GOOD))
@pytest.mark.parametrize("value", [None, "1", True])
def test_refuses_what_is_no_number(name, value):
    with pytest.raises(TypeError, match=f"^{name} must be"):
        mechanism.SampledGaussianSteps(**{**GOOD, name: value})
