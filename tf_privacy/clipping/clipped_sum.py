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
        query_sum: float32 scalar; the sum over units of what the clipping
            style asks of each, to move its clip; None if it asks nothing.
        query_sensitivity: Bound on one unit's part of it; None likewise.
        row_counts: `[V]` float32 for each variable, how many units use each
            row of it, or None for a variable whose rows are not counted; empty
            if none are. One unit moves all of them together by at most 1.
        scale: None, or the clip in force over l2_sensitivity, a float32 scalar:
            the unit in which gradients were measured.
        scales: None, or the `scaling.Scale` of each variable by which
            gradients were multiplied before the clip.
    """

    gradients: tuple[Any, ...]
    variables: tuple[Any, ...]
    l2_sensitivity: float
    examples_per_unit: int = 1
    query_sum: Any = None
    query_sensitivity: float | None = None
    row_counts: tuple[Any, ...] = ()
    scale: Any = None
    scales: tuple[Any, ...] | None = None

    def __post_init__(self):
        _checks.check_real("l2_sensitivity", self.l2_sensitivity, above=0.0)
        if (self.query_sum is None) != (self.query_sensitivity is None):
            raise ValueError(
                "query_sum must come with its query_sensitivity. Received: "
                f"query_sensitivity={self.query_sensitivity!r}. Give both or "
                "none."
            )
        if len(self.gradients) != len(self.variables):
            raise ValueError(
                "gradients must hold one tensor for each variable. Received: "
                f"{len(self.gradients)} gradients, {len(self.variables)} "
                "variables."
            )

    @property
    def sums(self) -> list[Any]:
        """The gradients, the query and the counts, those that there are."""
        query = [] if self.query_sum is None else [self.query_sum]
        counts = [each for each in self.row_counts if each is not None]
        return [*self.gradients, *query, *counts]

    def with_sums(self, sums) -> "ClippedSum":
        """Returns the same with other tensors.

        Args:
            sums: In place of `sums`, in that order.
        """
        sums = iter(sums)
        gradients = tuple(next(sums) for _ in self.gradients)
        query = None if self.query_sum is None else next(sums)
        counts = tuple(
            None if each is None else next(sums) for each in self.row_counts
        )
        return dataclasses.replace(
            self, gradients=gradients, query_sum=query, row_counts=counts
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
        if self.query_sensitivity != other.query_sensitivity:
            raise ValueError(
                "other must be a ClippedSum of the same query_sensitivity, "
                f"{self.query_sensitivity}. Received: "
                f"{other.query_sensitivity}. Clip both pieces alike."
            )
        if (self.scales is None) != (other.scales is None) or (
            (self.scale is None) != (other.scale is None)
        ):
            raise ValueError(
                "other must be a ClippedSum of gradients scaled alike. "
                "Received: one scaled, one not. Clip both pieces alike."
            )
        return ClippedSum(
            gradients=tuple(
                a + b
                for a, b in zip(self.gradients, other.gradients, strict=True)
            ),
            variables=self.variables,
            l2_sensitivity=max(self.l2_sensitivity, other.l2_sensitivity),
            examples_per_unit=self.examples_per_unit,
            query_sum=(
                None
                if self.query_sum is None
                else self.query_sum + other.query_sum
            ),
            query_sensitivity=self.query_sensitivity,
            row_counts=tuple(
                None if a is None else a + b
                for a, b in zip(self.row_counts, other.row_counts, strict=True)
            ),
            scale=self.scale,
            scales=self.scales,
        )
