# SPDX-License-Identifier: Apache-2.0
"""Privacy loss of Gaussian noise around a sum that moves by a random amount.

In units of the noise, without the unit a release is N(0, 1); with it,
N(c_i, 1) with probability p_i, where c_0 = 0 <= c_1 <= ... Poisson sampling is
p = (1 - q, q), c = (0, 1 / noise_multiplier). With t standard normal and

    u(t) = sum_i p_i (exp(c_i t - c_i^2 / 2) - 1)

the loss is log(1 + u) when the unit is removed (under the mixture), and its
negative when it is added (under N(0, 1)).
"""

import dataclasses
import math

import numpy as np
from scipy import special

from tf_privacy.accounting import quadrature_loss

_LOG_ROOT_2_PI = 0.5 * math.log(2.0 * math.pi)
# Beyond this exponent, u is computed in the log domain.
_LARGE_EXPONENT = 500.0


@dataclasses.dataclass(frozen=True)
class Shifts:
    """By how much a unit moves the sum, in units of the noise.

    Attributes:
        sizes: c, rising from 0; one or more.
        probabilities: p, each > 0; they add up to 1.
    """

    sizes: tuple[float, ...]
    probabilities: tuple[float, ...]

    def compute_log_ratio(self, t: np.ndarray) -> np.ndarray:
        """Returns log(1 + u(t)), precise where u is small; same shape as t."""
        change = np.zeros_like(t)
        largest = 0.0
        for size, probability in zip(
            self.sizes[1:], self.probabilities[1:], strict=True
        ):
            exponent = size * t - 0.5 * size * size
            largest = max(largest, float(exponent.max()))
            exponent = np.minimum(exponent, _LARGE_EXPONENT)
            change += probability * np.expm1(exponent)
        ratio = np.log1p(change)
        if largest < _LARGE_EXPONENT:
            return ratio
        whole = np.logaddexp.reduce(self._log_terms(t), axis=0)
        return np.where(change > 1e100, whole, ratio)

    def _log_terms(self, t):
        """Returns log of p_i times each density ratio; `[I, *t.shape]`."""
        shape = (-1,) + (1,) * t.ndim
        sizes = np.reshape(self.sizes, shape)
        logs = np.log(np.reshape(self.probabilities, shape))
        return sizes * t + (logs - 0.5 * sizes**2)

    def compute_share(self, t: np.ndarray, log_ratio) -> np.ndarray:
        """Returns sum_i c_i p_i ratio_i / (1 + u): how steep the loss is."""
        weights = np.exp(self._log_terms(t) - log_ratio)
        return np.tensordot(self.sizes, weights, axes=1)

    def compute_log_cosine(self, right, height) -> tuple:
        """Returns what a step off the real axis does to 1 + u.

        At t + i y with |y| <= height, and every c_i y at most pi / 2, all terms
        of 1 + u have their angles in [0, pi / 2]. Their mean's angle rises with
        t and y, and the mean of the cosines falls with both; so the values at
        the right end bound those of the whole ellipse.

        Args:
            right: `[P, E]` float64; largest real part.
            height: `[P, E]` float64; largest imaginary part.

        Returns:
            `[P, E]` float64 angles of 1 + u, at most; and logs of
            |1 + u(t + i y)| / (1 + u(t)), at least.
        """
        log_terms = self._log_terms(right)
        weights = np.exp(log_terms - np.logaddexp.reduce(log_terms, axis=0))
        angles = np.multiply.outer(self.sizes, height)
        sine = (weights * np.sin(angles)).sum(axis=0)
        cosine = (weights * np.cos(angles)).sum(axis=0)
        with np.errstate(divide="ignore"):
            return np.arctan2(sine, cosine), np.log(cosine)


def _find_quantile(log_mass) -> np.ndarray:
    """Returns z with log P(N(0, 1) > z) = log_mass, at least 0."""
    return -special.ndtri_exp(np.minimum(log_mass, math.log(0.5)))


@dataclasses.dataclass(frozen=True)
class _Ellipse:
    """Bernstein ellipses around panels, all arrays `[P, E]`.

    Attributes:
        left: Least real part.
        right: Largest real part.
        height: Largest imaginary part.
        known: Whether all angles c_i height are at most pi / 2.
    """

    left: np.ndarray
    right: np.ndarray
    height: np.ndarray
    known: np.ndarray

    @classmethod
    def around(cls, middle, half_width, steepness) -> "_Ellipse":
        """Returns the ellipses around panels."""
        ellipses = quadrature_loss.ELLIPSES
        reach = half_width * (ellipses + 1.0 / ellipses) / 2.0
        height = half_width * (ellipses - 1.0 / ellipses) / 2.0
        known = height * steepness <= 0.5 * math.pi
        height = np.where(known, height, 0.0)
        return cls(middle - reach, middle + reach, height, known)

    def bound_log_density(self) -> np.ndarray:
        """Returns a bound of the log of the normal density's size."""
        nearest = np.clip(0.0, self.left, self.right)
        return 0.5 * (self.height**2 - nearest**2) - _LOG_ROOT_2_PI


