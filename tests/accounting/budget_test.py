# SPDX-License-Identifier: Apache-2.0
"""Tests of epsilon, delta and noise of one run."""

import itertools
import math
import warnings

import pytest

from tests.accounting import reference_values
from tf_privacy.accounting import budget
from tf_privacy.accounting import epsilon_curve


def compute(probability, noise, steps, delta):
    return budget.compute_epsilon(
        noise_multiplier=noise,
        sampling_probability=probability,
        num_steps=steps,
        delta=delta,
    )


@pytest.mark.parametrize(
    "q, noise, steps, delta, upper, rdp", reference_values.EPSILONS
)
def test_is_above_the_truth_and_no_looser_than_rdp_elsewhere(
    q, noise, steps, delta, upper, rdp
):
    epsilon = compute(q, noise, steps, delta)
    assert epsilon >= upper
    assert epsilon <= rdp * 1.0002


def test_no_sampling_is_the_composed_gaussian():
    # 60 epochs without amplification: the closed form, by mpmath.
    assert 54.0458178 < compute(1.0, 1.1, 60, 1e-5) <= 54.0458188


def test_zero_steps_cost_nothing():
    run = {
        "noise_multiplier": 1.0,
        "sampling_probability": 0.1,
        "num_steps": 0,
    }
    assert budget.compute_epsilon(**run, delta=1e-5) == 0.0
    assert budget.compute_delta(**run, epsilon=0.0) == 0.0


@pytest.mark.parametrize(
    "q, noise, steps, delta, upper, rdp", reference_values.EPSILONS
)
def test_is_at_most_a_thousandth_above_the_truth(
    q, noise, steps, delta, upper, rdp
):
    assert compute(q, noise, steps, delta) <= upper * 1.001


def test_no_accountant_of_the_field_is_fooled_here():
    # dp-accounting 0.6: its RDP gives 651.8, its PLD 963; exact RDP 496.2.
    assert 487.676 < compute(0.5, 20.0, 10**6, 1e-12) < 487.9
    # Its PLD gives 10.299 here, below the truth of 10.34669.
    assert 10.34668983 < compute(0.01, 1.0, 10**4, 1e-12) < 10.36
    # And inf for any delta below 1e-15; the truth is 5.34416.
    assert 5.34416479 < compute(0.05, 2.0, 200, 1e-30) < 5.35
    # The central limit theorem gives 0.00095; the truth is 0.05799.
    assert 0.05799 < compute(1e-6, 0.5, 1000, 1e-9) < 0.0582
    # Opacus's PRV gives 4.30; the truth is 0.007576565.
    assert 0.00757656 < compute(1e-6, 1.0, 10**6, 1e-12) < 0.00759


@pytest.mark.parametrize("delta", [0.01, 0.5, 0.999])
def test_epsilon_is_never_negative(delta):
    for q, noise in [(0.01, 4.0), (1.0, 10.0), (1e-6, 1.0)]:
        assert compute(q, noise, 10, delta) >= 0.0


def test_is_monotone_in_every_argument():
    base = (0.01, 1.0, 1000, 1e-6)
    for place, values, sign in [
        (0, [1e-6, 1e-4, 0.01, 0.011, 0.1, 0.9, 1 - 1e-12, 1.0], 1),
        (1, [0.05, 0.3, 0.5, 1.0, 1.01, 3.0, 30.0, 1000.0], -1),
        (2, [1, 2, 1000, 1001, 10**5, 10**8], 1),
        (3, [1e-30, 1e-12, 1e-6, 1.1e-6, 1e-3, 0.1], -1),
    ]:
        got = [
            compute(*base[:place], value, *base[place + 1 :])
            for value in values
        ]
        for before, after in itertools.pairwise(got):
            assert sign * (after - before) >= 0, (place, got)


@pytest.mark.parametrize("noise", [0.01, 0.3, 1.0, 30.0, 1000.0])
def test_extremes_are_finite_and_honest(noise):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for q in [1e-8, 1e-5, 0.1, 1 - 1e-9, 1.0]:
            for steps, delta in itertools.product(
                [1, 10**4, 10**8], [1e-100, 1e-12, 1e-5]
            ):
                epsilon = compute(q, noise, steps, delta)
                assert math.isfinite(epsilon) and epsilon >= 0
                # delta at epsilon 0 is about q sqrt(steps / 2 pi) / noise, or
                # more at small noise: only above it may epsilon be 0.
                if epsilon == 0:
                    least = 0.3 * q * math.sqrt(steps) / max(1.0, noise)
                    assert least <= delta


def test_tiny_epsilons_are_not_limited_by_the_orders():
    # At orders <= 4096 the conversion alone costs 0.0067 here.
    assert 0 < compute(1e-8, 1000.0, 10**8, 1e-12) < 1e-5


@pytest.mark.parametrize(
    "name, value",
    [
        ("noise_multiplier", float("nan")),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", float("inf")),
        ("sampling_probability", float("nan")),
        ("sampling_probability", 0.0),
        ("sampling_probability", 1.5),
        ("num_steps", -1),
        ("num_steps", 1.5),
        ("num_steps", float("nan")),
        ("delta", 0.0),
        ("delta", 1.0),
        ("delta", float("nan")),
    ],
)
def test_numerical_failure_is_never_privacy(name, value):
    arguments = {
        "noise_multiplier": 1.0,
        "sampling_probability": 0.01,
        "num_steps": 10,
        "delta": 1e-5,
        name: value,
    }
    with pytest.raises(ValueError, match=f"^{name} must be"):
        budget.compute_epsilon(**arguments)


