# SPDX-License-Identifier: Apache-2.0
"""Batches in pieces, empty ones too, in JAX."""

import jax
import keras
from jax import numpy as jnp

from tf_privacy.clipping.backend.execution import jax as execution


def sum_over_pieces(function, num_rows, piece_size, initial):
    """Returns the sum of `function(start, stop)` over consecutive pieces.

    What `function` assigns to variables is passed on from piece to piece.

    Args:
        function: `function(start, stop) -> list of tensors` of the shapes and
            dtypes of `initial`.
        num_rows: An int or a scalar integer tensor; 0 is fine.
        piece_size: Rows of a piece, a Python int.
        initial: A list of tensors.

    Returns:
        A list of tensors.
    """
    if execution.is_eager():
        totals = list(initial)
        for start in range(0, int(num_rows), piece_size):
            stop = min(start + piece_size, int(num_rows))
            parts = function(start, stop)
            totals = [a + b for a, b in zip(totals, parts, strict=True)]
        return totals
    num_rows = jnp.asarray(num_rows, "int32")
    num_pieces = (num_rows + piece_size - 1) // piece_size
    first = jnp.zeros((), "int32")
    variables = execution.find_updated(lambda: function(first, num_rows))

    def body(state):
        piece, totals, values = state
        start = piece * piece_size
        stop = jnp.minimum(start + piece_size, num_rows)
        parts, values = execution.run_with(
            lambda: function(start, stop), variables, values
        )
        totals = [a + b for a, b in zip(totals, parts, strict=True)]
        return piece + 1, totals, values

    # Counts pieces: XLA on CPUs never runs a loop over 0, 2, .. below 1.
    _, totals, values = jax.lax.while_loop(
        lambda state: state[0] < num_pieces,
        body,
        (first, list(initial), [v.value for v in variables]),
    )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return totals


def take_rows(tensor, start, num_rows: int):
    """Returns consecutive rows.

    Args:
        tensor: `[B, ...]`.
        start: The first one; an int or a scalar integer tensor.
        num_rows: How many.
    """
    return jax.lax.dynamic_slice_in_dim(tensor, start, num_rows)


def fill_if_empty(data, num_rows: int):
    """Returns `data`, or rows of zeros where it has no rows.

    Args:
        data: A structure of tensors `[B, ...]`; None stays None.
        num_rows: How many rows of zeros.
    """

    def fill(tensor):
        if tensor is None or tensor.shape[0]:
            return tensor
        return jnp.zeros((num_rows, *tensor.shape[1:]), tensor.dtype)

    return keras.tree.map_structure(fill, data)


def check_multiple(data, number: int):
    """Returns `data`: its rows, known in every trace, were checked before.

    Args:
        data: A structure of tensors `[B, ...]`; None stays None.
        number: What B is a multiple of.
    """
    del number
    return data
