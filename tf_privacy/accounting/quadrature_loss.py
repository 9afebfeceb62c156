# SPDX-License-Identifier: Apache-2.0
"""Moments of a privacy loss by quadrature whose error is proved.

A loss consists of pieces, each an integral over an interval, and of atoms. On a
panel of half-width h, the Gauss-Legendre rule with n nodes errs, for an
integrand that is analytic and at most m in size inside of the Bernstein ellipse
of parameter r, by at most

    4.3 h m r^(-2 n) / (1 - 1 / r^2)

(the Chebyshev coefficients of such a function are at most 2 m r^(-k), the rule
is exact below degree 2 n, and what remains is summed). Each piece knows such a
bound m of its own integrand, so panels are halved until the sum of all bounds
is below the round-off of double precision.

Source: Trefethen 2008, "Is Gauss quadrature better than Clenshaw-Curtis?",
    SIAM Review 50(1), Theorem 4.5 (the same argument).
"""

import abc
import math
from collections.abc import Sequence

import numpy as np

from tf_privacy.accounting import privacy_loss

_NUM_NODES = 32
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(_NUM_NODES)
# Ellipses tried on every panel; the best of them counts.
ELLIPSES = np.array([2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0])
_LOG_DECAY = -2 * _NUM_NODES * np.log(ELLIPSES) - np.log1p(-(ELLIPSES**-2.0))
# Panels are halved until each one's error, relative to the moment, is below
# exp(-38) = 3e-17, a third of the round-off.
_LOG_PANEL_ERROR = -38.0
_MAX_HALVINGS = 40
_WIDEST_PANEL = 6.0
_SKETCH_PANEL = 4.0
# What one transform may cost: nodes, and nodes times frequencies.
_MAX_NODES = 60_000
_MAX_PRODUCT = 600_000_000
# Nodes summed at a time: n chunks of c nodes err by at most c + n round-offs.
_CHUNK = 128
# Relative error of a product of a row's and a column's factor, in round-offs:
# each is at most 10 products (of 4 round-offs) away from a sine.
_FACTOR_ERROR = 96.0


