# SPDX-License-Identifier: Apache-2.0
"""The moment behind the RDP of the Poisson-sampled Gaussian, by quadrature.

With t standard normal, sigma the noise multiplier, q the sampling probability
and u(t) = q (exp(t / sigma - 1 / (2 sigma^2)) - 1), which has mean zero, the
moment of order a exceeds 1 by

    E[(1 + u)^a] - 1 = E[f(u)],    f(u) = (1 + u)^a - 1 - a u >= 0.

Taking the mean-zero term out before integrating leaves an integrand that is
never negative, so nothing cancels: the excess keeps its relative accuracy at
q = 1e-8, where (1 + u)^a itself is 1 to all digits. It also treats fractional
and integer orders alike, at a cost that does not grow with the order.
"""

import numpy as np

# The normal density beyond this many standard deviations from the outermost
# peak of the integrand holds less than 1e-22 of it.
_REACH = 10.0
# Panels that lie this many nats below the peak are left out: all of them
# together hold less than 1e-15 of the integral.
_NEGLIGIBLE_NATS = 45.0
# Widest panel, and largest change of the log integrand across one, that
# `_NUM_NODES` Gauss-Legendre nodes integrate to 1e-12 (checked by tests).
_MAX_WIDTH = 2.0
_MAX_CHANGE_NATS = 20.0
_NUM_NODES = 16
# The density ratio is capped at exp() of this against overflow, for every use
# but log(1 + u), and log(1 + u) above the second value tells that it was near
# or at the cap. 1 + u equals u to all digits there.
_MAX_LOG_RATIO = 600.0
_MAX_LOG_SUM = 500.0
# Below this |a u| the power series of f is used, above it f itself.
_SERIES_BOUND = 0.1
_NUM_SERIES_TERMS = 12
# One grid of points serves all orders of a similar size while it has at most so
# many points; below this noise, and beyond, panels adapt to each order.
_GRID_NATS = 42.0
_SMALL_POWER = 0.02
_NUM_POWERS = 9
_MIN_GRID_NOISE = 0.25
_MAX_GRID = 8192.0


def _log_excess_series(scaled, u, order):
    """Returns log f(u) from its power series, for small `scaled` = a u."""
    series = np.ones_like(u)
    for k in range(_NUM_SERIES_TERMS, 2, -1):
        series = 1.0 + (scaled - (k - 1) * u) / k * series
    with np.errstate(divide="ignore"):
        log_square = 2.0 * np.log(np.abs(u))
    return np.log(0.5 * order * (order - 1.0)) + log_square + np.log(series)


def _log_excess_direct(log_sum, scaled, order):
    """Returns log f(u) given log(1 + u) and a u, away from u = 0."""
    log_power = order * log_sum
    result = np.empty_like(log_power)
    high = log_power > 1.0
    x, log_one_plus_u, a = scaled[high], log_sum[high], order[high]
    # log(1 + a u) is log(a) + log(1 + u) to all digits where u was capped.
    log_linear = np.where(
        log_one_plus_u < _MAX_LOG_SUM,
        np.log1p(x),
        np.log(a) + log_one_plus_u,
    )
    y = log_power[high]
    result[high] = y + np.log1p(-np.exp(log_linear - y))
    low = ~high
    result[low] = np.log(np.expm1(log_power[low]) - scaled[low])
    return result


def _log_excess(t, order, noise_multiplier, sampling_probability):
    """Returns log f(u(t)) elementwise; -inf where u is zero."""
    log_ratio = t / noise_multiplier - 0.5 / noise_multiplier**2
    capped = np.minimum(log_ratio, _MAX_LOG_RATIO)
    u = sampling_probability * np.expm1(capped)
    log_sum = np.where(
        log_ratio > _MAX_LOG_RATIO,
        np.log(sampling_probability) + log_ratio,
        np.log1p(u),
    )
    scaled = order * u
    small = np.abs(scaled) < _SERIES_BOUND
    result = np.empty_like(u)
    result[small] = _log_excess_series(scaled[small], u[small], order[small])
    result[~small] = _log_excess_direct(
        log_sum[~small], scaled[~small], order[~small]
    )
    return result


