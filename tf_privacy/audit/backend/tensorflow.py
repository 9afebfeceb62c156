# SPDX-License-Identifier: Apache-2.0
"""Gradients of Keras models with respect to their inputs, in TensorFlow.

Models have one input of floats. They are left as they are: neither weights nor
random state change. A graph is traced once for each model and shape, any number
of rows, and kept as long as the model lives; weights are read anew in each
call, layers added later are not seen.
"""

import weakref
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_privacy import _checks

_OUTPUTS = ("logits", "probabilities")
_graphs = weakref.WeakKeyDictionary()


def compute_class_scores(model, x, *, outputs: str) -> np.ndarray:
    """Returns scores whose softmax are the model's class probabilities.

    They stay apart where probabilities round to 0 and 1. For one output z of
    two classes they are (0, z), with z the logit of the second.

    Args:
        model: A built Keras model; gives `[B, C]`, or `[B, 1]` for two classes.
        x: `[B, ...]` floats.
        outputs: What the model returns, "logits" or "probabilities".

    Returns:
        `[B, C]` floats.

    Raises:
        TypeError: If `x` are no floats.
        ValueError: If the model's output is not one row of scores for each row
            of `x`, or it ends in a softmax or a sigmoid in spite of "logits".
    """
    x = check_inputs(x)
    score, _, _ = _class_graphs(model, x, outputs)
    return score(x).numpy()


def compute_input_gradient(
    model, x, class_indices, *, outputs: str
) -> np.ndarray:
    """Returns how each row's chance of a class changes with the row.

        result[b] = d log(p / (1 - p)) / d x[b],
            p = probability of class class_indices[b] for x[b]

    The log-odds have the sign of the gradient of p itself, entry by entry, and
    do not vanish where p rounds to 1: they are taken from the logits, which
    are found below a softmax or sigmoid that ends the model. Below any other
    end, probabilities under 1e-38 (float32) have no gradient.

    Args:
        model: A built Keras model; gives `[B, C]`, or `[B, 1]` for two classes.
            It runs in inference mode.
        x: `[B, ...]` floats.
        class_indices: `[B]` integers in [0, C); the class for each row.
        outputs: What the model returns, "logits" or "probabilities".

    Returns:
        `[B, ...]` floats of the type of `x`.

    Raises:
        TypeError: If `x` are no floats.
        ValueError: As in `compute_class_scores`, or if a class is out of range.
    """
    x = check_inputs(x)
    _, differentiate, num_classes = _class_graphs(model, x, outputs)
    classes = np.asarray(class_indices)
    if not (
        classes.dtype.kind in "iu"
        and classes.shape == x.shape[:1]
        and np.all((classes >= 0) & (classes < num_classes))
    ):
        raise ValueError(
            f"class_indices must be {x.shape[0]} integers in [0, "
            f"{num_classes}), one for each row of x. Received: "
            f"{class_indices!r}."
        )
    return differentiate(x, tf.constant(classes, tf.int32)).numpy()


def compute_loss_input_gradient(model, x, y, *, loss: Callable) -> np.ndarray:
    """Returns the gradient of each row's loss with respect to the row.

    In inference mode. Where a softmax or sigmoid ends the model and the loss
    takes its probabilities, Keras computes the loss from the logits.

    Args:
        model: A built Keras model of one output.
        x: `[B, ...]` floats.
        y: `[B, ...]` labels.
        loss: A Keras loss, or a function of (y, outputs) that returns at least
            one number for each row; further axes are averaged.

    Returns:
        `[B, ...]` floats of the type of `x`.

    Raises:
        TypeError: If `x` are no floats, or `loss` is no function.
        ValueError: If `y` has other rows, or the loss does not keep them apart.
    """
    x, y = check_inputs(x, y)
    loss = check_loss(loss)
    specs = [make_spec(x), make_spec(y)]
    found, key = _graphs.setdefault(model, {}), (loss, *specs)
    if key not in found:
        found[key] = _trace_loss_gradient(weakref.ref(model), loss, specs)
    return found[key](x, y).numpy()


def _class_graphs(model, x, outputs):
    """Returns the graphs of scores and of gradients, and how many classes."""
    _checks.check_choice("outputs", outputs, _OUTPUTS)
    found, key = _graphs.setdefault(model, {}), (outputs, make_spec(x))
    if key not in found:
        shape = model.compute_output_shape(tuple(x.shape))
        if not (isinstance(shape, tuple) and len(shape) == 2 and shape[1]):
            raise ValueError(
                "model must return one row of class scores, [B, C], for each "
                f"row of x. Received: {shape!r} for {tuple(x.shape)}."
            )
        found[key] = (
            *_trace_class_graphs(weakref.ref(model), *key),
            max(shape[1], 2),
        )
    return found[key]


