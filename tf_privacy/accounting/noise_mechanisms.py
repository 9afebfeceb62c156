# SPDX-License-Identifier: Apache-2.0
"""Descriptions of mechanisms by their noise; any unit may take part."""

import dataclasses
import math

from tf_privacy import _checks
from tf_privacy.accounting import correlated_noise
from tf_privacy.accounting import laplace_loss
from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import neighboring_relation as relation_lib
from tf_privacy.accounting import ranges
from tf_privacy.accounting import releases


@dataclasses.dataclass(frozen=True)
class Laplace(mechanism_lib.Mechanism):
    """One release of a sum plus Laplace noise.

    Attributes:
        noise_multiplier: Scale of the noise over the L1 norm of one unit's
            contribution; in [0.01, 1000].
    """

    noise_multiplier: float

    def __post_init__(self):
        checked = ranges.check_noise_multiplier(self.noise_multiplier)
        mechanism_lib.set_checked(self, noise_multiplier=checked)

    def list_releases(self, relation):
        """Returns one release; replacing a unit moves the sum twice as far."""
        replaces = relation is relation_lib.NeighboringRelation.REPLACE_ONE
        noise = self.noise_multiplier / (2.0 if replaces else 1.0)
        return ((laplace_loss.LaplaceRelease(noise, 1.0), 1),)


@dataclasses.dataclass(frozen=True)
class ApproximateDP(mechanism_lib.Mechanism):
    """Anything that is (epsilon, delta)-DP for the relation in question.

    Attributes:
        epsilon: Nats; finite, >= 0.
        delta: Probability in [0, 1).
    """

    epsilon: float
    delta: float = 0.0

    def __post_init__(self):
        mechanism_lib.set_checked(
            self,
            epsilon=_checks.check_real("epsilon", self.epsilon, at_least=0.0),
            delta=_checks.check_real(
                "delta", self.delta, at_least=0.0, below=1.0
            ),
        )

    def list_releases(self, relation):
        """Returns one release."""
        if self.epsilon == self.delta == 0.0:
            return ()
        return ((releases.BoundedRelease(self.epsilon, self.delta), 1),)


@dataclasses.dataclass(frozen=True)
class ConcentratedDP(mechanism_lib.Mechanism):
    """Anything that is rho-zCDP for the relation in question.

    Attributes:
        rho: Nats; finite, > 0.
    """

    rho: float

    def __post_init__(self):
        checked = _checks.check_real("rho", self.rho, above=0.0)
        mechanism_lib.set_checked(self, rho=checked)

    def list_releases(self, relation):
        """Returns one release."""
        return ((releases.ConcentratedRelease(self.rho), 1),)


