# SPDX-License-Identifier: Apache-2.0
"""Epsilon as a function of the number of steps, and how many fit a budget."""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from tf_privacy import _checks
from tf_privacy.accounting import composition
from tf_privacy.accounting import conversion
from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import neighboring_relation as relation_lib
from tf_privacy.accounting import ranges
from tf_privacy.accounting import rdp_accountant
from tf_privacy.accounting import renyi
from tf_privacy.accounting import search

_ADD_OR_REMOVE_ONE = relation_lib.NeighboringRelation.ADD_OR_REMOVE_ONE


class EpsilonCurve:
    """Epsilon as a function of the number of further equal steps.

    Args:
        spent: What ran before on the same data; may be empty.
        noise_multiplier: Of the further steps; in [0.01, 1000].
        sampling_probability: Of the further steps; in [1e-8, 1].
        delta: Probability in (0, 1).
        neighboring_relation: Which data sets are compared.

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
        neighboring_relation: relation_lib.NeighboringRelation = (
            _ADD_OR_REMOVE_ONE
        ),
    ):
        self._spent = tuple(spent)
        self._step = mechanism_lib.SampledGaussianSteps(
            noise_multiplier=noise_multiplier,
            sampling_probability=sampling_probability,
            num_steps=1,
        )
        self._delta = _checks.check_delta(delta)
        self._relation = neighboring_relation

    def _list_mechanisms(self, num_steps: int):
        steps = dataclasses.replace(self._step, num_steps=num_steps)
        return (*self._spent, steps)

    def compute_epsilon(self, num_steps: int) -> float:
        """Returns the epsilon after `num_steps` further steps.

        Args:
            num_steps: Whole number in [0, 1e8].

        Returns:
            epsilon in nats, >= 0; an upper bound.

        Raises:
            ValueError: If `num_steps` is out of range.
        """
        return composition.compute_epsilon_of(
            self._list_mechanisms(num_steps),
            delta=self._delta,
            neighboring_relation=self._relation,
        )

    def bound_epsilon(self, num_steps: int) -> float:
        """Returns a bound of `compute_epsilon` that is cheap in a loop.

        Epsilon rises with the steps, so its value at the next number with two
        significant digits bounds it; consecutive calls share that value.

        Args:
            num_steps: Whole number in [0, 1e8].

        Returns:
            epsilon in nats, >= 0; an upper bound, at most a tenth above
            `compute_epsilon`, as a rule a twentieth.
        """
        unit = 10 ** max(0, len(str(num_steps)) - 2)
        rounded = min(-(-num_steps // unit) * unit, ranges.MAX_NUM_STEPS)
        return self.compute_epsilon(rounded)

    def compute_max_steps(self, *, target_epsilon: float) -> int:
        """Returns the most further steps that keep epsilon <= the target.

        Args:
            target_epsilon: Nats; finite, > 0.

        Returns:
            Steps, rounded down and checked; 0 if the target is already
            reached; 1e8 at most, where the accountant's range ends.

        Raises:
            ValueError: If `target_epsilon` is out of range.
        """
        target_epsilon = _checks.check_real(
            "target_epsilon", target_epsilon, above=0.0
        )

        if not self.compute_epsilon(1) <= target_epsilon:
            return 0
        return self._climb(self._find_near(target_epsilon), target_epsilon)

    def _find_near(self, target_epsilon: float) -> int:
        """Returns a safe number of steps, as a rule close to the last one."""

        def compute_excess(log_steps):
            epsilon = self.compute_epsilon(round(math.exp(log_steps)))
            return math.log(
                max(epsilon, 1e-2 * target_epsilon) / target_epsilon
            )

        largest = math.log(ranges.MAX_NUM_STEPS)
        found = search.find_root(
            compute_excess,
            safe=0.0,
            unsafe=largest,
            start=self._guess_log_steps(target_epsilon),
            slope=0.6,
            tolerance=1e-6,
        )
        return 1 if found is None else round(math.exp(found))

    def _guess_log_steps(self, target_epsilon) -> float:
        """Returns about the log of the steps that the Renyi bound allows."""
        orders = renyi.DEFAULT_ORDERS
        cost = conversion.compute_conversion_cost(orders, delta=self._delta)
        spent, step = (
            rdp_accountant.compute_rdp_of(
                mechanisms, neighboring_relation=self._relation
            )
            for mechanisms in (self._spent, [self._step])
        )
        with np.errstate(invalid="ignore"):
            most = np.nanmax((target_epsilon - cost - spent) / step)
        return math.log(min(max(1.0, most), ranges.MAX_NUM_STEPS))

    def _climb(self, steps: int, target_epsilon: float) -> int:
        """Returns the last safe number of steps, from a safe one near it."""

        def is_safe(number):
            return self.compute_epsilon(number) <= target_epsilon

        stride = 1
        while steps + stride <= ranges.MAX_NUM_STEPS and is_safe(
            steps + stride
        ):
            steps += stride
            stride *= 2
        while stride:
            if steps + stride <= ranges.MAX_NUM_STEPS and is_safe(
                steps + stride
            ):
                steps += stride
            stride //= 2
        return steps


class DescribedEpsilonCurve(EpsilonCurve):
    """Epsilon as a function of the number of further steps of any kind.

    Args:
        spent: What ran before on the same data; may be empty.
        describe_steps: From a number of steps to what they are; must never
            spend less for more steps.
        delta: Probability in (0, 1).
        neighboring_relation: Which data sets are compared.
    """

    def __init__(
        self,
        *,
        spent: Sequence[mechanism_lib.Mechanism],
        describe_steps: Callable[[int], Sequence[mechanism_lib.Mechanism]],
        delta: float,
        neighboring_relation: relation_lib.NeighboringRelation = (
            _ADD_OR_REMOVE_ONE
        ),
    ):
        self._spent = tuple(spent)
        self._describe_steps = describe_steps
        self._delta = _checks.check_delta(delta)
        self._relation = neighboring_relation

    def _list_mechanisms(self, num_steps):
        return (*self._spent, *self._describe_steps(num_steps))

    def _find_near(self, target_epsilon):
        return 1


def compute_max_steps(
    *,
    spent: Sequence[mechanism_lib.Mechanism],
    noise_multiplier: float,
    sampling_probability: float,
    target_epsilon: float,
    target_delta: float,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> int:
    """Returns how many further steps keep epsilon at or below the target.

    Args:
        spent: What ran before on the same data; may be empty.
        noise_multiplier: Of the further steps; in [0.01, 1000].
        sampling_probability: Of the further steps; in [1e-8, 1].
        target_epsilon: Nats; finite, > 0.
        target_delta: Probability in (0, 1).
        neighboring_relation: Which data sets are compared.

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
        neighboring_relation=neighboring_relation,
    )
    return curve.compute_max_steps(target_epsilon=target_epsilon)


def calibrate_num_steps(
    *,
    target_epsilon: float,
    target_delta: float,
    noise_multiplier: float,
    sampling_probability: float,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> int:
    """Returns the most steps that meet the target.

    Args:
        target_epsilon: Nats; finite, > 0.
        target_delta: Probability in (0, 1).
        noise_multiplier: Noise stddev over the L2 clip; in [0.01, 1000].
        sampling_probability: Chance that a unit joins a batch, by independent
            (Poisson) draws; in [1e-8, 1].
        neighboring_relation: Which data sets are compared.

    Returns:
        Steps in [1, 1e8], rounded down; `compute_epsilon` was evaluated at it
        and is <= the target.

    Raises:
        ValueError: If an argument is out of range, or a single step does not
            meet the target.
    """
    steps = compute_max_steps(
        spent=[],
        noise_multiplier=noise_multiplier,
        sampling_probability=sampling_probability,
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        neighboring_relation=neighboring_relation,
    )
    if not steps:
        raise ValueError(
            "target_epsilon must leave room for at least one step. Received: "
            f"{target_epsilon!r}. Use more noise, a smaller "
            "sampling_probability, or a larger target."
        )
    return steps