def _trace_class_graphs(model, outputs, spec):
    """Returns functions of x, and of x and classes; `model` is weak."""

    def score(x):
        return _as_logits(model()(x, training=False), outputs)

    def differentiate(x, classes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            scores = score(x)
            is_class = tf.one_hot(
                classes, scores.shape[1], True, False, dtype=tf.bool
            )
            others = tf.where(is_class, scores.dtype.min, scores)
            log_odds = tf.gather(scores, classes, batch_dims=1)
            log_odds -= tf.reduce_logsumexp(others, axis=1)
        return tape.gradient(
            log_odds, x, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    classes = tf.TensorSpec([None], tf.int32)
    return trace(score, spec), trace(differentiate, spec, classes)


def _as_logits(values, outputs):
    """Returns `[B, C]` logits, from below the softmax if there is one."""
    # Only tensors of a graph know what made them.
    operation = getattr(values, "op", None)
    is_end = operation is not None and operation.type in ("Softmax", "Sigmoid")
    if outputs == "logits" and is_end:
        raise ValueError(
            "outputs must be 'probabilities' for a model that ends in a "
            f"{operation.type.lower()}. Received: 'logits'."
        )
    is_binary = values.shape[1] == 1
    if is_end:
        values = operation.inputs[0]
    elif outputs == "probabilities":
        least = values.dtype.as_numpy_dtype(np.finfo(np.float32).tiny)
        logs = tf.math.log(tf.maximum(values, least))
        if is_binary:
            logs -= tf.math.log(tf.maximum(1 - values, least))
        values = logs
    if is_binary:
        values = tf.concat([tf.zeros_like(values), values], axis=1)
    return values


def _trace_loss_gradient(model, loss, specs):
    def differentiate(x, y):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            losses = compute_row_losses(loss, y, model()(x, training=False))
        return tape.gradient(
            losses, x, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    return trace(differentiate, *specs)


def trace(function: Callable, *specs):
    """Returns `function` as one graph.

    Args:
        function: Of tensors, or lists of tensors.
        *specs: `tf.TensorSpec`, or lists of them, for each argument.
    """
    return tf.function(function, autograph=False).get_concrete_function(*specs)


def make_spec(tensor) -> tf.TensorSpec:
    """Returns the type and shape of a tensor, with any number of rows.

    Args:
        tensor: `[B, ...]`.
    """
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)


def compute_row_losses(loss, y, outputs):
    """Returns each row's loss; further axes are averaged.

    Args:
        loss: From `check_loss`.
        y: `[B, ...]` labels.
        outputs: `[B, ...]`; what the model returns for these rows.

    Raises:
        ValueError: If the loss returns one number for all rows.
    """
    if outputs.shape[-1] == 1 and len(y.shape) == len(outputs.shape) - 1:
        # [B] against [B, 1] would pair each row with all others.
        y = y[..., tf.newaxis]
    losses = loss(y, outputs)
    if not losses.shape.rank:
        raise ValueError(
            "loss must return one number for each row. Received: one number "
            "for all. Give a Keras loss, or one without a reduction."
        )
    return tf.reduce_mean(losses, axis=list(range(1, losses.shape.rank)))


def check_inputs(x, *labels):
    """Returns tensors, the first of floats, with the same number of rows.

    Args:
        x: `[B, ...]` floats.
        *labels: Nothing, or `[B, ...]` labels.

    Raises:
        TypeError: If `x` are no floats.
        ValueError: If the labels have other rows, or there are none.
    """
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise TypeError(
            "x must be floats, which have gradients. Received: an array of "
            f"{x.dtype.name}. Convert it, and scale it as in training."
        )
    if not labels:
        return x
    y = tf.convert_to_tensor(labels[0])
    if not (x.shape.rank and y.shape.rank and 0 < len(x) == len(y)):
        raise ValueError(
            "y must have as many rows as x, at least one. Received: shapes "
            f"{tuple(y.shape)} and {tuple(x.shape)}."
        )
    return x, y


def check_loss(loss):
    """Returns a function that gives every row's loss.

    Args:
        loss: A Keras loss, or a function of labels and outputs.

    Raises:
        TypeError: If it is neither.
    """
    if not callable(loss):
        raise TypeError(
            f"loss must be a Keras loss or a function. Received: {loss!r}. "
            "Get a Keras loss by its name with keras.losses.get."
        )
    # The method of a Keras loss that does not average over rows.
    return getattr(loss, "call", loss)
