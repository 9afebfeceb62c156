# SPDX-License-Identifier: Apache-2.0
"""A plan whose generic calls were seen to give the same result when alone."""

import dataclasses

from tf_privacy.clipping import call_plan
from tf_privacy.clipping import row_independence
from tf_privacy.clipping import taps
from tf_privacy.clipping.backend import backend

# Rows other than the first, which a result that leaked in from the whole
# batch is likely to resemble.
_ROWS = (2, 5)


def confirmed_plan(model, x) -> call_plan.CallPlan:
    """Returns the plan for a model, once its generic calls are confirmed.

    A layer without a rule is recomputed for each example from its recorded
    arguments. If that does not reproduce what it gave within the batch (it
    uses a tensor that it was not given), the plan is to loop over single
    examples, where nothing is recomputed.

    Args:
        model: A built `keras.Model` that `row_independence.check_once` passed.
        x: A structure of tensors `[B, ...]`; in a graph only their shapes are
            used.

    Returns:
        The plan.
    """
    plan = call_plan.plan_calls(model, x)
    if plan.is_confirmed or all(c.rule for c in plan.calls.values()):
        return plan
    rows = row_independence.sample_rows(x)
    with backend.outside_of_graph():
        recorder = taps.TapRecorder(
            plan, lambda tensor: tensor, model.trainable_variables
        )
        recorder.run(model, rows, on_update=lambda variable, value: None)
        changed = None
        for row in _ROWS:
            changed = changed or taps.find_changed_call(recorder.records, row)
    if changed is None:
        plan = dataclasses.replace(plan, is_confirmed=True)
    else:
        plan = call_plan.CallPlan(
            calls={},
            loop_reason=(
                f"layer {changed.layer.name!r} gives another result for one "
                "example alone: it uses more than its arguments"
            ),
        )
    call_plan.keep_plan(model, x, plan)
    return plan
