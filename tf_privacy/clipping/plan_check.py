# SPDX-License-Identifier: Apache-2.0
"""A plan that was seen to find what a plain tape finds.

Before a model's first step, the gradients of a few rows are taken twice: as
the engine takes them, out of a batch, and by a tape over the model on that row
alone. Whatever the plan could have missed (a weight that is read behind
Keras's back, a layer that uses more than its arguments, a layer whose gradient
mixes rows) shows there.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping import call_plan
from tf_privacy.clipping import probe_rows
from tf_privacy.clipping import taps
from tf_privacy.clipping.backend import backend
from tf_privacy.clipping.backend.execution import execution

# Not the middle one, which would stay in place if rows were reversed.
_CHECKED_ROWS = (2, 5)
# Relative; gradients of the two ways agree to about 1e-6 in float32.
_TOLERANCE = 1e-3
_LOW_PRECISION_TOLERANCE = 0.1
# A norm from Gram matrices is raised by what its sums may have lost.
_ROUNDED_UP = 0.05


def confirmed_plan(model, x) -> call_plan.CallPlan:
    """Returns the plan for a model, once its gradients are confirmed.

    Args:
        model: A built `keras.Model`.
        x: A structure of tensors `[B, ...]`; in a graph only their shapes are
            used.

    Returns:
        The plan. Where the gradients differ, it is to loop over single
        examples.

    Raises:
        ValueError: If one row's gradient passes through other rows.
    """
    plan = call_plan.plan_calls(model, x)
    if plan.is_confirmed or plan.loop_reason:
        return plan
    rows = probe_rows.sample_rows(x)
    reason = execution.run_outside_of_graph(
        lambda: _find_fault(model, plan, probe_rows.as_tensors(rows))
    )
    if reason:
        plan = call_plan.CallPlan(calls={}, loop_reason=reason)
    else:
        plan = dataclasses.replace(plan, is_confirmed=True)
    call_plan.keep_plan(model, x, plan)
    return plan


def _find_fault(model, plan, rows) -> str:
    faults = (_find_fault_in(model, plan, rows, row) for row in _CHECKED_ROWS)
    return next((fault for fault in faults if fault), "")


def _find_fault_in(model, plan, rows, row) -> str:
    try:
        within, norm = _gradient_within_batch(model, plan, rows, row)
    except (RuntimeError, *execution.OPERATION_ERRORS):
        return "the model does not run the same layers on every batch"
    alone = _gradient_alone(model, plan, rows, row)
    scale = _norm(alone)
    difference = _norm([a - b for a, b in zip(within, alone, strict=True)])
    tolerance = _TOLERANCE
    if any("16" in layer.compute_dtype for layer in plan.layers()):
        tolerance = _LOW_PRECISION_TOLERANCE
    allowed = tolerance * scale + 1e-12
    raised = allowed + _ROUNDED_UP * scale
    if difference <= allowed and -allowed <= norm - scale <= raised:
        return ""
    return (
        "the gradients of its layer calls are not all of the model's gradient: "
        "something is used that Keras does not show"
    )


def _norm(arrays):
    return np.sqrt(sum(np.sum(np.square(a)) for a in arrays))


def _project(outputs, row: int):
    """Returns a scalar that depends on all outputs of one row."""
    total = 0.0
    for output in keras.tree.flatten(outputs):
        if not (ops.is_tensor(output) and "float" in ops.dtype(output)):
            continue
        if not len(output.shape):
            continue
        flat = ops.reshape(ops.cast(output[row], "float32"), (-1,))
        weights = ops.cos(ops.arange(flat.shape[0], dtype="float32"))
        total = total + ops.sum(ops.sin(flat + 0.5) * weights)
    return total


def _gradient_within_batch(model, plan, rows, row):
    variables = model.trainable_variables
    recorders = []

    def forward(tap):
        recorder = taps.TapRecorder(plan, tap, variables)
        recorders.append(recorder)
        outputs = recorder.run(
            model, rows, on_update=_ignore, training=not plan.is_random
        )
        return _project(outputs, row), recorder.tensors()

    tensors, cotangents = backend.pull_back(forward)
    recorder = recorders[-1]
    recorder.keep(tensors)
    _check_cotangents(recorder, cotangents, row)
    terms = taps.collect_terms(
        recorder.records, cotangents, 1.0, variables, only_row=row
    )
    ones = ops.ones((probe_rows.NUM_ROWS,), "float32")
    squared = sum(float(t.squared_norms()[row]) for t in terms.values())
    gradient = [
        _to_numpy(terms[id(v)].weighted_sum(ones))
        if id(v) in terms
        else np.zeros(tuple(v.shape))
        for v in variables
    ]
    return gradient, np.sqrt(squared)


def _gradient_alone(model, plan, rows, row):
    one = keras.tree.map_structure(lambda t: t[row : row + 1], rows)

    def value():
        outputs = model(one, training=not plan.is_random)
        return _project(outputs, 0) + 0.0

    gradients = backend.isolated_gradient(value, model.trainable_variables)
    return [_to_numpy(backend.densify(g)) for g in gradients]


def _to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), np.float64)


def _check_cotangents(recorder, cotangents, row):
    """Raises if a row's result has a derivative at another row's taps."""
    others = np.arange(probe_rows.NUM_ROWS) != row
    for record in reversed(recorder.records):
        stop = record.first + len(record.outputs)
        for cotangent in cotangents[record.first : stop]:
            if cotangent is None or cotangent.shape[0] != others.size:
                continue
            if np.any(np.nan_to_num(_to_numpy(cotangent))[others]):
                after = recorder.layers_after(record)
                raise ValueError(
                    "model must hold no layer that mixes the examples of a "
                    "batch: then one example acts through all others, and "
                    "clipping does not bound it. Received: one example's "
                    "gradient reaches another example's outputs of layer "
                    f"{record.call.layer.name!r}, through one of the layers "
                    f"{after}. Make each layer act on each row alone."
                )


def _ignore(variable, value):
    del variable, value
