# SPDX-License-Identifier: Apache-2.0
"""Plain gradients of JAX."""

import jax
import jax.numpy as jnp
import keras
import numpy as np


def compute_gradients(function, variables):
    """Return the gradients of the sum of `function()`, as float64 arrays.

    Args:
        function: Returns a tensor.
        variables: Keras variables; zeros for those without a gradient.
    """

    def total(values):
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return jnp.sum(function())

    gradients = jax.grad(total)([v.value for v in variables])
    return [np.array(g, np.float64) for g in gradients]


def compile_for_any_rows(function, data):
    """Return a function that is compiled for each number of rows.

    It changes no state: random layers draw the same in every call.

    Args:
        function: Takes tensors.
        data: Arrays of the shapes and dtypes of its arguments.
    """
    del data

    def run(*arrays):
        with keras.StatelessScope():
            return function(*arrays)

    return jax.jit(run)


def fit_weights(weights, outputs):
    """Return sample weights, which Keras takes as they are.

    Args:
        weights: A structure of arrays.
        outputs: A structure of tensors, with their Keras masks.
    """
    del outputs
    return weights
