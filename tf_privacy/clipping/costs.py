# SPDX-License-Identifier: Apache-2.0
"""What a private pass over a model costs for each row, from shapes alone."""

import dataclasses
import math
import weakref

import keras
from keras import ops

from tf_privacy.clipping import call_plan
from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import scaling
from tf_privacy.clipping import taps
from tf_privacy.clipping.backend.graphs import graphs


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CallCost:
    """What the gradient norms of one tapped call cost.

    Attributes:
        call: The planned call.
        terms: Pairs of a variable and its term's cost for each row.
    """

    call: call_plan.TappedCall
    terms: list[tuple[keras.Variable, gradient_terms.Cost]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ModelCost:
    """What a private pass over a model costs for each row.

    Attributes:
        activation_bytes: Everything that the forward pass computes.
        term_bytes: What the gradient terms hold.
        calls: Each tapped call, in the order of the forward pass.
    """

    activation_bytes: int
    term_bytes: int
    calls: list[CallCost]

    @property
    def row_bytes(self) -> int:
        """An estimate of what one row holds in memory at the peak.

        The backward pass needs about as much again as the forward pass.
        """
        return 2 * self.activation_bytes + self.term_bytes


_COSTS = weakref.WeakKeyDictionary()


def estimate_cost(
    model, x, plan: call_plan.CallPlan, *, scales=None
) -> ModelCost:
    """Returns what a private pass over a model costs for each row.

    Runs the model once on placeholders; no data are touched.

    Args:
        model: A built `keras.Model`.
        x: A structure of tensors `[B, ...]`; only shapes and dtypes are used.
        plan: The model's plan for such inputs.
        scales: None, or the Scale of each trainable variable.
    """
    if scales is not None:
        return _trace_cost(model, x, plan, scales)
    if plan not in _COSTS:
        _COSTS[plan] = _trace_cost(model, x, plan)
    return _COSTS[plan]


def _trace_cost(model, x, plan, scales=None) -> ModelCost:
    variables = model.trainable_variables
    wanted = {id(v) for v in variables}
    scale_of = {}
    if scales is not None:
        scale_of = {id(v): s for v, s in zip(variables, scales, strict=True)}

    def find_cost(variable, term):
        scale = scale_of.get(id(variable))
        if scale is not None:
            # Its values are of the step's graph; here only the form counts.
            term = scaling.scale_term(term, scale.as_ones())
        return term.cost()

    def forward(inputs):
        recorder = taps.TapRecorder(plan, lambda tensor: tensor, variables)
        recorder.run(model, inputs, on_update=_ignore)

    graph = graphs.trace(forward, call_plan.probe_specs(x))
    calls = []

    def find_terms(inputs):
        calls.clear()  # A trace may begin again, with values.
        recorder = taps.TapRecorder(plan, lambda tensor: tensor, variables)
        recorder.run(model, inputs, on_update=_ignore)
        for record in recorder.records:
            cotangents = [ops.zeros_like(z) for z in record.outputs]
            pairs = taps.call_terms(record, cotangents)
            calls.append(
                CallCost(
                    call=record.call,
                    terms=[
                        (v, find_cost(v, t))
                        for v, t in pairs
                        if id(v) in wanted
                    ],
                )
            )

    graphs.trace(find_terms, keras.tree.map_structure(_few_rows, x))
    stored = sum(cost.stored for call in calls for _, cost in call.terms)
    return ModelCost(
        activation_bytes=math.ceil(
            graphs.count_bytes(graph, call_plan.PROBE_BATCH)
            / call_plan.PROBE_BATCH
        ),
        term_bytes=4 * stored,
        calls=calls,
    )


def _few_rows(tensor):
    """Returns the spec of two rows: some terms take one row at a time."""
    return keras.KerasTensor((2, *tensor.shape[1:]), ops.dtype(tensor))


def _ignore(variable, value):
    del variable, value
