# SPDX-License-Identifier: Apache-2.0
"""Certified bounds of delta(epsilon) of a composition, by one contour integral.

With S the sum of all losses and M its moments, for every order > 0

    delta(epsilon) = E[(1 - exp(epsilon - S))_+]
                   = 1 / (2 pi i) int M(s) exp(-s epsilon) / (s (s + 1)) ds

along Re s = order. Where M does not decay this converges too slowly to be cut
off, so the payoff f(x) = (1 - exp(-x))_+ is first smoothed by a normal variable
Z of mean w^2 / 2 and variance w^2. E[exp(-Z)] = 1, and f is convex in exp(-x),
so the smoothed payoff g(x) = E[f(x + Z)] is an upper bound of f (Jensen), and

    f(x) <= g(x),   transform of g: exp(w^2 s (s + 1) / 2) / (s (s + 1))
    f(x) >= g(x) - b(x),   of b: w^2 exp(w^2 / 8) exp(w^2 s (s + 1) / 2)

where b(x) = w / sqrt(2 pi) exp(-x / 2 - x^2 / (2 w^2)). (g is the
Black-Scholes price of a call with volatility w, and f that with volatility 0.
Its derivative in w is exp(-(x / w + w / 2)^2 / 2) / sqrt(2 pi), at most b / w,
which rises in w: the integral from 0 to w is at most b.) Both now decay like
exp(-w^2 frequency^2 / 2), whatever the losses do.

The integral is a sum over equidistant frequencies. By Poisson's summation
formula it equals the integral plus copies of h(x) = exp(order (x - epsilon))
E[g(S - x)] at x = epsilon + k 2 pi / spacing, which are never negative: the sum
over all frequencies is an upper bound as it stands. What is cut off is bounded
by |M(s)| <= M(order); copies, for the lower bound, by Chernoff's bound. The
two bounds differ in epsilon by about w^2 (1 + order), so w is chosen
beforehand. The cost does not depend on the number of steps.

Source: the payoff's transform as in Zhu, Dong and Wang 2022, arXiv:2106.08567;
    the smoothing and its two bounds are derived here.
"""

import math
from collections.abc import Sequence

import numpy as np

from tf_privacy.accounting import privacy_loss
from tf_privacy.accounting import search

# What is cut off, and the copies, are below exp() of minus this, relative to
# the result.
_NEGLIGIBLE_NATS = 21.0
# Ways to tilt further, in standard deviations, tried for the Chernoff bounds.
_TILTS = (4.0, 8.0, 2.0, 16.0, 1.0, 48.0, 0.5)
# Largest w^2 order (order + 1): the smoothing stays narrower than the law. And
# the largest w^2, for the sake of the factor exp(w^2 / 8) in the lower bound.
_MAX_SMOOTHING = 0.1
_MAX_VARIANCE = 8.0
_MAX_FREQUENCIES = 400_000
_MAX_LOG_ORDER = 80.0
_ORDER_TOLERANCE = 1e-7


