# SPDX-License-Identifier: Apache-2.0
"""Steps of training as functions of a state, and derivatives, in JAX."""

from collections.abc import Callable

import jax
from jax import numpy as jnp
from jax.extend import core


def compile_step(function: Callable, *examples) -> Callable:
    """Returns `function`, compiled once for each number of rows.

    Args:
        function: Of tensors and lists of tensors.
        *examples: What it is of: `[B, ...]` arrays, or lists of tensors, whose
            shapes stay the same.
    """
    del examples
    return jax.jit(function)


def check_derivatives(step) -> None:
    """Accepts all: second derivatives follow stopped gradients.

    Args:
        step: From `compile_step`.
    """
    del step


def gradient(function: Callable, weights):
    """Returns a step's gradient, which `pull_back` differentiates again.

    Args:
        function: From a list of tensors to a number and anything else.
        weights: A list of floating tensors.

    Returns:
        The gradient for each of `weights`, and what else `function` returned.
    """
    return jax.grad(function, has_aux=True)(weights)


def pull_back(function: Callable, inputs, cotangents):
    """Returns the derivative of a function's weighted outputs by its inputs.

    Of what the function computes: a gradient that a layer stops in a step of
    training is followed here, because the step does depend on what it stops.

    Args:
        function: From a list of tensors to a list of tensors.
        inputs: Floating tensors.
        cotangents: Weights of the outputs, of their shapes; None for a single
            number.
    """
    program = jax.make_jaxpr(function)(inputs)
    followed = core.jaxpr_as_fun(_follow_stops(program))
    outputs, transpose = jax.vjp(followed, *inputs)
    if cotangents is None:
        cotangents = [jnp.ones_like(output) for output in outputs]
    return list(transpose(list(cotangents)))


def _follow_stops(program):
    """Returns a program, or what holds some, that stops no gradient."""
    if isinstance(program, core.ClosedJaxpr):
        return program.replace(jaxpr=_follow_stops(program.jaxpr))
    if isinstance(program, core.Jaxpr):
        return program.replace(
            eqns=[_follow_stop(equation) for equation in program.eqns]
        )
    if isinstance(program, tuple | list):
        return type(program)(_follow_stops(part) for part in program)
    return program


def _follow_stop(equation):
    if equation.primitive.name == "stop_gradient":
        return equation.replace(primitive=core.primitives.copy_p)
    inner = {k: _follow_stops(v) for k, v in equation.params.items()}
    return equation.replace(params=inner)
