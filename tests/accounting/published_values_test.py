# SPDX-License-Identifier: Apache-2.0
"""Published figures, and the faults of other accountants that we avoid."""

import math
import tracemalloc

import numpy as np
import pytest

from tf_privacy import accounting

REPLACE_ONE = accounting.NeighboringRelation.REPLACE_ONE


def compute(q, noise, steps, delta):
    return accounting.compute_epsilon_bounds(
        noise_multiplier=noise,
        sampling_probability=q,
        num_steps=steps,
        delta=delta,
    )


@pytest.mark.parametrize(
    "run, by_rdp, truth",
    [
        # TensorFlow Privacy's tutorial on MNIST, today's conversion.
        ((256 / 60000, 1.3, 3516, 1e-5), 0.95456, 0.8645402),
        ((256 / 60000, 0.7, 10547, 1e-5), 6.31838, 5.639683),
        # Abadi et al. 2016, arXiv:1607.00133: 1.26 and 2.55 by their bound.
        ((0.01, 4.0, 10_000, 1e-5), 1.03549, 0.946867),
        ((0.01, 4.0, 40_000, 1e-5), 2.20974, 2.033065),
        # De et al. 2022, arXiv:2204.13650: CIFAR-10 at epsilon 1 to 6.
        ((4096 / 50_000, 10.0, 875, 1e-5), 0.98771, 0.9027603),
        ((4096 / 50_000, 6.0, 1125, 1e-5), 1.99956, 1.836396),
        ((4096 / 50_000, 5.0, 1593, 1e-5), 2.98251, None),
        ((4096 / 50_000, 4.0, 1687, 1e-5), 3.99623, None),
        ((4096 / 50_000, 3.0, 1843, 1e-5), 5.95228, None),
        # ImageNet at epsilon 8.
        ((0.0128, 2.5, 71_589, 8e-7), 7.93568, 7.448067),
    ],
)
def test_published_runs(run, by_rdp, truth):
    found = compute(*run)
    assert found.rdp_epsilon == pytest.approx(by_rdp, rel=3e-4)
    assert found.epsilon < found.rdp_epsilon
    if truth is not None:
        assert truth * (1 - 1e-6) < found.epsilon < truth * 1.001


def test_values_of_jax_privacy():
    # Its documentation, with dp-accounting's PLD.
    assert compute(0.1, 3.0, 512, 1e-6).epsilon == pytest.approx(3.77, abs=0.01)
    noise = accounting.calibrate_noise_multiplier(
        target_epsilon=1.0,
        target_delta=1e-6,
        sampling_probability=0.1,
        num_steps=512,
    )
    assert noise == pytest.approx(9.66, abs=0.01)
    steps = accounting.calibrate_num_steps(
        target_epsilon=2.0,
        target_delta=1e-6,
        noise_multiplier=3.0,
        sampling_probability=0.1,
    )
    assert steps == pytest.approx(155, abs=1)


@pytest.mark.parametrize(
    "noise, steps, delta, truth",
    [
        (1.0, 1, 1e-5, 4.377178),
        (10.0, 100, 1e-6, 4.886554),
        (20.0, 10_000, 1e-12, 47.04923),
        (0.3, 10, 1e-5, 99.67292),
    ],
)
def test_gaussians_by_balle_and_wang(noise, steps, delta, truth):
    found = compute(1.0, noise, steps, delta)
    assert found.epsilon == pytest.approx(truth, rel=2e-7)
    assert found.accountant == "closed form"


def test_replacing_means_the_same_to_both_accountants():
    # dp-accounting 0.6: 4.73 by RDP and 9.997 by PLD for the same event.
    found = accounting.compute_epsilon_bounds_of(
        [accounting.Gaussian(1.0)],
        delta=1e-5,
        neighboring_relation=REPLACE_ONE,
    )
    assert found.epsilon == pytest.approx(9.997, abs=1e-3)
    assert found.epsilon < found.rdp_epsilon < 1.1 * found.epsilon


@pytest.mark.parametrize("count", [1, 10, 100])
def test_counts_of_randomized_response_count(count):
    # dp-accounting 0.6's PLD answers 1.61 for 1, 10 and 100 releases.
    run = accounting.SelfComposed(accounting.ApproximateDP(1.61), count)
    found = accounting.compute_epsilon_bounds_of([run], delta=1e-5)
    if count > 1:
        assert found.lower > 4.0 * math.sqrt(count)
    assert found.epsilon <= 1.61 * count * (1 + 1e-6)


def test_epsilon_is_never_negative_at_large_deltas():
    # Opacus: -0.69 at delta 0.5, -0.0084 at 0.01.
    for delta in (0.01, 0.1, 0.5, 0.9):
        for run in ((0.01, 4.0, 10), (1e-6, 1.0, 10), (0.01, 1.0, 1)):
            found = compute(*run, delta)
            assert found.epsilon >= 0.0 and found.lower >= 0.0


def test_large_epsilons_have_an_answer():
    # Opacus's central limit accountant raises beyond 500.
    found = compute(0.5, 0.2, 100_000, 1e-10)
    assert found.lower <= 571850.89 <= found.epsilon < 571850.89 * 1.001


def test_epsilon_by_simulation():
    """Monte Carlo: the composed loss drawn directly.

    The mean of 400,000 payoffs in [0, 1] errs by more than 5.5 standard errors
    with probability 4e-8. It would detect a delta off by 3%.
    """
    rng = np.random.default_rng(1)
    q, noise, steps, num_draws = 0.2, 1.0, 8, 400_000
    total = {True: np.zeros(num_draws), False: np.zeros(num_draws)}
    for _ in range(steps):
        x = noise * rng.standard_normal(num_draws)
        moved = x + (rng.random(num_draws) < q)
        for removes, points in ((True, moved), (False, x)):
            ratio = np.exp((points - 0.5) / noise**2)
            loss = np.log1p(q * (ratio - 1.0))
            total[removes] += loss if removes else -loss
    run = accounting.SampledGaussianSteps(
        noise_multiplier=noise, sampling_probability=q, num_steps=steps
    )
    for epsilon in (0.3, 1.0, 2.0):
        means, errors = [], []
        for loss in total.values():
            payoff = np.maximum(0.0, -np.expm1(epsilon - loss))
            means.append(payoff.mean())
            errors.append(payoff.std() / math.sqrt(num_draws))
        delta = accounting.compute_delta_of([run], epsilon=epsilon)
        assert means[0] > means[1]
        assert means[0] - 5.5 * errors[0] <= delta
        assert delta <= 1.003 * means[0] + 5.5 * errors[0]
        assert 5.5 * errors[0] < 0.03 * means[0] or epsilon > 1.0


def test_memory_of_the_hardest_runs():
    # Opacus's PRV: over 5 GB for the first. Frequencies and nodes of the others
    # are the most of the golden runs.
    runs = [
        (0.5, 20.0, 10**6, 1e-12),
        (1e-8, 0.5, 2, 1e-12),
        (1e-6, 0.5, 1000, 1e-9),
        (0.5, 30.0, 100, 0.066347067),
    ]
    tracemalloc.start()
    try:
        for run in runs:
            assert math.isfinite(compute(*run).epsilon)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


def test_lower_bounds_are_none_above_the_truth():
    # Microsoft's PRV: 69.8229 at least, where the truth is 69.81571.
    found = compute(0.01, 0.3, 1000, 1e-5)
    assert found.lower <= 69.8157129 and found.epsilon >= 69.8157086
