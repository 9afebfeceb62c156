# SPDX-License-Identifier: Apache-2.0
"""Tests of sensitivities under correlated noise, against every pattern."""

import itertools
import math

import numpy as np
import pytest
from scipy import linalg

from tf_privacy.accounting import correlated_noise

LIMITS = [(1, None), (1, 1), (1, 3), (2, None), (2, 2), (3, 2), (4, None)]
# Far above the margin for rounding, far below any mistake.
CLOSE = 1e-9


def list_patterns(num_steps, min_separation, max_participations):
    most = num_steps if max_participations is None else max_participations
    for size in range(1, min(most, num_steps) + 1):
        for steps in itertools.combinations(range(num_steps), size):
            if np.all(np.diff(steps) >= min_separation):
                yield list(steps)


def maximize(measure, num_steps, min_separation, max_participations):
    patterns = list_patterns(num_steps, min_separation, max_participations)
    return max(measure(steps) for steps in patterns)


def compute(matrix, min_separation, max_participations=None):
    return correlated_noise.compute_matrix_sensitivity(
        matrix,
        min_separation=min_separation,
        max_participations=max_participations,
    )


def compute_toeplitz(coefficients, num_steps, min_separation, most=None):
    return correlated_noise.compute_toeplitz_sensitivity(
        coefficients,
        num_steps=num_steps,
        min_separation=min_separation,
        max_participations=most,
    )


def make_matrix(seed, num_steps=8, num_bands=8, signed=True):
    rng = np.random.default_rng(seed)
    matrix = np.tril(rng.normal(size=(num_steps, num_steps)))
    matrix = np.triu(matrix, 1 - num_bands)
    return matrix if signed else np.abs(matrix)


def make_toeplitz(coefficients, num_steps):
    column = np.zeros(num_steps)
    column[: len(coefficients)] = coefficients[:num_steps]
    return linalg.toeplitz(column, np.zeros(num_steps))


def measure_aligned(matrix):
    return lambda steps: np.linalg.norm(matrix[:, steps].sum(axis=1))


def measure_columns(matrix):
    return lambda steps: np.sum(np.linalg.norm(matrix[:, steps], axis=0))


def measure_signs(matrix):
    def measure(steps):
        signs = itertools.product([1, -1], repeat=len(steps) - 1)
        signs = np.array([[1, *each] for each in signs]).T
        return np.max(np.linalg.norm(matrix[:, steps] @ signs, axis=0))

    return measure


def measure_magnitudes(matrix):
    def measure(steps):
        chosen = matrix[:, steps]
        return math.sqrt(np.sum(np.abs(chosen.T @ chosen)))

    return measure


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("seed", range(4))
def test_matrix_bound_holds_for_every_pattern(limits, seed):
    matrix = make_matrix(seed)
    bound = compute(matrix, *limits)
    assert bound >= maximize(measure_signs(matrix), 8, *limits)
    assert bound >= maximize(measure_magnitudes(matrix), 8, *limits)
    columns = maximize(measure_columns(matrix), 8, *limits)
    assert bound <= columns * (1 + CLOSE)


@pytest.mark.parametrize("limits", LIMITS)
def test_matrix_bound_holds_for_random_directions(limits):
    matrix = make_matrix(9)
    rng = np.random.default_rng(10)
    bound = compute(matrix, *limits)
    for steps in list_patterns(8, *limits):
        vectors = rng.normal(size=(20, len(steps), 3))
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        changes = np.einsum("ti,sid->std", matrix[:, steps], vectors)
        assert np.max(np.linalg.norm(changes, axis=(1, 2))) <= bound


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("signed", [True, False])
def test_matrix_is_exact_where_columns_of_a_pattern_are_orthogonal(
    limits, signed
):
    matrix = make_matrix(1, num_bands=limits[0], signed=signed)
    wanted = maximize(measure_aligned(matrix), 8, *limits)
    assert compute(matrix, *limits) == pytest.approx(wanted, rel=CLOSE)
    assert compute(matrix, *limits) >= wanted


@pytest.mark.parametrize("limits", [(1, None), (1, 1), (8, None)])
def test_matrix_is_exact_for_every_step_and_for_one(limits):
    matrix = make_matrix(2, signed=False)
    wanted = maximize(measure_aligned(matrix), 8, *limits)
    assert compute(matrix, *limits) == pytest.approx(wanted, rel=CLOSE)


@pytest.mark.parametrize("limits", LIMITS)
def test_matrix_bound_is_the_stated_one(limits):
    # The looser side of the stated inequality, by listing all patterns twice.
    matrix = make_matrix(3)
    gram = np.abs(matrix.T @ matrix)
    patterns = list(list_patterns(8, *limits))
    totals = [
        max(gram[i, p].sum() for p in patterns if i in p) for i in range(8)
    ]
    wanted = math.sqrt(max(sum(totals[i] for i in p) for p in patterns))
    assert compute(matrix, *limits) == pytest.approx(wanted, rel=CLOSE)


def test_matrix_of_independent_noise_is_the_root_of_participations():
    for most in (1, 3, 5):
        value = compute(np.eye(20), 4, most)
        assert value == pytest.approx(math.sqrt(most), rel=CLOSE)
    assert compute(np.eye(20), 4, 99) == pytest.approx(math.sqrt(5), rel=CLOSE)


def test_matrix_need_not_be_square_or_scaled():
    row = np.ones((1, 6))
    assert compute(row, 2) == pytest.approx(3, rel=CLOSE)
    assert compute([[3]], 1) == pytest.approx(3, rel=CLOSE)
    for scale in (1e-300, 1e300):
        value = compute(scale * row, 2) / scale
        assert value == pytest.approx(3, rel=CLOSE)


