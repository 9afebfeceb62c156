# SPDX-License-Identifier: Apache-2.0
"""Tests of several mechanisms on the same data."""

import pytest

from tf_privacy.accounting import budget
from tf_privacy.accounting import composition
from tf_privacy.accounting import epsilon_curve
from tf_privacy.accounting import mechanism
from tf_privacy.accounting import ranges
from tf_privacy.accounting import rdp_accountant


def make(noise_multiplier, sampling_probability, num_steps):
    return mechanism.SampledGaussianSteps(
        noise_multiplier=noise_multiplier,
        sampling_probability=sampling_probability,
        num_steps=num_steps,
    )


PHASES = [make(1.1, 0.01, 500), make(0.8, 0.02, 100), make(2.0, 1.0, 7)]


def test_parts_compose_to_the_whole():
    parts = [make(1.1, 0.01, n) for n in (1, 499, 0, 1500)]
    whole = composition.compute_epsilon_of([make(1.1, 0.01, 2000)], delta=1e-5)
    got = composition.compute_epsilon_of(parts, delta=1e-5)
    assert got == pytest.approx(whole, rel=1e-12)


def test_order_of_phases_does_not_matter_and_each_adds():
    epsilon = composition.compute_epsilon_of(PHASES, delta=1e-5)
    turned = composition.compute_epsilon_of(PHASES[::-1], delta=1e-5)
    assert turned == pytest.approx(epsilon, rel=1e-12)
    for i in range(3):
        fewer = PHASES[:i] + PHASES[i + 1 :]
        assert composition.compute_epsilon_of(fewer, delta=1e-5) < epsilon


def test_unsampled_gaussians_compose_in_closed_form():
    # Noise s in T steps equals noise s / sqrt(T) in one.
    many = composition.compute_epsilon_of([make(10.0, 1.0, 100)], delta=1e-6)
    one = composition.compute_epsilon_of([make(1.0, 1.0, 1)], delta=1e-6)
    assert many == pytest.approx(one, rel=1e-12)


def test_nothing_costs_nothing():
    for nothing in ([], [make(1.0, 0.1, 0)]):
        assert composition.compute_epsilon_of(nothing, delta=1e-5) == 0.0
        assert composition.compute_delta_of(nothing, epsilon=0.0) == 0.0


def test_delta_of_inverts_epsilon_of():
    epsilon = composition.compute_epsilon_of(PHASES, delta=1e-5)
    delta = composition.compute_delta_of(PHASES, epsilon=epsilon)
    # Both are upper bounds, each with a contour of its own.
    assert delta == pytest.approx(1e-5, rel=1e-4)
    epsilon, _ = rdp_accountant.compute_rdp_epsilon_of(PHASES, delta=1e-5)
    delta = rdp_accountant.compute_rdp_delta_of(PHASES, epsilon=epsilon)
    assert delta == pytest.approx(1e-5, rel=1e-9)


@pytest.mark.parametrize("target", [0.3, 3.0, 30.0])
@pytest.mark.parametrize("probability", [1e-5, 0.004, 1.0])
def test_max_steps_is_the_last_step_within_the_target(target, probability):
    setting = {"noise_multiplier": 1.1, "sampling_probability": probability}
    steps = epsilon_curve.compute_max_steps(
        spent=[], **setting, target_epsilon=target, target_delta=1e-5
    )
    run = {**setting, "delta": 1e-5}
    assert budget.compute_epsilon(**run, num_steps=steps) <= target
    if steps < ranges.MAX_NUM_STEPS:
        assert budget.compute_epsilon(**run, num_steps=steps + 1) > target


def test_max_steps_counts_what_was_spent():
    setting = {
        "noise_multiplier": 1.1,
        "sampling_probability": 0.01,
        "target_epsilon": 3.0,
        "target_delta": 1e-5,
    }
    fresh = epsilon_curve.compute_max_steps(spent=[], **setting)
    later = epsilon_curve.compute_max_steps(
        spent=[make(1.1, 0.01, 500)], **setting
    )
    assert later == fresh - 500
    over = epsilon_curve.compute_max_steps(
        spent=[make(1.1, 0.01, fresh + 1)], **setting
    )
    assert over == 0


def test_max_steps_ends_with_the_range_of_the_accountant():
    steps = epsilon_curve.compute_max_steps(
        spent=[],
        noise_multiplier=1000.0,
        sampling_probability=1e-8,
        target_epsilon=1.0,
        target_delta=1e-5,
    )
    assert steps == ranges.MAX_NUM_STEPS


def test_curve_equals_composition():
    curve = epsilon_curve.EpsilonCurve(
        spent=PHASES,
        noise_multiplier=1.3,
        sampling_probability=0.01,
        delta=1e-5,
    )
    for steps in [0, 1, 1000]:
        wanted = composition.compute_epsilon_of(
            [*PHASES, make(1.3, 0.01, steps)], delta=1e-5
        )
        assert curve.compute_epsilon(steps) == pytest.approx(wanted, rel=1e-12)


def test_cheap_bound_of_the_curve_is_one_and_computes_seldom(monkeypatch):
    curve = epsilon_curve.EpsilonCurve(
        spent=[], noise_multiplier=1.3, sampling_probability=0.01, delta=1e-5
    )
    asked = set()
    compute = curve.compute_epsilon
    monkeypatch.setattr(
        curve, "compute_epsilon", lambda n: asked.add(n) or compute(n)
    )
    for steps in range(1000, 2000):
        bound = curve.bound_epsilon(steps)
        if steps % 97 == 0:
            assert compute(steps) <= bound <= 1.06 * compute(steps)
    assert len(asked) == 11


@pytest.mark.parametrize(
    "name, value",
    [
        ("target_epsilon", 0.0),
        ("target_epsilon", float("nan")),
        ("target_delta", 0.0),
        ("target_delta", float("nan")),
        ("noise_multiplier", float("nan")),
    ],
)
def test_refuses_bad_targets(name, value):
    arguments = {
        "noise_multiplier": 1.0,
        "sampling_probability": 0.01,
        "target_epsilon": 1.0,
        "target_delta": 1e-5,
        name: value,
    }
    with pytest.raises(ValueError, match=f"^{name} must be"):
        epsilon_curve.compute_max_steps(spent=[], **arguments)
