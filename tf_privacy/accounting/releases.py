# SPDX-License-Identifier: Apache-2.0
"""One noisy release, as the accountants see it.

A release knows its privacy loss in both directions (for the tight accountant)
and its Renyi divergence (for the other). What it means never changes; equal
releases are equal values, so that a composition can count them.
"""

import abc
import dataclasses
import math

import numpy as np
from scipy import special

from tf_privacy.accounting import gaussian_mixture_loss
from tf_privacy.accounting import privacy_loss
from tf_privacy.accounting import quadrature_loss
from tf_privacy.accounting import renyi

# Integer orders at which the bound for sampling without replacement is
# evaluated; its logarithm is convex in between.
_MAX_INTEGER_ORDER = 512
# Different sizes of a group's share in a sample that one loss may have.
_MAX_COUNTS = 256


@dataclasses.dataclass(frozen=True)
class Release(abc.ABC):
    """One noisy release and what it reveals about one unit."""

    @property
    def has_loss(self) -> bool:
        """Whether the privacy loss is known; else only the RDP is."""
        return True

    @property
    def is_attained(self) -> bool:
        """Whether some data set attains the loss: lower bounds are true."""
        return True

    @abc.abstractmethod
    def make_loss(
        self, log_lost_mass: float, *, removes: bool
    ) -> privacy_loss.PrivacyLoss:
        """Returns the privacy loss in one direction.

        Args:
            log_lost_mass: Log of the mass that a cut may leave out.
            removes: Whether the unit is removed, else added.
        """

    @abc.abstractmethod
    def compute_rdp(self, orders: np.ndarray) -> np.ndarray:
        """Returns the RDP, the larger of both directions.

        Args:
            orders: `[A]` float64; each > 1.

        Returns:
            `[A]` float64, nats; an upper bound, inf where there is none.
        """


@dataclasses.dataclass(frozen=True)
class GaussianRelease(Release):
    """A sum of which every unit is part, plus Gaussian noise.

    Attributes:
        noise_multiplier: Noise stddev over the L2 sensitivity; > 0.
    """

    noise_multiplier: float

    def make_loss(self, log_lost_mass, *, removes):
        """Returns the privacy loss; the same in both directions."""
        return privacy_loss.GaussianLoss(self.noise_multiplier)

    def compute_rdp(self, orders):
        """Returns the RDP, exactly."""
        return orders / (2.0 * self.noise_multiplier**2)


@dataclasses.dataclass(frozen=True)
class SampledGaussianRelease(Release):
    """A sum over a Poisson sample, plus Gaussian noise.

    Attributes:
        noise_multiplier: Noise stddev over the L2 sensitivity; > 0.
        sampling_probability: In (0, 1).
    """

    noise_multiplier: float
    sampling_probability: float

    def make_shifts(self) -> gaussian_mixture_loss.Shifts:
        """Returns how the unit moves the sum."""
        q = self.sampling_probability
        return gaussian_mixture_loss.Shifts(
            (0.0, 1.0 / self.noise_multiplier), (1.0 - q, q)
        )

    def make_loss(self, log_lost_mass, *, removes):
        """Returns the privacy loss in one direction."""
        return gaussian_mixture_loss.make_shift_loss(
            self.make_shifts(), removes=removes, log_lost_mass=log_lost_mass
        )

    def compute_rdp(self, orders):
        """Returns the RDP of removing, which is the larger one."""
        return renyi.compute_sampled_gaussian_rdp(
            orders,
            noise_multiplier=self.noise_multiplier,
            sampling_probability=self.sampling_probability,
        )


