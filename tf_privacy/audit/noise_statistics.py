# SPDX-License-Identifier: Apache-2.0
"""Properties of independent normal noise, each with a p-value.

Every function takes a `[T, M]` matrix, T steps of M coordinates, and returns a
statistic and a p-value that is valid at any T and M: the probability, or an
upper bound on it, of a statistic at least as extreme if the entries are
independent draws of N(0, s^2). Most hold for every s. They look at shares of
the sum of squares: the share that falls into k fixed orthogonal directions of n
is Beta(k / 2, (n - k) / 2), whatever s is (Cochran 1934,
doi:10.1017/S0305004100016595).

Squares of entries must be finite. In a matrix of zeros every share is 0.
"""

import math

import numpy as np
from scipy import special
from scipy import stats

# So many rows are compared in pairs, and in blocks of this size.
_MAX_PAIRED = 10_000
_BLOCK = 1024
# So many values are searched for repetitions.
_MAX_SEARCHED = 20_000
_LARGEST_LAG = 8
# Largest slope of the normal distribution function in the log of its scale.
_SCALE_SLOPE = float(stats.norm.pdf(1.0))


def compute_size(
    noise: np.ndarray, *, noise_multiplier: float
) -> tuple[float, float]:
    """Returns the root mean square, and whether it can be the claimed one.

    The sum of squares over noise_multiplier^2 is chi-squared with T M degrees
    of freedom; two-sided.

    Args:
        noise: `[T, M]`.
        noise_multiplier: Claimed standard deviation; > 0.
    """
    half = 0.5 * float(np.sum(np.square(noise / noise_multiplier)))
    p_value = 2.0 * min(
        special.gammainc(0.5 * noise.size, half),
        special.gammaincc(0.5 * noise.size, half),
    )
    return math.sqrt(2.0 * half / noise.size) * noise_multiplier, p_value


def compute_size_interval(
    noise: np.ndarray, *, level: float
) -> tuple[float, float]:
    """Returns an interval for the standard deviation.

    Args:
        noise: `[T, M]`.
        level: Chance that it misses the truth, at most; in (0, 1).
    """
    norm = math.sqrt(float(np.sum(np.square(noise))))
    quantiles = stats.chi2.ppf([1.0 - 0.5 * level, 0.5 * level], noise.size)
    lower, upper = norm / np.sqrt(quantiles)
    return float(lower), float(upper)


def compute_mean(noise: np.ndarray) -> tuple[float, float]:
    """Returns the mean in standard errors: any offset common to all.

    Args:
        noise: `[T, M]`, T M >= 2.
    """
    share = _compute_shares(noise, np.sum(noise) ** 2 / noise.size)
    p_value = special.betaincc(0.5, 0.5 * (noise.size - 1), share)
    sign = math.copysign(1.0, np.sum(noise))
    return sign * math.sqrt(share * noise.size), float(p_value)


def compute_shape(noise: np.ndarray, *, risk: float) -> tuple[float, float]:
    """Returns how far the distribution is from a normal one of any size.

    The largest distance between the empirical and the normal distribution
    function, D(s), has P[D >= d] <= 2 exp(-2 n d^2). As s is unknown, the least
    D(s) over an interval for s counts, and the interval's risk is added. The
    least is bounded from the middle: D changes by at most 0.242 with log(s).

    Args:
        noise: `[T, M]`.
        risk: That the interval misses s; part of the p-value, and so to be far
            below the level of the test; in (0, 1).

    Source: Massart 1990, doi:10.1214/aop/1176990746; Berger and Boos 1994,
        doi:10.1080/01621459.1994.10476836.
    """
    lower, upper = compute_size_interval(noise, level=risk)
    ordered = np.sort(noise, axis=None)
    # Without any noise all of the mass lies in one point.
    values = special.ndtr(ordered / (math.sqrt(lower * upper) or 1.0))
    ranks = np.arange(noise.size + 1) / noise.size
    distance = max(np.max(values - ranks[:-1]), np.max(ranks[1:] - values))
    slack = 0.5 * _SCALE_SLOPE * math.log(upper / lower) if lower else 0.0
    distance = max(0.0, float(distance) - slack)
    return distance, 2.0 * math.exp(-2.0 * noise.size * distance**2) + risk


def compute_largest(noise: np.ndarray) -> tuple[float, float]:
    """Returns the largest entry in standard deviations; two-sided.

    Too large is a heavy tail (union bound over all entries); too small is noise
    that was cut off. For the latter, shares are negatively associated: that all
    are small is at most as probable as if they were independent.

    Args:
        noise: `[T, M]`, T M >= 2.

    Source: Joag-Dev and Proschan 1983, doi:10.1214/aos/1176346079.
    """
    share = np.max(_compute_shares(noise, np.square(noise)))
    above = special.betaincc(0.5, 0.5 * (noise.size - 1), share)
    below = special.betainc(0.5, 0.5 * (noise.size - 1), share)
    p_value = 2.0 * min(noise.size * above, float(below) ** noise.size)
    return math.sqrt(share * noise.size), float(p_value)


