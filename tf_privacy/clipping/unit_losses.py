# SPDX-License-Identifier: Apache-2.0
"""The loss of each unit: what Keras computes for a batch of that one unit."""

import keras
from keras import ops

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.backend.row_maps import row_maps


def compute_unit_losses(loss, y, y_pred, sample_weight=None, *, scale=1.0):
    """Returns each example's loss, independent of all other examples.

        result[b] = scale * loss(y[b:b+1], y_pred[b:b+1], sample_weight[b:b+1])
    A loss that would couple rows over a batch (a mask normalised over the
    batch, a mean of ratios) cannot: it never sees two rows.

    Args:
        loss: `loss(y, y_pred, sample_weight)`, any shape; entries are summed.
        y: A structure of tensors `[B, ...]`, or None.
        y_pred: A structure of tensors `[B, ...]`, with their Keras masks.
        sample_weight: A structure of tensors `[B, ...]`, or None.
        scale: Power of two that keeps float16 gradients from underflow.

    Returns:
        `[B]` float32.
    """
    masks = keras.tree.map_structure(keras_internals.get_keras_mask, y_pred)
    leaves = keras.tree.flatten((y, y_pred, sample_weight, masks))
    present = [x is not None for x in leaves]

    def one_row(row):
        row = iter(row)
        y_1, y_pred_1, weight_1, masks_1 = keras.tree.pack_sequence_as(
            (y, y_pred, sample_weight, masks),
            [next(row)[None] if yes else None for yes in present],
        )
        keras.tree.map_structure(_restore_mask, y_pred_1, masks_1)
        value = loss(y_1, y_pred_1, weight_1)
        return ops.sum(ops.cast(value, "float32")) * scale

    rows = [x for x in leaves if x is not None]
    return row_maps.map_rows(one_row, rows)


def _restore_mask(tensor, mask):
    if tensor is not None and mask is not None:
        keras_internals.set_keras_mask(tensor, mask)
