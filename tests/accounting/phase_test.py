# SPDX-License-Identifier: Apache-2.0
"""A phase is the mechanism that its noise is, and says so."""

import pytest

from tf_privacy import accounting

RELATION = accounting.NeighboringRelation


def make_phase(**changes):
    settings = {
        "noise_multiplier": 1.1,
        "sampling_probability": 0.01,
        "num_steps": 100,
        "l2_norm_clip": 1.0,
        "expected_batch_size": 60.0,
        **changes,
    }
    return accounting.Phase(**settings)


TREE = {
    "sampling_probability": None,
    "family": "tree",
    "noise_multiplier": 4.0,
    "sensitivity": 2.0,
    "steps_per_release": 30,
    "min_separation": 10,
}


def epsilon_of(*mechanisms):
    return accounting.compute_epsilon_of(mechanisms, delta=1e-5)


def test_a_plain_phase_is_dp_sgd():
    phase = make_phase()
    assert phase.make_mechanism() == accounting.SampledGaussianSteps(
        noise_multiplier=1.1, sampling_probability=0.01, num_steps=100
    )
    assert phase.without_amplification().sampling_probability == 1.0
    assert phase.is_plain
    assert not phase.noise


@pytest.mark.parametrize(
    "num_steps, releases", [(0, 0), (1, 1), (30, 1), (31, 2)]
)
@pytest.mark.parametrize("family", ["tree", "matrix"])
def test_a_release_that_was_begun_counts_in_full(family, num_steps, releases):
    phase = make_phase(**{**TREE, "family": family, "num_steps": num_steps})
    expected = accounting.SelfComposed(accounting.Gaussian(2.0), releases)
    assert epsilon_of(phase.make_mechanism()) == epsilon_of(expected)
    assert f"releases of {30} steps" in phase.noise


def test_noise_on_a_grid_is_accounted_as_such():
    phase = make_phase(family="discrete_gaussian")
    step = accounting.PoissonSampled(accounting.DiscreteGaussian(1.1), 0.01)
    expected = accounting.SelfComposed(step, 100)
    assert epsilon_of(phase.make_mechanism()) == epsilon_of(expected)
    # Never the tight bound of the continuous Gaussian.
    plain = make_phase().make_mechanism()
    assert epsilon_of(phase.make_mechanism()) > epsilon_of(plain)


def state(*phases, relation=RELATION.ZERO_OUT_ONE):
    return accounting.make_privacy_statement(
        phases, delta=1e-5, neighboring_relation=relation
    )


def test_a_statement_says_what_correlated_noise_rests_on():
    made = state(make_phase(**TREE, max_participations=2))
    text = " ".join(str(made).split())
    assert "in steps at least 10 apart, and at most 2 times" in text
    assert "no amplification" in text
    assert "tf-privacy-epsilon" not in text
    # Without trust in the order, a unit may add to all 30 steps: 60 clips, as
    # a bound of what 30 participations of 2 add.
    worst = accounting.Gaussian(4.0 / 60.0)
    releases = accounting.SelfComposed(worst, 4)
    assert made.epsilon_without_amplification == epsilon_of(releases)
    with pytest.raises(ValueError, match="^neighboring_relation must be"):
        state(make_phase(**TREE), relation=RELATION.ADD_OR_REMOVE_ONE)


def test_a_statement_says_how_a_clip_moved_and_rows_were_selected():
    made = state(
        make_phase(moving_clip=True, query_stddev=25.6, selection_fraction=0.1)
    )
    text = " ".join(str(made).split())
    assert "l2_norm_clip at first 1," in text
    assert "noised query, of noise 25.6 over sensitivity" in text
    assert "with 0.1 of the budget" in text
    assert "a clip on a schedule" in str(state(make_phase(moving_clip=True)))


def test_rounding_is_told_of_the_noise_that_has_it():
    assert "floating-point" in str(state(make_phase()))
    grid = make_phase(family="discrete_gaussian")
    assert "floating-point" not in str(state(grid))
    assert "Rounding before the noise" in str(state(grid))
    assert "floating-point" in str(state(grid, make_phase()))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"family": "laplace"}, "family must be"),
        ({**TREE, "sampling_probability": 0.1}, "sampling_probability must be"),
        ({**TREE, "sensitivity": 0.0}, "sensitivity must be"),
        ({"num_steps": -1}, "num_steps must be"),
    ],
)
def test_a_phase_refuses(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make_phase(**changes)
