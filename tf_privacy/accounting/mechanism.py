# SPDX-License-Identifier: Apache-2.0
"""Immutable descriptions of the noisy releases that a run made.

A description says what ran, not what it costs: its meaning never changes, while
accountants may become tighter. Equal descriptions are equal values.
"""

import abc
import dataclasses
from collections.abc import Sequence

from tf_privacy import _checks
from tf_privacy.accounting import neighboring_relation as relation_lib
from tf_privacy.accounting import ranges
from tf_privacy.accounting import releases


class Mechanism(abc.ABC):
    """What a run released, in terms of noise and sampling."""

    @property
    def is_attained(self) -> bool:
        """Whether some data spends what is accounted: no bound is smaller."""
        return True

    @abc.abstractmethod
    def list_releases(
        self, relation: relation_lib.NeighboringRelation
    ) -> tuple[tuple[releases.Release, int], ...]:
        """Returns the single releases and how many there were of each.

        Args:
            relation: Which data sets are compared.

        Raises:
            ValueError: If no analysis is known for that relation.
        """


def refuse_relation(mechanism, relation, *, covered, hint: str = ""):
    """Raises unless a mechanism's analysis covers a relation.

    Args:
        mechanism: Named in the message.
        relation: A `relation_lib.NeighboringRelation`.
        covered: Those that are analyzed.
        hint: What to do instead.
    """
    _checks.check_choice(
        f"neighboring_relation of {type(mechanism).__name__}",
        relation,
        covered,
        hint=hint,
    )


def set_checked(instance, **values) -> None:
    """Stores checked values in a frozen dataclass, in its construction only.

    Args:
        instance: The dataclass.
        **values: By field.
    """
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def check_mechanism(name: str, value) -> Mechanism:
    """Returns a value once it is a Mechanism.

    Args:
        name: The parameter's name as the caller wrote it.
        value: What the caller passed.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(value, Mechanism):
        raise TypeError(
            f"{name} must be a Mechanism. Received: {value!r}. Describe what "
            "ran, as in PoissonSampled(Gaussian(1.1), 0.01)."
        )
    return value


@dataclasses.dataclass(frozen=True)
class Gaussian(Mechanism):
    """One release of a sum plus Gaussian noise.

    Any unit may be in the sum: no amplification by sampling.

    Attributes:
        noise_multiplier: Noise stddev over the L2 norm of one unit's
            contribution; in [0.01, 1000].
    """

    noise_multiplier: float

    def __post_init__(self):
        checked = ranges.check_noise_multiplier(self.noise_multiplier)
        set_checked(self, noise_multiplier=checked)

    def list_releases(self, relation):
        """Returns one release; replacing a unit moves the sum by 2 clips."""
        replaces = relation is relation_lib.NeighboringRelation.REPLACE_ONE
        noise = self.noise_multiplier / (2.0 if replaces else 1.0)
        return ((releases.GaussianRelease(noise), 1),)


@dataclasses.dataclass(frozen=True)
class SelfComposed(Mechanism):
    """The same mechanism several times, with fresh randomness each time.

    Attributes:
        mechanism: What ran each time.
        count: How many times; whole, in [0, 1e8].
    """

    mechanism: Mechanism
    count: int

    def __post_init__(self):
        check_mechanism("mechanism", self.mechanism)
        set_checked(
            self, count=ranges.check_num_steps(self.count, name="count")
        )

    @property
    def is_attained(self):
        """Whether the mechanism's bound is attained."""
        return self.mechanism.is_attained

    def list_releases(self, relation):
        """Returns the releases, each counted `count` times as often."""
        inner = self.mechanism.list_releases(relation)
        return tuple((each, n * self.count) for each, n in inner)


@dataclasses.dataclass(frozen=True)
class Composed(Mechanism):
    """Several mechanisms on the same data, each may depend on those before.

    Args:
        mechanisms: What ran, in any order; may be empty.
    """

    mechanisms: tuple[Mechanism, ...]

    def __init__(self, mechanisms: Sequence[Mechanism] = ()):
        checked = tuple(check_mechanism("mechanisms", m) for m in mechanisms)
        set_checked(self, mechanisms=checked)

    @property
    def is_attained(self):
        """Whether the bounds of all mechanisms are attained."""
        return all(each.is_attained for each in self.mechanisms)

    def list_releases(self, relation):
        """Returns the releases of all mechanisms."""
        return tuple(
            pair
            for each in self.mechanisms
            for pair in each.list_releases(relation)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledGaussianSteps(Mechanism):
    """The steps of DP-SGD: Gaussian noise on sums over Poisson samples.

    The same as SelfComposed(PoissonSampled(Gaussian(noise_multiplier),
    sampling_probability), num_steps).

    Attributes:
        noise_multiplier: Noise stddev over the L2 clip; in [0.01, 1000].
        sampling_probability: Chance that a unit joins a step's batch, drawn
            anew for each unit and step; in [1e-8, 1]. 1 says that any unit may
            be in every batch: no amplification.
        num_steps: Number of releases; whole, in [0, 1e8].
    """

    noise_multiplier: float
    sampling_probability: float
    num_steps: int

    def __post_init__(self):
        set_checked(
            self,
            noise_multiplier=ranges.check_noise_multiplier(
                self.noise_multiplier
            ),
            sampling_probability=ranges.check_sampling_probability(
                self.sampling_probability
            ),
            num_steps=ranges.check_num_steps(self.num_steps),
        )

    def list_releases(self, relation):
        """Returns the one kind of release, with its count."""
        release = sample_gaussian(
            self.noise_multiplier, self.sampling_probability, relation
        )
        return ((release, self.num_steps),)


def sample_gaussian(
    noise_multiplier: float,
    sampling_probability: float,
    relation: relation_lib.NeighboringRelation,
) -> releases.Release:
    """Returns the release of a sum over a Poisson sample with Gaussian noise.

    ADD_OR_REMOVE_ONE and ZERO_OUT_ONE share one analysis: the differing unit
    adds its clipped gradient with the sampling probability, and nothing
    otherwise, against nothing at all.

    Args:
        noise_multiplier: Noise stddev over the L2 clip; > 0.
        sampling_probability: In (0, 1].
        relation: Which data sets are compared.
    """
    replaces = relation is relation_lib.NeighboringRelation.REPLACE_ONE
    if sampling_probability == 1.0:
        return releases.GaussianRelease(
            noise_multiplier / (2.0 if replaces else 1.0)
        )
    if replaces:
        return releases.ReplacedGaussianRelease(
            noise_multiplier, sampling_probability
        )
    return releases.SampledGaussianRelease(
        noise_multiplier, sampling_probability
    )
