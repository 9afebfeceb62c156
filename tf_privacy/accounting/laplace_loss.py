# SPDX-License-Identifier: Apache-2.0
"""Privacy loss of Laplace noise, of a Poisson sample or of all units.

Without the unit a release is Laplace(0, b); with it, with probability q,
Laplace(1, b). The density ratio r is exp(-1 / b) left of 0, exp(1 / b) right of
1 and exp((2 x - 1) / b) between, so the loss log(1 - q + q r) has two atoms and
one analytic piece.
"""

import dataclasses
import math

import numpy as np

from tf_privacy.accounting import privacy_loss
from tf_privacy.accounting import quadrature_loss
from tf_privacy.accounting import releases


class _Piece(quadrature_loss.Piece):
    """The loss for 0 < x < 1."""

    left = 0.0
    right = 1.0

    def __init__(self, noise: float, q: float, removes: bool):
        self.steepness = 2.0 / noise
        self._noise = noise
        self._q = q
        self._removes = removes

    def _log_ratio(self, x):
        return np.log1p(self._q * np.expm1((2.0 * x - 1.0) / self._noise))

    def evaluate(self, t):
        """Returns loss, log density and the errors of both at each point."""
        ratio = self._log_ratio(t)
        log_density = -t / self._noise - math.log(2.0 * self._noise)
        error = 4.0 * (np.abs(ratio) + 4.0 / self._noise)
        density_error = 4.0 * (np.abs(log_density) + np.abs(ratio) + 1.0)
        if self._removes:
            return ratio, log_density + ratio, error, density_error
        return -ratio, log_density, error, density_error

    def bound_log_integrand(self, middle, half_width, order, frequency):
        """Returns a bound of the log integrand's size on Bernstein ellipses.

        With angles of r at most pi / 2: |1 - q + q r(x + i y)| is at most its
        value at x, and at least its real part (1 - q) + q r(x) cos(2 y / b);
        its angle is at most that of r.
        """
        ellipses = quadrature_loss.ELLIPSES
        reach = half_width * (ellipses + 1.0 / ellipses) / 2.0
        height = half_width * (ellipses - 1.0 / ellipses) / 2.0
        angle = height * self.steepness
        known = angle <= 0.49 * math.pi
        angle = np.where(known, angle, 0.0)
        left, right = middle - reach, middle + reach
        bound = -left / self._noise - math.log(2.0 * self._noise)
        if self._removes:
            bound += (order + 1.0) * self._log_ratio(right)
        else:
            bound -= order * (self._log_ratio(left) + np.log(np.cos(angle)))
        return np.where(known, bound + frequency * angle, np.inf)


@dataclasses.dataclass(frozen=True)
class LaplaceRelease(releases.Release):
    """A number or vector plus Laplace noise, over a Poisson sample or all.

    Attributes:
        noise_multiplier: Scale of the noise over the L1 sensitivity; > 0.
        sampling_probability: In (0, 1].
    """

    noise_multiplier: float
    sampling_probability: float

    def make_loss(self, log_lost_mass, *, removes):
        """Returns the privacy loss in one direction; nothing is cut off."""
        noise, q = self.noise_multiplier, self.sampling_probability
        low = math.log1p(q * math.expm1(-1.0 / noise))
        high = math.log1p(q * math.expm1(1.0 / noise))
        log_masses = (-math.log(2.0), -math.log(2.0) - 1.0 / noise)
        if removes:
            atoms = [(low, log_masses[0] + low), (high, log_masses[1] + high)]
        else:
            atoms = [(-low, log_masses[0]), (-high, log_masses[1])]
        return quadrature_loss.QuadratureLoss(
            [_Piece(noise, q, removes)],
            lost_mass=0.0,
            max_loss=high if removes else -low,
            atoms=atoms,
        )

    def compute_rdp(self, orders):
        """Returns the RDP, by quadrature, the larger of both directions.

        At orders where the quadrature would take too long it is bounded by the
        largest loss.

        Args:
            orders: `[A]` float64; each > 1.
        """
        rdp = np.zeros_like(orders)
        for removes in (True, False):
            loss = self.make_loss(0.0, removes=removes)
            for i, order in enumerate(orders):
                try:
                    moment = loss.bound_log_moment(order - 1.0)
                except privacy_loss.NotCertifiedError:
                    moment = math.inf
                found = min(moment / (order - 1.0), loss.max_loss)
                rdp[i] = max(rdp[i], found)
        return rdp
