# SPDX-License-Identifier: Apache-2.0
"""The Renyi accountant: RDP adds up, and is converted at its best order."""

import functools
from collections.abc import Sequence

import numpy as np

from tf_privacy import _checks
from tf_privacy.accounting import conversion
from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import neighboring_relation as relation_lib
from tf_privacy.accounting import releases
from tf_privacy.accounting import renyi

_ADD_OR_REMOVE_ONE = relation_lib.NeighboringRelation.ADD_OR_REMOVE_ONE


@functools.lru_cache(maxsize=128)
def compute_rdp_of_release(release: releases.Release) -> np.ndarray:
    """Returns one release's RDP at `DEFAULT_ORDERS`, remembered between calls.

    Args:
        release: From `Mechanism.list_releases`.

    Returns:
        `[A]` float64, nats, read-only; an upper bound.
    """
    rdp = release.compute_rdp(renyi.DEFAULT_ORDERS)
    rdp.flags.writeable = False
    return rdp


def compute_rdp_of(
    mechanisms: Sequence[mechanism_lib.Mechanism],
    *,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> np.ndarray:
    """Returns the RDP at `DEFAULT_ORDERS` of all mechanisms together.

    RDP adds up, also where a later step depends on earlier results, as training
    does. The settings (noise, sampling, number of steps) must not have been
    chosen by looking at those results. Nothing, or zero steps, is zero.

    Args:
        mechanisms: What ran, in any order; may be empty.
        neighboring_relation: Which data sets are compared.

    Returns:
        `[A]` float64, nats; inf where a mechanism has no RDP.

    Source: Mironov 2017, arXiv:1702.07476, Proposition 1 (composition).
    """
    total = np.zeros_like(renyi.DEFAULT_ORDERS)
    for mechanism in mechanisms:
        for release, count in mechanism.list_releases(neighboring_relation):
            if count:
                total += count * compute_rdp_of_release(release)
    return total


def compute_rdp_epsilon_of(
    mechanisms: Sequence[mechanism_lib.Mechanism],
    *,
    delta: float,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> tuple[float, float]:
    """Returns the epsilon at `delta` and the Renyi order that proves it.

    Args:
        mechanisms: What ran on the same data, in any order.
        delta: Probability in (0, 1).
        neighboring_relation: Which data sets are compared.

    Returns:
        epsilon in nats, >= 0, an upper bound; and an order > 1.

    Raises:
        ValueError: If `delta` is out of range, or no finite epsilon is found.
    """
    orders = renyi.DEFAULT_ORDERS
    cost = conversion.compute_conversion_cost(
        orders, delta=_checks.check_delta(delta)
    )
    rdp = compute_rdp_of(mechanisms, neighboring_relation=neighboring_relation)
    return conversion.convert_to_epsilon(orders, rdp, cost=cost)


def compute_rdp_delta_of(
    mechanisms: Sequence[mechanism_lib.Mechanism],
    *,
    epsilon: float,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> float:
    """Returns the delta of all mechanisms together at `epsilon`.

    Args:
        mechanisms: What ran on the same data, in any order.
        epsilon: Nats; finite, >= 0.
        neighboring_relation: Which data sets are compared.

    Returns:
        delta in [0, 1]; an upper bound, 0 only if there was no step.

    Raises:
        ValueError: If `epsilon` is out of range.
    """
    epsilon = _checks.check_real("epsilon", epsilon, at_least=0.0)
    rdp = compute_rdp_of(mechanisms, neighboring_relation=neighboring_relation)
    return conversion.convert_to_delta(
        renyi.DEFAULT_ORDERS, rdp, epsilon=epsilon
    )
