# SPDX-License-Identifier: Apache-2.0
"""An epoch in which each unit joins one of the batches, picked at random.

With s = noise_multiplier, b = num_bins and e_i the i-th unit vector, the epoch
is dominated, in both directions, by the pair

    without the unit: P = N(0, s^2 I_b)
    with the unit:    Q = (1 / b) sum_i N(e_i, s^2 I_b)

whose density ratio is R = mean_i r_i; under P the r_i are independent
log-normal with log r_i ~ N(-1 / (2 s^2), 1 / s^2), so that E[R] = 1.

Why the pair holds although later gradients depend on earlier results: given
those, and the bins of all others, batch i is N(m, s^2 I) or N(m + g, s^2 I)
with |g| <= 1, and x_i g + m plus Gaussian noise of covariance s^2 (I - g g^T)
turns N(0, s^2) and N(1, s^2) into them. It takes x_1, ..., x_b one after the
other, without knowing the unit's bin: the epoch is computed from the pair.

What this needs: every unit draws its bin independently of all others, and anew
in every epoch; b, and what sums are divided by, do not depend on the data; an
empty batch is released with its noise as well. A shuffled order is not that.
Exchanging a unit is another pair (a mixture on both sides), not covered here.

Source: Chua et al. 2024, arXiv:2412.16802 (the pair); Feldman and Shenfeld
    2025, arXiv:2502.08202 (moments of random allocation).
"""

import dataclasses
import math

import numpy as np
from scipy import special

from tf_privacy.accounting import privacy_loss
from tf_privacy.accounting import releases
from tf_privacy.accounting import renyi

# Whole orders at which the moment of removing is summed; above, Poisson
# sampling is a bound.
_MAX_WHOLE_ORDER = 512
# Raises the log moments by more than their error (1e-11 at most in the tests;
# 1e-10 is what rounding explains), so that they stay bounds.
_SLACK = 1e-9
# Moments this many nats above what their centering takes off are not centered.
_NEGLIGIBLE_NATS = 32.0
# Step of the trapezoidal rule for moments of a log-normal number: the aliasing
# of a normal density is exp(-2 pi^2 / step^2), 1e-137.
_MOMENT_STEP = 0.25
# Standard deviations at which normal densities are cut.
_REACH = 12.0
# Below this noise the quadrature would need long grids. What is used instead
# hardly differs: epsilon is 10 and more there.
_MIN_QUADRATURE_NOISE = 0.2
# Largest exponent k of 1 / R that is integrated: t^k takes k log(k) roundings.
_MAX_EXPONENT = 1e4
# The order below which the moment of removing is integrated: at 2 the integral
# no longer converges.
_MAX_INTEGRATED_ORDER = 1.75
# Step in log t: t^k exp(-t) has the transform Gamma(k + i f), at f = 2 pi /
# step, which is 1e-24 of Gamma(k) for k <= 16, and as small at larger k if
# the step shrinks as 1 / sqrt(k).
_LOG_STEP = 0.15
_STEP_EXPONENT = 16.0
# Grids reach down to where the integrand has fallen by exp(-37) = 1e-16.
_RANGE_NATS = 37.0
_SERIES_BOUND = 0.1
_NUM_SERIES_TERMS = 12


def _log_sum(table) -> np.ndarray:
    """Returns the log of the sum of exp over the last axis, also of none."""
    peak = table.max(axis=-1, keepdims=True)
    peak = np.where(np.isneginf(peak), 0.0, peak)
    with np.errstate(divide="ignore"):
        return peak[..., 0] + np.log(np.exp(table - peak).sum(axis=-1))


def _compute_log_central_moments(num_orders, noise_multiplier) -> np.ndarray:
    """Returns log E[(r - 1)^j] for j = 0, ..., num_orders.

    With w = exp(1 / s^2) - 1 it is the sum of w^edges over all graphs on j
    nodes of which none is isolated: never negative. Without that condition it
    is E[r^j] = (1 + w)^(j (j - 1) / 2), which is larger.
    """
    j = np.arange(num_orders + 1.0)
    log_moments = 0.5 * j * (j - 1.0) / noise_multiplier**2
    log_moments[1] = -np.inf
    gain = (j - 1.0) / noise_multiplier**2 - np.log(np.maximum(j, 1.0))
    centered = (j >= 2.0) & (gain < _NEGLIGIBLE_NATS)
    if not centered.any():
        return log_moments
    j = j[centered]
    last = j[-1] / noise_multiplier + math.sqrt(j[-1]) + _REACH
    z = np.arange(-math.sqrt(j[-1]) - _REACH, last, _MOMENT_STEP)
    u = np.expm1(z / noise_multiplier - 0.5 / noise_multiplier**2)
    log_weights = -0.5 * z**2 + math.log(_MOMENT_STEP / math.sqrt(2 * math.pi))
    with np.errstate(divide="ignore"):
        table = log_weights + j[:, None] * np.log(np.abs(u))
    peak = table.max(axis=1)
    signs = np.where(j[:, None] % 2.0 == 1.0, np.sign(u), 1.0)
    sums = (signs * np.exp(table - peak[:, None])).sum(axis=1)
    log_moments[centered] = peak + np.log(sums)
    return log_moments