class GaussianPiece(quadrature_loss.Piece):
    """The loss of shifts on an interval of t.

    Args:
        shifts: How the unit moves the sum.
        removes: Whether the unit is removed: the loss is log(1 + u), under the
            mixture. Else its negative, under N(0, 1).
        left: Lower end of t.
        right: Upper end of t.
        log_weight: Logarithm of a factor on the density.
    """

    def __init__(
        self,
        shifts: Shifts,
        *,
        removes: bool,
        left: float,
        right: float,
        log_weight: float = 0.0,
    ):
        self.left = left
        self.right = right
        self.log_weight = log_weight
        self.steepness = shifts.sizes[-1]
        self._shifts = shifts
        self._removes = removes

    def evaluate(self, t):
        """Returns loss, log density and the errors of both at each t."""
        ratio = self._shifts.compute_log_ratio(t)
        log_density = -0.5 * t * t - _LOG_ROOT_2_PI
        share = self._shifts.compute_share(t, ratio)
        # Exponents c t - c^2 / 2 are right to a few round-offs of their terms.
        size = np.abs(t) + self._shifts.sizes[-1] + 4.0
        error = 4.0 * (np.abs(ratio) + share * size)
        density_error = 4.0 * (0.5 * t * t + np.abs(ratio) + 1.0)
        if self._removes:
            return ratio, log_density + ratio, error, density_error
        return -ratio, log_density, error, density_error

    def bound_log_integrand(self, middle, half_width, order, frequency):
        """Returns a bound of the log integrand's size on Bernstein ellipses."""
        ellipse = _Ellipse.around(middle, half_width, self.steepness)
        shifts = self._shifts
        angle, log_cosine = shifts.compute_log_cosine(
            ellipse.right, ellipse.height
        )
        bound = ellipse.bound_log_density()
        if self._removes:
            # |1 + u(t + i y)| <= 1 + u(t), which rises with t.
            bound += (order + 1.0) * shifts.compute_log_ratio(ellipse.right)
        else:
            ratio = shifts.compute_log_ratio(ellipse.left)
            bound -= order * (ratio + log_cosine)
        return np.where(ellipse.known, bound + frequency * angle, np.inf)


class ReplacingPiece(quadrature_loss.Piece):
    """The loss of a unit whose contribution turns into its opposite.

    With it the sum moves by +c_i, on the neighbor by -c_i: the loss is
    log(1 + u(t)) - log(1 + u(-t)), under the first mixture.

    Args:
        shifts: How the unit moves the sum.
        reach: The interval is [-reach, reach].
        log_weight: Logarithm of a factor on the density.
    """

    def __init__(self, shifts: Shifts, *, reach: float, log_weight: float):
        self.left = -reach
        self.right = reach
        self.log_weight = log_weight
        self.steepness = shifts.sizes[-1]
        self._shifts = shifts

    def evaluate(self, t):
        """Returns loss, log density and the errors of both at each t."""
        shifts = self._shifts
        ratio, mirrored = (shifts.compute_log_ratio(side) for side in (t, -t))
        share = shifts.compute_share(t, ratio)
        share = share + shifts.compute_share(-t, mirrored)
        size = np.abs(t) + self.steepness + 4.0
        error = 4.0 * (np.abs(ratio) + np.abs(mirrored) + share * size)
        density_error = 4.0 * (0.5 * t * t + np.abs(ratio) + 1.0)
        log_density = -0.5 * t * t - _LOG_ROOT_2_PI + ratio
        return ratio - mirrored, log_density, error, density_error

    def bound_log_integrand(self, middle, half_width, order, frequency):
        """Returns a bound of the log integrand's size on Bernstein ellipses."""
        ellipse = _Ellipse.around(middle, half_width, self.steepness)
        shifts, height = self._shifts, ellipse.height
        angle, _ = shifts.compute_log_cosine(ellipse.right, height)
        other, log_cosine = shifts.compute_log_cosine(-ellipse.left, height)
        bound = ellipse.bound_log_density()
        bound += (order + 1.0) * shifts.compute_log_ratio(ellipse.right)
        ratio = shifts.compute_log_ratio(-ellipse.right)
        bound -= order * (ratio + log_cosine)
        bound += frequency * (angle + other)
        return np.where(ellipse.known, bound, np.inf)


def make_replacing_loss(
    branches, *, log_lost_mass: float
) -> quadrature_loss.QuadratureLoss:
    """Returns the loss of one release in which a unit's content is exchanged.

    With N_0, N_g and N_h the release without the unit, with the one content and
    with the other, for every set A of outcomes N_g(A) is at most, and N_h(A) at
    least, what a half space of the same N_0(A) has in the direction of g, and
    of -h (Neyman and Pearson). One half space does both if h = -g, so that
    opposite contributions of full length are the worst case.

    Args:
        branches: Pairs (log of the branch's probability, its `Shifts`).
        log_lost_mass: Log of the mass that the cut may leave out.
    """
    pieces, lost, max_loss = [], 0.0, -math.inf
    for log_weight, shifts in branches:
        sizes = np.array(shifts.sizes)
        probabilities = np.array(shifts.probabilities)
        share = log_lost_mass - math.log(2.0 * sizes.size * len(branches))
        share = min(share - log_weight, math.log(0.5))
        far = sizes + _find_quantile(share - np.log(probabilities))
        reach = max(float(np.max(far)), float(_find_quantile(share)))
        outside = special.ndtr(sizes - reach) + special.ndtr(-sizes - reach)
        lost += math.exp(log_weight) * float(probabilities @ outside)
        piece = ReplacingPiece(shifts, reach=reach, log_weight=log_weight)
        end = piece.evaluate(np.array([reach]))[0][0]
        max_loss = max(max_loss, float(end))
        pieces.append(piece)
    return quadrature_loss.QuadratureLoss(
        pieces, lost_mass=lost * (1.0 + 1e-9), max_loss=max_loss
    )


