# SPDX-License-Identifier: Apache-2.0
"""How and when a step runs, in PyTorch: at once, and as it is written."""

import contextlib
import math
import statistics
import time

import torch
from keras.src.backend.torch import core

OPERATION_ERRORS = (RuntimeError, IndexError)

# Whether the batches of all steps have the same shape.
FIXED_SHAPES = False

# Whether NaN in one group of a convolution may reach another one's gradient.
MIXES_GROUPS = False


def runs_as_written(function):
    """Decorates what records nothing for differentiation by its caller."""
    return torch.no_grad()(function)


def without_gradients():
    """Returns a context in which nothing is recorded for differentiation."""
    return torch.no_grad()


@contextlib.contextmanager
def full_precision():
    """Lets products be those of float32 numbers, on accelerators too.

    They round factors to 11 bits where that is allowed, and a norm is then too
    small by up to a thousandth.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


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
    return if_true() if bool(predicate) else if_false()


def switch(index, branches):
    """Runs one of several functions, which may assign to variables.

    Args:
        index: An int scalar tensor.
        branches: A list of functions without arguments.

    Returns:
        What it returns.
    """
    return branches[int(index)]()


def in_sequence(functions):
    """Returns what each function returns, each begun when the last is done.

    Args:
        functions: A list of functions without arguments.
    """
    return [function() for function in functions]


def compiled(function):
    """Returns `function` as it is: PyTorch runs it operation by operation."""
    return function


def after(value, tensors):
    """Returns a tensor, but not before others are computed.

    Args:
        value: A tensor.
        tensors: A sequence of tensors.
    """
    del tensors
    return value


def runs_on_cpu() -> bool:
    """True if there is no accelerator."""
    return torch.device(core.get_device()).type == "cpu"


def time_both_ways(function, num_runs: int) -> dict[bool, float]:
    """Returns the median seconds of a function, compiled by XLA and not.

    Args:
        function: A function without arguments that returns tensors.
        num_runs: Runs.

    Returns:
        Infinity for compiled: there is no XLA.
    """
    times = []
    for run in range(num_runs + 1):
        start = time.perf_counter()
        for tensor in function():
            tensor.cpu()
        if run:  # The first one finds its kernels.
            times.append(time.perf_counter() - start)
    return {False: statistics.median(times), True: math.inf}


def is_eager() -> bool:
    """True always: there are no graphs."""
    return True


def outside_of_graph():
    """Returns a context for what lasts; all code is outside of graphs here."""
    return contextlib.nullcontext()


@contextlib.contextmanager
def same_random_numbers(draw: int):
    """Lets layers draw the same each time; what is drawn after stays random.

    For comparisons: Keras's dropout draws from PyTorch's own generator.

    Args:
        draw: Which numbers.
    """
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(draw)
        yield


def run_outside_of_graph(function):
    """Returns `function()`, of which nothing is recorded.

    Args:
        function: A function without arguments; may differentiate by itself.
    """
    with torch.no_grad():
        return function()
