# SPDX-License-Identifier: Apache-2.0
"""Descriptions of mechanisms that see a part of the data at a time."""

import dataclasses

from scipy import special

from tf_privacy import _checks
from tf_privacy.accounting import balls_in_bins
from tf_privacy.accounting import discrete_gaussian
from tf_privacy.accounting import laplace_loss
from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import neighboring_relation as relation_lib
from tf_privacy.accounting import noise_mechanisms
from tf_privacy.accounting import ranges
from tf_privacy.accounting import releases

# Relative error of the binomial tail, with a wide margin.
_ROUNDING = 1e-9
# Below this, a tail's ratio to another is not to be relied on.
_SMALLEST_TAIL = 1e-290
_SAME_SIZE = [
    relation_lib.NeighboringRelation.REPLACE_ONE,
    relation_lib.NeighboringRelation.ZERO_OUT_ONE,
]
# What PoissonSampled takes beside what is one Gaussian.
_SAMPLED_OTHERS = (
    discrete_gaussian.DiscreteGaussian,
    noise_mechanisms.Laplace,
)


def _check_gaussian(name: str, value) -> float:
    """Returns the noise multiplier of a mechanism that is one Gaussian."""
    if isinstance(value, mechanism_lib.Gaussian):
        return value.noise_multiplier
    if isinstance(value, noise_mechanisms.AdaptiveClipping):
        return value.effective_noise_multiplier
    raise TypeError(
        f"{name} must be a Gaussian or AdaptiveClipping. Received: {value!r}. "
        "Sampling amplifies one release; compose the sampled releases."
    )


@dataclasses.dataclass(frozen=True)
class PoissonSampled(mechanism_lib.Mechanism):
    """A mechanism on a sample that each unit joins by its own coin.

    Attributes:
        mechanism: A `Gaussian`, `AdaptiveClipping`, `DiscreteGaussian` or
            `Laplace`.
        sampling_probability: Chance that a unit joins; in [1e-8, 1].
    """

    mechanism: mechanism_lib.Mechanism
    sampling_probability: float

    def __post_init__(self):
        if not isinstance(self.mechanism, _SAMPLED_OTHERS):
            _check_gaussian("mechanism", self.mechanism)
        mechanism_lib.set_checked(
            self,
            sampling_probability=ranges.check_sampling_probability(
                self.sampling_probability
            ),
        )

    @property
    def is_attained(self):
        """Whether the mechanism's bound is attained."""
        return self.mechanism.is_attained

    def list_releases(self, relation):
        """Returns one release."""
        q = self.sampling_probability
        if isinstance(self.mechanism, discrete_gaussian.DiscreteGaussian):
            return ((self.mechanism.sample(q, relation), 1),)
        if isinstance(self.mechanism, noise_mechanisms.Laplace):
            if q == 1.0:
                return self.mechanism.list_releases(relation)
            mechanism_lib.refuse_relation(
                self,
                relation,
                covered=[
                    relation_lib.NeighboringRelation.ADD_OR_REMOVE_ONE,
                    relation_lib.NeighboringRelation.ZERO_OUT_ONE,
                ],
                hint="Replacing is analyzed for Gaussian noise only.",
            )
            noise = self.mechanism.noise_multiplier
            return ((laplace_loss.LaplaceRelease(noise, q), 1),)
        noise = _check_gaussian("mechanism", self.mechanism)
        return ((mechanism_lib.sample_gaussian(noise, q, relation), 1),)


@dataclasses.dataclass(frozen=True)
class SampledWithoutReplacement(mechanism_lib.Mechanism):
    """A mechanism on a uniformly drawn sample of a fixed size.

    Attributes:
        mechanism: A `Gaussian` or `AdaptiveClipping`.
        sample_size: Units in the sample; whole, in [1, num_examples].
        num_examples: Units in all; whole, >= 1.
    """

    mechanism: mechanism_lib.Mechanism
    sample_size: int
    num_examples: int

    def __post_init__(self):
        _check_gaussian("mechanism", self.mechanism)
        num_examples = _checks.check_integer(
            "num_examples", self.num_examples, at_least=1
        )
        mechanism_lib.set_checked(
            self,
            num_examples=num_examples,
            sample_size=_checks.check_integer(
                "sample_size",
                self.sample_size,
                at_least=1,
                at_most=num_examples,
                hint="A sample cannot be larger than the data (num_examples).",
            ),
        )

    def list_releases(self, relation):
        """Returns one release; for data sets of the same size only."""
        mechanism_lib.refuse_relation(
            self,
            relation,
            covered=_SAME_SIZE,
            hint="A sample of fixed size depends on how many units there are.",
        )
        noise = _check_gaussian("mechanism", self.mechanism)
        q = self.sample_size / self.num_examples
        if q == 1.0:
            return self.mechanism.list_releases(relation)
        return ((releases.FixedSizeGaussianRelease(noise, q), 1),)