class ComposedLoss:
    """The sum of independent privacy losses in one direction.

    Args:
        parts: Pairs (loss of one release, how many of them); at least one.
    """

    def __init__(self, parts: Sequence[tuple[privacy_loss.PrivacyLoss, int]]):
        self._parts = tuple(parts)
        self.moved_mass = sum(n * loss.moved_mass for loss, n in self._parts)
        self.lost_mass = self.moved_mass
        self.lost_mass += sum(n * loss.lost_mass for loss, n in self._parts)
        self.max_loss = sum(n * loss.max_loss for loss, n in self._parts)

    def compute_cumulants(self, order: float) -> tuple[float, float, float]:
        """Returns log M(order), tilted mean and variance; not certified.

        Args:
            order: >= 0.
        """
        log_moment = mean = variance = 0.0
        for loss, count in self._parts:
            part = loss.compute_cumulants(order)
            log_moment += count * part[0]
            mean += count * part[1]
            variance += count * part[2]
        return log_moment, mean, variance

    def bound_log_moment(self, order: float) -> float:
        """Returns an upper bound of log M(order).

        Args:
            order: >= 0.
        """
        return sum(n * loss.bound_log_moment(order) for loss, n in self._parts)

    def transform(self, grid: privacy_loss.FrequencyGrid):
        """Returns the sum of all transforms.

        Args:
            grid: Orders and frequencies.

        Returns:
            A `Transform` whose errors are those of the whole, and the log of
            the factor by which each ratio may be too small: `[J]` float64.
        """
        log_ratio, slack, sums = 0.0, 0.0, np.zeros(3)
        for loss, count in self._parts:
            part = loss.transform(grid)
            log_ratio = log_ratio + count * part.log_ratio
            log_size = part.log_ratio.real
            largest = np.exp(np.maximum(log_size, -700.0)) + part.ratio_error
            growth = np.log(largest) - log_size + 4.0 * privacy_loss.ROUND_OFF
            slack = slack + count * growth
            sums += count * np.array(
                [part.log_moment, part.mean, part.moment_error]
            )
        total = privacy_loss.Transform(
            log_moment=float(sums[0]),
            mean=float(sums[1]),
            log_ratio=log_ratio,
            moment_error=float(sums[2]),
            ratio_error=0.0,
        )
        return total, slack

    def compute_spread(self, order: float) -> float:
        """Returns the standard deviation of what the contour sees.

        Args:
            order: > 0.
        """
        return math.sqrt(self.compute_cumulants(order)[2] + order**-2.0)

    def estimate_at(self, order: float) -> tuple[float, float]:
        """Returns (epsilon, log delta) whose saddle point lies at an order.

        Args:
            order: > 0.

        Returns:
            Estimates (Laplace's method); nats, may be negative.
        """
        log_moment, mean, variance = self.compute_cumulants(order)
        epsilon = mean - 1.0 / order - 1.0 / (1.0 + order)
        curvature = variance + order**-2.0 + (1.0 + order) ** -2.0
        log_delta = log_moment - order * epsilon
        log_delta -= math.log(order) + math.log1p(order)
        return epsilon, log_delta - 0.5 * math.log(2.0 * math.pi * curvature)

    def find_order(self, *, epsilon=None, log_delta=None) -> float:
        """Returns the order whose saddle point has the given value.

        Args:
            epsilon: Nats, or None.
            log_delta: Log of a probability, or None.

        Returns:
            The order; any order gives true bounds, this one tight ones.
        """

        def compute_excess(log_order):
            found = self.estimate_at(math.exp(log_order))
            if epsilon is not None:
                return found[0] - epsilon
            return log_delta - found[1]

        variance = self.compute_cumulants(0.0)[2]
        start = -0.5 * math.log(max(variance, 1e-60)) + 0.7
        low = high = start
        step = 1.0
        while high < _MAX_LOG_ORDER and compute_excess(high) < 0.0:
            low, high, step = high, high + step, 1.5 * step
        step = 1.0
        while low > -_MAX_LOG_ORDER and not compute_excess(low) <= 0.0:
            low, high, step = low - step, low, 1.5 * step
        if high >= _MAX_LOG_ORDER or low <= -_MAX_LOG_ORDER:
            raise privacy_loss.NotCertifiedError("no saddle point was found")
        if low == high:
            return math.exp(low)
        return math.exp(
            search.find_zero(
                compute_excess, low, high, tolerance=_ORDER_TOLERANCE
            )
        )


