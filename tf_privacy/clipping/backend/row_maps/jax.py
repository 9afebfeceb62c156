# SPDX-License-Identifier: Apache-2.0
"""Functions of one row, mapped over a batch, in JAX."""

import jax
from jax import numpy as jnp

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.backend.execution import jax as execution


def map_rows(function, rows):
    """Returns the scalar `function(row)` for each row, for all rows at once.

    Args:
        function: Takes one row of each tensor in `rows`, without its batch
            axis; returns a float32 scalar. It must not change any state.
        rows: A list of tensors `[B, ...]`.

    Raises:
        ValueError: If the tensors have different numbers of rows.
    """
    lengths = sorted({t.shape[0] for t in rows})
    if len(lengths) > 1:
        raise ValueError(
            "x, y and sample_weight must have the same number of rows. "
            f"Received: {lengths} rows. Row i of each must belong to the same "
            "example."
        )
    return jax.vmap(_isolated(function))(rows)


def _isolated(function):
    def isolated(row):
        with keras_internals.InnerScope():
            return function(row)

    return isolated


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
    row_gradients = _make_row_gradients(function, variables)
    gradients = jax.vmap(row_gradients)(rows, cotangents)

    def one_by_one():
        return loop_row_gradients(function, rows, cotangents, variables)

    # XLA makes one product of all rows with all of what a mapped convolution's
    # gradient needs, and multiplies the wrong ones by zero: NaN or an overflow
    # in one row becomes NaN in the others.
    is_finite = [jnp.all(jnp.isfinite(g)) for g in gradients]
    return execution.cond(
        jnp.all(jnp.stack(is_finite)), lambda: gradients, one_by_one
    )


def loop_row_gradients(function, rows, cotangents, variables):
    """Returns what `map_row_gradients` does, by a loop over the rows.

    Args:
        function: As for `map_row_gradients`.
        rows: As for `map_row_gradients`.
        cotangents: As for `map_row_gradients`.
        variables: As for `map_row_gradients`.

    Returns:
        A list of `[B, *variable.shape]` float32.
    """
    row_gradients = _make_row_gradients(function, variables)
    return jax.lax.map(lambda pair: row_gradients(*pair), (rows, cotangents))


def _make_row_gradients(function, variables):
    values = [v.value for v in variables]

    def row_gradients(row, cotangents):
        def run(values):
            mapping = list(zip(variables, values, strict=True))
            with keras_internals.InnerScope(mapping):
                return function(row)

        outputs, differentiate = jax.vjp(run, values)
        (gradients,) = differentiate(
            [
                c.astype(o.dtype)
                for c, o in zip(cotangents, outputs, strict=True)
            ]
        )
        return [jnp.asarray(g, "float32") for g in gradients]

    return row_gradients
