# SPDX-License-Identifier: Apache-2.0
"""Which neighboring relations the accountant covers."""

from tf_privacy import _checks
from tf_privacy import _neighboring_relation

NeighboringRelation = _neighboring_relation.NeighboringRelation


def check_neighboring_relation(relation) -> NeighboringRelation:
    """Returns a relation that the accountant of this package covers.

    ADD_OR_REMOVE_ONE and ZERO_OUT_ONE share one analysis: in a Poisson-sampled
    batch the differing unit adds its clipped gradient with probability
    sampling_probability q and nothing otherwise, against nothing at all. Both
    compare N(0, s^2) with (1 - q) N(0, s^2) + q N(1, s^2), in both directions.

    Args:
        relation: A `NeighboringRelation`.

    Returns:
        The relation, unchanged.

    Raises:
        ValueError: If the relation is REPLACE_ONE, or none at all.
    """
    return _checks.check_choice(
        "neighboring_relation",
        relation,
        [
            NeighboringRelation.ADD_OR_REMOVE_ONE,
            NeighboringRelation.ZERO_OUT_ONE,
        ],
        hint=(
            "Replacing a unit is removing one and adding one: account for "
            "ADD_OR_REMOVE_ONE and apply compute_group_epsilon with "
            "group_size=2."
        ),
    )
