# SPDX-License-Identifier: Apache-2.0
"""Tests of the privacy of groups."""

import numpy as np
import pytest

from tf_privacy.accounting import composition
from tf_privacy.accounting import group_privacy
from tf_privacy.accounting import mechanism
from tf_privacy.accounting import rdp_accountant

RUN = mechanism.SampledGaussianSteps(
    noise_multiplier=1.1, sampling_probability=256 / 60000, num_steps=14063
)


def compute(group_size, delta=1e-5, run=RUN):
    return group_privacy.convert_to_group_epsilon(
        [run], group_size=group_size, delta=delta
    )


def test_golden_of_three_examples_a_user():
    # TensorFlow Privacy 0.9 with dp-accounting 0.6: 10.347.
    assert compute(3) == pytest.approx(10.347, abs=2e-3)


def test_a_group_of_one_is_the_unit():
    wanted = rdp_accountant.compute_rdp_epsilon_of([RUN], delta=1e-5)[0]
    assert compute(1) == pytest.approx(wanted, rel=1e-9)


def test_is_the_lemma_applied_to_the_best_epsilon():
    per_unit = np.linspace(3.0, 5.0, 4001)
    deltas = [
        rdp_accountant.compute_rdp_delta_of([RUN], epsilon=each)
        for each in per_unit
    ]
    grouped = deltas * np.expm1(3 * per_unit) / np.expm1(per_unit)
    best = 3 * per_unit[np.argmax(grouped <= 1e-5)]
    assert best - 3 * 6e-4 <= compute(3) <= best + 1e-9


def test_is_above_the_exact_group_of_the_gaussian():
    once = mechanism.SampledGaussianSteps(
        noise_multiplier=5.0, sampling_probability=1.0, num_steps=1
    )
    exact = mechanism.SampledGaussianSteps(
        noise_multiplier=1.0, sampling_probability=1.0, num_steps=1
    )
    wanted = composition.compute_epsilon_of([exact], delta=1e-5)
    assert compute(5, run=once) >= wanted


def test_rises_with_the_group_and_is_zero_for_nothing():
    values = [compute(k) for k in (1, 2, 5, 20, 100)]
    assert np.all(np.diff(values) > 0)
    assert (
        group_privacy.convert_to_group_epsilon([], group_size=9, delta=0.1) == 0
    )


@pytest.mark.parametrize("size", [0, -1, 1.5, float("nan"), 10001])
def test_refuses_bad_group_sizes(size):
    with pytest.raises(ValueError, match="^group_size must be"):
        compute(size)
