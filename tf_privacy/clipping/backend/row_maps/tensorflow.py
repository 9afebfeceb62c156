# SPDX-License-Identifier: Apache-2.0
"""Functions of one row, mapped over a batch, in TensorFlow."""

import keras
import tensorflow as tf


def map_rows(function, rows):
    """Returns the scalar `function(row)` for each row, for all rows at once.

    Operations that cannot be vectorised run in a loop, with the same result.
    `function` must not change any state. The gradient is taken within the map:
    no shape travels from a forward function to a backward one, which XLA would
    take for constants, and with them all that they were computed from.

    Args:
        function: Takes one row of each tensor in `rows`, without its batch
            axis; returns a float32 scalar.
        rows: A list of tensors `[B, ...]`.
    """
    lengths = tf.stack([tf.shape(t)[0] for t in rows])
    # A single row would be broadcast: it would join every example.
    check = tf.debugging.assert_equal(
        lengths,
        lengths[0],
        "x, y and sample_weight must have the same number of rows.",
    )
    with tf.control_dependencies([check] if check is not None else []):
        rows = [tf.identity(t) for t in rows]
    is_float = [t.dtype.is_floating for t in rows]

    @tf.custom_gradient
    def mapped(*floats):
        values, gradients = _map_values_and_gradients(
            function, _mixed(floats, rows, is_float), is_float
        )

        def pull_back(upstream, variables=()):
            scaled = [
                g * tf.cast(_as_column(upstream, g), g.dtype) for g in gradients
            ]
            # A loss that reads trained weights is refused; others get none.
            return scaled, [None] * len(variables)

        return values, pull_back

    floats = [t for t, yes in zip(rows, is_float, strict=True) if yes]
    if floats:
        return mapped(*floats)
    return _map_values_and_gradients(function, rows, is_float)[0]


def _mixed(floats, rows, is_float):
    floats = iter(floats)
    return [
        next(floats) if yes else t
        for t, yes in zip(rows, is_float, strict=True)
    ]


def _as_column(upstream, gradient):
    return tf.reshape(upstream, [-1] + [1] * (len(gradient.shape) - 1))


def _map_values_and_gradients(function, rows, is_float):
    """Returns `function(row)` of each row and its gradient at the floats."""

    def value_and_gradients(row):
        floats = [t for t, yes in zip(row, is_float, strict=True) if yes]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(floats)
            with keras.StatelessScope():
                value = function(row)
        gradients = tape.gradient(
            value, floats, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return [value, *gradients]

    try:
        mapped = tf.vectorized_map(value_and_gradients, rows, warn=False)
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        # As for the gradients below: the same numbers, one by one.
        specs = [tf.TensorSpec((), tf.float32)] + [
            tf.TensorSpec(t.shape[1:], t.dtype)
            for t, yes in zip(rows, is_float, strict=True)
            if yes
        ]
        mapped = tf.map_fn(value_and_gradients, rows, fn_output_signature=specs)
    return mapped[0], mapped[1:]


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
    operands = (rows, cotangents)

    def one_by_one():
        return loop_row_gradients(function, rows, cotangents, variables)

    def map_all():
        try:
            return tf.vectorized_map(row_gradients, operands, warn=False)
        except (NotImplementedError, TypeError, ValueError):
            # TensorFlow cannot vectorise some gradients of nested loops. One
            # row after the other gives the same numbers; an error of the layer
            # itself is raised again here.
            return one_by_one()

    # Not every vectorised operation takes zero rows, or a single one: the
    # gradient of Keras's `add` fails there where a row looks like a bias.
    num_rows = tf.shape(keras.tree.flatten(rows)[0])[0]
    return tf.cond(num_rows > 1, map_all, one_by_one)


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
    return tf.map_fn(
        _make_row_gradients(function, variables),
        (rows, cotangents),
        fn_output_signature=[
            tf.TensorSpec(v.shape, tf.float32) for v in variables
        ],
        parallel_iterations=1 if tf.executing_eagerly() else 32,
    )


def _make_row_gradients(function, variables):
    values = [tf.convert_to_tensor(v.value) for v in variables]

    def row_gradients(row_and_cotangents):
        row, row_cotangents = row_and_cotangents
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(mapping):
                outputs = function(row)
        gradients = tape.gradient(
            outputs,
            values,
            output_gradients=row_cotangents,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]

    return row_gradients