def make_shift_loss(
    shifts: Shifts,
    *,
    removes: bool,
    log_lost_mass: float,
    moved_mass: float = 0.0,
) -> quadrature_loss.QuadratureLoss:
    """Returns the loss of one release in one direction.

    Args:
        shifts: How the unit moves the sum.
        removes: Whether the unit is removed, else added.
        log_lost_mass: Log of the mass that the cut may leave out.
        moved_mass: Mass m of the mixture that `shifts` leave out, having been
            normalized without it. If it is the mixture that is drawn from, the
            event counts as revealed. If not, the loss is too small by at most
            -log(1 - m), and delta by at most as much. One per cent more covers
            the products of several releases.
    """
    branch = [(0.0, shifts)]
    loss = make_branched_loss(
        branch, removes=removes, log_lost_mass=log_lost_mass
    )
    loss.moved_mass = 1.01 * moved_mass
    return loss


def make_branched_loss(
    branches, *, removes: bool, log_lost_mass: float
) -> quadrature_loss.QuadratureLoss:
    """Returns the loss of a release that also tells which branch it took.

    A mixture over branches that both neighbors take with the same probability
    is dominated by its branches told apart (joint convexity).

    Args:
        branches: Pairs (log of the branch's probability, its `Shifts`).
        removes: Whether the unit is removed, else added.
        log_lost_mass: Log of the mass that the cut may leave out.
    """
    pieces, lost, max_loss = [], 0.0, -math.inf
    for log_weight, shifts in branches:
        sizes = np.array(shifts.sizes)
        probabilities = np.array(shifts.probabilities)
        share = log_lost_mass - math.log(2.0 * sizes.size * len(branches))
        share = min(share - log_weight, math.log(0.5))
        left = -float(_find_quantile(share))
        if removes:
            reach = _find_quantile(share - np.log(probabilities))
            right = float(np.max(sizes + reach))
            outside = special.ndtr(left - sizes) + special.ndtr(sizes - right)
            mass = float(probabilities @ outside)
        else:
            right = -left
            mass = 2.0 * float(special.ndtr(left))
        lost += math.exp(log_weight) * mass
        piece = GaussianPiece(
            shifts,
            removes=removes,
            left=left,
            right=right,
            log_weight=log_weight,
        )
        end = np.array([right if removes else left])
        max_loss = max(max_loss, float(piece.evaluate(end)[0][0]))
        pieces.append(piece)
    return quadrature_loss.QuadratureLoss(
        pieces, lost_mass=lost * (1.0 + 1e-9), max_loss=max_loss
    )


def make_symmetric_loss(
    shifts: Shifts, *, log_lost_mass: float
) -> quadrature_loss.QuadratureLoss:
    """Returns the loss of a release whose neighbors may change places.

    The profile delta(epsilon) at epsilon >= 0 is that of removing; a profile
    that holds both ways then has mass f(l) at loss l > 0 and exp(-l) f(l) at
    -l, which is the mass that adding has there. The rest is at loss 0.

    Args:
        shifts: How the unit moves the sum; two sizes.
        log_lost_mass: Log of the mass that the cut may leave out.

    Source: Balle, Barthe and Gaboardi 2018, arXiv:1807.01647, Theorem 9 (the
        profile); Zhu, Dong and Wang 2022, arXiv:2106.08567, Proposition 10.
    """
    sizes = np.array(shifts.sizes)
    probabilities = np.array(shifts.probabilities)
    left = 0.5 * float(sizes[1])
    share = min(log_lost_mass - math.log(4.0), math.log(0.5))
    reach = _find_quantile(share - np.log(probabilities))
    right = max(float(np.max(sizes + reach)), left + 1.0)
    pieces = [
        GaussianPiece(shifts, removes=removes, left=left, right=right)
        for removes in (True, False)
    ]
    beyond = special.ndtr(sizes - right)
    lost = float(probabilities @ beyond) + float(beyond[0])
    positive = float(probabilities @ special.ndtr(sizes - left))
    negative = float(special.ndtr(-left))
    rest = max(1.0 - positive - negative, 1e-300)
    end = pieces[0].evaluate(np.array([right]))[0][0]
    return quadrature_loss.QuadratureLoss(
        pieces,
        lost_mass=lost * (1.0 + 1e-9),
        max_loss=float(end),
        atoms=[(0.0, math.log(rest))],
    )