def _multiply(left, right) -> np.ndarray:
    """Returns the logs of the coefficients of a product of two series."""
    index = np.arange(left.size)
    index = index[:, None] - index
    shifted = np.append(right, -np.inf)[np.where(index >= 0, index, left.size)]
    return _log_sum(left + shifted)


def _raise_to_power(series, exponent: int) -> np.ndarray:
    result = None
    while True:
        if exponent % 2:
            result = series if result is None else _multiply(result, series)
        exponent //= 2
        if not exponent:
            return result
        series = _multiply(series, series)


def sum_log_excess(
    num_orders: int, *, noise_multiplier: float, num_bins: int
) -> np.ndarray:
    """Returns log(E[R^a] - 1) for a = 2, ..., num_orders.

    With v_i = (r_i - 1) / b, whose moments are all >= 0,

        E[R^a] - 1 = sum_{j >= 2} binomial(a, j) E[(sum_i v_i)^j]
        E[(sum_i v_i)^j] = j! [z^j] (sum_l E[v^l] z^l / l!)^b

    No term is negative, so nothing cancels.

    Args:
        num_orders: A >= 2.
        noise_multiplier: Noise stddev over the L2 clip; > 0.
        num_bins: b >= 1.

    Returns:
        `[A - 1]` float64; exact but for rounding.
    """
    j = np.arange(num_orders + 1.0)
    log_factorial = special.gammaln(j + 1.0)
    log_moments = _compute_log_central_moments(num_orders, noise_multiplier)
    series = log_moments - j * math.log(num_bins) - log_factorial
    power = _raise_to_power(series, num_bins)
    # binomial(a, j) j! = a! / (a - j)!
    left = j[2:, None] - j[2:]
    log_factors = log_factorial[2:, None] - special.gammaln(
        np.maximum(left, 0.0) + 1.0
    )
    return _log_sum(np.where(left >= 0.0, log_factors + power[2:], -np.inf))


def _exceed_tangent(y) -> np.ndarray:
    """Returns exp(-y) - 1 + y >= 0 to full relative accuracy."""
    result = np.expm1(-y) + y
    small = np.abs(y) < _SERIES_BOUND
    x = y[small]
    series = np.ones_like(x)
    for k in range(_NUM_SERIES_TERMS, 2, -1):
        series = 1.0 - x / k * series
    result[small] = 0.5 * x**2 * series
    return result


def _compute_log_transform_excess(log_t, noise_multiplier, num_bins):
    """Returns log(E[exp(-t R)] - exp(-t)) for each t, by quadrature.

    E[exp(-t R)] = E[exp(-t r / b)]^b, and because E[r - 1] = 0

        exp(x) E[exp(-x r)] - 1 = E[exp(-x (r - 1)) - 1 + x (r - 1)]

    where no part is negative.
    """
    t = np.exp(log_t)
    scaled = t / num_bins
    # exp(-x r) is analytic while |Im z| < pi s / 2; moves left as x grows.
    step = min(0.4, 0.2 * noise_multiplier)
    tilt = noise_multiplier * math.log1p(scaled.max() / noise_multiplier**2)
    z = np.arange(-_REACH - tilt, 2.0 / noise_multiplier + _REACH, step)
    log_r = z / noise_multiplier - 0.5 / noise_multiplier**2
    log_weights = -0.5 * z**2 + math.log(step / math.sqrt(2.0 * math.pi))
    # The direct sum loses digits where r hardly varies, this one at large x.
    low = scaled <= min(16.0, max(1.0, noise_multiplier))
    y = scaled[low, None] * np.expm1(log_r)
    gain = np.empty_like(t)
    gain[low] = num_bins * np.log1p(_exceed_tangent(y) @ np.exp(log_weights))
    log_transform = gain - t
    high = scaled[~low, None] * np.exp(log_r)
    log_transform[~low] = num_bins * _log_sum(log_weights - high)
    gain[~low] = log_transform[~low] + t[~low]
    return log_transform + np.log(-np.expm1(-gain))


