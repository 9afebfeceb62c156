# SPDX-License-Identifier: Apache-2.0
"""Which two data sets a privacy guarantee compares."""

import enum

from tf_privacy import _checks


class NeighboringRelation(enum.Enum):
    """How two neighboring data sets differ.

    Members:
        ADD_OR_REMOVE_ONE: One holds one unit more than the other.
        REPLACE_ONE: Same size; one unit has different content. It changes a
            clipped sum by up to twice the clip, so its epsilon is larger.
        ZERO_OUT_ONE: Same size; one unit is replaced by a special unit whose
            clipped contribution is zero.
    """

    ADD_OR_REMOVE_ONE = "add_or_remove_one"
    REPLACE_ONE = "replace_one"
    ZERO_OUT_ONE = "zero_out_one"


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