def test_more_participation_is_never_less_sensitivity():
    matrix = make_matrix(5, num_steps=24)
    capped = [compute(matrix, 3, most) for most in range(1, 9)]
    spaced = [compute(matrix, separation) for separation in range(24, 0, -1)]
    for values in (capped, spaced):
        assert np.all(np.diff(values) >= -CLOSE)
    assert capped[-1] == pytest.approx(compute(matrix, 3), rel=CLOSE)


@pytest.mark.parametrize("period", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize("signed", [True, False])
def test_cyclic_is_the_largest_over_all_starts(period, signed):
    # Reversed: the longest column is the last, so no fixed start is the worst.
    matrix = make_matrix(6, num_steps=9, signed=signed)[::-1, ::-1]
    orders = [range(s, 9, period) for s in range(min(period, 9))]
    orders = [list(order) for order in orders]
    value = correlated_noise.compute_cyclic_sensitivity(matrix, period=period)
    assert value >= max(measure_signs(matrix)(order) for order in orders)
    if not signed:
        wanted = max(measure_aligned(matrix)(order) for order in orders)
        assert value == pytest.approx(wanted, rel=CLOSE)
    assert value <= compute(matrix, period) * (1 + CLOSE)


FALLING = [
    [1.0],
    [1.0, 1.0, 1.0],
    [2.0, 0.7, 0.7, 0.1, 0.0],
    0.8 ** np.arange(20),
    1 / np.sqrt(1 + np.arange(9)),
]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("coefficients", FALLING)
def test_toeplitz_is_exact_for_falling_coefficients(coefficients, limits):
    matrix = make_toeplitz(coefficients, 9)
    wanted = maximize(measure_aligned(matrix), 9, *limits)
    value = compute_toeplitz(coefficients, 9, *limits)
    assert value == pytest.approx(wanted, rel=CLOSE)
    assert wanted <= value <= compute(matrix, *limits) * (1 + CLOSE)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize(
    "coefficients",
    [[1, -0.5, -0.25, -0.1], [0.5, 1.0], [1, 0.2, 0.21], [0, 0, -3, 2]],
)
def test_toeplitz_of_other_coefficients_is_bounded(coefficients, limits):
    matrix = make_toeplitz(coefficients, 9)
    value = compute_toeplitz(coefficients, 9, *limits)
    assert value >= maximize(measure_magnitudes(matrix), 9, *limits)
    assert value <= compute(matrix, *limits)
    majorant = [
        np.max(np.abs(coefficients[i:])) for i in range(len(coefficients))
    ]
    assert value <= compute_toeplitz(majorant, 9, *limits)


def test_toeplitz_of_rising_coefficients_is_not_the_earliest_pattern():
    # Two steps apart, the sum of columns 0 and 2 has norm 2, of 0 and 3 more.
    coefficients = [0.0, 1.0, 0.0, 0.0, 1.0]
    matrix = make_toeplitz(coefficients, 9)
    earliest = measure_aligned(matrix)([0, 2])
    value = compute_toeplitz(coefficients, 9, 2, 2)
    assert value >= measure_aligned(matrix)([0, 3]) > earliest * 1.2


def test_toeplitz_of_many_steps():
    # Bands no wider than the separation: 1000 copies side by side.
    coefficients = 1 / np.sqrt(1 + np.arange(100))
    wanted = math.sqrt(1000) * np.linalg.norm(coefficients)
    value = compute_toeplitz(coefficients, 10**5, 100)
    assert value == pytest.approx(wanted, rel=CLOSE)
    # A negative coefficient costs no more than its magnitude.
    coefficients[50] *= -1
    assert wanted <= compute_toeplitz(coefficients, 10**5, 100) < 1.01 * wanted


BAD_MATRICES = [
    [[float("nan")]],
    [[1.0, float("inf")]],
    [[0.0, 0.0]],
    [1.0, 2.0],
    np.zeros((0, 3)),
    np.full((2, 2), 1.79e308),
]


@pytest.mark.parametrize("matrix", BAD_MATRICES)
def test_refuses_bad_matrices(matrix):
    with pytest.raises(ValueError, match="^strategy_matrix must have"):
        compute(matrix, 1)
    with pytest.raises(ValueError, match="^strategy_matrix must have"):
        correlated_noise.compute_cyclic_sensitivity(matrix, period=1)


@pytest.mark.parametrize("matrix", [[["1"]], [[1j]], [[True]], None])
def test_refuses_what_is_not_real(matrix):
    with pytest.raises(TypeError, match="^strategy_matrix must be"):
        compute(matrix, 1)


@pytest.mark.parametrize("bad", [[], [float("nan")], [[1.0]], [0.0], [0, 0, 1]])
def test_refuses_bad_coefficients(bad):
    with pytest.raises(ValueError, match="^coefficients must have"):
        compute_toeplitz(bad, 2, 1)


@pytest.mark.parametrize("bad", [0, -1, 1.5, float("nan"), float("inf")])
def test_refuses_bad_limits(bad):
    for call in (
        lambda *limits: compute(np.eye(3), *limits),
        lambda *limits: compute_toeplitz([1.0], 3, *limits),
    ):
        with pytest.raises(ValueError, match="^min_separation must be"):
            call(bad, 1)
        with pytest.raises(ValueError, match="^max_participations must be"):
            call(1, bad)
    with pytest.raises(ValueError, match="^num_steps must be"):
        compute_toeplitz([1.0], bad, 1)
    with pytest.raises(ValueError, match="^period must be"):
        correlated_noise.compute_cyclic_sensitivity(np.eye(3), period=bad)
