# SPDX-License-Identifier: Apache-2.0
"""Refuses models in which one example can touch another.

If a layer mixes rows, clipping each example's gradient does not bound what
one example does: it also acts through all others.
"""

import weakref

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping import call_plan
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import plan_check
from tf_privacy.clipping import probe_rows
from tf_privacy.clipping.backend import backend
from tf_privacy.clipping.backend.execution import execution

_COMPARED_ROWS = (0, 3, probe_rows.NUM_ROWS - 1)
_TOLERANCE = 1e-4  # Relative; one kernel agrees with itself much closer.
# A batch of one may take other kernels: a long sum that cancels, or float16,
# comes out differently. What depends on the size of a batch differs by more.
_TOLERANCE_ALONE = 1e-2
_CHECKED = weakref.WeakKeyDictionary()
_CHECKED_FUNCTIONS = weakref.WeakSet()


def check_layers(model) -> None:
    """Raises if a model holds a layer that is known to mix examples.

    Args:
        model: A `keras.Model`.

    Raises:
        ValueError: If there is a BatchNormalization, trainable or not: in
            training it mixes the batch, and its moving statistics are taken
            from the data without noise.
    """
    for layer in keras_internals.flatten_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            raise ValueError(
                "model must hold no BatchNormalization: it mixes the examples "
                "of a batch, and its moving statistics come from the data "
                f"without noise. Received: layer {layer.name!r} (trainable="
                f"{layer.trainable}). Use GroupNormalization or "
                "LayerNormalization in its place: "
                "tf_privacy.replace_batch_normalization(model) returns such a "
                "model. For one that was trained on public data, see also "
                "tf_privacy.fold_batch_normalization."
            )


def check_model(model, x=None) -> None:
    """Raises if an example's result depends on the other examples.

    Runs the model in training mode on a few rows, once as they are and once
    with every row but the first changed, with the same random numbers. The
    first row's outputs must stay, and no other row may have a gradient there.

    Args:
        model: A `keras.Model`.
        x: A structure of arrays `[B, ...]`, B >= 1, of which a few rows are
            used; None makes up values for a built model's inputs.

    Raises:
        ValueError: If a layer mixes rows; its name is given.
    """
    check_layers(model)
    if x is None:
        if not getattr(model, "inputs", None):
            raise ValueError(
                "x must be given for a model that does not know its inputs. "
                f"Received: x=None and {model.name!r}. Pass a few rows of the "
                "training data."
            )
        x = keras_internals.input_specs(model)
    rows = probe_rows.sample_rows(x)

    def check():
        tensors = probe_rows.as_tensors(rows)
        keras_internals.build_for(model, tensors)
        # Without running it: a layer that changes its state is refused here.
        call_plan.plan_calls(model, tensors)
        _compare(model, rows)
        plan_check.confirmed_plan(model, tensors)
        _check_inputs(model, tensors)

    execution.run_outside_of_graph(check)
    _CHECKED[model] = _fingerprint(model)


def check_once(model, x) -> None:
    """Runs `check_model` unless this model, as it stands, has passed it.

    Args:
        model: A built `keras.Model`.
        x: A structure of tensors; in a graph, only their shapes are used.
    """
    if _CHECKED.get(model) == _fingerprint(model):
        return
    if execution.is_eager():
        check_model(model, x)
        return
    try:
        check_model(model, probe_rows.as_specs(x))
    except (
        TypeError,
        LookupError,
        ArithmeticError,
        RuntimeError,
        *execution.OPERATION_ERRORS,
    ) as error:
        raise ValueError(
            "model must run on made-up inputs to be checked for layers that "
            f"mix examples. Received: {error!r}. Call "
            "tf_privacy.check_model(model, x) on a few real rows first."
        ) from error


def check_function_once(owner, function, x) -> None:
    """Raises if a function of a batch mixes rows; looks once for each owner.

    Args:
        owner: What the function belongs to; must be weakly referable.
        function: Maps a structure of tensors `[B, ...]` to such a structure.
        x: A structure of tensors `[B, ...]`.

    Raises:
        ValueError: If a row's result depends on the other rows.
    """
    if owner in _CHECKED_FUNCTIONS:
        return
    rows = probe_rows.sample_rows(x)

    def run(rows, row):
        with execution.same_random_numbers(row), keras_internals.InnerScope():
            outputs = function(probe_rows.as_tensors(rows))
        return _pick(outputs, probe_rows.NUM_ROWS, row)

    def mixes(row) -> bool:
        # A random permutation may leave one row in place, but hardly all.
        turned = keras.tree.map_structure(
            lambda a: np.roll(a, row, axis=0), rows
        )
        before = run(turned, row)
        if _same(before, run(turned, row)):
            changed = keras.tree.map_structure(
                lambda a: np.roll(probe_rows.change_others(a), row, axis=0),
                rows,
            )
            if not _same(before, run(changed, row)):
                return True
        return backend.row_leak(function, probe_rows.as_tensors(rows), row) > 0

    def mixes_rows() -> bool:
        return any(mixes(row) for row in range(probe_rows.NUM_ROWS))

    if execution.run_outside_of_graph(mixes_rows):
        raise ValueError(
            "augment must treat each row alone: then one example acts through "
            "all others, and clipping does not bound it. Received: a function "
            "one of whose rows depends on others, as MixUp and CutMix do. "
            "Use one that changes each example by itself."
        )
    _CHECKED_FUNCTIONS.add(owner)