class DeltaBounds:
    """Upper and lower bounds of delta near one epsilon.

    They hold at every epsilon, and are tight near the one given.

    Args:
        composed: What ran, in one direction.
        order: Where the contour lies; > 0.
        epsilon: Where the bounds are to be tight; nats.
        log_delta: About the log of delta there; scales what is negligible.
        width: About how far each bound may be off, in epsilon; nats.

    Raises:
        NotCertifiedError: If it would take too long.
    """

    def __init__(
        self,
        composed: ComposedLoss,
        *,
        order: float,
        epsilon: float,
        log_delta: float,
        width: float,
    ):
        self._composed = composed
        self._epsilon = epsilon
        self.order = order
        log_moment = composed.compute_cumulants(order)[0]
        self._deviation = composed.compute_spread(order)
        self._smoothing = float(self._choose_smoothing(width))
        far = log_moment - order * epsilon - log_delta
        self._negligible = _NEGLIGIBLE_NATS + max(0.0, far)
        self._period = float(self._choose_period(log_moment))
        self._grid = self._make_grid()
        self._integrate()

    def _choose_smoothing(self, width) -> float:
        """Returns w^2."""
        variance = 2.0 * width / (1.0 + self.order)
        narrow = _MAX_SMOOTHING / (self.order * (1.0 + self.order))
        return min(variance, narrow, _MAX_VARIANCE)

    def _log_copy(self, order: float, log_moment: float) -> float:
        """Returns a log bound of h(x) exp((order - self.order) (x - epsilon)).

        E[g(S - x)] <= M(order) exp(w^2 order (order + 1) / 2 - order x).
        """
        smoothed = 0.5 * self._smoothing * order * (order + 1.0)
        return log_moment + smoothed - order * self._epsilon

    def _choose_period(self, log_moment: float) -> float:
        """Returns the distance of the copies, and keeps the tilts behind it."""
        base = log_moment - self.order * self._epsilon
        self._tilts, self._tilt_moments = [], None
        period = 0.0
        for sign in (1.0, -1.0):
            best, chosen = math.inf, self.order
            for tilt in _TILTS:
                order = self.order + sign * tilt / self._deviation
                order = max(order, 0.0)
                moment = self._composed.compute_cumulants(order)[0]
                excess = max(self._log_copy(order, moment) - base + 2.0, 0.0)
                gap = abs(order - self.order)
                needed = (excess + self._negligible) / gap
                if needed < best:
                    best, chosen = needed, order
            period = max(period, best)
            self._tilts.append(chosen)
        return period

    def _make_grid(self) -> privacy_loss.FrequencyGrid:
        spacing = 2.0 * math.pi / self._period
        last = math.sqrt(2.0 * self._negligible / self._smoothing)
        count = math.ceil(last / spacing) + 1
        if not count <= _MAX_FREQUENCIES:
            raise privacy_loss.NotCertifiedError("too many frequencies")
        num_rows = math.ceil(math.sqrt(count))
        return privacy_loss.FrequencyGrid(
            order=self.order,
            spacing=spacing,
            num_rows=num_rows,
            num_columns=math.ceil(count / num_rows),
        )

    def _integrate(self) -> None:
        transform, slack = self._composed.transform(self._grid)
        self._log_moment = transform.log_moment
        self._moment_error = transform.moment_error
        self._mean = transform.mean
        square, order, last = self._smoothing, self.order, self._grid.last
        s = order + 1j * self._grid.frequencies
        product = s * (s + 1.0)
        smoothed = np.exp(transform.log_ratio + 0.5 * square * product)
        smoothed *= self._grid.spacing / math.pi
        smoothed[0] *= 0.5
        bump = square * math.exp(square / 8.0)
        self._upper_terms = smoothed / product
        self._lower_terms = self._upper_terms - bump * smoothed
        # What lies beyond the last frequency, by |ratio| <= 1.
        beyond = math.exp(
            0.5 * square * order * (order + 1.0) - 0.5 * square * last**2
        )
        self._upper_error = beyond / (math.pi * square * last**3)
        self._upper_error += self._bound_error(self._upper_terms, slack)
        self._lower_error = (
            beyond
            / math.pi
            * (1.0 / (square * last**3) + math.exp(square / 8.0) / last)
        )
        self._lower_error += self._bound_error(self._lower_terms, slack)

    def _bound_error(self, terms, slack) -> float:
        """Returns what errors of the ratios and round-off make of a sum."""
        size = np.abs(terms)
        with np.errstate(divide="ignore"):
            largest = np.log(size) + slack
        grown = np.exp(np.minimum(largest, 700.0)) - size
        phase = self._smoothing * (self.order + 0.5) * self._grid.last
        rough = 16.0 + size.size + 4.0 * phase
        return float(grown.sum() + privacy_loss.ROUND_OFF * rough * size.sum())

    def _sum(self, terms, epsilon: float) -> tuple[float, float]:
        """Returns the sum, and what the rounding of its phases makes of it."""
        phase = self._grid.frequencies * (self._mean - epsilon)
        found = terms.real @ np.cos(phase) - terms.imag @ np.sin(phase)
        far = 4.0 * self._grid.last * (abs(self._mean) + abs(epsilon))
        error = privacy_loss.ROUND_OFF * far * np.abs(terms).sum()
        return float(found), float(error)

    def _scale(self, epsilon: float, sign: float) -> float:
        exponent = self._log_moment - self.order * epsilon
        slack = self._moment_error + 8.0 * privacy_loss.ROUND_OFF * (
            abs(self._log_moment) + abs(self.order * epsilon) + 1.0
        )
        return math.exp(min(exponent + sign * slack, 700.0))

    def compute_upper(self, epsilon: float) -> float:
        """Returns an upper bound of delta.

        Args:
            epsilon: Nats.
        """
        found, error = self._sum(self._upper_terms, epsilon)
        found += error + self._upper_error
        return self._scale(epsilon, 1.0) * found + self._composed.lost_mass

    def compute_lower(self, epsilon: float) -> float:
        """Returns a lower bound of delta; may be negative.

        Args:
            epsilon: Nats.
        """
        found, error = self._sum(self._lower_terms, epsilon)
        found = (found - error - self._lower_error) * self._scale(epsilon, -1.0)
        return found - self._bound_copies(epsilon) - self._composed.moved_mass

    def _bound_copies(self, epsilon: float) -> float:
        """Returns a bound of the sum of h over all copies but the first."""
        if self._tilt_moments is None:
            self._tilt_moments = [
                self._composed.bound_log_moment(order) for order in self._tilts
            ]
        total = 0.0
        for order, log_moment in zip(
            self._tilts, self._tilt_moments, strict=True
        ):
            smoothed = 0.5 * self._smoothing * order * (order + 1.0)
            log_first = log_moment + smoothed - order * epsilon
            decay = abs(order - self.order) * self._period
            log_sum = log_first - decay - math.log(-math.expm1(-decay))
            total += math.exp(min(log_sum, 700.0))
        return total