def _bound_log_integrand(left, right, order, log_f, log_g, zero):
    """Returns an upper bound of the log integrand on each panel.

    First bound: f is convex in u, so its maximum over a panel is at an end.
    Second bound, for order >= 2 right of the zero t0 of u: log(f / u^2) is
    convex in t (f / u^2 is a mixture of powers (1 + x u)^(a - 2)) and the
    curvature of log u^2 is at least -2 / (t - t0)^2, so the log integrand
    exceeds its larger end value by at most (1 + 2 / (left - t0)^2) w^2 / 8.
    """
    nearest = np.clip(0.0, left, right)
    bound = np.maximum(*log_f) - 0.5 * nearest**2
    beyond = np.maximum(left - zero, 0.0)
    with np.errstate(divide="ignore"):
        curvature = 1.0 + 2.0 / beyond**2
    by_curvature = np.maximum(*log_g) + curvature * (right - left) ** 2 / 8.0
    return np.where(order >= 2.0, np.minimum(bound, by_curvature), bound)


def _select_panels(orders, noise_multiplier, sampling_probability):
    """Returns (order index, left end, right end) of the panels that matter.

    Branch and bound: each order starts with one panel that covers all its
    peaks (none lies right of max(a, 2) / sigma + 2); panels are halved until
    quadrature resolves them, and those that provably do not matter go.
    The branch points of (1 + u)^a lie pi sigma above and below `bend`; panels
    may be wider than that only at a distance from it.
    """
    sigma, q = noise_multiplier, sampling_probability
    zero = 0.5 / sigma
    bend = zero + sigma * (np.log1p(-q) - np.log(q))
    index = np.arange(orders.size)
    left = np.full(orders.size, -_REACH)
    right = np.maximum(orders, 2.0) / sigma + 2.0 + _REACH
    peak = np.full(orders.size, -np.inf)
    chosen = []
    while index.size:
        order = orders[index]
        log_f = [_log_excess(t, order, sigma, q) for t in (left, right)]
        log_g = [
            value - 0.5 * t**2
            for value, t in zip(log_f, (left, right), strict=True)
        ]
        np.maximum.at(peak, index, np.maximum(*log_g))
        bound = _bound_log_integrand(left, right, order, log_f, log_g, zero)
        matters = bound > peak[index] - _NEGLIGIBLE_NATS
        gap = np.maximum(np.maximum(left - bend, bend - right), 0.0)
        widest = np.minimum(_MAX_WIDTH, np.maximum(3.0 * sigma, gap))
        with np.errstate(invalid="ignore"):
            change = np.abs(log_g[1] - log_g[0])
        # At very large orders adjacent floats may already be nats apart.
        middle = 0.5 * (left + right)
        splits = (left < middle) & (middle < right)
        fine = (right - left <= widest) & ~(change > _MAX_CHANGE_NATS)
        fine |= ~splits
        take = matters & fine
        chosen.append((index[take], left[take], right[take]))
        again = matters & ~fine
        index = np.repeat(index[again], 2)
        halves = (left[again], middle[again], right[again])
        left = np.stack(halves[:2], axis=1).ravel()
        right = np.stack(halves[1:], axis=1).ravel()
    return (np.concatenate(column) for column in zip(*chosen, strict=True))


def _remainder(x):
    """Returns exp(x) - 1 - x, precise where x is small; changes nothing."""
    result = np.expm1(x)
    result -= x
    small = np.abs(x) < _SMALL_POWER
    near = x[small]
    series = 1.0 + near / _NUM_POWERS
    for k in range(_NUM_POWERS - 1, 2, -1):
        series *= near / k
        series += 1.0
    result[small] = 0.5 * near * near * series
    return result


