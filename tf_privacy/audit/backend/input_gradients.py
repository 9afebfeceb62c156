# SPDX-License-Identifier: Apache-2.0
"""Gradients of Keras models with respect to their inputs.

Models have one input of floats. They are left as they are: neither weights nor
random state change. What the backend compiles for a model and a shape of rows
is kept as long as the model lives; weights are read anew in each call, layers
added later are not seen.
"""

import weakref
from collections.abc import Callable

import keras
import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import keras_backend
from tf_privacy.audit.backend import softmax_ends

_OUTPUTS = ("logits", "probabilities")
_compiled = weakref.WeakKeyDictionary()


def compute_class_scores(model, x, *, outputs: str) -> np.ndarray:
    """Returns scores whose softmax are the model's class probabilities.

    They stay apart where probabilities round to 0 and 1. For one output z of
    two classes they are (0, z), with z the logit of the second.

    Args:
        model: A built Keras model; gives `[B, C]`, or `[B, 1]` for two classes.
            It runs in inference mode, and on each row alone.
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
    score, _, _ = _get_class_functions(model, x, outputs)
    return score(x)


def compute_input_gradient(
    model, x, class_indices, *, outputs: str
) -> np.ndarray:
    """Returns how each row's chance of a class changes with the row.

        result[b] = d log(p / (1 - p)) / d x[b],
            p = probability of class class_indices[b] for x[b]

    The log-odds have the sign of the gradient of p itself, entry by entry, and
    do not vanish where p rounds to 1: they are taken from the logits, which
    are found below a softmax or sigmoid that ends the model. Below any other
    end, probabilities under 1e-38 (float32) have no gradient. Except in
    TensorFlow, a model with a `call` of its own has such an end.

    Args:
        model: A built Keras model; gives `[B, C]`, or `[B, 1]` for two classes.
            It runs in inference mode, and on each row alone.
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
    _, differentiate, num_classes = _get_class_functions(model, x, outputs)
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
    return differentiate(x, classes.astype(np.int32)).astype(x.dtype)


def compute_loss_input_gradient(model, x, y, *, loss: Callable) -> np.ndarray:
    """Returns the gradient of each row's loss with respect to the row.

    In inference mode. Where a softmax or sigmoid ends the model and the loss
    takes its probabilities, Keras computes the loss from the logits in
    TensorFlow; in JAX and PyTorch it is flat where they are within 1e-7 of 0
    or 1, in training too. A loss from logits is not.

    Args:
        model: A built Keras model of one output; acts on each row alone.
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
    found, key = _compiled.setdefault(model, {}), (loss, *_keys(x, y))
    if key not in found:
        found[key] = _compile_loss_gradient(model, loss, x, y)
    return found[key](x, y).astype(x.dtype)


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
        y = y[..., None]
    losses = loss(y, outputs)
    if not len(losses.shape):
        raise ValueError(
            "loss must return one number for each row. Received: one number "
            "for all. Give a Keras loss, or one without a reduction."
        )
    further = tuple(range(1, len(losses.shape)))
    return keras.ops.mean(losses, axis=further) if further else losses


def check_inputs(x, *labels):
    """Returns arrays, the first of floats, with the same number of rows.

    Args:
        x: `[B, ...]` floats.
        *labels: Nothing, or `[B, ...]` labels.

    Raises:
        TypeError: If `x` are no floats.
        ValueError: If the labels have other rows, or there are none.
    """
    x = _to_array(x)
    if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
        raise TypeError(
            "x must be floats, which have gradients. Received: an array of "
            f"{x.dtype.name}. Convert it, and scale it as in training."
        )
    if not labels:
        return x
    y = _to_array(labels[0])
    if not (x.ndim and y.ndim and 0 < len(x) == len(y)):
        raise ValueError(
            "y must have as many rows as x, at least one. Received: shapes "
            f"{y.shape} and {x.shape}."
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


def _to_array(values):
    # NumPy would take a list of floats for float64.
    if not hasattr(values, "dtype"):
        values = keras.ops.convert_to_tensor(values)
    return keras.ops.convert_to_numpy(values)


def _keys(*arrays):
    return [(array.shape[1:], array.dtype) for array in arrays]


def _get_class_functions(model, x, outputs):
    """Returns scores and gradient as functions, and how many classes."""
    _checks.check_choice("outputs", outputs, _OUTPUTS)
    found, key = _compiled.setdefault(model, {}), (outputs, *_keys(x))
    if key not in found:
        shape = model.compute_output_shape(x.shape)
        if not (isinstance(shape, tuple) and len(shape) == 2 and shape[1]):
            raise ValueError(
                "model must return one row of class scores, [B, C], for each "
                f"row of x. Received: {shape!r} for {x.shape}."
            )
        score, differentiate = _compile_class_functions(model, x, outputs)
        found[key] = score, differentiate, max(shape[1], 2)
    return found[key]


def _compile_class_functions(model, x, outputs):
    framework = keras_backend.load("")
    get_logits = framework.make_logit_call(model, x, outputs=outputs)

    def score(x):
        logits = get_logits(x)
        if logits.shape[1] == 1:
            zeros = keras.ops.zeros_like(logits)
            return keras.ops.concatenate([zeros, logits], axis=1)
        return logits

    def differentiate(x, classes):
        return framework.differentiate(
            lambda x: _compute_log_odds(score(x), classes), x
        )

    classes = np.zeros(len(x), np.int32)
    return (
        framework.compile_on_rows(model, score, x),
        framework.compile_on_rows(model, differentiate, x, classes),
    )


def _compute_log_odds(scores, classes):
    num_classes = scores.shape[1]
    is_class = keras.ops.one_hot(classes, num_classes, dtype="bool")
    of_class = keras.ops.where(is_class, scores, keras.ops.zeros_like(scores))
    others = keras.ops.where(
        is_class, keras.ops.full_like(scores, -np.inf), scores
    )
    return keras.ops.sum(of_class, axis=1) - keras.ops.logsumexp(others, axis=1)


def _compile_loss_gradient(model, loss, x, y):
    framework = keras_backend.load("")
    call = softmax_ends.make_call(model)

    def differentiate(x, y):
        return framework.differentiate(
            lambda x: compute_row_losses(loss, y, call(x)), x
        )

    return framework.compile_on_rows(model, differentiate, x, y)