def test_delta_inverts_epsilon():
    run = {
        "noise_multiplier": 1.1,
        "sampling_probability": 0.004,
        "num_steps": 10000,
    }
    for delta in [1e-12, 1e-5, 0.01]:
        epsilon = budget.compute_epsilon(**run, delta=delta)
        back = budget.compute_delta(**run, epsilon=epsilon)
        # Both are upper bounds, each with a contour of its own.
        assert back == pytest.approx(delta, rel=1e-4)


@pytest.mark.parametrize("epsilon", [-0.1, float("nan"), float("inf")])
def test_delta_refuses_bad_epsilon(epsilon):
    with pytest.raises(ValueError, match="^epsilon must be"):
        budget.compute_delta(
            noise_multiplier=1.0,
            sampling_probability=0.01,
            num_steps=1,
            epsilon=epsilon,
        )


@pytest.mark.parametrize(
    "target, delta, q, steps",
    [
        (3.0, 1e-5, 256 / 60000, 14063),
        (0.1, 1e-5, 0.01, 10000),
        (8.0, 1e-5, 1.0, 60),
        (1e-3, 1e-5, 0.001, 1000),
        (1e-6, 1e-5, 1e-6, 1000),
        (1000.0, 1e-5, 0.1, 1000),
    ],
)
def test_calibrated_noise_meets_the_target_and_is_the_least(
    target, delta, q, steps
):
    noise = budget.calibrate_noise_multiplier(
        target_epsilon=target,
        target_delta=delta,
        sampling_probability=q,
        num_steps=steps,
    )
    assert noise > 0
    assert compute(q, noise, steps, delta) <= target
    assert compute(q, noise * (1 - 3e-6), steps, delta) > target


def test_calibration_of_a_generous_target_still_has_noise():
    noise = budget.calibrate_noise_multiplier(
        target_epsilon=1e9,
        target_delta=0.5,
        sampling_probability=0.1,
        num_steps=1,
    )
    assert noise == 0.01


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("target_epsilon", 1e-12, "target_epsilon must be attainable"),
        ("target_epsilon", 0.0, "target_epsilon must be"),
        ("target_epsilon", float("nan"), "target_epsilon must be"),
        ("target_epsilon", float("inf"), "target_epsilon must be"),
        ("target_delta", 0.0, "target_delta must be"),
        ("num_steps", 0, "num_steps must be"),
        ("sampling_probability", float("nan"), "sampling_probability must be"),
    ],
)
def test_calibration_raises_rather_than_guess(name, value, message):
    arguments = {
        "target_epsilon": 1.0,
        "target_delta": 1e-12,
        "sampling_probability": 0.1,
        "num_steps": 1000,
        name: value,
    }
    with pytest.raises(ValueError, match=f"^{message}"):
        budget.calibrate_noise_multiplier(**arguments)


RUN = {"target_epsilon": 3.0, "target_delta": 1e-5}


@pytest.mark.parametrize("noise, steps", [(1.1, 1000), (0.5, 30), (20.0, 10)])
def test_calibrated_sampling_is_the_most_that_meets_the_target(noise, steps):
    probability = budget.calibrate_sampling_probability(
        **RUN, noise_multiplier=noise, num_steps=steps
    )
    assert compute(probability, noise, steps, 1e-5) <= 3.0
    if probability < 1.0:
        assert compute(probability * (1 + 1e-5), noise, steps, 1e-5) > 3.0
    size = budget.calibrate_expected_batch_size(
        **RUN, noise_multiplier=noise, num_steps=steps, num_examples=1000
    )
    assert compute(size / 1000, noise, steps, 1e-5) <= 3.0
    if size < 1000:
        assert compute((size + 1) / 1000, noise, steps, 1e-5) > 3.0


@pytest.mark.parametrize("noise, q", [(1.1, 0.01), (0.7, 1e-4), (9.0, 1.0)])
def test_calibrated_steps_are_the_most_that_meet_the_target(noise, q):
    steps = epsilon_curve.calibrate_num_steps(
        **RUN, noise_multiplier=noise, sampling_probability=q
    )
    assert compute(q, noise, steps, 1e-5) <= 3.0
    assert compute(q, noise, steps + 1, 1e-5) > 3.0


def test_calibrations_raise_where_nothing_meets_the_target():
    small = {"target_epsilon": 1e-9, "target_delta": 1e-12}
    with pytest.raises(ValueError, match="^target_epsilon must be attainable"):
        budget.calibrate_sampling_probability(
            **small, noise_multiplier=0.5, num_steps=10**6
        )
    with pytest.raises(ValueError, match="^target_epsilon must be attainable"):
        budget.calibrate_expected_batch_size(
            **small, noise_multiplier=5.0, num_steps=10, num_examples=100
        )
    with pytest.raises(ValueError, match="^target_epsilon must leave room"):
        epsilon_curve.calibrate_num_steps(
            **small, noise_multiplier=1.0, sampling_probability=0.1
        )


def test_bounds_name_their_accountant():
    bounds = budget.compute_epsilon_bounds(
        noise_multiplier=1.1,
        sampling_probability=0.01,
        num_steps=1000,
        delta=1e-5,
    )
    assert bounds.lower < bounds.epsilon < bounds.rdp_epsilon
    assert "epsilon between" in str(bounds) and "certified" in str(bounds)
