# SPDX-License-Identifier: Apache-2.0
"""Tests of the privacy statement."""

import json
import math

import pytest

from tf_privacy import accounting
from tf_privacy.accounting import statement_text


def make_phase(**changes):
    settings = {
        "noise_multiplier": 1.1,
        "sampling_probability": 256 / 60000,
        "num_steps": 14063,
        "l2_norm_clip": 1.0,
        "expected_batch_size": 256,
        "num_examples": 60000,
    }
    return accounting.Phase(**{**settings, **changes})


def make(*phases, delta=1e-5, **extra):
    return accounting.make_privacy_statement(phases, delta=delta, **extra)


def read(text):
    return " ".join(str(text).split())


def test_states_what_ran():
    made = make(make_phase())
    assert made.epsilon_rdp == pytest.approx(2.597, abs=1e-3)
    assert made.epsilon == pytest.approx(2.3817, rel=5e-4)
    assert 0.999 * made.epsilon < made.epsilon_lower < made.epsilon
    assert 0.5 < made.max_attack_accuracy < 0.62
    assert made.num_steps == 14063
    assert made.epsilon_without_amplification > 1000 * made.epsilon


def test_user_batches_are_not_amplified():
    made = make(make_phase(sampling_probability=None, num_steps=60))
    assert made.epsilon == made.epsilon_without_amplification
    assert 54.0458178 < made.epsilon <= 54.0458188
    assert "no amplification" in read(made)
    mixed = make(make_phase(), make_phase(sampling_probability=None))
    assert mixed.epsilon > make(make_phase()).epsilon


def test_text_is_plain_and_rounded_up():
    text = str(make(make_phase()))
    assert "epsilon = 2.383 at delta = 1e-05, for each example." in text
    assert "with and without any one example" in read(text)
    assert "raw data" in read(text)
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_fixed_seed_is_not_private():
    made = make(make_phase(), fixed_noise_seed=True)
    assert not made.is_private and made.epsilon == math.inf
    assert "NOT PRIVATE" in str(made)
    assert "generated from a fixed seed" in read(made)
    assert json.loads(made.to_json())["epsilon"] is None
    assert made.to_dict()["is_private"] is False


def test_json_holds_every_field():
    made = make(make_phase(), make_phase(num_steps=5), notes=["Resumed."])
    fields = json.loads(made.to_json())
    assert fields == made.to_dict()
    assert fields["phases"][1]["num_steps"] == 5
    assert fields["phases"][0]["sampling"] == "poisson"
    assert fields["neighboring_relation"] == "add_or_remove_one"
    assert "certified contour integral" in fields["accountant"]
    assert fields["notes"] == ["Resumed."]
    assert fields["is_private"] is True


def test_notes_a_delta_that_is_too_large():
    assert "not below 1 / num_examples" in read(make(make_phase(), delta=1e-3))
    assert not make(make_phase()).notes


def test_no_phase_and_no_step_spend_nothing():
    for made in (make(), make(make_phase(num_steps=0))):
        assert made.epsilon == made.epsilon_without_amplification == 0.0
        assert "No training step was taken." in str(made)


@pytest.mark.parametrize(
    "name, value",
    [
        ("noise_multiplier", float("nan")),
        ("sampling_probability", 0.0),
        ("num_steps", -1),
        ("l2_norm_clip", 0.0),
        ("expected_batch_size", float("nan")),
        ("num_examples", 0),
    ],
)
def test_phase_refuses_bad_values(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        make_phase(**{name: value})


def test_replacing_one_costs_more():
    relation = accounting.NeighboringRelation.REPLACE_ONE
    made = make(make_phase(), neighboring_relation=relation)
    assert made.epsilon > make(make_phase()).epsilon
    assert "with another in its place" in read(made)


def test_refuses_bad_delta_and_no_relation():
    with pytest.raises(ValueError, match="^delta must be"):
        make(make_phase(), delta=0.0)
    with pytest.raises(ValueError, match="^neighboring_relation must be"):
        make(
            make_phase(),
            neighboring_relation="replace_one",
        )


@pytest.mark.parametrize(
    "value, text",
    [
        (2.59601, "2.597"),
        (2.0, "2"),
        (0.0, "0"),
        (99999.0, "1e+05"),
        (1.23401e-7, "1.235e-07"),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_rounded_up(value, text):
    assert statement_text.format_up(value) == text
    assert float(text) >= value
