# SPDX-License-Identifier: Apache-2.0
"""Refuses models in which one example can touch another.

If a layer mixes rows, clipping each example's gradient does not bound what
one example does: it also acts through all others.
"""

import weakref

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.backend import backend

_NUM_ROWS = 7
_UNKNOWN_LENGTH = 8  # Stands for an axis of unknown length.
_TOLERANCE = 1e-5  # Relative; float32 kernels agree to about 1e-6.
_CHECKED = weakref.WeakKeyDictionary()


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
                "LayerNormalization in its place."
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
        x = keras.tree.map_structure(
            lambda t: keras.KerasTensor(t.shape, t.dtype), model._inputs_struct
        )
    with backend.outside_of_graph():
        _compare(model, _sample_rows(x))
    _CHECKED[model] = _fingerprint(model)


def check_once(model, x) -> None:
    """Runs `check_model` unless this model, as it stands, has passed it.

    Args:
        model: A built `keras.Model`.
        x: A structure of tensors; in a graph, only their shapes are used.
    """
    if _CHECKED.get(model) == _fingerprint(model):
        return
    if backend.is_eager():
        check_model(model, x)
        return
    try:
        check_model(model, _as_specs(x))
    except (TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise ValueError(
            "model must run on made-up inputs to be checked for layers that "
            f"mix examples. Received: {error!r}. Call "
            "tf_privacy.check_model(model, x) on a few real rows first."
        ) from error


def sample_rows(x):
    """Returns a few rows as tensors outside of any graph.

    Args:
        x: A structure of tensors `[B, ...]`; in a graph values are made up for
            their shapes.

    Returns:
        A structure of tensors of 7 rows.
    """
    rows = _sample_rows(x if backend.is_eager() else _as_specs(x))
    with backend.outside_of_graph():
        return _as_tensors(rows)


def _as_specs(x):
    return keras.tree.map_structure(
        lambda t: keras.KerasTensor(t.shape, ops.dtype(t)), x
    )


def _sample_rows(x):
    if any(isinstance(t, keras.KerasTensor) for t in keras.tree.flatten(x)):
        return keras.tree.map_structure(_make_up_rows, x)
    return keras.tree.map_structure(_take_rows, x)


def _fingerprint(model):
    return tuple(
        (id(layer), layer.trainable)
        for layer in keras_internals.flatten_layers(model)
    )


def _make_up_rows(spec):
    shape = (_NUM_ROWS,) + tuple(
        _UNKNOWN_LENGTH if size is None else size for size in spec.shape[1:]
    )
    rng = np.random.default_rng(0)
    if "float" in spec.dtype:
        return rng.normal(size=shape).astype("float32")
    # 0 and 1 are valid whatever the number of classes or words.
    return rng.integers(0, 2, shape).astype(spec.dtype)


def _take_rows(array):
    """Returns `_NUM_ROWS` finite rows, repeated if there are fewer."""
    rows = np.array(ops.convert_to_numpy(array[:_NUM_ROWS]))
    if np.issubdtype(rows.dtype, np.floating):
        rows = np.nan_to_num(rows, posinf=0.0, neginf=0.0)
        rows = rows.astype("float32")
    return np.resize(rows, (_NUM_ROWS, *rows.shape[1:]))


def _change_others(rows):
    """Returns the rows with all but the first one changed."""
    changed = rows.copy()
    if np.issubdtype(rows.dtype, np.floating):
        rng = np.random.default_rng(1)
        spread = float(np.std(rows)) + 1.0
        noise = rng.normal(size=rows.shape) * spread
        changed[1:] = (noise - 1.5 * rows)[1:].astype(rows.dtype)
    elif rows.dtype == bool:
        changed[1:] = ~rows[1:]
    else:
        # Stays in the range that was seen: a valid word, a valid class.
        changed[1:] = (rows.max() + rows.min() - rows)[1:].astype(rows.dtype)
    return changed


def _run(model, rows):
    """Returns the first row of the outputs, and of each layer's outputs."""
    trace = []

    def intercept(layer, call, args, kwargs):
        outputs = call(*args, **kwargs)
        if backend.is_eager():
            trace.append((layer, _first_rows(outputs)))
        return outputs

    with (
        keras.StatelessScope(),
        keras_internals.intercepted_calls(model, intercept),
    ):
        outputs = model(_as_tensors(rows), training=True)
    return _first_rows(outputs), trace


def _as_tensors(rows):
    return keras.tree.map_structure(ops.convert_to_tensor, rows)


def _first_rows(outputs):
    return [
        np.array(ops.convert_to_numpy(o)[0], np.float64)
        for o in keras.tree.flatten(outputs)
        if ops.is_tensor(o) and len(o.shape) and o.shape[0] == _NUM_ROWS
    ]


def _same(before, after) -> bool:
    for a, b in zip(before, after, strict=True):
        scale = np.max(np.abs(a), initial=0.0) + 1e-30
        if not np.allclose(
            a, b, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True
        ):
            return False
    return True


def _compare(model, rows):
    keras_internals.build_for(model, _as_tensors(rows))
    before, trace_before = _run(model, rows)
    again, _ = _run(model, rows)
    if _same(before, again):
        changed = keras.tree.map_structure(_change_others, rows)
        after, trace_after = _run(model, changed)
        if not _same(before, after):
            _refuse(model, trace_before, trace_after)
    leak = backend.first_row_leak(
        lambda inputs: model(inputs, training=True), _as_tensors(rows)
    )
    if leak > 0.0:
        _refuse(model, [], [])


def _refuse(model, trace_before, trace_after):
    culprit = model
    for (layer, before), (_, after) in zip(
        trace_before, trace_after, strict=True
    ):
        if not _same(before, after):
            culprit = layer
            break
    raise ValueError(
        "model must hold no layer that mixes the examples of a batch: then one "
        "example acts through all others, and clipping does not bound it. "
        f"Received: layer {culprit.name!r} ({type(culprit).__name__}), whose "
        "first row changes with the other rows. Make it act on each row alone "
        "(axis=0 must not be reduced)."
    )
