# SPDX-License-Identifier: Apache-2.0
"""A claim of privacy: pairs of epsilon and delta that are said to hold."""

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_privacy import _checks
from tf_privacy import accounting
from tf_privacy.audit import lower_bounds
from tf_privacy.audit import scores as scores_lib

_ADD_OR_REMOVE_ONE = accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
# From 0.1 to 1e-9, two a decade.
_DELTAS = tuple(10.0 ** (-0.5 * i) for i in range(2, 19))
# A test on m trials cannot reject an epsilon above log(m): up to that of
# 160,000 trials the curve has an even grid.
_LARGEST_EVEN_EPSILON = 12.0
_NUM_EVEN_EPSILONS = 24
_ROUND_UP = 1.0 + 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """Pairs (epsilon, delta) that a mechanism is said to keep to, all of them.

    A test that rejects one pair rejects the claim. A delta above the true one
    makes a test of the claim less sharp, never wrong.

    Attributes:
        epsilons: `[E]` nats, rising, >= 0; E >= 1.
        deltas: `[E]` in [0, 1].
        description: Of the mechanism, for people.

    Raises:
        TypeError: If a value is of another kind.
        ValueError: If a value is out of range, or the lengths differ.
    """

    epsilons: tuple[float, ...]
    deltas: tuple[float, ...]
    description: str

    def __post_init__(self):
        epsilons = scores_lib.check_scores("epsilons", self.epsilons)
        deltas = scores_lib.check_scores("deltas", self.deltas)
        if not (np.all(epsilons >= 0.0) and np.all(np.diff(epsilons) > 0.0)):
            raise ValueError(
                "epsilons must be rising numbers >= 0. Received: "
                f"{self.epsilons!r}. Sort them, and their deltas alike."
            )
        if not np.all((deltas >= 0.0) & (deltas <= 1.0)):
            raise ValueError(
                f"deltas must be in [0, 1]. Received: {self.deltas!r}. They "
                "are probabilities."
            )
        if deltas.shape != epsilons.shape:
            raise ValueError(
                f"deltas must be as many as epsilons, {epsilons.size}. "
                f"Received: {deltas.size}. Pass one for each epsilon."
            )
        if not isinstance(self.description, str):
            raise TypeError(
                "description must be a text. Received: "
                f"{self.description!r}. Say in a line what is claimed."
            )
        object.__setattr__(self, "epsilons", tuple(epsilons.tolist()))
        object.__setattr__(self, "deltas", tuple(deltas.tolist()))

    def __str__(self) -> str:
        if len(self.epsilons) == 1:
            pairs = f"epsilon {self.epsilons[0]:g} at delta {self.deltas[0]:g}"
        else:
            pairs = (
                f"{len(self.epsilons)} pairs from epsilon "
                f"{self.epsilons[0]:g} at delta {self.deltas[0]:.3g} to "
                f"epsilon {self.epsilons[-1]:.4g} at delta "
                f"{self.deltas[-1]:.3g}"
            )
        return f"{self.description}: {pairs}"

    @classmethod
    def from_pair(cls, epsilon: float, delta: float) -> "Claim":
        """Returns the claim of one pair alone.

        Args:
            epsilon: Nats; finite, >= 0.
            delta: Probability in [0, 1).

        Raises:
            ValueError: If a number is out of range.
        """
        epsilon = _checks.check_real("epsilon", epsilon, at_least=0.0)
        delta = lower_bounds.check_delta(delta)
        return cls(
            epsilons=(epsilon,),
            deltas=(delta,),
            description=f"({epsilon:g}, {delta:g})-DP",
        )

    def get_epsilon(self, delta: float) -> float:
        """Returns the smallest epsilon that the claim implies at `delta`.

        Two pairs imply those between them: with a weight w in [0, 1]

            log(w e^epsilon1 + (1 - w) e^epsilon2),  w delta1 + (1 - w) delta2

        because each pair bounds a probability by a line in e^epsilon. Between
        neighbors of a grid this is close to the true curve.

        Args:
            delta: Probability in [0, 1).

        Returns:
            epsilon in nats; implied by the pairs (rounded up).

        Raises:
            ValueError: If nothing is claimed at so small a delta.
        """
        delta = lower_bounds.check_delta(delta)
        # What holds at an epsilon holds at every larger one.
        deltas = np.minimum.accumulate(self.deltas)
        if delta < deltas[-1]:
            raise ValueError(
                f"delta must be at least {deltas[-1]:g}, the least in the "
                f"claim. Received: {delta!r}. Claim a pair at that delta."
            )
        index = int(np.argmax(deltas <= delta))
        if index == 0:
            return self.epsilons[0]
        before, after = self.epsilons[index - 1 : index + 1]
        weight = (delta - deltas[index]) / (deltas[index - 1] - deltas[index])
        gain = math.log1p(weight * math.expm1(before - after))
        return min(after, (after + gain) * _ROUND_UP)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as lists and text, for JSON."""
        return {
            "epsilons": list(self.epsilons),
            "deltas": list(self.deltas),
            "description": self.description,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Claim":
        """Returns the claim that `to_dict` wrote, checked once more.

        Args:
            fields: What `to_dict` returned.

        Raises:
            ValueError: If a field is missing, unknown or out of range.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != names:
            raise ValueError(
                f"fields must be {sorted(names)}. Received: {sorted(fields)}. "
                "Pass what to_dict returned."
            )
        return cls(**fields)