def compute_repetitions(
    noise: np.ndarray, *, spacing: float
) -> tuple[float, float]:
    """Returns how many entries equal an earlier one, of the first 20,000.

    An entry that is rounded to multiples of `spacing` standard deviations hits
    a given value with probability at most p = spacing / sqrt(2 pi), so that the
    i-th repeats an earlier one with probability at most (i - 1) p, whatever
    those were. A sum of such coins has a lighter tail than equal coins of the
    same mean.

    Args:
        noise: `[T, M]`.
        spacing: Of the numbers, in claimed standard deviations; > 0.

    Source: Hoeffding 1956, doi:10.1214/aoms/1177728178, Theorem 4.
    """
    values = noise.ravel()[:_MAX_SEARCHED]
    repeated = values.size - np.unique(values).size
    chance = spacing / math.sqrt(2.0 * math.pi)
    mean = float(np.sum(np.minimum(1.0, chance * np.arange(values.size))))
    if repeated < mean + 1.0:
        return float(repeated), 1.0
    p_value = stats.binom.sf(repeated - 1, values.size, mean / values.size)
    return float(repeated), float(p_value)


def compute_row_sizes(noise: np.ndarray) -> tuple[float, float]:
    """Returns the most unusual row's root mean square over that of all.

    Union bound over the rows' shares; two-sided. Give the transpose to compare
    columns.

    Args:
        noise: `[T, M]`, T >= 2.
    """
    num_rows, num_columns = noise.shape
    shares = _compute_shares(noise, np.sum(np.square(noise), axis=1))
    p_values = _compute_two_sided(shares, num_columns, noise.size)
    row = np.argmin(p_values)
    ratio = math.sqrt(shares[row] * num_rows)
    return ratio, float(num_rows * p_values[row])


def compute_common_part(noise: np.ndarray) -> tuple[float, float]:
    """Returns the size of row sums over that of independent entries' sums.

    Above 1 the entries of a row have a part in common, below 1 they cancel.
    Two-sided. Give the transpose for columns.

    Args:
        noise: `[T, M]`, M >= 2.
    """
    num_rows, num_columns = noise.shape
    sums = np.sum(noise, axis=1)
    share = _compute_shares(noise, np.sum(np.square(sums)) / num_columns)
    ratio = math.sqrt(share * num_columns)
    return ratio, float(_compute_two_sided(share, num_rows, noise.size))


def compute_row_pairs(noise: np.ndarray) -> tuple[float, float]:
    """Returns the largest correlation of any two rows, in absolute value.

    The square of one is Beta(1 / 2, (M - 1) / 2), whatever the rows' sizes;
    union bound over the pairs of the first 10,000 rows. Give the transpose for
    columns.

    Args:
        noise: `[T, M]`, T >= 2 and M >= 2.
    """
    rows = noise[:_MAX_PAIRED]
    norms = np.sqrt(np.sum(np.square(rows), axis=1, keepdims=True))
    rows = rows / np.where(norms > 0.0, norms, 1.0)
    largest = 0.0
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK] @ rows[start:].T
        # A row's correlation with itself says nothing.
        np.fill_diagonal(block, 0.0)
        largest = max(largest, float(block.max()), -float(block.min()))
    largest = min(1.0, largest)
    num_pairs = len(rows) * (len(rows) - 1) / 2
    p_value = special.betaincc(0.5, 0.5 * (noise.shape[1] - 1), largest**2)
    return largest, float(num_pairs * p_value)


def compute_lags(noise: np.ndarray) -> tuple[float, float]:
    """Returns the share of equal signs, at the most unusual lag up to 8.

    Of steps t and t + lag; the signs' products are independent fair coins,
    because the pairs of one coordinate form paths. Union bound over the lags;
    two-sided.

    Args:
        noise: `[T, M]`, T >= 2.
    """
    signs = np.sign(noise)
    num_lags = min(_LARGEST_LAG, len(noise) - 1)
    share, least = 0.5, 1.0
    for lag in range(1, num_lags + 1):
        products = signs[lag:] * signs[:-lag]
        equal = np.count_nonzero(products > 0.0)
        p_value = 2.0 * min(
            stats.binom.cdf(equal, products.size, 0.5),
            stats.binom.sf(equal - 1, products.size, 0.5),
        )
        if p_value < least:
            share, least = equal / products.size, float(p_value)
    return float(share), num_lags * least


def _compute_shares(noise, squares):
    """Returns squares over the sum of all; 0 if that is 0."""
    total = float(np.sum(np.square(noise)))
    return np.minimum(1.0, squares / total) if total else 0.0 * squares


def _compute_two_sided(shares, num_directions, size):
    """Returns p-values of the shares of so many directions of all."""
    a, b = 0.5 * num_directions, 0.5 * (size - num_directions)
    below = special.betainc(a, b, shares)
    return 2.0 * np.minimum(below, special.betaincc(a, b, shares))
