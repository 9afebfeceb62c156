# SPDX-License-Identifier: Apache-2.0
"""Batches in pieces, empty ones too, in PyTorch."""

import keras
import torch


def sum_over_pieces(function, num_rows, piece_size, initial):
    """Returns the sum of `function(start, stop)` over consecutive pieces.

    Args:
        function: `function(start, stop) -> list of tensors` of the shapes and
            dtypes of `initial`.
        num_rows: An integer; 0 is fine.
        piece_size: Rows of a piece, a Python int.
        initial: A list of tensors.

    Returns:
        A list of tensors.
    """
    num_rows, totals = int(num_rows), list(initial)
    for start in range(0, num_rows, piece_size):
        parts = function(start, min(start + piece_size, num_rows))
        totals = [a + b for a, b in zip(totals, parts, strict=True)]
    return totals


def take_rows(tensor, start, num_rows: int):
    """Returns consecutive rows.

    Args:
        tensor: `[B, ...]`.
        start: The first one; an integer.
        num_rows: How many.
    """
    return tensor[start : start + num_rows]


def fill_if_empty(data, num_rows: int):
    """Returns `data`, or rows of zeros where it has no rows.

    Args:
        data: A structure of tensors `[B, ...]`; None stays None.
        num_rows: How many rows of zeros.
    """

    def fill(tensor):
        if tensor is None or len(tensor):
            return tensor
        return tensor.new_zeros((num_rows, *tensor.shape[1:]))

    return keras.tree.map_structure(fill, data)


def check_multiple(data, number: int):
    """Returns `data` once its rows are seen to be a multiple of `number`.

    Args:
        data: A structure of tensors `[B, ...]`; None stays None.
        number: What B must be a multiple of.

    Raises:
        ValueError: If it is not.
    """
    for tensor in keras.tree.flatten(data):
        if torch.is_tensor(tensor) and len(tensor) % number:
            raise ValueError(
                "x must hold whole units: a multiple of examples_per_unit="
                f"{number} rows. Received: {len(tensor)} rows. Fill up with "
                "rows of sample_weight 0 (tf_privacy.arrange_units does it)."
            )
    return data
