# SPDX-License-Identifier: Apache-2.0
"""Tests of the neighboring relations that are accepted."""

import pytest

from tf_privacy.accounting import budget
from tf_privacy.accounting import neighboring_relation

Relation = neighboring_relation.NeighboringRelation
RUN = {
    "noise_multiplier": 1.1,
    "sampling_probability": 0.01,
    "num_steps": 1000,
    "delta": 1e-5,
}


def test_zero_out_has_the_value_of_add_or_remove():
    epsilon = budget.compute_epsilon(**RUN)
    for relation in [Relation.ZERO_OUT_ONE, Relation.ADD_OR_REMOVE_ONE]:
        got = budget.compute_epsilon(**RUN, neighboring_relation=relation)
        assert got == epsilon


@pytest.mark.parametrize("relation", [Relation.REPLACE_ONE, None, "add"])
def test_refuses_other_relations_and_says_what_to_do(relation):
    with pytest.raises(ValueError, match="^neighboring_relation .*group_size"):
        budget.compute_epsilon(**RUN, neighboring_relation=relation)
