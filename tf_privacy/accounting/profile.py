# SPDX-License-Identifier: Apache-2.0
"""The privacy profile of what ran: delta at many epsilons, and its meaning."""

import math
from collections.abc import Sequence

import numpy as np

from tf_privacy.accounting import composition
from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import neighboring_relation as relation_lib
from tf_privacy.accounting import trade_off

_ADD_OR_REMOVE_ONE = relation_lib.NeighboringRelation.ADD_OR_REMOVE_ONE
_SMALLEST_DELTA = 1e-9
_NUM_EPSILONS = 32


def compute_profile_of(
    mechanisms: Sequence[mechanism_lib.Mechanism],
    *,
    epsilons: Sequence[float],
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> np.ndarray:
    """Returns delta at each epsilon.

    Args:
        mechanisms: What ran on the same data, in any order.
        epsilons: `[E]`; nats, finite, >= 0.
        neighboring_relation: Which data sets are compared.

    Returns:
        `[E]` float64; upper bounds, never rising.
    """
    deltas = [
        composition.compute_delta_of(
            mechanisms,
            epsilon=epsilon,
            neighboring_relation=neighboring_relation,
        )
        for epsilon in epsilons
    ]
    # delta falls with epsilon, so an earlier bound holds later on as well.
    return np.minimum.accumulate(np.array(deltas, dtype=np.float64))


def compute_attack_bounds_of(
    mechanisms: Sequence[mechanism_lib.Mechanism],
    *,
    false_positive_rates: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1),
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> trade_off.AttackBounds:
    """Returns the most that an attack on one unit's membership can reach.

    Args:
        mechanisms: What ran on the same data, in any order.
        false_positive_rates: Rates in [0, 1] to answer for.
        neighboring_relation: Which data sets are compared.

    Returns:
        `AttackBounds`: the true positive rate at each false positive rate, and
        the accuracy at even odds; upper bounds.
    """
    largest = composition.compute_epsilon_of(
        mechanisms,
        delta=_SMALLEST_DELTA,
        neighboring_relation=neighboring_relation,
    )
    rates = [rate for rate in false_positive_rates if 0.0 < rate < 1.0]
    extra = [math.log(1.0 / rate) for rate in rates]
    grid = np.linspace(0.0, largest, _NUM_EPSILONS)
    epsilons = np.unique([*grid, *(e for e in extra if e < largest)])
    return trade_off.compute_attack_bounds(
        epsilons=epsilons,
        deltas=compute_profile_of(
            mechanisms,
            epsilons=epsilons,
            neighboring_relation=neighboring_relation,
        ),
        false_positive_rates=tuple(false_positive_rates),
    )
