# SPDX-License-Identifier: Apache-2.0
"""Tests of Toeplitz strategies, against dense matrices and published bounds."""

import itertools
import math

import numpy as np
import pytest
from scipy import linalg

from tf_privacy.accounting import correlated_noise
from tf_privacy.noise import toeplitz_strategy


def make_matrix(coefficients, num_steps):
    column = np.zeros(num_steps)
    column[: len(coefficients)] = coefficients[:num_steps]
    return linalg.toeplitz(column, np.zeros(num_steps))


def compute_sensitivity(coefficients, num_steps, min_separation, most=None):
    return correlated_noise.compute_toeplitz_sensitivity(
        coefficients,
        num_steps=num_steps,
        min_separation=min_separation,
        max_participations=most,
    )


def score(coefficients, num_steps, min_separation, most=None):
    """Root mean square error of the prefix sums at sensitivity 1."""
    error = toeplitz_strategy.compute_prefix_sum_error(
        coefficients, num_steps=num_steps
    )
    return error.root_mean_square * compute_sensitivity(
        coefficients, num_steps, min_separation, most
    )


def calibrate(num_steps, num_bands, min_separation, most=None):
    return toeplitz_strategy.calibrate_banded_coefficients(
        num_steps=num_steps,
        num_bands=num_bands,
        min_separation=min_separation,
        max_participations=most,
    )


@pytest.mark.parametrize("coefficients", [(1.0,), (2.0, 1.0, 0.5), (0.5,) * 9])
def test_inverse_and_error_are_those_of_the_dense_matrix(coefficients):
    inverse = np.linalg.inv(make_matrix(coefficients, 7))
    found = toeplitz_strategy.compute_inverse(coefficients, num_steps=7)
    assert np.allclose(found, inverse[:, 0], rtol=1e-12, atol=1e-14)
    rows = np.linalg.norm(np.tri(7) @ inverse, axis=1)
    error = toeplitz_strategy.compute_prefix_sum_error(
        coefficients, num_steps=7
    )
    assert error.largest == pytest.approx(max(rows), rel=1e-12)
    mean = math.sqrt(np.mean(rows**2))
    assert error.root_mean_square == pytest.approx(mean, rel=1e-12)
    assert f"{error.largest:.4g}" in str(error)


def test_independent_noise_adds_up():
    error = toeplitz_strategy.compute_prefix_sum_error([1.0], num_steps=99)
    assert error.largest == pytest.approx(math.sqrt(99))
    assert error.root_mean_square == pytest.approx(math.sqrt(50))


@pytest.mark.parametrize(
    "momentum, weight_decay", [(0.0, 0.0), (0.9, 0.0), (0.5, 0.1), (0.0, 0.3)]
)
def test_square_root_squares_to_the_workload(momentum, weight_decay):
    num_steps = 12
    root = toeplitz_strategy.compute_banded_square_root(
        num_bands=num_steps, momentum=momentum, weight_decay=weight_decay
    )
    # SGD, one step after the other: buffer and weights.
    buffer, weights, expected = 0.0, 0.0, []
    for step in range(num_steps):
        buffer = momentum * buffer + (step == 0)
        weights = (1 - weight_decay) * weights + buffer
        expected.append(weights)
    square = np.convolve(root, root)[:num_steps]
    assert np.allclose(square, expected, rtol=1e-12)
    assert root[0] == 1.0
    assert np.all(np.diff(root) <= 0.0)


def test_bands_are_the_first_coefficients_of_the_square_root():
    few = toeplitz_strategy.compute_banded_square_root(num_bands=5)
    assert few == (1.0, 1 / 2, 3 / 8, 5 / 16, 35 / 128)
    decayed = toeplitz_strategy.compute_banded_square_root(
        num_bands=300, momentum=1.0 - 2**-53
    )
    assert np.all(np.diff(decayed) <= 0.0)


@pytest.mark.parametrize("num_steps", [1, 10, 1000])
def test_square_root_has_the_published_error(num_steps):
    # Fichtenberger, Henzinger and Upadhyay 2023, arXiv:2202.11205: about
    # 1 + ln(n) / pi. The rows of the one factor and the columns of the other
    # have the same squared norm, a sum of squared binomial coefficients.
    root = toeplitz_strategy.compute_banded_square_root(num_bands=num_steps)
    error = toeplitz_strategy.compute_prefix_sum_error(
        root, num_steps=num_steps
    )
    found = error.largest * compute_sensitivity(root, num_steps, num_steps)
    ratios = [math.comb(2 * k, k) / 4**k for k in range(num_steps)]
    assert found == pytest.approx(math.fsum(r * r for r in ratios), rel=1e-12)
    # The sum's limit, with Euler's constant.
    limit = (math.log(num_steps) + np.euler_gamma + math.log(16)) / math.pi
    assert limit - 0.1 / num_steps < found < limit
    assert abs(found - 1.0 - math.log(num_steps) / math.pi) < 0.07