@dataclasses.dataclass(frozen=True)
class AdaptiveClipping(mechanism_lib.Mechanism):
    """A clipped sum and the noised count of units that the clip left whole.

    The count, of terms -1/2 and 1/2, moves by 1/2 for one unit, so both
    releases together are one Gaussian whose noise multiplier is

        (noise_multiplier^-2 + (2 count_stddev)^-2)^(-1/2)

    Attributes:
        noise_multiplier: Noise stddev on the sum over the clip; in
            [0.01, 1000].
        count_stddev: Noise stddev on the count, in units; in [1e-9, 1e150].

    Source: Andrew, Thakkar, McMahan and Ramaswamy 2021, arXiv:1905.03871,
        Theorem 1.
    """

    noise_multiplier: float
    count_stddev: float

    def __post_init__(self):
        mechanism_lib.set_checked(
            self,
            noise_multiplier=ranges.check_noise_multiplier(
                self.noise_multiplier
            ),
            count_stddev=_checks.check_real(
                "count_stddev", self.count_stddev, at_least=1e-9, at_most=1e150
            ),
        )

    @property
    def effective_noise_multiplier(self) -> float:
        """Noise multiplier of both releases as one, rounded down."""
        total = self.noise_multiplier**-2.0 + (2.0 * self.count_stddev) ** -2.0
        return (1.0 - 1e-15) / math.sqrt(total)

    def list_releases(self, relation):
        """Returns one release."""
        replaces = relation is relation_lib.NeighboringRelation.REPLACE_ONE
        noise = self.effective_noise_multiplier / (2.0 if replaces else 1.0)
        return ((releases.GaussianRelease(noise), 1),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeAggregation(mechanism_lib.Mechanism):
    """Sums over the nodes of binary trees of steps, each with Gaussian noise.

    A tree starts anew every `steps_per_tree` steps (DP-FTRL with restarts).

    Attributes:
        noise_multiplier: Noise stddev of one node over the clip of one step's
            contribution; in [0.01, 1000].
        steps_per_tree: Leaves of a tree; whole, >= 1.
        num_trees: Trees one after the other; whole, in [0, 1e8].
        max_participations: Steps of one tree that a unit takes part in, at
            most; whole, >= 1. Shuffled epochs with one tree each: 1.
        min_separation: Steps from one participation of a unit to its next, at
            least; whole, >= 1.

    Source: Kairouz, McMahan, Song, Thakkar, Thakurta and Xu 2021,
        arXiv:2103.00039, Appendix D.
    """

    noise_multiplier: float
    steps_per_tree: int
    num_trees: int = 1
    max_participations: int = 1
    min_separation: int = 1

    def __post_init__(self):
        mechanism_lib.set_checked(
            self,
            noise_multiplier=ranges.check_noise_multiplier(
                self.noise_multiplier
            ),
            num_trees=ranges.check_num_steps(self.num_trees, name="num_trees"),
            steps_per_tree=ranges.check_num_steps(
                self.steps_per_tree, name="steps_per_tree", at_least=1
            ),
        )
        # Checks the other fields, by their names there and here.
        self.compute_sensitivity()

    @property
    def is_attained(self):
        """False: the sensitivity of several participations is a bound."""
        return self.max_participations == 1

    def compute_sensitivity(self) -> float:
        """Returns the L2 norm of what one unit adds to all nodes of a tree."""
        return correlated_noise.compute_tree_sensitivity(
            num_steps=self.steps_per_tree,
            min_separation=self.min_separation,
            max_participations=self.max_participations,
        )

    def list_releases(self, relation):
        """Returns one release for each tree."""
        replaces = relation is relation_lib.NeighboringRelation.REPLACE_ONE
        moved = self.compute_sensitivity() * (2.0 if replaces else 1.0)
        release = releases.GaussianRelease(self.noise_multiplier / moved)
        return ((release, self.num_trees),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatrixMechanism(mechanism_lib.Mechanism):
    """Gaussian noise, correlated over the steps, on a run's clipped sums.

    Released is C x + z, with x the sums of all steps, C the strategy matrix
    and z noise; `tf_privacy.accounting.compute_matrix_sensitivity` and its
    siblings say what one unit adds to C x.

    Attributes:
        noise_multiplier: Noise stddev of z over the clip of one step's
            contribution; in [0.01, 1000].
        sensitivity: L2 norm of what one unit adds to C x, over that clip; in
            [1e-9, 1e9].

    Source: Denisov, McMahan, Rush, Smith and Thakurta 2022, arXiv:2202.08312.
    """

    noise_multiplier: float
    sensitivity: float

    def __post_init__(self):
        mechanism_lib.set_checked(
            self,
            noise_multiplier=ranges.check_noise_multiplier(
                self.noise_multiplier
            ),
            sensitivity=_checks.check_real(
                "sensitivity", self.sensitivity, at_least=1e-9, at_most=1e9
            ),
        )

    @property
    def is_attained(self):
        """False: the sensitivity may be a bound."""
        return False

    def list_releases(self, relation):
        """Returns the run as one release."""
        replaces = relation is relation_lib.NeighboringRelation.REPLACE_ONE
        moved = self.sensitivity * (2.0 if replaces else 1.0)
        release = releases.GaussianRelease(self.noise_multiplier / moved)
        return ((release, 1),)
