# SPDX-License-Identifier: Apache-2.0
"""Slow, obvious reference gradients, computed one example at a time.

Nothing here is shared with the library under test: every example goes through
the model on its own, as a batch of one row, under its own gradient tape.
"""

import keras
import numpy as np
import tensorflow as tf


def _flat_length(structure):
    """Return the number of rows in a structure of arrays."""
    return len(keras.tree.flatten(structure)[0])


def _row(structure, index):
    """Return row `index` of every array, each kept as a batch of one."""
    if structure is None:
        return None
    return keras.tree.map_structure(
        lambda leaf: tf.convert_to_tensor(leaf[index : index + 1]), structure
    )


def _regularization_loss(model):
    """Return the sum of the weight regularisers, or None without any.

    `model.losses` also holds what the layers added with `add_loss` (activity
    regularisers, say), which depends on the data and so is left alone here.
    """
    terms = [
        tf.reduce_sum(variable.regularizer(variable))
        for variable in model.trainable_variables
        if variable.regularizer is not None
    ]
    return tf.add_n(terms) if terms else None


def _to_arrays(gradients, variables):
    """Return dense float64 arrays, with zeros where there is no gradient."""
    arrays = []
    for gradient, variable in zip(gradients, variables, strict=True):
        if gradient is None:
            arrays.append(np.zeros(variable.shape, np.float64))
        else:
            dense = tf.convert_to_tensor(gradient)  # Also densifies slices.
            arrays.append(dense.numpy().astype(np.float64))
    return arrays


def loop_gradients(
    model, x, y, sample_weight=None, *, loss=None, training=True
):
    """Return the gradient of each example's own loss, one tape per example.

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
        with tf.GradientTape() as tape:
            row_pred = model(row_x, training=training)
            if loss is None:
                value = model.compute_loss(
                    x=row_x,
                    y=row_y,
                    y_pred=row_pred,
                    sample_weight=row_weight,
                    training=training,
                )
                penalty = _regularization_loss(model)
                if penalty is not None:
                    value = value - tf.cast(penalty, value.dtype)
            else:
                value = tf.convert_to_tensor(loss(row_y, row_pred))
                if tuple(value.shape) != (1,):
                    raise ValueError(
                        "The loss of a batch of one must have shape (1,), "
                        f"not {tuple(value.shape)}."
                    )
                if row_weight is not None:
                    value = value * tf.cast(row_weight, value.dtype)
        # A gradient with respect to a non-scalar is that of its sum.
        raw = tape.gradient(value, model.trainable_variables)
        gradients.append(_to_arrays(raw, model.trainable_variables))
    restore()
    return gradients


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
    with tf.GradientTape() as tape:
        penalty = _regularization_loss(model)
    if penalty is None:
        return _to_arrays([None] * len(variables), variables)
    return _to_arrays(tape.gradient(penalty, variables), variables)


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
