# SPDX-License-Identifier: Apache-2.0
"""Which two data sets a privacy guarantee compares."""

import enum


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
