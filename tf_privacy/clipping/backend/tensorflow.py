# SPDX-License-Identifier: Apache-2.0
"""The only file of the clipping engine that speaks TensorFlow."""

import statistics
import time
from concurrent import futures

import keras
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

OPERATION_ERRORS = (tf.errors.OpError,)


def runs_as_written(function):
    """Decorates what AutoGraph must not rewrite in a user's `tf.function`."""
    return tf.autograph.experimental.do_not_convert(function)


def pull_back(function):
    """Returns a scalar's value and its cotangents at the tapped tensors.

    One forward pass under a tape that watches nothing but the taps, and one
    backward pass that stops at them: no weight gradient is computed.

    Args:
        function: `function(tap) -> (scalar, aux)`; `tap(tensor)` returns the
            tensor to go on with.

    Returns:
        `aux`, and a list with the cotangent of each tap in the order of the
        calls; None where the scalar does not depend on it.
    """
    taps = []
    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def tap(tensor):
            tensor = tf.identity(tensor)
            tape.watch(tensor)
            taps.append(tensor)
            return tensor

        scalar, aux = function(tap)
    cotangents = tape.gradient(scalar, taps)
    return aux, [None if g is None else densify(g) for g in cotangents]


def gradient(function, variables):
    """Returns the gradient of `function()` for each variable, never None."""
    values = [v.value for v in variables]
    # The tape watches what is read by itself too: functions with a gradient of
    # their own ask it which variables they used.
    with tf.GradientTape() as tape:
        tape.watch(values)
        scalar = function()
    return tape.gradient(
        scalar, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )


def isolated_gradient(function, variables):
    """Returns `gradient(function, variables)` without changing any state."""
    values = [v.value for v in variables]
    with keras.StatelessScope():
        with tf.GradientTape() as tape:
            tape.watch(values)
            scalar = function()
        return tape.gradient(
            scalar, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )


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
        return [tf.cast(densify(g), tf.float32) for g in gradients]

    return row_gradients


def squared_norms(array, axes):
    """Returns squared L2 norms along axes, in one pass over the array.

    A square and a sum would write the squares out: on a CPU three to five
    times slower on large rows.

    Args:
        array: A float32 tensor.
        axes: A tuple of axes.
    """
    graph = tf.compat.v1.get_default_graph()
    if control_flow_util.GraphOrParentsInXlaContext(graph):
        # XLA has no such operation, and makes one pass of the two by itself.
        return tf.reduce_sum(tf.square(array), axes)
    return tf.square(tf.math.reduce_euclidean_norm(array, axes))


def products_of_rows(left, right):
    """Returns `[B, C, D]`: left[b]^T right[b].

    Args:
        left: `[B, P, C]`.
        right: `[B, P, D]`.
    """
    return tf.matmul(left, right, transpose_a=True)


def in_sequence(functions):
    """Returns what each function returns, each begun when the last is done.

    Bounds memory: a graph runs what does not wait, and so may make the
    intermediate values of all of them before the first result.

    Args:
        functions: A list of functions without arguments.
    """
    results = []
    for function in functions:
        with tf.control_dependencies(results[-1:]):
            results.append(function())
    return results


def densify(tensor):
    """Returns a dense tensor for what may be `tf.IndexedSlices`."""
    return tf.convert_to_tensor(tensor)


def sum_over_pieces(function, num_rows, piece_size, initial):
    """Returns the sum of `function(start, stop)` over consecutive pieces.

    Args:
        function: `function(start, stop) -> list of tensors` of the shapes and
            dtypes of `initial`.
        num_rows: Scalar integer tensor; 0 is fine.
        piece_size: Rows of a piece, a Python int.
        initial: A list of tensors.

    Returns:
        A list of tensors.
    """
    num_rows = tf.cast(num_rows, tf.int32)

    def body(start, totals):
        stop = tf.minimum(start + piece_size, num_rows)
        parts = function(start, stop)
        return stop, [a + b for a, b in zip(totals, parts, strict=True)]

    shapes = (tf.TensorShape([]), [tf.TensorShape(t.shape) for t in initial])
    _, totals = tf.while_loop(
        lambda start, totals: start < num_rows,
        body,
        (tf.constant(0), list(initial)),
        shape_invariants=shapes,
        parallel_iterations=1,
    )
    return totals


def fill_if_empty(data, num_rows: int):
    """Returns `data`, or rows of zeros where it has no rows.

    Args:
        data: A structure of tensors `[B, ...]`; None stays None.
        num_rows: How many rows of zeros.
    """

    def zeros(tensor):
        shape = [num_rows, *tensor.shape[1:]]
        for axis, size in enumerate(shape):
            if size is None:  # Known in the step only, and may be 0 there.
                shape[axis] = tf.maximum(tf.shape(tensor)[axis], 1)
        return tf.zeros(shape, tensor.dtype)

    leaves = [t for t in keras.tree.flatten(data) if t is not None]
    if leaves[0].shape[0] == 0:
        filled = [zeros(t) for t in leaves]
    else:
        filled = tf.cond(
            tf.equal(tf.shape(leaves[0])[0], 0),
            lambda: [zeros(t) for t in leaves],
            lambda: [tf.identity(t) for t in leaves],
        )
    remaining = iter(filled)

    def take(before):
        if before is None:
            return None
        return tf.ensure_shape(next(remaining), (None, *before.shape[1:]))

    return keras.tree.map_structure(take, data)


