# SPDX-License-Identifier: Apache-2.0
"""Tests of the neighboring relations that are accepted."""

import pytest

from tf_privacy.accounting import budget
from tf_privacy.accounting import group_privacy
from tf_privacy.accounting import mechanism
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


def test_replacing_costs_more_but_no_more_than_a_group_of_two():
    epsilon = budget.compute_epsilon(**RUN)
    got = budget.compute_epsilon(
        **RUN, neighboring_relation=Relation.REPLACE_ONE
    )
    run = mechanism.SampledGaussianSteps(
        **{name: RUN[name] for name in RUN if name != "delta"}
    )
    by_lemma = group_privacy.convert_to_group_epsilon(
        [run], group_size=2, delta=RUN["delta"]
    )
    assert epsilon < got < by_lemma


@pytest.mark.parametrize("relation", [None, "add"])
def test_refuses_what_is_no_relation(relation):
    with pytest.raises(ValueError, match="^neighboring_relation must be"):
        budget.compute_epsilon(**RUN, neighboring_relation=relation)
