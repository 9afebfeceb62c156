# SPDX-License-Identifier: Apache-2.0
"""Epsilon and delta of several mechanisms that ran on the same data."""

import math
from collections.abc import Sequence

import numpy as np

from tf_privacy import _checks
from tf_privacy.accounting import conversion
from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import renyi


def compute_epsilon_of(
    mechanisms: Sequence[mechanism_lib.Mechanism], *, delta: float
) -> float:
    """Returns the epsilon of all mechanisms together at `delta`.

    No mechanism, or none with a step, gives 0.

    Args:
        mechanisms: What ran on the same data, in any order.
        delta: Probability in (0, 1).

    Returns:
        epsilon in nats, >= 0; an upper bound.

    Raises:
        ValueError: If `delta` is out of range, or no finite epsilon is found.
    """
    return compute_epsilon_and_order(mechanisms, delta=delta)[0]


def compute_epsilon_and_order(
    mechanisms: Sequence[mechanism_lib.Mechanism], *, delta: float
) -> tuple[float, float]:
    """Returns the epsilon at `delta` and the Renyi order that proves it.

    Args:
        mechanisms: What ran on the same data, in any order.
        delta: Probability in (0, 1).

    Returns:
        epsilon in nats, >= 0, an upper bound; and an order > 1.

    Raises:
        ValueError: If `delta` is out of range, or no finite epsilon is found.
    """
    orders = renyi.DEFAULT_ORDERS
    cost = conversion.compute_conversion_cost(
        orders, delta=_checks.check_delta(delta)
    )
    rdp = renyi.compute_rdp_of(mechanisms)
    return conversion.convert_to_epsilon(orders, rdp, cost=cost)


def compute_delta_of(
    mechanisms: Sequence[mechanism_lib.Mechanism], *, epsilon: float
) -> float:
    """Returns the delta of all mechanisms together at `epsilon`.

    Args:
        mechanisms: What ran on the same data, in any order.
        epsilon: Nats; finite, >= 0.

    Returns:
        delta in [0, 1]; an upper bound, 0 only if there was no step.

    Raises:
        ValueError: If `epsilon` is out of range.
    """
    epsilon = _checks.check_real("epsilon", epsilon, at_least=0.0)
    rdp = renyi.compute_rdp_of(mechanisms)
    return conversion.convert_to_delta(
        renyi.DEFAULT_ORDERS, rdp, epsilon=epsilon
    )


class EpsilonCurve:
    """Epsilon as a function of the number of further equal steps.

    The RDP of what was spent and of one step is computed once; each further
    question costs a few array operations (tens of microseconds).

    Args:
        spent: What ran before on the same data; may be empty.
        noise_multiplier: Of the further steps; in [0.01, 1000].
        sampling_probability: Of the further steps; in [1e-8, 1].
        delta: Probability in (0, 1).

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        *,
        spent: Sequence[mechanism_lib.Mechanism],
        noise_multiplier: float,
        sampling_probability: float,
        delta: float,
    ):
        step = mechanism_lib.Mechanism(
            noise_multiplier=noise_multiplier,
            sampling_probability=sampling_probability,
            num_steps=1,
        )
        self._spent_rdp = renyi.compute_rdp_of(spent)
        self._step_rdp = renyi.compute_rdp_of([step])
        self._cost = conversion.compute_conversion_cost(
            renyi.DEFAULT_ORDERS, delta=_checks.check_delta(delta)
        )

    def compute_epsilon(self, num_steps: int) -> float:
        """Returns the epsilon after `num_steps` further steps.

        Args:
            num_steps: Whole number in [0, 1e8].

        Returns:
            epsilon in nats, >= 0; an upper bound.

        Raises:
            ValueError: If `num_steps` is out of range.
        """
        num_steps = mechanism_lib.check_num_steps(num_steps)
        rdp = self._spent_rdp + num_steps * self._step_rdp
        return conversion.convert_to_epsilon(
            renyi.DEFAULT_ORDERS, rdp, cost=self._cost
        )[0]

    def compute_max_steps(self, *, target_epsilon: float) -> int:
        """Returns the most further steps that keep epsilon <= the target.

        At each order the epsilon is linear in the number of steps, so the
        largest number is read off directly, then checked.

        Args:
            target_epsilon: Nats; finite, > 0.

        Returns:
            Steps, rounded down; 0 if the target is already reached; 1e8 at
            most, where the accountant's range ends.

        Raises:
            ValueError: If `target_epsilon` is out of range.
        """
        target_epsilon = _checks.check_real(
            "target_epsilon", target_epsilon, above=0.0
        )
        room = target_epsilon - self._cost - self._spent_rdp
        most = float(np.max(room / self._step_rdp))
        steps = min(max(0, math.floor(most)), mechanism_lib.MAX_NUM_STEPS)
        while steps and not self.compute_epsilon(steps) <= target_epsilon:
            steps -= 1
        return steps


def compute_max_steps(
    *,
    spent: Sequence[mechanism_lib.Mechanism],
    noise_multiplier: float,
    sampling_probability: float,
    target_epsilon: float,
    target_delta: float,
) -> int:
    """Returns how many further steps keep epsilon at or below the target.

    Args:
        spent: What ran before on the same data; may be empty.
        noise_multiplier: Of the further steps; in [0.01, 1000].
        sampling_probability: Of the further steps; in [1e-8, 1].
        target_epsilon: Nats; finite, > 0.
        target_delta: Probability in (0, 1).

    Returns:
        Steps, rounded down and checked; 0 if `spent` is already at or over the
        target; at most 1e8.

    Raises:
        ValueError: If an argument is out of range.
    """
    curve = EpsilonCurve(
        spent=spent,
        noise_multiplier=noise_multiplier,
        sampling_probability=sampling_probability,
        delta=_checks.check_delta(target_delta, name="target_delta"),
    )
    return curve.compute_max_steps(target_epsilon=target_epsilon)
