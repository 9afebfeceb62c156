# SPDX-License-Identifier: Apache-2.0
"""Privacy of a group of units, such as all the examples of one person."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tf_privacy import _checks
from tf_privacy.accounting import composition
from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import neighboring_relation as relation_lib
from tf_privacy.accounting import rdp_accountant
from tf_privacy.accounting import releases
from tf_privacy.accounting import renyi

_NUM_BISECTIONS = 60
_ADD_OR_REMOVE_ONE = relation_lib.NeighboringRelation.ADD_OR_REMOVE_ONE


@dataclasses.dataclass(frozen=True)
class GroupRun(mechanism_lib.Mechanism):
    """What ran, as seen by a group of units that join or leave together.

    Each of the group joins a Poisson sample by its own coin, so that the sum
    moves by a binomial number of clips.

    Attributes:
        mechanism: What ran.
        group_size: Most units in a group; whole, in [1, 10000].
    """

    mechanism: mechanism_lib.Mechanism
    group_size: int

    def __post_init__(self):
        mechanism_lib.check_mechanism("mechanism", self.mechanism)
        size = _check_group_size(self.group_size)
        mechanism_lib.set_checked(self, group_size=size)

    @property
    def is_attained(self):
        """Whether the mechanism's bound is attained."""
        return self.mechanism.is_attained

    def list_releases(self, relation):
        """Returns the releases with their sums moved by the whole group."""
        found = []
        for release, count in self.mechanism.list_releases(relation):
            if isinstance(release, releases.GaussianRelease):
                noise = release.noise_multiplier / self.group_size
                moved = releases.GaussianRelease(noise)
            elif isinstance(release, releases.SampledGaussianRelease):
                moved = releases.GroupGaussianRelease(
                    release.noise_multiplier,
                    release.sampling_probability,
                    self.group_size,
                )
            else:
                raise ValueError(
                    "mechanism must be Gaussian, or Poisson-sampled Gaussian, "
                    f"for groups. Received: {release!r}. Use "
                    "convert_to_group_epsilon."
                )
            found.append((moved, count))
        return tuple(found)


def _check_group_size(group_size) -> int:
    return _checks.check_integer(
        "group_size", group_size, at_least=1, at_most=10_000
    )


def compute_group_epsilon(
    mechanisms: Sequence[mechanism_lib.Mechanism],
    *,
    group_size: int,
    delta: float,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> float:
    """Returns the epsilon for groups of units that join or leave together.

    Args:
        mechanisms: What ran on the same data: Gaussian noise, on all units or
            on Poisson samples.
        group_size: Most units in a group; whole, in [1, 10000].
        delta: Of the group; probability in (0, 1).
        neighboring_relation: ADD_OR_REMOVE_ONE or ZERO_OUT_ONE, of each unit
            in the group.

    Returns:
        epsilon in nats of the whole group, >= 0; an upper bound. No steps give
        0.

    Raises:
        ValueError: If an argument is out of range, or no finite epsilon is
            found.
    """
    size = _check_group_size(group_size)
    if size == 1:
        return composition.compute_epsilon_of(
            mechanisms, delta=delta, neighboring_relation=neighboring_relation
        )
    found = composition.compute_epsilon_bounds_of(
        [GroupRun(each, size) for each in mechanisms],
        delta=delta,
        neighboring_relation=neighboring_relation,
    )
    if found.accountant in (composition.CONTOUR, composition.CLOSED_FORM):
        return found.epsilon
    try:
        by_lemma = convert_to_group_epsilon(
            mechanisms, group_size=size, delta=delta
        )
    except ValueError:
        by_lemma = math.inf
    return min(found.epsilon, by_lemma)


def _compute_log_sum(epsilon: float, group_size: int) -> float:
    """Returns log(sum_{i < k} e^{i epsilon}) = log((e^{k e} - 1)/(e^e - 1))."""
    return float(np.logaddexp.reduce(epsilon * np.arange(group_size)))


def convert_to_group_epsilon(
    mechanisms: Sequence[mechanism_lib.Mechanism],
    *,
    group_size: int,
    delta: float,
) -> float:
    """Returns the epsilon for groups, from that of one unit by a lemma.

    If one unit has (epsilon_1, delta_1), then k units have

        epsilon = k epsilon_1
        delta = delta_1 (e^{k epsilon_1} - 1) / (e^{epsilon_1} - 1)

    The least epsilon_1 whose group delta is at most `delta` is found by
    bisection. At a Renyi order above k the group delta falls as epsilon_1
    grows, so only those orders are used and the search cannot be misled.

    Args:
        mechanisms: What ran on the same data, for groups of one.
        group_size: Most units k in a group; whole, in [1, 10000].
        delta: Of the group; probability in (0, 1).

    Returns:
        epsilon in nats of the whole group, >= 0; an upper bound, rounded up.
        No steps give 0. Looser than an analysis of the group itself.

    Raises:
        ValueError: If an argument is out of range, or no finite epsilon is
            found.

    Source: Vadhan 2017, "The Complexity of Differential Privacy", Lemma 2.2.
    """
    group_size = _check_group_size(group_size)
    log_target = math.log(_checks.check_delta(delta))
    rdp = rdp_accountant.compute_rdp_of(mechanisms)
    if not np.any(rdp):
        return 0.0
    usable = renyi.DEFAULT_ORDERS > group_size
    orders, rdp = renyi.DEFAULT_ORDERS[usable], rdp[usable]
    cost = orders * np.log1p(-1.0 / orders) - np.log(orders - 1.0)

    def meets_target(epsilon: float) -> bool:
        log_delta = np.min((orders - 1.0) * (rdp - epsilon) + cost)
        log_group_delta = log_delta + _compute_log_sum(epsilon, group_size)
        return bool(log_group_delta <= log_target)

    low, high = 0.0, 1.0
    while not meets_target(high):
        low, high = high, 2.0 * high
        if not high < 1e15:
            raise ValueError(
                f"group_size must leave a finite epsilon. Received: "
                f"{group_size!r}. Use more noise, fewer steps, or bound the "
                "examples per person."
            )
    for _ in range(_NUM_BISECTIONS):
        middle = 0.5 * (low + high)
        if meets_target(middle):
            high = middle
        else:
            low = middle
    return group_size * high
