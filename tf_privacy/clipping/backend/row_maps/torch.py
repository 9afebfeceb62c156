# SPDX-License-Identifier: Apache-2.0
"""Functions of one row, mapped over a batch, in PyTorch."""

import keras
import torch

# What PyTorch raises where it cannot vectorise: control flow that depends on
# values, operations without such a form, random numbers, functions with a
# gradient of their own. Row by row gives the same numbers; an error of the
# function itself is raised again there.
_NOT_VECTORISED = (RuntimeError, TypeError, ValueError)


def map_rows(function, rows):
    """Returns the scalar `function(row)` for each row, for all rows at once.

    What cannot be vectorised runs in a loop, with the same result. `function`
    must not change any state. It never sees a NaN in what is differentiated:
    there the result and its gradient are NaN in any case, and some losses of
    PyTorch would raise, for the whole batch.

    Args:
        function: Takes one row of each tensor in `rows`, without its batch
            axis; returns a float32 scalar.
        rows: A list of tensors `[B, ...]`.

    Raises:
        ValueError: If lengths differ: a row would join other rows' examples.
    """
    lengths = [len(tensor) for tensor in rows]
    if len(set(lengths)) > 1:
        raise ValueError(
            "x, y and sample_weight must have the same number of rows. "
            f"Received: {lengths} rows. Row i of each must belong to the same "
            "example."
        )

    def row_value(*row):
        with keras.StatelessScope():
            return function(list(row))

    is_nan = _find_nan(rows)
    try:
        values = torch.vmap(row_value)(*_prepare(rows, is_nan))
    except _NOT_VECTORISED:
        prepared = zip(*_prepare(rows, is_nan), strict=True)
        values = torch.stack([row_value(*row) for row in prepared])
    return values.masked_fill(is_nan, torch.nan)


def _find_nan(rows):
    """Returns which rows are differentiated and hold a NaN, `[B]` bool."""
    is_nan = rows[0].new_zeros(len(rows[0]), dtype=torch.bool)
    for tensor in rows:
        if tensor.requires_grad:
            found, axes = tensor.detach().isnan(), range(1, tensor.ndim)
            is_nan = is_nan | (found.any(dim=tuple(axes)) if axes else found)
    return is_nan


def _prepare(rows, is_nan):
    """Returns the rows without NaN, and copies of what is data.

    Keras's losses multiply a mask into the caller's sample weights.
    """
    return [
        _Blank.apply(t, is_nan) if t.requires_grad else t.clone() for t in rows
    ]


class _Blank(torch.autograd.Function):
    """Some rows are 0; their gradients are NaN."""

    @staticmethod
    def forward(ctx, tensor, rows):
        rows = rows.reshape(-1, *[1] * (tensor.ndim - 1))
        ctx.save_for_backward(rows)
        return tensor.masked_fill(rows, 0.0)

    @staticmethod
    def backward(ctx, gradient):
        (rows,) = ctx.saved_tensors
        return gradient.masked_fill(rows, torch.nan), None


def map_row_gradients(function, rows, cotangents, variables):
    """Returns each row's pulled-back gradient of each variable.

        gradient[b] = d <function(rows[b]), cotangents[b]> / d variable

    Args:
        function: `function(row) -> list of tensors`, without batch axis.
        rows: A structure of tensors `[B, ...]`.
        cotangents: A list of tensors `[B, ...]`, one for each output.
        variables: `keras.Variable`s.

    Returns:
        A list of `[B, *variable.shape]` float32.
    """
    if not len(cotangents[0]):
        return loop_row_gradients(function, rows, cotangents, variables)
    product = _make_product(function, variables)
    leaves = keras.tree.flatten(rows)

    def row_gradients(values, row_leaves, row_cotangents):
        row = keras.tree.pack_sequence_as(rows, row_leaves)
        return torch.func.grad(product)(values, row, row_cotangents)

    try:
        gradients = torch.vmap(row_gradients, in_dims=(None, 0, 0))(
            [v.value.detach() for v in variables], leaves, list(cotangents)
        )
    except _NOT_VECTORISED:
        return loop_row_gradients(function, rows, cotangents, variables)
    return [g.float() for g in gradients]


def loop_row_gradients(function, rows, cotangents, variables):
    """Returns what `map_row_gradients` does, by a loop over the rows.

    The faster way where an operation is itself well parallelised for one row
    and has no vectorised gradient, as convolutions on a CPU.

    Args:
        function: As for `map_row_gradients`.
        rows: As for `map_row_gradients`.
        cotangents: As for `map_row_gradients`.
        variables: As for `map_row_gradients`.

    Returns:
        A list of `[B, *variable.shape]` float32.
    """
    product = _make_product(function, variables)
    values = [v.value.detach().requires_grad_() for v in variables]
    stacks = [
        v.new_empty((len(cotangents[0]), *v.shape), dtype=torch.float32)
        for v in values
    ]
    for b in range(len(cotangents[0])):
        row, row_cotangents = keras.tree.map_structure(
            lambda t, b=b: t[b], (rows, cotangents)
        )
        with torch.enable_grad():
            scalar = product(values, row, row_cotangents)
        gradients = [None] * len(values)
        if scalar.requires_grad:
            gradients = torch.autograd.grad(scalar, values, allow_unused=True)
        for stack, gradient in zip(stacks, gradients, strict=True):
            stack[b] = 0.0 if gradient is None else gradient
    return stacks


def _make_product(function, variables):
    """Returns a function of values for the variables, a row and cotangents."""

    def product(values, row, cotangents):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            outputs = function(row)
        return sum(
            torch.sum(output * cotangent)
            for output, cotangent in zip(outputs, cotangents, strict=True)
        )

    return product