@dataclasses.dataclass(frozen=True)
class GroupGaussianRelease(Release):
    """A Poisson sample from which a group of units is added or removed.

    Each of the group joins by its own draw, so the sum moves by a binomial
    number of clips.

    Attributes:
        noise_multiplier: Noise stddev over one unit's L2 clip; > 0.
        sampling_probability: In (0, 1).
        group_size: Units that join or leave together; >= 2.

    Source: Choquette-Choo, Ganesh, Steinke and Thakurta 2024,
        arXiv:2310.15526, on vectors of random length; Ganesh 2024,
        arXiv:2401.10294 (groups).
    """

    noise_multiplier: float
    sampling_probability: float
    group_size: int

    def make_loss(self, log_lost_mass, *, removes):
        """Returns the privacy loss in one direction."""
        count = np.arange(self.group_size + 1)
        q, size = self.sampling_probability, self.group_size
        log_chance = (
            special.gammaln(size + 1)
            - special.gammaln(count + 1)
            - special.gammaln(size - count + 1)
            + special.xlogy(count, q)
            + special.xlog1py(size - count, -q)
        )
        # Counts that hardly happen are left out: the rest, normalized, differs
        # from the mixture by their mass.
        rare = log_chance < log_lost_mass - math.log(100.0 * (size + 1))
        chance = np.exp(log_chance)
        moved = float(chance[rare].sum())
        rare[0] = False
        if not rare.size - rare.sum() <= _MAX_COUNTS:
            raise privacy_loss.NotCertifiedError("too many counts in a group")
        kept = np.maximum(chance[~rare] / chance[~rare].sum(), 1e-300)
        shifts = gaussian_mixture_loss.Shifts(
            tuple((count[~rare] / self.noise_multiplier).tolist()),
            tuple(kept.tolist()),
        )
        return gaussian_mixture_loss.make_shift_loss(
            shifts,
            removes=removes,
            log_lost_mass=log_lost_mass,
            moved_mass=moved,
        )

    def compute_rdp(self, orders):
        """Returns the RDP as if the whole group joined or left at once."""
        q = -math.expm1(
            self.group_size * math.log1p(-self.sampling_probability)
        )
        return renyi.compute_sampled_gaussian_rdp(
            orders,
            noise_multiplier=self.noise_multiplier / self.group_size,
            sampling_probability=q,
        )


@dataclasses.dataclass(frozen=True)
class Overflow:
    """How often the other units alone fill a batch of a largest size.

    Attributes:
        probability: Chance that they do, rounded down; in [0, 1].
        kept_probability: Chance that the unit is in the batch then, rounded
            up; in (0, 1).
        doubt: Chance, rounded up, of anything else in which they may: there
            the unit counts as kept whenever it is drawn, the worst case.
    """

    probability: float
    kept_probability: float
    doubt: float


def bound_rdp_by_triangle(orders, release) -> np.ndarray:
    """Returns the RDP of going from one content to none and on to another.

    Args:
        orders: `[A]` float64; each > 1.
        release: What adding the content to none, or removing it, costs.

    Returns:
        `[A]` float64, nats.

    Source: Mironov 2017, arXiv:1702.07476, Corollary 4 (a weak triangle
        inequality).
    """
    first = release.compute_rdp(2.0 * orders)
    second = release.compute_rdp(2.0 * orders - 1.0)
    return (orders - 0.5) / (orders - 1.0) * first + second


@dataclasses.dataclass(frozen=True)
class ReplacedGaussianRelease(Release):
    """A sum over a Poisson sample in which one unit's content is exchanged.

    Attributes:
        noise_multiplier: Noise stddev over one unit's L2 clip; > 0.
        sampling_probability: Chance that the unit is in the sample; in (0, 1).
        overflow: Of the batch; None if batches have no largest size.
    """

    noise_multiplier: float
    sampling_probability: float
    overflow: Overflow | None = None

    @property
    def is_attained(self):
        """Whether some data set attains the loss."""
        return self.overflow is None

    def make_loss(self, log_lost_mass, *, removes):
        """Returns the privacy loss; the same in both directions."""
        return gaussian_mixture_loss.make_replacing_loss(
            _make_branches(self),
            log_lost_mass=log_lost_mass,
        )

    def compute_rdp(self, orders):
        """Returns an upper bound of the RDP, up to twice too large."""
        clips = 1.0 if self.overflow is None else 2.0
        noise = self.noise_multiplier / clips
        unsampled = 4.0 * orders / (2.0 * noise**2)
        release = SampledGaussianRelease(noise, self.sampling_probability)
        return np.minimum(unsampled, bound_rdp_by_triangle(orders, release))