def _integrate(k, first, last, noise_multiplier, num_bins) -> np.ndarray:
    """Returns log(E[R^-k] - 1) by log t between `first` and `last`."""
    step = _LOG_STEP * math.sqrt(min(1.0, _STEP_EXPONENT / k.max(initial=1.0)))
    log_t = np.arange(first, last + step, step)
    table = k[:, None] * log_t + _compute_log_transform_excess(
        log_t, noise_multiplier, num_bins
    )
    peak = table.max(axis=1)
    ends = np.maximum(table[:, 0], table[:, -1])
    if not np.all(ends < peak - _NEGLIGIBLE_NATS + 2.0):
        raise ValueError(
            "The quadrature's grid must hold the integrand. Received: "
            f"noise_multiplier={noise_multiplier!r}, num_bins={num_bins!r}. "
            "Please report this as a defect."
        )
    return _log_sum(table) + math.log(step) - special.gammaln(k)


def integrate_log_excess(
    exponents: np.ndarray, *, noise_multiplier: float, num_bins: int
) -> np.ndarray:
    """Returns log(E[R^p] - 1) for p < 0, or 1 < p < 2.

    With k = -p, for these p alike, because E[R] = 1:

        E[R^p] - 1 = integral of t^(k - 1) (E[exp(-t R)] - exp(-t)) dt
                     over t > 0, divided by Gamma(k)

    Args:
        exponents: `[A]` float64, p; in [-1e4, 0) or (1, 1.75].
        noise_multiplier: Noise stddev over the L2 clip; >= 0.2.
        num_bins: b >= 1.

    Returns:
        `[A]` float64; good to 1e-10 where -p <= 2 s^2 log b + 2.

    Raises:
        ValueError: If the quadrature does not reach far enough.
    """
    k = -np.asarray(exponents, dtype=np.float64)
    result = np.full_like(k, np.nan)
    variance = 1.0 / noise_multiplier**2
    spread = _REACH / noise_multiplier

    def find_last(k):
        # log R is at least mean_i log r_i ~ N(-variance / 2, variance / b).
        shift = (0.5 + k / num_bins) * variance + spread / math.sqrt(num_bins)
        return math.log(k + 9.0 * math.sqrt(k) + 50.0) + shift

    negative = k < 0.0
    if negative.any():
        # From right to left it falls at last by t^(2 - p), once t r is small.
        fall = _RANGE_NATS / (2.0 + k[negative].min())
        result[negative] = _integrate(
            k[negative],
            -fall - 2.0 * variance - spread,
            find_last(0.0),
            noise_multiplier,
            num_bins,
        )
    low, high = 0.0, _STEP_EXPONENT
    while low < _MAX_EXPONENT:
        chosen = (low < k) & (k <= high)
        if chosen.any():
            result[chosen] = _integrate(
                k[chosen],
                math.log(low + 1.0) - _RANGE_NATS / math.sqrt(low + 1.0),
                find_last(high),
                noise_multiplier,
                num_bins,
            )
        low, high = high, 4.0 * high
    return result


def _bound_by_chords(orders, knots, log_excess) -> np.ndarray:
    """Returns an upper bound of log E[R^a] between orders where it is known.

    It is convex in a, and 0 at 1. So is the log of (E[R^a] - 1) / (a (a - 1)),
    of which chords are nearly exact where R varies little: as E[R] = 1,

        (E[R^a] - 1) / (a (a - 1)) = integral of x^(a - 2) m(x) dx over x > 0
        m(x) = E[max(R - x, 0)] if x > 1, E[max(x - R, 0)] else
    """
    log_moments = np.logaddexp(0.0, log_excess)
    plain = np.interp(
        orders, np.append(1.0, knots), np.append(0.0, log_moments)
    )
    log_ratio = log_excess - np.log(knots * (knots - 1.0))
    fine = np.interp(orders, knots, log_ratio, left=np.inf)
    fine += np.log(orders * (orders - 1.0))
    return np.minimum(plain, np.logaddexp(0.0, fine))


