# SPDX-License-Identifier: Apache-2.0
"""Functions of a model's rows and their gradients, in TensorFlow.

A graph is traced once, for any number of rows.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_privacy.audit.backend import softmax_ends


def compile_on_rows(model, function: Callable, *arrays) -> Callable:
    """Returns a function from arrays to an array, for any number of rows.

    Args:
        model: A Keras model, whose variables are read anew in each call.
        function: Of tensors; uses no variables but those of `model`, which it
            does not keep alive.
        *arrays: `[B, ...]`; what it is of, but for the number of rows.
    """
    del model
    graph = trace(function, *(make_spec(array) for array in arrays))

    def run(*arrays) -> np.ndarray:
        return graph(*(tf.convert_to_tensor(array) for array in arrays)).numpy()

    return run


def differentiate(function: Callable, x):
    """Returns the gradient of each row's number with respect to the row.

    Args:
        function: From `[B, ...]` to `[B]`; acts on each row alone.
        x: `[B, ...]` floats, a tensor.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        values = function(x)
    return tape.gradient(
        values, x, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )


def make_logit_call(model, x, *, outputs: str) -> Callable:
    """Returns a function of x that gives the model's logits, `[B, C]`.

    From below a softmax or sigmoid that ends the model, in inference mode.

    Args:
        model: A Keras model of one output, `[B, C]`; it is not kept alive.
        x: `[B, ...]` floats.
        outputs: What the model returns, "logits" or "probabilities".

    Raises:
        ValueError: If the model ends in a softmax or a sigmoid in spite of
            "logits"; in the function's first call.
    """
    del x
    call = softmax_ends.make_call(model)

    def get_logits(x):
        values = call(x)
        # Only tensors of a graph know what made them.
        operation = getattr(values, "op", None)
        if operation is None or operation.type not in ("Softmax", "Sigmoid"):
            return softmax_ends.to_logits(values, outputs)
        softmax_ends.check_outputs(outputs, operation.type.lower())
        return operation.inputs[0]

    return get_logits


def trace(function: Callable, *specs):
    """Returns `function` as one graph.

    Args:
        function: Of tensors, or lists of tensors.
        *specs: `tf.TensorSpec`, or lists of them, for each argument.
    """
    return tf.function(function, autograph=False).get_concrete_function(*specs)


def make_spec(array) -> tf.TensorSpec:
    """Returns the type and shape of an array, with any number of rows.

    Args:
        array: `[B, ...]`.
    """
    return tf.TensorSpec([None, *array.shape[1:]], array.dtype)