@dataclasses.dataclass(frozen=True)
class TruncatedPoissonSampled(mechanism_lib.Mechanism):
    """A mechanism on a Poisson sample that is cut to a largest size.

    A sample that is too large is thinned to the largest size, uniformly.

    Attributes:
        mechanism: A `Gaussian` or `AdaptiveClipping`.
        sampling_probability: Chance that a unit joins; in [1e-8, 1].
        num_examples: Units in all; whole, >= 1.
        max_batch_size: Largest size of a sample; whole, >= 1.
    """

    mechanism: mechanism_lib.Mechanism
    sampling_probability: float
    num_examples: int
    max_batch_size: int

    def __post_init__(self):
        _check_gaussian("mechanism", self.mechanism)
        mechanism_lib.set_checked(
            self,
            sampling_probability=ranges.check_sampling_probability(
                self.sampling_probability
            ),
            num_examples=_checks.check_integer(
                "num_examples", self.num_examples, at_least=1
            ),
            max_batch_size=_checks.check_integer(
                "max_batch_size", self.max_batch_size, at_least=1
            ),
        )

    def _compute_tail(self, size: int, count: int) -> float:
        """Returns the chance that `count` coins give at least `size`."""
        if size > count:
            return 0.0
        if self.sampling_probability == 1.0:
            return 1.0
        q = self.sampling_probability
        return float(special.betainc(size, count - size + 1, q))

    @property
    def overflow_probability(self) -> float:
        """Chance that all units, or more, fill the batch, rounded up.

        With one unit more in the neighbor, these are the others.
        """
        tail = self._compute_tail(self.max_batch_size, self.num_examples)
        return min(1.0, tail * (1.0 + _ROUNDING) + 1e-300 * (tail > 0.0))

    def compute_overflow(self, *, is_same_size: bool) -> releases.Overflow:
        """Returns how often the units other than one fill the batch.

        There are n = num_examples - 1 of them, or one more if the neighbor is
        larger. One more fills the batch more often, but a unit is then kept
        less often; what the two cases differ by is in doubt. The unit joins k
        others with the sampling probability q, and stays with probability
        max_batch_size / (k + 1); summed over k,
        C(n, k) / (k + 1) = C(n + 1, k + 1) / (n + 1).

        Args:
            is_same_size: Whether the neighbors have equally many units.
        """
        size, others = self.max_batch_size, self.num_examples - 1
        tail = self._compute_tail(size, others)
        probability = tail * (1.0 - _ROUNDING)
        kept = self.sampling_probability
        if probability > _SMALLEST_TAIL:
            joined = self._compute_tail(size + 1, others + 1)
            kept = size * joined / (others + 1) / tail * (1.0 + 4.0 * _ROUNDING)
            kept = max(kept, ranges.MIN_SAMPLING_PROBABILITY)
        largest = self.overflow_probability
        if is_same_size:
            largest = tail * (1.0 + _ROUNDING)
        return releases.Overflow(
            probability=probability,
            kept_probability=min(kept, self.sampling_probability),
            doubt=min(max(0.0, largest - probability), 1.0 - probability),
        )

    @property
    def is_attained(self):
        """Whether no batch is ever too large; else the bound is one."""
        return self.overflow_probability == 0.0

    def list_releases(self, relation):
        """Returns one release."""
        noise = _check_gaussian("mechanism", self.mechanism)
        q = self.sampling_probability
        if self.overflow_probability == 0.0:
            return ((mechanism_lib.sample_gaussian(noise, q, relation), 1),)
        replaces = relation is relation_lib.NeighboringRelation.REPLACE_ONE
        overflow = self.compute_overflow(is_same_size=replaces)
        if replaces:
            kind = releases.ReplacedGaussianRelease
        else:
            kind = releases.TruncatedGaussianRelease
        return ((kind(noise, q, overflow), 1),)


@dataclasses.dataclass(frozen=True)
class ShuffledEpochs(mechanism_lib.Mechanism):
    """Passes over data in which each unit is in one batch of every epoch.

    Shuffling amplifies nothing that is proved here: a unit takes part in one
    release an epoch, and in which one is taken to be known.

    Attributes:
        mechanism: A `Gaussian` or `AdaptiveClipping`; the noise of one batch.
        num_epochs: Passes over the data; whole, in [0, 1e8].
    """

    mechanism: mechanism_lib.Mechanism
    num_epochs: int

    def __post_init__(self):
        _check_gaussian("mechanism", self.mechanism)
        checked = ranges.check_num_steps(self.num_epochs, name="num_epochs")
        mechanism_lib.set_checked(self, num_epochs=checked)

    @property
    def is_attained(self):
        """False: what an unknown order hides is not accounted."""
        return False

    def list_releases(self, relation):
        """Returns one release for each epoch; data sets of the same size."""
        mechanism_lib.refuse_relation(
            self,
            relation,
            covered=_SAME_SIZE,
            hint="With one unit more, every later batch of the epoch differs.",
        )
        ((release, _),) = self.mechanism.list_releases(relation)
        return ((release, self.num_epochs),)


@dataclasses.dataclass(frozen=True)
class BallsInBins(mechanism_lib.Mechanism):
    """Epochs in which each unit joins one of the batches, picked at random.

    Each unit picks by itself and anew for each epoch; batches differ in size,
    and an empty one is noised as well. Shuffling is something else.

    Attributes:
        noise_multiplier: Noise stddev over the L2 clip; in [0.01, 1000].
        num_bins: Batches of an epoch; whole, >= 1.
        num_epochs: Independent epochs; whole, in [0, 1e8].
    """

    noise_multiplier: float
    num_bins: int
    num_epochs: int

    def __post_init__(self):
        mechanism_lib.set_checked(
            self,
            noise_multiplier=ranges.check_noise_multiplier(
                self.noise_multiplier
            ),
            num_bins=_checks.check_integer(
                "num_bins", self.num_bins, at_least=1, at_most=10**6
            ),
            num_epochs=ranges.check_num_steps(
                self.num_epochs, name="num_epochs"
            ),
        )

    @property
    def is_attained(self):
        """False: the Renyi bound is converted with a loss."""
        return False

    def list_releases(self, relation):
        """Returns one release for each epoch; replacing is not amplified."""
        if relation is relation_lib.NeighboringRelation.REPLACE_ONE:
            release = releases.GaussianRelease(self.noise_multiplier / 2.0)
        else:
            release = balls_in_bins.BallsInBinsRelease(
                self.noise_multiplier, self.num_bins
            )
        return ((release, self.num_epochs),)