def _bound_removal(orders, noise_multiplier, num_bins) -> np.ndarray:
    """Returns an upper bound of log(E[R^a]) / (a - 1) for each order a.

    Above `_MAX_WHOLE_ORDER` it is b steps of Poisson sampling with q = 1 / b.
    At whole orders that is larger: let S = 1 + v_1 + ... + v_(i - 1), then

        E[(S + v)^a] = sum_j binomial(a, j) E[S^(a - j)] E[v^j]
                    <= E[S^a] sum_j binomial(a, j) E[v^j] = E[S^a] E[(1 + v)^a]

    since E[v^j] >= 0, and E[S] = 1 makes E[S^a] the largest of S's moments.
    RDP grows with the order, so orders between are rounded up.
    """
    settings = dict(noise_multiplier=noise_multiplier, num_bins=num_bins)
    last = int(min(_MAX_WHOLE_ORDER, max(2.0, math.ceil(orders.max()))))
    knots = np.arange(2.0, last + 1.0)
    log_excess = sum_log_excess(last, **settings)
    if noise_multiplier >= _MIN_QUADRATURE_NOISE:
        low = orders[orders < _MAX_INTEGRATED_ORDER]
        low = np.append(np.unique(low), _MAX_INTEGRATED_ORDER)
        knots = np.append(low, knots)
        log_excess = np.append(
            integrate_log_excess(low, **settings), log_excess
        )
    rdp = _bound_by_chords(orders, knots, log_excess) / (orders - 1.0)
    high = orders > last
    if high.any():
        rdp[high] = num_bins * renyi.compute_sampled_gaussian_rdp(
            np.ceil(orders[high]),
            noise_multiplier=noise_multiplier,
            sampling_probability=1.0 / num_bins,
        )
    return rdp


def _bound_addition(orders, noise_multiplier, num_bins, removal) -> np.ndarray:
    """Returns an upper bound of log(E[R^(1 - a)]) / (a - 1), or of `removal`.

    R is at least the geometric mean of the r_i, which bounds the RDP by
    (1 + (a - 1) / b) / (2 s^2). Where that is below `removal` it will do.
    """
    k = orders - 1.0
    rdp = (1.0 + k / num_bins) / (2.0 * noise_multiplier**2)
    if noise_multiplier >= _MIN_QUADRATURE_NOISE:
        matters = (k <= _MAX_EXPONENT) & ~(rdp <= removal)
        log_excess = integrate_log_excess(
            -k[matters], noise_multiplier=noise_multiplier, num_bins=num_bins
        )
        rdp[matters] = np.logaddexp(0.0, log_excess) / k[matters]
    return rdp


@dataclasses.dataclass(frozen=True)
class BallsInBinsRelease(releases.Release):
    """All batches of an epoch in which each unit joins one, and their noise.

    For adding or removing one unit, and for zeroing it out. Not for exchanging
    one: there both data sets have their mixture.

    Attributes:
        noise_multiplier: Noise stddev over the L2 sensitivity; > 0.
        num_bins: Batches of the epoch; whole, in [1, 1e6].
    """

    noise_multiplier: float
    num_bins: int

    @property
    def has_loss(self):
        """False: the loss of a mixture in many dimensions has moments only."""
        return False

    @property
    def is_attained(self):
        """False: no lower bound is computed."""
        return False

    def make_loss(self, log_lost_mass, *, removes):
        """Raises: there is no such loss."""
        raise privacy_loss.NotCertifiedError(
            "balls in bins has no privacy loss"
        )

    def compute_rdp(self, orders):
        """Returns the larger RDP of both directions, as an upper bound.

        Exact to 1e-9 at whole orders up to 512 and at orders up to 1.75 (if
        noise_multiplier >= 0.2); chords between. Never above that of the
        Gaussian that is not sampled, which it is if there is one bin only.

        Args:
            orders: `[A]` float64; each > 1.

        Returns:
            `[A]` float64, nats; > 0.

        Raises:
            ValueError: If a result is not a number > 0, or the quadrature
                fails.
        """
        unsampled = orders / (2.0 * self.noise_multiplier**2)
        if self.num_bins == 1:
            return unsampled
        removal = _bound_removal(orders, self.noise_multiplier, self.num_bins)
        addition = _bound_addition(
            orders, self.noise_multiplier, self.num_bins, removal
        )
        rdp = np.maximum(removal, addition) * (1.0 + _SLACK)
        rdp = np.minimum(unsampled, rdp)
        if not np.all((rdp > 0.0) & np.isfinite(rdp)):
            raise ValueError(
                f"RDP must be finite and > 0. Received: {self!r}. Please "
                "report this as a defect."
            )
        return rdp
