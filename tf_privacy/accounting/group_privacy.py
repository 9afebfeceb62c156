# SPDX-License-Identifier: Apache-2.0
"""Privacy of a group of units, such as all the examples of one person."""

import math
from collections.abc import Sequence

import numpy as np

from tf_privacy import _checks
from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import renyi

_NUM_BISECTIONS = 60


def _compute_log_sum(epsilon: float, group_size: int) -> float:
    """Returns log(sum_{i < k} e^{i epsilon}) = log((e^{k e} - 1)/(e^e - 1))."""
    return float(np.logaddexp.reduce(epsilon * np.arange(group_size)))


def compute_group_epsilon(
    mechanisms: Sequence[mechanism_lib.Mechanism],
    *,
    group_size: int,
    delta: float,
) -> float:
    """Returns the epsilon for groups of units that join or leave together.

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
    group_size = _checks.check_integer(
        "group_size", group_size, at_least=1, at_most=10_000
    )
    log_target = math.log(_checks.check_delta(delta))
    rdp = renyi.compute_rdp_of(mechanisms)
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