def _list_branches(release):
    """Returns triples: a branch's chance, its clips, the unit's chance in it.

    Where the unit would take another's place, it moves the sum by up to 2
    clips.
    """
    q, overflow = release.sampling_probability, release.overflow
    if overflow is None:
        return [(1.0, 1.0, q)]
    room = max(0.0, 1.0 - overflow.probability - overflow.doubt)
    triples = [
        (room, 1.0, q),
        (overflow.probability, 2.0, overflow.kept_probability),
        (overflow.doubt, 2.0, q),
    ]
    return [triple for triple in triples if triple[0] > 0.0]


def _make_branches(release):
    """Returns the branches as pairs (log chance, shifts)."""
    return [
        (
            math.log(chance),
            gaussian_mixture_loss.Shifts(
                (0.0, clips / release.noise_multiplier),
                (max(1.0 - q, 1e-300), q),
            ),
        )
        for chance, clips, q in _list_branches(release)
    ]


@dataclasses.dataclass(frozen=True)
class FixedSizeGaussianRelease(Release):
    """A sum over a sample of fixed size in which one unit is exchanged.

    With the unit in it, the sum is at most 2 clips away from what it is with
    any other unit in its place.

    Attributes:
        noise_multiplier: Noise stddev over one unit's L2 clip; > 0.
        sampling_probability: Chance that the unit is in the sample; in (0, 1].

    Source: Balle, Barthe and Gaboardi 2018, arXiv:1807.01647 (the profile);
        Wang, Balle and Kasiviswanathan 2019, arXiv:1808.00087, Theorem 9.
    """

    noise_multiplier: float
    sampling_probability: float

    @property
    def is_attained(self):
        """False: under composition both neighbors cannot be worst at once."""
        return False

    def make_loss(self, log_lost_mass, *, removes):
        """Returns the privacy loss; the same in both directions."""
        q = self.sampling_probability
        shifts = gaussian_mixture_loss.Shifts(
            (0.0, 2.0 / self.noise_multiplier), (1.0 - q, q)
        )
        return gaussian_mixture_loss.make_symmetric_loss(
            shifts, log_lost_mass=log_lost_mass
        )

    def compute_rdp(self, orders):
        """Returns an upper bound of the RDP; loose at large orders."""
        unsampled = 4.0 * orders / (2.0 * self.noise_multiplier**2)
        whole = np.arange(1.0, _MAX_INTEGER_ORDER + 1.0)
        log_moments = _bound_fixed_size_moments(
            whole, self.noise_multiplier, self.sampling_probability
        )
        # (order - 1) RDP is convex in the order: chords are upper bounds.
        between = np.interp(orders, whole, log_moments, right=np.inf)
        return np.minimum(unsampled, between / (orders - 1.0))


def _bound_fixed_size_moments(whole, noise_multiplier, q) -> np.ndarray:
    """Returns (order - 1) RDP for a sample without replacement.

    Args:
        whole: `[A]` float64; 1, 2, 3, ...
        noise_multiplier: Noise stddev over one clip.
        q: Chance to be in the sample.
    """
    rdp = 2.0 * whole / noise_multiplier**2
    # Terms j = 2, 3, ... of the sum, without the binomial coefficient.
    terms = whole * math.log(q) + (whole - 1.0) * rdp + math.log(2.0)
    second = rdp[1]
    with np.errstate(over="ignore"):
        terms[1] = 2.0 * math.log(q) + min(
            math.log(4.0) + special.logsumexp([second, 0.0], b=[1.0, -1.0]),
            second + math.log(2.0),
        )
    log_binomial = (
        special.gammaln(whole[:, None] + 1.0)
        - special.gammaln(whole + 1.0)
        - special.gammaln(np.maximum(whole[:, None] - whole, 0.0) + 1.0)
    )
    used = (whole <= whole[:, None]) & (whole >= 2.0)
    table = np.where(used, log_binomial + terms, -np.inf)
    sums = special.logsumexp(table, axis=1)
    return np.logaddexp(0.0, sums) * (whole > 1.0)


