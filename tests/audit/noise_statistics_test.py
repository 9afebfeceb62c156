# SPDX-License-Identifier: Apache-2.0
"""Tests of the properties of noise and their p-values."""

import functools
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import noise_statistics

# Each takes a matrix and returns a statistic and a p-value.
SCALE_FREE = {
    "mean": noise_statistics.compute_mean,
    "shape": functools.partial(noise_statistics.compute_shape, risk=1e-3),
    "largest": noise_statistics.compute_largest,
    "row sizes": noise_statistics.compute_row_sizes,
    "column sizes": lambda x: noise_statistics.compute_row_sizes(x.T),
    "common part": noise_statistics.compute_common_part,
    "common to rows": lambda x: noise_statistics.compute_common_part(x.T),
    "row pairs": noise_statistics.compute_row_pairs,
    "column pairs": lambda x: noise_statistics.compute_row_pairs(x.T),
    "lags": noise_statistics.compute_lags,
}
ALL = {
    **SCALE_FREE,
    "size": functools.partial(
        noise_statistics.compute_size, noise_multiplier=3.0
    ),
    "repetitions": functools.partial(
        noise_statistics.compute_repetitions, spacing=0.01
    ),
}
# Those whose p-value is exact, not only an upper bound.
EXACT = ["mean", "common part", "common to rows", "size"]


