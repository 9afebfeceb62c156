# SPDX-License-Identifier: Apache-2.0
"""Slow, obvious reference gradients, computed one example at a time.

Nothing here is shared with the library under test: every example goes through
the model on its own, as a batch of one row, and is differentiated alone.
"""

import keras
import numpy as np

from tests.frameworks import framework


def _flat_length(structure):
    """Return the number of rows in a structure of arrays."""
    return len(keras.tree.flatten(structure)[0])


def _row(structure, index):
    """Return row `index` of every array, each kept as a batch of one."""
    if structure is None:
        return None
    # A copy: Keras on PyTorch multiplies masks into what it is given.
    return keras.tree.map_structure(
        lambda leaf: keras.ops.convert_to_tensor(
            np.array(leaf[index : index + 1])
        ),
        structure,
    )


def _regularization_loss(model):
    """Return the sum of the weight regularisers, or None without any.

    `model.losses` also holds what the layers added with `add_loss` (activity
    regularisers, say), which depends on the data and so is left alone here.
    """
    terms = [
        keras.ops.sum(variable.regularizer(variable))
        for variable in model.trainable_variables
        if variable.regularizer is not None
    ]
    return sum(terms) if terms else None


def loop_gradients(
    model, x, y, sample_weight=None, *, loss=None, training=True
):
    """Return the gradient of each example's own loss, one after the other.

    The model's weights are put back before every example and at the end, so
    that a layer which changes its own state when called for training (batch
    normalisation, spectral normalisation) is in the same state for all of them.
    The states of random seeds move on freely.

    Args:
        model: A built Keras model, compiled unless `loss` is given.
        x: Inputs, an array or a structure of arrays with the rows first.
        y: Targets, as `x`.
        sample_weight: Weights of the rows, as `x`, or None.
        loss: Optional callable from (y_true, y_pred) to losses of shape [1],
            used in place of the model's compiled loss. Sample weights, if any,
            multiply it.
        training: Whether to call the model in training mode.

    Returns:
        A list with, for each example, a list of float64 arrays aligned with
        `model.trainable_variables`.
    """
    saved = [variable.numpy() for variable in model.weights]

    def restore():
        for variable, value in zip(model.weights, saved, strict=True):
            variable.assign(value)

    gradients = []
    for index in range(_flat_length(x)):
        restore()
        row_x = _row(x, index)
        row_y = _row(y, index)
        row_weight = _row(sample_weight, index)

        def value(x=row_x, y=row_y, weight=row_weight):
            y_pred = model(x, training=training)
            if loss is not None:
                return _own_loss(loss, y, y_pred, weight)
            return _compiled_loss(model, x, y, y_pred, weight, training)

        gradients.append(
            framework.compute_gradients(value, model.trainable_variables)
        )
    restore()
    return gradients


def _own_loss(loss, y, y_pred, weight):
    """Return the losses [1] of a batch of one row."""
    value = keras.ops.convert_to_tensor(loss(y, y_pred))
    if tuple(value.shape) != (1,):
        raise ValueError(
            "The loss of a batch of one must have shape (1,), "
            f"not {tuple(value.shape)}."
        )
    if weight is None:
        return value
    return value * keras.ops.cast(weight, value.dtype)


def _compiled_loss(model, x, y, y_pred, weight, training):
    """Return the loss that Keras computes, less its weight regularisers."""
    value = model.compute_loss(
        x=x, y=y, y_pred=y_pred, sample_weight=weight, training=training
    )
    penalty = _regularization_loss(model)
    if penalty is None:
        return value
    return value - keras.ops.cast(penalty, value.dtype)


def global_norm(arrays):
    """Return the L2 norm over all the arrays together, in float64."""
    total = 0.0
    for array in arrays:
        total += np.sum(np.square(np.asarray(array, np.float64)))
    return float(np.sqrt(total))


def loop_clipped_sum(
    model, x, y, sample_weight=None, *, l2_norm_clip, loss=None
):
    """Return the sum of the clipped gradients and the norms before clipping.

    Args:
        model: As in `loop_gradients`.
        x: As in `loop_gradients`.
        y: As in `loop_gradients`.
        sample_weight: As in `loop_gradients`.
        l2_norm_clip: The largest global norm an example keeps.
        loss: As in `loop_gradients`.

    Returns:
        A pair: a list of float64 arrays aligned with
        `model.trainable_variables`, and a float64 array with each example's
        norm. An example with a norm which is not finite adds nothing to the
        sum; its norm is reported as it came.
    """
    total = [
        np.zeros(variable.shape, np.float64)
        for variable in model.trainable_variables
    ]
    norms = []
    for gradient in loop_gradients(model, x, y, sample_weight, loss=loss):
        norm = global_norm(gradient)
        norms.append(norm)
        if not np.isfinite(norm):
            continue
        factor = 1.0 if norm <= l2_norm_clip else l2_norm_clip / norm
        total = [
            partial + factor * array
            for partial, array in zip(total, gradient, strict=True)
        ]
    return total, np.array(norms, np.float64)


def loop_regularizer_gradients(model):
    """Return the gradients of the sum of the weight regularisers only."""
    variables = model.trainable_variables
    if _regularization_loss(model) is None:
        return [np.zeros(v.shape, np.float64) for v in variables]
    return framework.compute_gradients(
        lambda: _regularization_loss(model), variables
    )


def relative_error(actual_list, expected_list):
    """Return the global norm of the difference over that of the expectation.

    If the expectation is all zeros, an exact match gives 0 and anything else
    gives infinity.
    """
    differences = []
    for actual, expected in zip(actual_list, expected_list, strict=True):
        actual = np.asarray(actual, np.float64)
        expected = np.asarray(expected, np.float64)
        if actual.shape != expected.shape:
            raise ValueError(f"Shapes {actual.shape} and {expected.shape}.")
        differences.append(actual - expected)
    difference = global_norm(differences)
    scale = global_norm(expected_list)
    if scale == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / scale
