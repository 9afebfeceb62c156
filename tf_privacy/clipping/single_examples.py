# SPDX-License-Identifier: Apache-2.0
"""The last resort of the engine: one example at a time through the model.

Exact for every model whose `call` is a function of its batch: where no layer
call can be tapped, a batch of one is the whole of what one example does.
Costs about as many steps as there are examples.
"""

import keras
from keras import ops

from tf_privacy.clipping import thresholds
from tf_privacy.clipping.backend import backend


def loop_clipped_sum(model, x, y, sample_weight, *, loss, l2_norm_clip: float):
    """Returns the clipped sum by a loop over batches of one example.

    Args:
        model: A built `keras.Model`.
        x: A structure of tensors `[B, ...]`.
        y: A structure of tensors `[B, ...]`, or None.
        sample_weight: A structure of tensors `[B, ...]`, or None.
        loss: `loss(y, y_pred, sample_weight)`.
        l2_norm_clip: L2 bound on one example's gradient; > 0.

    Returns:
        A list of float32 gradients, the model's outputs in training mode (from
        a pass of their own, with random numbers of their own), and the
        squared norms `[B]`.
    """
    variables = model.trainable_variables
    num_rows = ops.shape(keras.tree.flatten(x)[0])[0]

    def one(start, stop):
        def rows(tensor):
            return None if tensor is None else tensor[start:stop]

        x_1, y_1, weight_1 = keras.tree.map_structure(
            rows, (x, y, sample_weight)
        )

        def value():
            y_pred = model(x_1, training=True)
            return ops.sum(ops.cast(loss(y_1, y_pred, weight_1), "float32"))

        gradients = [
            ops.cast(backend.densify(g), "float32")
            for g in backend.gradient(value, variables)
        ]
        squared = sum(ops.sum(ops.square(g)) for g in gradients)
        factors, finite = thresholds.compute_clip_factors(
            squared[None], l2_norm_clip
        )
        clipped = [
            ops.where(finite[0], g * factors[0], ops.zeros_like(g))
            for g in gradients
        ]
        position = ops.one_hot(start, num_rows, dtype="float32")
        # inf * 0 is NaN: the norm is placed, not multiplied, into its row.
        placed = ops.where(position > 0, squared, 0.0)
        return [*clipped, placed]

    initial = [ops.zeros(v.shape, "float32") for v in variables]
    norms = ops.zeros((num_rows,), "float32")
    *gradients, squared = backend.sum_over_pieces(
        one, num_rows, 1, [*initial, norms]
    )
    return gradients, model(x, training=True), squared