def draw(shape=(6, 9), scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def draw_p_values(compute, count, shape=(4, 5), spacing=0.0):
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        noise = 3.0 * rng.normal(size=shape)
        if spacing:
            noise = np.round(noise / spacing) * spacing
        found.append(compute(noise)[1])
    return np.array(found)


@pytest.mark.parametrize("name", ALL)
def test_p_values_are_valid_at_a_small_size(name):
    # For the repetitions, rounded as coarsely as is allowed: 0.01 of 3.
    spacing = 0.03 if name == "repetitions" else 0.0
    shape = (20, 10) if name == "repetitions" else (4, 5)
    found = draw_p_values(ALL[name], 2000, shape, spacing)
    for level in (0.01, 0.05, 0.2, 0.5):
        at_most = stats.binom.isf(1e-6, 2000, level)
        assert np.count_nonzero(found <= level) <= at_most


@pytest.mark.parametrize("name", EXACT)
def test_exact_p_values_are_uniform(name):
    found = draw_p_values(ALL[name], 2000)
    assert stats.kstest(found, "uniform").pvalue > 1e-6


@pytest.mark.parametrize("name", SCALE_FREE)
def test_the_size_of_the_noise_does_not_matter(name):
    once = SCALE_FREE[name](draw())
    for scale in (1e-6, 1e6):
        again = SCALE_FREE[name](draw(scale=scale))
        np.testing.assert_allclose(again, once, rtol=1e-9)


def test_size_is_chi_squared():
    noise = draw(scale=1.7)
    statistic, p_value = ALL["size"](noise)
    assert statistic == pytest.approx(math.sqrt(np.mean(noise**2)))
    total = np.sum(noise**2) / 9
    wanted = 2 * min(stats.chi2.cdf(total, 54), stats.chi2.sf(total, 54))
    assert p_value == pytest.approx(wanted, rel=1e-9)


def test_size_interval_is_where_the_size_is_not_rejected():
    noise = draw(scale=1.7)
    for level in (0.05, 1e-4):
        ends = noise_statistics.compute_size_interval(noise, level=level)
        for end in ends:
            _, p_value = noise_statistics.compute_size(
                noise, noise_multiplier=end
            )
            assert p_value == pytest.approx(level, rel=1e-6)


def test_mean_is_the_t_test():
    noise = draw() + 0.3
    statistic, p_value = noise_statistics.compute_mean(noise)
    wanted = stats.ttest_1samp(noise, 0.0, axis=None)
    assert p_value == pytest.approx(wanted.pvalue, rel=1e-9)
    assert np.sign(statistic) == 1.0
    assert noise_statistics.compute_mean(-noise)[0] == -statistic


@pytest.mark.parametrize("seed", range(4))
def test_shape_is_never_stricter_than_kolmogorov_smirnov_at_a_size(seed):
    noise = draw((20, 30), seed=seed)
    if seed % 2:
        noise = np.random.default_rng(seed).laplace(size=(20, 30))
    distance, p_value = noise_statistics.compute_shape(noise, risk=1e-3)
    ends = noise_statistics.compute_size_interval(noise, level=1e-3)
    tests = [
        stats.kstest(noise.ravel(), "norm", args=(0, scale), method="exact")
        for scale in np.linspace(*ends, 60)
    ]
    assert distance <= min(test.statistic for test in tests)
    assert p_value >= max(test.pvalue for test in tests)


def test_risk_of_the_interval_is_part_of_the_p_value():
    _, p_value = noise_statistics.compute_shape(np.ones((40, 40)), risk=1e-3)
    assert 1e-3 <= p_value < 1.01e-3


def test_largest_is_the_t_test_of_the_largest():
    noise = draw()
    noise[2, 3] = 6.0
    statistic, p_value = noise_statistics.compute_largest(noise)
    rest = (np.sum(noise**2) - 36.0) / 53
    one = 2 * stats.t.sf(6.0 / math.sqrt(rest), 53)
    assert p_value == pytest.approx(2 * 54 * one, rel=1e-9)
    assert statistic == pytest.approx(6.0 / math.sqrt(np.mean(noise**2)))


def test_noise_cut_off_has_a_small_largest():
    noise = np.clip(draw((40, 100)), -2.5, 2.5)
    assert noise_statistics.compute_largest(noise)[1] < 1e-6


def test_row_sizes_are_the_f_test_of_one_row():
    noise = draw()
    noise[4] *= 2.5
    ratio, p_value = noise_statistics.compute_row_sizes(noise)
    one = np.sum(noise[4] ** 2)
    rest = np.sum(noise**2) - one
    wanted = stats.f.sf((one / 9) / (rest / 45), 9, 45)
    assert p_value == pytest.approx(6 * 2 * wanted, rel=1e-9)
    assert ratio == pytest.approx(
        math.sqrt(np.mean(noise[4] ** 2) / np.mean(noise**2))
    )


def test_common_part_is_the_f_test_of_row_sums():
    noise = draw() + draw((6, 1), seed=5)
    ratio, p_value = noise_statistics.compute_common_part(noise)
    one = np.sum(np.sum(noise, axis=1) ** 2) / 9
    rest = np.sum(noise**2) - one
    wanted = stats.f.sf((one / 6) / (rest / 48), 6, 48)
    assert p_value == pytest.approx(2 * wanted, rel=1e-9)
    assert ratio > 1


def test_row_pairs_are_the_t_test_of_the_largest_correlation():
    noise = draw()
    noise[5] = 3.0 * noise[1] + draw((9,), seed=3)
    correlation, p_value = noise_statistics.compute_row_pairs(noise)
    found = {}
    for a, b in itertools.combinations(range(6), 2):
        r = (
            noise[a]
            @ noise[b]
            / math.sqrt((noise[a] @ noise[a]) * (noise[b] @ noise[b]))
        )
        found[a, b] = abs(r)
    best = max(found, key=found.get)
    assert best == (1, 5)
    r = found[best]
    assert correlation == pytest.approx(r)
    wanted = 2 * stats.t.sf(r * math.sqrt(8 / (1 - r**2)), 8)
    assert p_value == pytest.approx(15 * wanted, rel=1e-9)


def test_row_pairs_of_several_blocks_find_any_pair():
    noise = draw((2100, 8))
    for a, b, sign in ((3, 2099, -2.0), (1024, 1025, 1.0), (0, 1, 1.0)):
        changed = noise.copy()
        changed[b] = sign * changed[a]
        correlation, p_value = noise_statistics.compute_row_pairs(changed)
        assert correlation == pytest.approx(1.0)
        assert p_value < 1e-9
    assert noise_statistics.compute_row_pairs(noise)[1] > 1e-4


def test_lags_are_valid_over_all_signs():
    # Every pattern of signs of 10 steps is equally probable.
    found = np.array(
        [
            noise_statistics.compute_lags(np.array(signs)[:, np.newaxis])[1]
            for signs in itertools.product([-1.0, 1.0], repeat=10)
        ]
    )
    for level in np.unique(found):
        assert np.mean(found <= level * (1 + 1e-12)) <= level * (1 + 1e-9)
    assert found.min() < 0.05


def test_each_lag_is_looked_at():
    for lag in range(1, 9):
        noise = draw((60, 40))
        for t in range(lag, 60):
            noise[t] += 0.8 * noise[t - lag]
        share, p_value = noise_statistics.compute_lags(noise)
        assert p_value < 1e-6
        assert share > 0.65


def test_repetitions_are_counted():
    noise = np.array([[1.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
    count, p_value = noise_statistics.compute_repetitions(noise, spacing=1e-5)
    assert count == 3
    # The mean number is (0 + 1 + ... + 5) p, spread over six coins.
    chance = 1e-5 / math.sqrt(2 * math.pi) * 15 / 6
    assert p_value == pytest.approx(20 * chance**3, rel=1e-3, abs=0)
    assert noise_statistics.compute_repetitions(draw(), spacing=1e-5) == (0, 1)


def test_as_many_repetitions_as_expected_prove_nothing():
    # A half is expected, and the bound on the tail begins one above that.
    spacing = 0.5 * math.sqrt(2 * math.pi)
    found = noise_statistics.compute_repetitions(
        np.ones((1, 2)), spacing=spacing
    )
    assert found == (1, 1)


def test_a_matrix_of_zeros_has_no_share_of_anything():
    zeros = np.zeros((5, 7))
    for name in ("largest", "row sizes", "column sizes", "common part", "lags"):
        assert ALL[name](zeros)[1] < 1e-7
    assert ALL["size"](zeros) == (0.0, 0.0)
    assert ALL["shape"](zeros)[1] < 0.01
    assert ALL["repetitions"](zeros)[1] < 1e-30
    assert noise_statistics.compute_size_interval(zeros, level=0.1) == (0, 0)