def _fingerprint(model):
    return tuple(
        (id(layer), layer.trainable)
        for layer in keras_internals.flatten_layers(model)
    )


def _run(model, rows, row: int, training: bool, draw: int = 0):
    """Returns one row of the outputs, and of each layer's outputs.

    Layers draw the same numbers in every run, but others for another `draw`.
    """
    inputs = probe_rows.as_tensors(rows)
    num_rows = keras.tree.flatten(inputs)[0].shape[0]
    trace = []

    def intercept(layer, call, args, kwargs):
        outputs = call(*args, **kwargs)
        if execution.is_eager():
            trace.append((layer, _pick(outputs, num_rows, row)))
        return outputs

    with (
        execution.same_random_numbers(draw),
        keras_internals.InnerScope(_shifted_seeds(model, draw)),
        keras_internals.intercepted_calls(model, intercept),
    ):
        outputs = model(inputs, training=training)
    return _pick(outputs, num_rows, row), trace


def _pick(outputs, num_rows: int, row: int):
    return [
        np.array(ops.convert_to_numpy(ops.cast(o[row], "float32")), np.float64)
        for o in keras.tree.flatten(outputs)
        if ops.is_tensor(o)
        and len(o.shape)
        and o.shape[0] == num_rows
        and o.dtype != "string"
    ]


def _same(before, after, tolerance: float = _TOLERANCE) -> bool:
    if len(before) != len(after):
        return False
    for a, b in zip(before, after, strict=True):
        scale = np.max(np.abs(a), initial=0.0) + 1e-30
        if a.shape != b.shape or not np.allclose(
            a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True
        ):
            return False
    return True


def _shifted_seeds(model, draw: int):
    """Returns pairs of the state of a random generator and another state."""
    return [
        (state, ops.add(state.value, ops.cast(draw, state.dtype)))
        for state in keras_internals.seed_variables(model)
    ]


def _compare(model, rows):
    # A random layer may spare one row, or not mix at all, in some draws.
    is_random = bool(keras_internals.seed_states(model))
    for row in range(probe_rows.NUM_ROWS) if is_random else [0]:
        turned, changed = keras.tree.map_structure(
            lambda a, row=row: np.roll(a, row, axis=0),
            (rows, keras.tree.map_structure(probe_rows.change_others, rows)),
        )
        before, trace_before = _run(model, turned, row, True, draw=row)
        again, _ = _run(model, turned, row, True, draw=row)
        if not _same(before, again):
            return
        after, trace_after = _run(model, changed, row, True, draw=row)
        if not _same(before, after):
            _refuse(model, trace_before, trace_after)
    _compare_alone(model, rows)


def _check_inputs(model, tensors):
    """Raises if the first row's outputs have a derivative at other rows."""
    leak = backend.row_leak(
        lambda inputs: model(inputs, training=True), tensors
    )
    if leak > 0.0:
        _refuse(model, [], [])


def _compare_alone(model, rows):
    """Raises if a row gives another result alone than within the batch."""
    # Random numbers of a batch of one are others: without them, then.
    training = not keras_internals.seed_states(model)
    for row in _COMPARED_ROWS:
        one = keras.tree.map_structure(lambda a, r=row: a[r : r + 1], rows)
        within, trace_within = _run(model, rows, row, training)
        alone, trace_alone = _run(model, one, 0, training)
        if not _same(within, alone, _TOLERANCE_ALONE):
            _refuse(model, trace_within, trace_alone)


def _refuse(model, trace_before, trace_after):
    culprit = model
    for (layer, before), (_, after) in zip(
        trace_before, trace_after, strict=False
    ):
        if not _same(before, after):
            culprit = layer
            break
    raise ValueError(
        "model must hold no layer that mixes the examples of a batch: then one "
        "example acts through all others, and clipping does not bound it. "
        f"Received: layer {culprit.name!r} ({type(culprit).__name__}), where "
        "what one example gives depends on the other examples. Make it act on "
        "each row alone (axis=0 must not be reduced)."
    )
