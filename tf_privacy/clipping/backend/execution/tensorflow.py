# SPDX-License-Identifier: Apache-2.0
"""How and when a step runs, in TensorFlow."""

import contextlib
import statistics
import time
import warnings
from concurrent import futures

import keras
import tensorflow as tf

OPERATION_ERRORS = (tf.errors.OpError,)


def runs_as_written(function):
    """Decorates what AutoGraph must not rewrite in a user's `tf.function`."""
    return tf.autograph.experimental.do_not_convert(function)


# Batches of any size go through one compiled step.
FIXED_SHAPES = False

# Whether NaN in one group of a convolution may reach another one's gradient.
MIXES_GROUPS = False


def without_gradients():
    """Returns a context: tapes record only what they are asked to."""
    return contextlib.nullcontext()


def full_precision():
    """Returns a context in which products are those of float32 numbers.

    TensorFlow knows one setting for all: where a GPU would round factors to 11
    bits, and a norm would be too small by up to a thousandth, it is changed.
    """
    config = tf.config.experimental
    if config.tensor_float_32_execution_enabled() and not runs_on_cpu():
        config.enable_tensor_float_32_execution(False)
        warnings.warn(
            "TensorFloat-32 is off from now on: the bound on an example's "
            "gradient needs products of float32 numbers.",
            stacklevel=2,
        )
    return contextlib.nullcontext()


def check_carried(variables) -> None:
    """Does nothing: no step takes a variable for a constant.

    Args:
        variables: `keras.Variable`s that hold state of the noise.
    """
    del variables


def cond(predicate, if_true, if_false):
    """Runs one of two functions, which may assign to variables.

    Args:
        predicate: A bool scalar tensor.
        if_true: A function without arguments.
        if_false: Another one.

    Returns:
        What it returns.
    """
    return keras.ops.cond(predicate, if_true, if_false)


def switch(index, branches):
    """Runs one of several functions, which may assign to variables.

    Args:
        index: An int scalar tensor.
        branches: A list of functions without arguments.

    Returns:
        What it returns.
    """
    return keras.ops.switch(index, branches)


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


def is_eager() -> bool:
    """True outside of any graph."""
    return tf.executing_eagerly()


def outside_of_graph():
    """Returns a context that is eager even while a function is traced."""
    return tf.init_scope()


def same_random_numbers(draw: int):
    """Returns a context: in a stateless scope Keras's seeds stay the same.

    Args:
        draw: Which numbers; not used.
    """
    del draw
    return contextlib.nullcontext()


def run_outside_of_graph(function):
    """Returns `function()`, run eagerly even while a graph is being traced.

    In a thread of its own: `tf.init_scope` would silence every gradient tape,
    and a check that compares gradients would find them all equal to zero. No
    `tf.distribute` strategy is in force there.

    Args:
        function: A function without arguments.
    """
    if tf.executing_eagerly() and not tf.distribute.has_strategy():
        return function()
    with futures.ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(function).result()
