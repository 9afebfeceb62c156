# SPDX-License-Identifier: Apache-2.0
"""ClippedSum: the only thing that the noise accepts."""

import dataclasses
from typing import Any

from tf_privacy import _checks


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClippedSum:
    """A sum over units of gradients that were clipped one unit at a time.

    Removing or adding one unit, whatever its content, moves `gradients`, seen
    as one long vector, by at most `l2_sensitivity` (relative error 1e-5 of
    float32 arithmetic). It is a sum and not a mean: dividing by the number of
    units would let one unit change the weight of all others.

    Attributes:
        gradients: One float32 tensor for each variable, of its shape.
        variables: The `keras.Variable`s that the gradients belong to.
        l2_sensitivity: L2 bound on one unit's part; gradient units; > 0.
        examples_per_unit: Consecutive examples that made up one unit. The
            bound is for a whole unit: one example of several in a unit may
            move the sum by twice as much.
    """

    gradients: tuple[Any, ...]
    variables: tuple[Any, ...]
    l2_sensitivity: float
    examples_per_unit: int = 1

    def __post_init__(self):
        _checks.check_real("l2_sensitivity", self.l2_sensitivity, above=0.0)
        if len(self.gradients) != len(self.variables):
            raise ValueError(
                "gradients must hold one tensor for each variable. Received: "
                f"{len(self.gradients)} gradients, {len(self.variables)} "
                "variables."
            )

    def __add__(self, other: "ClippedSum") -> "ClippedSum":
        """Returns the sum over the units of both, which must be disjoint.

        Meant for one logical batch that was sent through the model in pieces:
        no unit is in both, so the sensitivity is that of one piece.
        """
        if not isinstance(other, ClippedSum):
            return NotImplemented
        if [id(v) for v in self.variables] != [id(v) for v in other.variables]:
            raise ValueError(
                "other must be a ClippedSum over the same variables in the "
                "same order. Received: sums over different variables."
            )
        if self.examples_per_unit != other.examples_per_unit:
            raise ValueError(
                "other must be a ClippedSum over units of the same "
                f"examples_per_unit, {self.examples_per_unit}. Received: "
                f"{other.examples_per_unit}. Clip both pieces alike."
            )
        return ClippedSum(
            gradients=tuple(
                a + b
                for a, b in zip(self.gradients, other.gradients, strict=True)
            ),
            variables=self.variables,
            l2_sensitivity=max(self.l2_sensitivity, other.l2_sensitivity),
            examples_per_unit=self.examples_per_unit,
        )
