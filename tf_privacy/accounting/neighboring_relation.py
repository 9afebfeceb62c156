# SPDX-License-Identifier: Apache-2.0
"""Which neighboring relations the accountant covers."""

from tf_privacy import _checks
from tf_privacy import _neighboring_relation

NeighboringRelation = _neighboring_relation.NeighboringRelation


def check_neighboring_relation(relation) -> NeighboringRelation:
    """Returns a value once it is a neighboring relation.

    Args:
        relation: A `NeighboringRelation`.

    Returns:
        The relation, unchanged.

    Raises:
        ValueError: If it is none.
    """
    return _checks.check_choice(
        "neighboring_relation", relation, list(NeighboringRelation)
    )
