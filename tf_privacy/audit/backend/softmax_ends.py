# SPDX-License-Identifier: Apache-2.0
"""The logits of a Keras model, from below the softmax or sigmoid that ends it.

For backends whose tensors do not know what made them: the end is looked for in
the model's last layer. Whether what was found is the model is tried out, so
that a model with a `call` of its own is taken as it is.
"""

import weakref
from collections.abc import Callable

import keras
import numpy as np

# By the name of an activation, or of a layer's or an operation's class.
_ENDS = {
    "softmax": keras.activations.softmax,
    "sigmoid": keras.activations.sigmoid,
}
# One more pass, rounded elsewhere, moves a probability by less.
_RELATIVE_TOLERANCE = 1e-2
_ABSOLUTE_TOLERANCE = 1e-6
_NUM_PROBES = 4


def make_logit_call(
    model, x: np.ndarray, *, outputs: str, compile_on_rows: Callable
) -> Callable:
    """Returns a function of x that gives the model's logits, `[B, C]`.

    In inference mode. Where no end is found, logits are what the model returns
    or, if that is probabilities, their logarithms. The model is not kept alive.

    Args:
        model: A built Keras model of one input and one output, `[B, C]`.
        x: `[B, ...]` floats, on which what was found is tried out.
        outputs: What the model returns, "logits" or "probabilities".
        compile_on_rows: That of the Keras backend.

    Raises:
        ValueError: If the model ends in a softmax or a sigmoid in spite of
            "logits".
    """
    call = make_call(model)
    name, call_below = _find_end(model)
    if name is not None:
        probes = x[:_NUM_PROBES] if len(x) else np.zeros((1, *x.shape[1:]))
        probes = probes.astype(x.dtype, copy=False)
        wanted, found = (
            compile_on_rows(model, function, probes)(probes)
            for function in (call, lambda x: _ENDS[name](call_below(x)))
        )
        if _are_close(found, wanted):
            check_outputs(outputs, name)
            return call_below
    return lambda x: to_logits(call(x), outputs)


def make_call(model) -> Callable:
    """Returns a function of x that runs a model in inference mode.

    Args:
        model: A Keras model; it is not kept alive.
    """
    reference = weakref.ref(model)
    return lambda x: reference()(x, training=False)


def check_outputs(outputs: str, end: str) -> None:
    """Refuses "logits" for a model that ends in a softmax or a sigmoid.

    Args:
        outputs: What the model is said to return.
        end: "softmax" or "sigmoid".

    Raises:
        ValueError: If it is said to return logits.
    """
    if outputs == "logits":
        raise ValueError(
            f"outputs must be 'probabilities' for a model that ends in a {end}."
            " Received: 'logits'."
        )


def to_logits(values, outputs: str):
    """Returns logits: the values, or the logarithms of probabilities.

    Args:
        values: `[B, C]`; what a model returns.
        outputs: "logits" or "probabilities".

    Returns:
        `[B, C]`; probabilities under 1e-38 (float32) have no gradient.
    """
    if outputs == "logits":
        return values
    least = keras.ops.cast(np.finfo(np.float32).tiny, values.dtype)
    logs = keras.ops.log(keras.ops.maximum(values, least))
    if values.shape[1] == 1:
        logs -= keras.ops.log(keras.ops.maximum(1 - values, least))
    return logs


def _are_close(found, wanted) -> bool:
    return found.shape == wanted.shape and np.allclose(
        found.astype(np.float64),
        wanted.astype(np.float64),
        rtol=_RELATIVE_TOLERANCE,
        atol=_ABSOLUTE_TOLERANCE,
        equal_nan=True,
    )


def _find_end(model):
    """Returns an end's name, and a function of x up to it; or twice None."""
    nothing = None, None
    inputs = getattr(model, "inputs", None) or []
    outputs = getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(outputs) != 1:
        return nothing
    # Keras has no public name for what made a symbolic tensor.
    operation, node_index, _ = outputs[0]._keras_history
    sources = operation._inbound_nodes[node_index].input_tensors
    if len(sources) != 1:
        return nothing
    if isinstance(operation, keras.Model):
        name, finish = _find_end(operation)
    else:
        name, finish = _split_operation(operation)
    if name is None:
        return nothing
    # A name of its own, so that Keras's count of names stays as it is.
    front = keras.Model(inputs[0], sources[0], name="below_the_end")
    return name, lambda x: finish(front(x, training=False))


def _split_operation(operation):
    """Returns its end's name and a function up to it, or twice None."""
    activation = getattr(operation, "activation", None)
    maker = type(operation) if activation is None else activation
    name = getattr(maker, "__name__", "").lower()
    if name not in _ENDS:
        return None, None
    if activation is None:
        return name, lambda values: values
    # The layer's own variables in another object: the layer is left as it is,
    # and Keras's copy would have weights of its own.
    linear = object.__new__(type(operation))
    vars(linear).update(vars(operation), activation=keras.activations.linear)
    return name, linear