@pytest.mark.parametrize("num_steps", [2, 30, 200])
def test_full_search_is_between_the_lower_bound_and_the_square_root(num_steps):
    # No factorization is below the nuclear norm over n; Henzinger, Upadhyay
    # and Upadhyay 2023, arXiv:2211.05006.
    angles = (2 * np.arange(1, num_steps + 1) - 1) / (4 * num_steps + 2)
    least = np.sum(0.5 / np.sin(math.pi * angles)) / num_steps
    singular = linalg.svdvals(np.tri(num_steps))
    assert least == pytest.approx(np.sum(singular) / num_steps, rel=1e-10)
    found = score(calibrate(num_steps, num_steps, num_steps), *[num_steps] * 2)
    root = toeplitz_strategy.compute_banded_square_root(num_bands=num_steps)
    assert least <= found < score(root, num_steps, num_steps)
    assert found < 1.08 * least


def test_search_finds_the_best_of_a_grid():
    num_steps, most = 6, 2
    grid = np.linspace(0.0, 1.0, 41)
    best = min(
        score((1.0, b, c), num_steps, 3, most)
        for b, c in itertools.product(grid, grid)
    )
    found = calibrate(num_steps, 3, 3, most)
    assert found[0] == 1.0
    assert score(found, num_steps, 3, most) <= best
    # The grid's spacing moves a minimum in second order only.
    assert score(found, num_steps, 3, most) > 0.99 * best


@pytest.mark.parametrize(
    "num_bands, min_separation, most",
    [(8, 8, None), (16, 4, None), (8, 20, 2), (5, 1, 3), (200, 10, None)],
)
def test_search_beats_square_root_and_independent_noise(
    num_bands, min_separation, most
):
    found = calibrate(60, num_bands, min_separation, most)
    assert len(found) == min(num_bands, 60)
    assert np.all(np.diff(found) <= 0.0)
    assert found[-1] > 0.0
    root = toeplitz_strategy.compute_banded_square_root(num_bands=len(found))
    reached = score(found, 60, min_separation, most)
    assert reached < score(root, 60, min_separation, most)
    assert reached < score((1.0,), 60, min_separation, most)


@pytest.mark.parametrize("min_separation, most", [(5, None), (2, 3), (9, None)])
def test_objective_is_the_score_and_its_gradient_is_right(min_separation, most):
    pattern = toeplitz_strategy.participation_pattern.check_pattern(
        13, min_separation, most
    )
    objective = toeplitz_strategy._Objective(13, 5, pattern)
    logits = np.random.default_rng(0).normal(size=5)
    value, gradient = objective.compute(logits)
    coefficients, _ = objective.make_coefficients(logits)
    reached = score(coefficients, 13, min_separation, most)
    assert value == pytest.approx(2.0 * math.log(reached), rel=1e-9)
    for index, slope in enumerate(gradient):
        moved = logits + 1e-5 * np.eye(5)[index]
        other = logits - 1e-5 * np.eye(5)[index]
        change = objective.compute(moved)[0] - objective.compute(other)[0]
        assert change / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_more_bands_are_better_and_a_long_run_takes_no_minutes():
    scores = [score(calibrate(2000, b, 64), 2000, 64) for b in (1, 4, 16, 64)]
    assert all(b < 0.8 * a for a, b in itertools.pairwise(scores))


def test_one_band_or_one_step_is_independent_noise():
    assert calibrate(10, 1, 5) == (1.0,)
    assert calibrate(1, 5, 5) == (1.0,)


@pytest.mark.parametrize(
    "coefficients", [[], [0.0, 1.0], [-1.0], [math.nan], [1.0, math.inf]]
)
def test_refuses_coefficients(coefficients):
    with pytest.raises(ValueError, match="coefficients must be"):
        toeplitz_strategy.compute_inverse(coefficients, num_steps=3)


@pytest.mark.parametrize(
    "name", ["num_steps", "num_bands", "min_separation", "max_participations"]
)
@pytest.mark.parametrize("value", [0, 1.5, math.nan])
def test_refuses_what_is_no_count(name, value):
    arguments = {"num_steps": 9, "num_bands": 3, "min_separation": 3}
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        toeplitz_strategy.calibrate_banded_coefficients(
            **{**arguments, name: value}
        )


@pytest.mark.parametrize("name", ["momentum", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_refuses_momentum_and_decay_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number"):
        toeplitz_strategy.compute_banded_square_root(
            num_bands=4, **{name: value}
        )