def _sum_on_grid(orders, noise_multiplier, sampling_probability):
    """Returns the log excess of orders of one size, by the trapezoidal rule.

    With v = log(1 + u) and h(x) = exp(x) - 1 - x, f = h(a v) - a h(v): both
    are of second order in u, so that little cancels. The rule converges like
    exp(-2 pi d / step) for an integrand analytic in a strip of half-width d;
    here d is pi sigma, and more than 3 gains nothing.
    """
    sigma, q = noise_multiplier, sampling_probability
    step = _get_step(sigma)
    end = max(2.0, orders[-1]) / sigma + 2.0 + _REACH
    t = np.arange(-_REACH, end + step, step)
    log_ratio = t / sigma - 0.5 / sigma**2
    u = q * np.expm1(np.minimum(log_ratio, _MAX_LOG_RATIO))
    log_sum = np.where(
        log_ratio > _MAX_LOG_RATIO, np.log(q) + log_ratio, np.log1p(u)
    )
    power = np.multiply.outer(orders, log_sum)
    with np.errstate(divide="ignore", over="ignore"):
        low = _remainder(np.minimum(power, 1.0))
        low -= np.multiply.outer(orders, _remainder(np.minimum(log_sum, 1.0)))
        log_f = np.log(np.maximum(low, 0.0, out=low), out=low)
    row, column = np.nonzero(power > 1.0)
    high = power[row, column]
    # (1 + u)^a exceeds 1 + a u; where it is large, u may have lost its 1.
    linear = 1.0 + orders[row] * u[column]
    log_f[row, column] = high + np.log1p(-linear * np.exp(-high))
    log_f -= 0.5 * t * t
    peak = log_f.max(axis=1)
    log_f -= peak[:, None]
    total = np.exp(log_f, out=log_f).sum(axis=1) * step
    return peak + np.log(total) - 0.5 * np.log(2.0 * np.pi)


def _get_step(noise_multiplier):
    return min(np.pi * noise_multiplier, 3.0) * 2.0 * np.pi / _GRID_NATS


def _group_orders(orders, noise_multiplier):
    """Yields indices of orders of similar size that one grid serves."""
    if noise_multiplier < _MIN_GRID_NOISE:
        return
    reach = np.maximum(orders, 2.0) / noise_multiplier + 2.0 + 2.0 * _REACH
    size = reach / _get_step(noise_multiplier)
    group = np.floor(np.log2(size))
    for number in np.unique(group[size <= _MAX_GRID]):
        yield np.flatnonzero((size <= _MAX_GRID) & (group == number))


def compute_log_moment_excess(
    orders: np.ndarray, *, noise_multiplier: float, sampling_probability: float
) -> np.ndarray:
    """Returns log(E[(1 + u)^a] - 1) for every order a, in one call.

    Relative accuracy of E[(1 + u)^a] - 1 and of the logarithm of the moment:
    1e-10 or better (see the tests for the ranges checked).

    Args:
        orders: `[A]` float64; Renyi orders a, each > 1 and at most 1e6 times
            `noise_multiplier`: beyond, doubles do not resolve the integrand.
        noise_multiplier: Noise stddev over the L2 clip, no unit; > 0.
        sampling_probability: Chance that a unit joins a batch; in (0, 1).

    Returns:
        `[A]` float64; the logarithm of the excess, no unit.
    """
    orders = np.asarray(orders, dtype=np.float64)
    found = np.full(orders.shape, np.nan)
    for index in _group_orders(orders, noise_multiplier):
        index = index[np.argsort(orders[index])]
        found[index] = _sum_on_grid(
            orders[index], noise_multiplier, sampling_probability
        )
    rest = np.isnan(found)
    if rest.any():
        found[rest] = _sum_on_panels(
            orders[rest], noise_multiplier, sampling_probability
        )
    return found


def _sum_on_panels(orders, noise_multiplier, sampling_probability):
    """Returns the log excess at any orders, by adaptive quadrature."""
    index, left, right = _select_panels(
        orders, noise_multiplier, sampling_probability
    )
    nodes, weights = np.polynomial.legendre.leggauss(_NUM_NODES)
    half_width = 0.5 * (right - left)
    t = (left + half_width)[:, None] + half_width[:, None] * nodes
    order = np.broadcast_to(orders[index][:, None], t.shape)
    log_g = _log_excess(t, order, noise_multiplier, sampling_probability)
    log_g -= 0.5 * t**2
    peak = np.full(orders.size, -np.inf)
    np.maximum.at(peak, index, log_g.max(axis=1))
    panels = (np.exp(log_g - peak[index][:, None]) @ weights) * half_width
    total = np.bincount(index, weights=panels, minlength=orders.size)
    return peak + np.log(total) - 0.5 * np.log(2.0 * np.pi)
