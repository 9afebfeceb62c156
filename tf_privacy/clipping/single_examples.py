# SPDX-License-Identifier: Apache-2.0
"""The last resort of the engine: one example at a time through the model.

Exact for every model whose `call` is a function of its batch: where no layer
call can be tapped, a batch of one is the whole of what one example does.
Costs about as many steps as there are examples.
"""

import keras
from keras import ops

from tf_privacy.clipping.backend import backend
from tf_privacy.clipping.backend.batches import batches


def loop_clipped_sum(
    model, data, counted, *, loss, style, rows_per_unit: int, unscale: float
):
    """Returns the clipped sum by a loop over batches of one example.

    Args:
        model: A built `keras.Model`.
        data: `(x, y, sample_weight)`, structures of tensors `[B, ...]`.
        counted: `[U]` bool; false for padding. None counts every unit.
        loss: `loss(y, y_pred, sample_weight)`.
        style: The clipping style.
        rows_per_unit: Consecutive rows whose gradients are summed.
        unscale: What to multiply gradients with.

    Returns:
        A list of float32 gradients, the model's outputs in training mode (from
        a pass of their own, with random numbers of their own), and the
        squared norms `[U]`.
    """
    x, _, _ = data
    variables = model.trainable_variables
    groups = style.group_variables(variables)
    num_units = ops.shape(keras.tree.flatten(x)[0])[0] // rows_per_unit
    zeros = [ops.zeros(v.shape, "float32") for v in variables]

    def one_unit(start, stop):
        del stop
        first = start * rows_per_unit

        def one_row(offset, end):
            del end
            row = first + offset
            return _row_gradients(model, data, row, loss, variables)

        gradients = batches.sum_over_pieces(one_row, rows_per_unit, 1, zeros)
        gradients = [g * unscale for g in gradients]
        if style.scales is not None:
            pairs = zip(style.scales, gradients, strict=True)
            gradients = [scale.multiply(g) for scale, g in pairs]
        squared = [ops.zeros((1,), "float32")] * len(set(groups))
        for g, group in zip(gradients, groups, strict=True):
            squared[group] = squared[group] + ops.sum(ops.square(g))
        mine = None
        if counted is not None:
            mine = batches.take_rows(counted, start, 1)
        factors, present = style.compute_factors(squared, mine)
        clipped = [
            ops.where(present[0], g * factors[group][0], ops.zeros_like(g))
            for g, group in zip(gradients, groups, strict=True)
        ]
        position = ops.one_hot(start, num_units, dtype="float32")
        # inf * 0 is NaN: the norm is placed, not multiplied, into its row.
        return [*clipped, ops.where(position > 0, sum(squared), 0.0)]

    norms = ops.zeros((num_units,), "float32")
    *gradients, squared = batches.sum_over_pieces(
        one_unit, num_units, 1, [*zeros, norms]
    )
    return gradients, model(x, training=True), squared


def _row_gradients(model, data, row, loss, variables):
    x, y, weight = keras.tree.map_structure(
        lambda t: None if t is None else batches.take_rows(t, row, 1), data
    )

    def value():
        y_pred = model(x, training=True)
        return ops.sum(ops.cast(loss(y, y_pred, weight), "float32"))

    return [
        ops.cast(backend.densify(g), "float32")
        for g in backend.gradient(value, variables)
    ]
