# SPDX-License-Identifier: Apache-2.0
"""The privacy loss of one release, as its moments at complex orders.

A release has distribution A on one data set and B on its neighbor. Its privacy
loss is L = log dA/dB, drawn under A. Releases compose by adding their losses,
and everything that composition needs is the moment

    M(s) = E[exp(s L)],    s = order + i frequency

of which a composition multiplies one for each release. A loss is cut to a
region that holds all but a stated mass, so that events which never happen do
not rule its moments; the mass outside counts as revealed.

Source: Zhu, Dong and Wang 2022, arXiv:2106.08567 (dominating pairs compose
    adaptively; the characteristic function of the loss).
"""

import abc
import dataclasses
import math

import numpy as np

ROUND_OFF = 2.0**-53


class NotCertifiedError(ArithmeticError):
    """A bound could not be proved within the limits of time and precision."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrequencyGrid:
    """Equidistant frequencies at one order: s = order + i j spacing.

    Frequency j = row * num_columns + column, so that exp(i frequency loss) is a
    product of a row's and a column's factor.

    Attributes:
        order: Real part of s; > 0.
        spacing: Between frequencies; > 0.
        num_rows: R >= 1.
        num_columns: C >= 1.
    """

    order: float
    spacing: float
    num_rows: int
    num_columns: int

    @property
    def frequencies(self) -> np.ndarray:
        """`[R C]` float64, from 0 up."""
        return self.spacing * np.arange(self.num_rows * self.num_columns)

    @property
    def last(self) -> float:
        """The highest frequency."""
        return self.spacing * (self.num_rows * self.num_columns - 1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Transform:
    """The moments of one loss on a grid, centered and normalized.

        M(order + i f) = exp(log_moment + i f mean + log_ratio[f]) (1 + error)

    Attributes:
        log_moment: log M(order).
        mean: Of the loss under the tilted law exp(order L) / M(order).
        log_ratio: `[R C]` complex128.
        moment_error: Bound on the error of log_moment; absolute.
        ratio_error: Bound on the error of exp(log_ratio); absolute.
    """

    log_moment: float
    mean: float
    log_ratio: np.ndarray
    moment_error: float
    ratio_error: float


class PrivacyLoss(abc.ABC):
    """One release's privacy loss in one direction, cut to where its mass is.

    Attributes:
        lost_mass: Upper bound on the mass outside the cut; probability.
        moved_mass: Bound on how far delta may be off either way for another
            reason; probability.
        max_loss: Largest loss inside the cut, nats; may be inf.
    """

    lost_mass: float = 0.0
    moved_mass: float = 0.0
    max_loss: float = math.inf

    @abc.abstractmethod
    def compute_cumulants(self, order: float) -> tuple[float, float, float]:
        """Returns log M(order) and the tilted mean and variance of the loss.

        Good to many digits, but without a proved error: for the choice of
        orders and steps, not for bounds.

        Args:
            order: >= 0.
        """

    @abc.abstractmethod
    def transform(self, grid: FrequencyGrid) -> Transform:
        """Returns the moments on a grid, with proved errors.

        Args:
            grid: Orders and frequencies.

        Raises:
            NotCertifiedError: If the errors cannot be made small.
        """

    @abc.abstractmethod
    def bound_log_moment(self, order: float) -> float:
        """Returns an upper bound of log M at a real order.

        Args:
            order: >= 0.
        """


class GaussianLoss(PrivacyLoss):
    """The loss of a Gaussian release: itself Gaussian, in closed form.

        log M(s) = s (s + 1) / (2 noise_multiplier^2)

    Args:
        noise_multiplier: Noise stddev over the L2 sensitivity; > 0.
    """

    def __init__(self, noise_multiplier: float):
        self._variance = noise_multiplier**-2.0

    def compute_cumulants(self, order):
        """Returns log M(order) and the tilted mean and variance."""
        mean = (order + 0.5) * self._variance
        return self.bound_log_moment(order), mean, self._variance

    def transform(self, grid):
        """Returns the moments on a grid; exact but for rounding."""
        log_moment, mean, variance = self.compute_cumulants(grid.order)
        log_ratio = -0.5 * variance * grid.frequencies**2
        return Transform(
            log_moment=log_moment,
            mean=mean,
            log_ratio=log_ratio.astype(np.complex128),
            moment_error=8.0 * ROUND_OFF * log_moment,
            ratio_error=8.0 * ROUND_OFF,
        )

    def bound_log_moment(self, order):
        """Returns log M(order)."""
        return 0.5 * order * (order + 1.0) * self._variance