def check_multiple(data, number: int):
    """Returns `data` once its rows are seen to be a multiple of `number`.

    Args:
        data: A structure of tensors `[B, ...]`; None stays None.
        number: What B must be a multiple of.

    Raises:
        tf.errors.InvalidArgumentError: If it is not, when it is run.
    """
    leaves = [t for t in keras.tree.flatten(data) if t is not None]
    num_rows = tf.shape(leaves[0])[0]
    # TensorFlow adds both numbers: the rows, and those in whole units.
    check = tf.debugging.assert_equal(
        num_rows,
        num_rows - num_rows % number,
        "x must hold whole units: a multiple of examples_per_unit="
        f"{number} rows. Fill up with rows of sample_weight 0 "
        "(tf_privacy.arrange_units does it). Received:",
    )
    with tf.control_dependencies([check] if check is not None else []):
        return keras.tree.map_structure(
            lambda t: None if t is None else tf.identity(t), data
        )


def compiled(function):
    """Returns `function` compiled by XLA, once for each set of shapes."""
    return tf.function(function, jit_compile=True, autograph=False)


def after(value, tensors):
    """Returns a tensor, but not before others are computed.

    Args:
        value: A tensor.
        tensors: A sequence of tensors.
    """
    with tf.control_dependencies(tensors):
        return tf.identity(value)


def runs_on_cpu() -> bool:
    """True if there is no accelerator."""
    return all(d.device_type == "CPU" for d in tf.config.list_logical_devices())


def time_both_ways(function, num_runs: int) -> dict[bool, float]:
    """Returns the median seconds of a function, compiled by XLA and not.

    Args:
        function: A function without arguments that returns tensors.
        num_runs: Runs of each, in turn.
    """
    ways = {
        jit: tf.function(function, jit_compile=jit, autograph=False)
        for jit in (False, True)
    }
    times = {jit: [] for jit in ways}
    for run in range(num_runs + 1):
        for jit, timed in ways.items():
            start = time.perf_counter()
            for tensor in timed():
                tensor.numpy()
            if run:  # The first one compiles.
                times[jit].append(time.perf_counter() - start)
    return {jit: statistics.median(t) for jit, t in times.items()}


def check_one_replica() -> None:
    """Raises in a distribution strategy: each replica would add its own noise.

    Raises:
        NotImplementedError: If a `tf.distribute` strategy is in force.
    """
    if tf.distribute.has_strategy():
        name = type(tf.distribute.get_strategy()).__name__
        raise NotImplementedError(
            "a private step must run on one replica: it draws its noise once "
            f"for the whole batch. Received: a step under {name}. Build, "
            "compile and fit the model outside of the strategy's scope."
        )


def is_eager() -> bool:
    """True outside of any graph."""
    return tf.executing_eagerly()


def outside_of_graph():
    """Returns a context that is eager even while a function is traced."""
    return tf.init_scope()


def run_outside_of_graph(function):
    """Returns `function()`, run eagerly even while a graph is being traced.

    In a thread of its own: `tf.init_scope` would silence every gradient tape,
    and a check that compares gradients would find them all equal to zero.

    Args:
        function: A function without arguments.
    """
    if tf.executing_eagerly():
        return function()
    with futures.ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(function).result()


def row_leak(function, inputs, row: int = 0) -> float:
    """Returns how much one output row's gradient touches other rows.

    Args:
        function: Maps a structure of tensors `[B, ...]` to such a structure.
        inputs: Eager tensors; only the floating ones are differentiated.
        row: Which output row.

    Returns:
        The largest absolute gradient in any row but that one; 0 if none.
    """
    leaves = [t for t in keras.tree.flatten(inputs) if t.dtype.is_floating]
    with keras.StatelessScope(), tf.GradientTape() as tape:
        tape.watch(leaves)
        outputs = keras.tree.flatten(function(inputs))
        total = tf.add_n(
            [
                tf.reduce_sum(tf.sin(tf.cast(o[row], tf.float32)))
                for o in outputs
                if o.dtype.is_floating and len(o.shape)
            ]
        )
    gradients = tape.gradient(total, leaves) if leaves else []
    others = [
        tf.concat([g[:row], g[row + 1 :]], axis=0)
        for g in (densify(g) for g in gradients if g is not None)
    ]
    largest = [tf.reduce_max(tf.abs(tf.cast(g, tf.float32))) for g in others]
    finite = [float(v) for v in largest if tf.math.is_finite(v)]
    return max(finite, default=0.0)
