# SPDX-License-Identifier: Apache-2.0
"""How and when a step runs, in JAX.

A compiled step is a pure function. What a step assigns to variables within a
branch or a loop is made one of its results here, and assigned outside of it.
"""

import contextlib
import statistics
import time
from concurrent import futures

import jax
from jax import numpy as jnp

from tf_privacy.clipping import keras_internals

OPERATION_ERRORS = (jax.errors.JAXTypeError, jax.errors.JaxRuntimeError)

# A batch of another size would compile the step again: batches are padded.
FIXED_SHAPES = True

# Whether NaN in one group of a convolution may reach another one's gradient.
MIXES_GROUPS = True


def runs_as_written(function):
    """Returns the function: JAX rewrites none."""
    return function


def without_gradients():
    """Returns a context: nothing is recorded unless it is asked for."""
    return contextlib.nullcontext()


def full_precision():
    """Returns a context in which products are those of float32 numbers.

    Accelerators round factors to 8 or 11 bits unless they are told not to, and
    a norm is then too small by up to a hundredth.
    """
    return jax.default_matmul_precision("highest")


def check_carried(variables) -> None:
    """Raises in a trace that takes variables for constants.

    Args:
        variables: `keras.Variable`s that hold state of the noise.

    Raises:
        RuntimeError: If so: every step would add the noise of the first one.
    """
    if is_eager():
        return
    if not all(isinstance(v.value, jax.core.Tracer) for v in variables):
        raise RuntimeError(
            "optimizer.apply must be compiled by tf_privacy.compile_step. "
            "Received: a call within a jax.jit of its own, which takes the "
            "state of the noise and of the ledger for constants: every step "
            "would add the same noise. Call compile_step(step, model=model, "
            "optimizer=optimizer), or run the step uncompiled."
        )


def find_updated(function):
    """Returns the variables that `function()` assigns to; nothing changes."""

    def run():
        with keras_internals.InnerScope() as scope:
            function()
        updated.extend(scope.updated)

    updated = []
    jax.eval_shape(run)
    return updated


def run_with(function, variables, values):
    """Returns `function()` at other values of variables, and the new ones.

    Args:
        function: A function without arguments.
        variables: All `keras.Variable`s that it may assign to.
        values: One tensor for each.
    """
    mapping = list(zip(variables, values, strict=True))
    with keras_internals.InnerScope(mapping) as scope:
        outputs = function()
        return outputs, [scope.get_current_value(v) for v in variables]


def cond(predicate, if_true, if_false):
    """Runs one of two functions, which may assign to variables.

    Args:
        predicate: A bool scalar tensor.
        if_true: A function without arguments.
        if_false: Another one.

    Returns:
        What it returns.
    """
    if is_eager():
        return if_true() if predicate else if_false()
    return _choose([if_false, if_true], jnp.asarray(predicate, "int32"))


def switch(index, branches):
    """Runs one of several functions, which may assign to variables.

    Args:
        index: An int scalar tensor.
        branches: A list of functions without arguments.

    Returns:
        What it returns.
    """
    if is_eager():
        return branches[int(index)]()
    return _choose(branches, index)


def _choose(branches, index):
    variables = find_updated(lambda: [branch() for branch in branches])
    outputs, values = jax.lax.switch(
        index,
        [
            lambda values, run=branch: run_with(run, variables, values)
            for branch in branches
        ],
        [v.value for v in variables],
    )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return outputs


def in_sequence(functions):
    """Returns what each function returns; XLA orders the work by memory.

    Args:
        functions: A list of functions without arguments.
    """
    return [function() for function in functions]


def compiled(function):
    """Returns the function: the step that it is part of is compiled."""
    return function


def after(value, tensors):
    """Returns the value: a step runs as a whole or not at all.

    Args:
        value: A tensor.
        tensors: A sequence of tensors.
    """
    del tensors
    return value


def runs_on_cpu() -> bool:
    """True if there is no accelerator."""
    return jax.default_backend() == "cpu"


def time_both_ways(function, num_runs: int) -> dict[bool, float]:
    """Returns the median seconds of a function, compiled by XLA and not.

    Args:
        function: A function without arguments that returns tensors.
        num_runs: Runs of each, in turn.
    """
    ways = {False: function, True: jax.jit(function)}
    times = {way: [] for way in ways}
    for run in range(num_runs + 1):
        for way, timed in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(timed())
            if run:  # The first one compiles.
                times[way].append(time.perf_counter() - start)
    return {way: statistics.median(t) for way, t in times.items()}


def is_eager() -> bool:
    """True outside of any trace."""
    return not isinstance(jnp.zeros(()), jax.core.Tracer)


@contextlib.contextmanager
def outside_of_graph():
    """Reads and assigns variables themselves even while a step is traced."""
    with jax.ensure_compile_time_eval(), keras_internals.no_scope():
        yield


def same_random_numbers(draw: int):
    """Returns a context: in a stateless scope Keras's seeds stay the same.

    Args:
        draw: Which numbers; not used.
    """
    del draw
    return contextlib.nullcontext()


def run_outside_of_graph(function):
    """Returns `function()`, run eagerly even while a step is being traced.

    In a thread of its own, which knows of no trace.

    Args:
        function: A function without arguments.
    """
    if is_eager():
        return function()
    with futures.ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(function).result()