@dataclasses.dataclass(frozen=True)
class TruncatedGaussianRelease(Release):
    """A sum over a Poisson sample that keeps at most so many units.

    Where the others alone would fill the batch, a unit that joins takes the
    place of another: the sum moves by up to 2 clips. Whether they do is told
    apart, which can only reveal more.

    Attributes:
        noise_multiplier: Noise stddev over one unit's L2 clip; > 0.
        sampling_probability: In (0, 1].
        overflow: Of the batch.
    """

    noise_multiplier: float
    sampling_probability: float
    overflow: Overflow

    @property
    def is_attained(self):
        """False: the second branch is a worst case."""
        return False

    def make_loss(self, log_lost_mass, *, removes):
        """Returns the privacy loss in one direction."""
        return gaussian_mixture_loss.make_branched_loss(
            _make_branches(self), removes=removes, log_lost_mass=log_lost_mass
        )

    def compute_rdp(self, orders):
        """Returns the RDP of the branches told apart."""
        weights, log_moments = [], []
        for chance, clips, q in _list_branches(self):
            rdp = renyi.compute_sampled_gaussian_rdp(
                orders,
                noise_multiplier=self.noise_multiplier / clips,
                sampling_probability=q,
            )
            weights.append([chance])
            log_moments.append((orders - 1.0) * rdp)
        total = special.logsumexp(log_moments, axis=0, b=np.array(weights))
        return total / (orders - 1.0)


@dataclasses.dataclass(frozen=True)
class BoundedRelease(Release):
    """Anything that is (epsilon, delta)-DP, by its worst case.

    Attributes:
        epsilon: Nats; >= 0.
        delta: Probability in [0, 1).

    Source: Kairouz, Oh and Viswanath 2015, arXiv:1311.0776 (randomized response
        is the worst case).
    """

    epsilon: float
    delta: float

    def make_loss(self, log_lost_mass, *, removes):
        """Returns the privacy loss; the same in both directions."""
        up = -math.log1p(math.exp(-self.epsilon))
        base = math.log1p(-self.delta)
        return quadrature_loss.QuadratureLoss(
            [],
            lost_mass=self.delta,
            max_loss=self.epsilon,
            atoms=[
                (self.epsilon, base + up),
                (-self.epsilon, base + up - self.epsilon),
            ],
        )

    @property
    def is_attained(self):
        """Whether the losses alone give a lower bound of what is spent."""
        return self.delta == 0.0

    def compute_rdp(self, orders):
        """Returns the RDP of randomized response; inf if delta is not 0."""
        if self.delta > 0.0:
            return np.full_like(orders, np.inf)
        up = -math.log1p(math.exp(-self.epsilon))
        terms = np.stack(
            [
                up + (orders - 1.0) * self.epsilon,
                up - orders * self.epsilon,
            ]
        )
        return special.logsumexp(terms, axis=0) / (orders - 1.0)


@dataclasses.dataclass(frozen=True)
class ConcentratedRelease(Release):
    """Anything that is rho-zCDP: its RDP is at most order * rho.

    Attributes:
        rho: Nats; > 0.

    Source: Bun and Steinke 2016, arXiv:1605.02065.
    """

    rho: float

    @property
    def has_loss(self):
        """False: zCDP bounds moments, no distribution of the loss."""
        return False

    def make_loss(self, log_lost_mass, *, removes):
        """Raises: there is no such loss."""
        raise privacy_loss.NotCertifiedError("zCDP has no privacy loss")

    def compute_rdp(self, orders):
        """Returns order * rho."""
        return orders * self.rho
