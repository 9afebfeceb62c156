# SPDX-License-Identifier: Apache-2.0
"""The discrete Gaussian: integer noise, accounted by its Renyi divergences.

P has the density exp(-|x|^2 / (2 s^2)) / Z on the integer vectors, P_v is P
moved by an integer vector v with |v| <= s / z, where z is the noise multiplier.
As (P_v / P)(x) = exp((2 x v - |v|^2) / (2 s^2)),

    E_P[(P_v / P)^k] = exp(k (k - 1) |v|^2 / (2 s^2)) theta(k v) / theta(0)
with theta(u) = sum_x exp(-|x - u|^2 / (2 s^2)). Poisson summation gives
theta(u) <= theta(0), with equality for integer u. So:

1. For every real order a > 1, D_a(P_v || P) <= a / (2 z^2); and so in the
   other direction, as x -> v - x exchanges P and P_v and keeps the lattice.
2. Of Q = (1 - q) P + q P_v, a sample's sum, the moments of integer order a are

       E_P[(Q / P)^a] = sum_k C(a, k) (1 - q)^(a - k) q^k E_P[(P_v / P)^k]
   and the last factor is exp(k (k - 1) |v|^2 / (2 s^2)) exactly. They are the
   moments of the continuous Gaussian, and grow with |v|.
3. D_a(P || Q) <= D_a(Q || P). Let r = P_v / P, h(r) = 1 - q + q r, so that
   Q / P = h(r). By the reflection in 1, E_P[f(r)] = E_P[r f(1 / r)], so it is
   enough that, for all r > 0,

       h(r)^(1 - a) + r h(1/r)^(1 - a) <= h(r)^a + r h(1/r)^a
   With 1 / r for r both sides are divided by r: let r >= 1. Let h(r) = exp(u)
   and h(1/r) = exp(-w), u, w >= 0, and c = a - 1/2. Then this is

       r exp(-w / 2) sinh(c w) <= exp(u / 2) sinh(c u)
   At c = 1/2 both sides are q (r - 1) / 2. From there on the right side grows
   faster: sinh(c u) / sinh(c w) does not fall in c, since u >= w, since
   h(r) h(1/r) = 1 + q (1 - q) (r + 1/r - 2) >= 1.
4. (a - 1) D_a is convex in the order a and 0 at a = 1: between the integers it
   is below the chords of its bounds there.

The mechanism's other randomness, which units else are in the sample, moves v;
moments are jointly convex, so the worst v bounds the mixture.

Between integer orders, and in epsilon, the continuous Gaussian's own figures do
not hold: the discrete one may exceed them.

Source: Canonne, Kamath and Steinke 2020, arXiv:2004.00010, Proposition 5 (the
    moments without sampling); Mironov, Talwar and Zhang 2019, arXiv:1908.10530,
    Theorem 5 and Section 3.3 (which direction is the larger one; integer
    orders).
"""

import dataclasses

import numpy as np

from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import neighboring_relation as relation_lib
from tf_privacy.accounting import privacy_loss
from tf_privacy.accounting import ranges
from tf_privacy.accounting import releases
from tf_privacy.accounting import renyi


@dataclasses.dataclass(frozen=True)
class DiscreteGaussianRelease(releases.Release):
    """An integer sum over a Poisson sample, plus discrete Gaussian noise.

    Attributes:
        noise_multiplier: Noise scale over the L2 sensitivity; > 0.
        sampling_probability: In (0, 1]; 1 is no sampling.
        replaces: Whether the unit is exchanged, else added or removed.
    """

    noise_multiplier: float
    sampling_probability: float
    replaces: bool

    @property
    def has_loss(self):
        """False: only moments are bounded."""
        return False

    @property
    def is_attained(self):
        """False: epsilon is converted from bounds of moments."""
        return False

    def make_loss(self, log_lost_mass, *, removes):
        """Raises: no bound of the loss itself is proved."""
        raise privacy_loss.NotCertifiedError(
            "the discrete Gaussian is accounted by its moments"
        )

    def compute_rdp(self, orders):
        """Returns an upper bound of the RDP."""
        clips = 2.0 if self.replaces else 1.0
        unsampled = orders * clips**2 / (2.0 * self.noise_multiplier**2)
        if self.sampling_probability == 1.0:
            return unsampled
        if self.replaces:
            one_way = dataclasses.replace(self, replaces=False)
            sampled = releases.bound_rdp_by_triangle(orders, one_way)
        else:
            sampled = self._bound_by_chords(orders)
        return np.minimum(unsampled, sampled)

    def _bound_by_chords(self, orders) -> np.ndarray:
        """Returns the RDP of adding or removing, from integer orders."""
        below, above = np.floor(orders), np.ceil(orders)
        whole = np.unique(np.concatenate([[2.0], below, above]))
        whole = whole[whole > 1.0]
        log_moments = (whole - 1.0) * renyi.compute_sampled_gaussian_rdp(
            whole,
            noise_multiplier=self.noise_multiplier,
            sampling_probability=self.sampling_probability,
        )
        between = np.interp(
            orders,
            np.concatenate([[1.0], whole]),
            np.concatenate([[0.0], log_moments]),
        )
        return between / (orders - 1.0)


@dataclasses.dataclass(frozen=True)
class DiscreteGaussian(mechanism_lib.Mechanism):
    """One release of an integer sum plus discrete Gaussian noise.

    Any unit may be in the sum: no amplification by sampling, unless it is
    inside of a `PoissonSampled`.

    Attributes:
        noise_multiplier: Scale of the noise (the sigma of exp(-x^2 /
            (2 sigma^2))) over the L2 norm of what one unit moves the integer
            sum; in [0.01, 1000].

    Source: Canonne, Kamath and Steinke 2020, arXiv:2004.00010.
    """

    noise_multiplier: float

    def __post_init__(self):
        checked = ranges.check_noise_multiplier(self.noise_multiplier)
        mechanism_lib.set_checked(self, noise_multiplier=checked)

    @property
    def is_attained(self):
        """False: epsilon is converted from bounds of moments."""
        return False

    def list_releases(self, relation):
        """Returns one release; replacing a unit moves the sum twice as far."""
        return ((self.sample(1.0, relation), 1),)

    def sample(
        self,
        sampling_probability: float,
        relation: relation_lib.NeighboringRelation,
    ) -> DiscreteGaussianRelease:
        """Returns the release of a sum over a Poisson sample.

        Args:
            sampling_probability: Chance that a unit joins; in (0, 1].
            relation: Which data sets are compared.
        """
        return DiscreteGaussianRelease(
            self.noise_multiplier,
            sampling_probability,
            relation is relation_lib.NeighboringRelation.REPLACE_ONE,
        )