class Piece(abc.ABC):
    """One interval of a loss: a density over it, and the loss at each point.

    Attributes:
        left: Lower end of the interval.
        right: Upper end.
        log_weight: Logarithm of a factor on the density.
        steepness: The loss varies with `steepness * t` where it varies most;
            sets the first panels.
    """

    left: float
    right: float
    log_weight: float = 0.0
    steepness: float = 1.0

    @abc.abstractmethod
    def evaluate(self, t: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns loss, log density, and how far both may be off.

        Args:
            t: `[X]` float64; points of the interval.

        Returns:
            Four `[X]` float64: loss, log density, and the absolute errors of
            the two, at most, in round-offs.
        """

    @abc.abstractmethod
    def bound_log_integrand(
        self, middle, half_width, order: float, frequency: float
    ) -> np.ndarray:
        """Returns a bound of log |density exp(s loss)| on Bernstein ellipses.

        Args:
            middle: `[P, 1]` float64; centers of panels.
            half_width: `[P, 1]` float64.
            order: Real part of s.
            frequency: Bound of the absolute imaginary part of s.

        Returns:
            `[P, E]` float64, for each of `ELLIPSES`; inf where the integrand is
            not known to be analytic.
        """

    def bound_log_error(self, left, right, order, frequency) -> np.ndarray:
        """Returns the log of the quadrature's error on each panel.

        Args:
            left: `[P]` float64; lower ends.
            right: `[P]` float64; upper ends.
            order: Real part of s.
            frequency: Bound of the absolute imaginary part of s.

        Returns:
            `[P]` float64; of absolute errors.
        """
        half_width = 0.5 * (right - left)[:, None]
        middle = 0.5 * (right + left)[:, None]
        bound = self.bound_log_integrand(middle, half_width, order, frequency)
        bound = bound + np.log(4.3 * half_width) + _LOG_DECAY
        return bound.min(axis=1) + self.log_weight


def _make_even_panels(piece: Piece, widest: float):
    width = widest / max(1.0, piece.steepness)
    count = max(2, math.ceil((piece.right - piece.left) / width))
    edges = np.linspace(piece.left, piece.right, count + 1)
    return edges[:-1], edges[1:]


def _make_panels(piece, order, frequency, log_moment):
    """Returns panels, and the log of the sum of their errors."""
    left, right = _make_even_panels(piece, _WIDEST_PANEL)
    chosen, errors = [], []
    for _ in range(_MAX_HALVINGS):
        error = piece.bound_log_error(left, right, order, frequency)
        again = ~(error < log_moment + _LOG_PANEL_ERROR)
        chosen.append((left[~again], right[~again]))
        errors.append(error[~again])
        if not again.any():
            left, right = map(np.concatenate, zip(*chosen, strict=True))
            total = np.logaddexp.reduce(np.concatenate(errors))
            return (left, right), float(total)
        left, right = left[again], right[again]
        middle = 0.5 * (left + right)
        left = np.concatenate([left, middle])
        right = np.concatenate([middle, right])
        if left.size * _NUM_NODES > _MAX_NODES:
            break
    raise privacy_loss.NotCertifiedError("the quadrature needs too many panels")


def _evaluate(piece, panels):
    """Returns loss, log weight and the errors of both at all nodes."""
    left, right = panels
    half_width = 0.5 * (right - left)[:, None]
    t = (0.5 * (right + left)[:, None] + half_width * _NODES).ravel()
    loss, log_density, loss_error, density_error = piece.evaluate(t)
    log_width = np.log(half_width * _WEIGHTS).ravel() + piece.log_weight
    weight_error = density_error + 4.0 * np.abs(log_width) + 16.0
    return loss, log_width + log_density, loss_error, weight_error


def _count_round_offs(size: int) -> float:
    """Returns a bound of a sum's relative error, in round-offs."""
    return _CHUNK + math.ceil(size / _CHUNK) + _FACTOR_ERROR


def _subtract_one(angle: np.ndarray) -> np.ndarray:
    """Returns exp(i angle) - 1 without cancellation."""
    result = np.empty(angle.shape, dtype=np.complex128)
    result.real = -2.0 * np.sin(0.5 * angle) ** 2
    result.imag = np.sin(angle)
    return result


def _subtract_one_from_powers(angle: np.ndarray, count: int) -> np.ndarray:
    """Returns exp(i k angle) - 1 for k below `count`; `[count, X]`.

    By doubling: few sines, and each value is at most log2(count) products away
    from them. a b - 1 = (a - 1) b + (b - 1) keeps the relative precision.
    """
    result = np.zeros((count, angle.size), dtype=np.complex128)
    done = 1
    while done < count:
        more = min(done, count - done)
        factor = _subtract_one(done * angle)
        np.multiply(result[:more], 1.0 + factor, out=result[done : done + more])
        result[done : done + more] += factor
        done += more
    return result


def _transform_nodes(deviation, mass, grid) -> np.ndarray:
    """Returns sum_k mass[k] (exp(i f deviation[k]) - 1) for every frequency f.

    With row factor a and column factor b,
    a b - 1 = (a - 1) (b - 1) + (a - 1) + (b - 1), so that small differences
    from 1 keep their relative precision.
    """
    total = np.zeros((grid.num_rows, grid.num_columns), dtype=np.complex128)
    for start in range(0, deviation.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        angle = grid.spacing * deviation[part]
        column = _subtract_one_from_powers(angle, grid.num_columns)
        row = _subtract_one_from_powers(grid.num_columns * angle, grid.num_rows)
        row *= mass[part]
        total += row @ column.T
        total += row.sum(axis=1)[:, None]
        total += column @ mass[part]
    return total.ravel()


def _log1p(z: np.ndarray) -> np.ndarray:
    """Returns log(1 + z) with the precision of z where z is small."""
    square = z.real * (2.0 + z.real) + z.imag**2
    with np.errstate(divide="ignore"):
        size = 0.5 * np.log1p(np.maximum(square, -1.0))
    result = np.empty(z.shape, dtype=np.complex128)
    # Below exp(-700) a ratio is nothing; this keeps infinities out.
    result.real = np.maximum(size, -700.0)
    result.imag = np.arctan2(z.imag, 1.0 + z.real)
    return result


class QuadratureLoss(privacy_loss.PrivacyLoss):
    """A loss made of pieces and atoms.

    Args:
        pieces: At least one.
        lost_mass: Mass that neither pieces nor atoms hold; probability.
        max_loss: Largest loss, nats.
        atoms: Pairs (loss, log of its mass).
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        *,
        lost_mass: float,
        max_loss: float,
        atoms: Sequence[tuple[float, float]] = (),
    ):
        self.lost_mass = lost_mass
        self.max_loss = max_loss
        self._pieces = pieces
        self._atoms = np.array(atoms, dtype=np.float64).reshape(-1, 2).T
        self._sketch = self._collect(
            [_make_even_panels(piece, _SKETCH_PANEL) for piece in pieces]
        )[:2]

    def _collect(self, panels):
        columns = [
            _evaluate(piece, edges)
            for piece, edges in zip(self._pieces, panels, strict=True)
        ]
        loss, log_mass = self._atoms
        errors = 4.0 * np.abs(loss), 4.0 * np.abs(log_mass) + 16.0
        columns.append((loss, log_mass, *errors))
        return [np.concatenate(parts) for parts in zip(*columns, strict=True)]

    @staticmethod
    def _tilt(order, loss, log_weight):
        """Returns log M(order), the tilted masses and the tilted mean."""
        log_mass = log_weight + order * loss
        peak = log_mass.max()
        mass = np.exp(log_mass - peak)
        total = float(
            np.add.reduceat(mass, np.arange(0, mass.size, _CHUNK)).sum()
        )
        mass /= total
        return peak + math.log(total), mass, float(mass @ loss)

    def compute_cumulants(self, order):
        """Returns log M(order) and the tilted mean and variance."""
        loss, log_weight = self._sketch
        log_moment, mass, mean = self._tilt(order, loss, log_weight)
        return log_moment, mean, float(mass @ (loss - mean) ** 2)

    def _make_nodes(self, order, frequency):
        """Returns the nodes, and the log of the quadrature's error."""
        log_moment, _, _ = self.compute_cumulants(order)
        made = [
            _make_panels(piece, order, frequency, log_moment)
            for piece in self._pieces
        ]
        errors = [-math.inf, *(error for _, error in made)]
        nodes = self._collect([panels for panels, _ in made])
        return nodes, float(np.logaddexp.reduce(errors))

    def transform(self, grid):
        """Returns the moments on a grid, with proved errors."""
        nodes, log_error = self._make_nodes(grid.order, grid.last)
        loss, log_weight, loss_error, weight_error = nodes
        num_frequencies = grid.num_rows * grid.num_columns
        if loss.size * num_frequencies > _MAX_PRODUCT:
            raise privacy_loss.NotCertifiedError("the transform is too large")
        log_moment, mass, mean = self._tilt(grid.order, loss, log_weight)
        deviation = loss - mean
        change = _transform_nodes(deviation, mass, grid)
        quadrature = math.exp(min(log_error - log_moment, 0.0))
        # Round-off: of the sums (in the worst case), the masses, the losses.
        # With factors a and b, |a - 1| |b - 1| + |a - 1| + |b - 1| is summed.
        parts = mass * np.minimum(8.0, 3.0 * grid.last * np.abs(deviation))
        rough = _count_round_offs(loss.size)
        spread = float(rough * parts.sum() + parts @ weight_error)
        steep = float(mass @ loss_error)
        rough += float(mass @ weight_error)
        return privacy_loss.Transform(
            log_moment=log_moment,
            mean=mean,
            log_ratio=_log1p(change),
            moment_error=quadrature
            + privacy_loss.ROUND_OFF * (rough + (1.0 + grid.order) * steep),
            ratio_error=2.0 * quadrature
            + privacy_loss.ROUND_OFF
            * (spread + (1.0 + grid.order + grid.last) * steep + 8.0),
        )

    def bound_log_moment(self, order):
        """Returns an upper bound of log M(order)."""
        nodes, log_error = self._make_nodes(order, 0.0)
        loss, log_weight, loss_error, weight_error = nodes
        log_moment, mass, _ = self._tilt(order, loss, log_weight)
        relative = math.exp(min(log_error - log_moment, 0.0))
        rough = _count_round_offs(loss.size) + float(mass @ weight_error)
        rough += (1.0 + order) * float(mass @ loss_error)
        return log_moment + relative + privacy_loss.ROUND_OFF * rough