def make_claim(
    mechanisms: Sequence[accounting.Mechanism],
    *,
    neighboring_relation: accounting.NeighboringRelation = _ADD_OR_REMOVE_ONE,
    description: str | None = None,
) -> Claim:
    """Returns what the accountant claims of the mechanisms together.

    The pairs are those at deltas 0.1, 0.03, 0.01, ..., 1e-9, as far as an
    epsilon is finite, and those of an even grid of 24 epsilons up to the last
    of them or 12, which no test on fewer than 160,000 trials gets past.

    Args:
        mechanisms: What ran on the same data, in any order; may be empty.
        neighboring_relation: Which data sets are compared.
        description: Of the mechanisms; None writes them out.

    Returns:
        `Claim`, at most 41 pairs; every delta an upper bound.

    Raises:
        TypeError: If an entry is no mechanism.
        ValueError: If the accountant has no finite epsilon even at 0.1.
    """
    if description is None:
        listed = ", ".join(map(repr, mechanisms)) or "nothing ran"
        description = f"{listed}; {neighboring_relation.name}"
    pairs = _compute_pairs(mechanisms, neighboring_relation)
    # Of equal epsilons the smallest delta, which comes last, is kept.
    best = dict(sorted(pairs, key=lambda pair: (pair[0], -pair[1])))
    return Claim(
        epsilons=tuple(best),
        deltas=tuple(np.minimum.accumulate(list(best.values())).tolist()),
        description=description,
    )


def _compute_pairs(mechanisms, relation) -> list[tuple[float, float]]:
    """Returns (epsilon, delta): at given deltas, then at given epsilons.

    A mechanism may have a delta of its own: below it no epsilon is finite, and
    at a small epsilon the accountant may find no delta.
    """
    pairs = []
    for delta in _DELTAS:
        try:
            epsilon = accounting.compute_epsilon_of(
                mechanisms, delta=delta, neighboring_relation=relation
            )
        except ValueError:
            if not pairs:
                raise
            break
        pairs.append((epsilon, delta))
    largest = min(pairs[-1][0], _LARGEST_EVEN_EPSILON)
    for epsilon in np.linspace(0.0, largest, _NUM_EVEN_EPSILONS).tolist():
        try:
            delta = accounting.compute_delta_of(
                mechanisms, epsilon=epsilon, neighboring_relation=relation
            )
        except ValueError:
            continue
        pairs.append((epsilon, delta))
    return pairs
