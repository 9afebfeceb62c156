# SPDX-License-Identifier: Apache-2.0
"""Functions of a model's rows and their gradients, in JAX.

XLA compiles anew for each shape: rows are filled up to a power of two.
"""

import weakref
from collections.abc import Callable

import jax
import keras
import numpy as np
from jax import numpy as jnp

from tf_privacy.audit.backend import softmax_ends


def compile_on_rows(model, function: Callable, *arrays) -> Callable:
    """Returns a function from arrays to an array, for any number of rows.

    Args:
        model: A Keras model, whose variables are read anew in each call.
        function: Of tensors; acts on each row alone, and uses no variables but
            those of `model`, which it does not keep alive.
        *arrays: `[B, ...]`; what it is of, but for the number of rows.
    """
    del arrays
    reference = weakref.ref(model)

    @jax.jit
    def compute(values, *tensors):
        mapping = list(zip(reference().variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return function(*tensors)

    def run(*arrays) -> np.ndarray:
        values = [variable.value for variable in reference().variables]
        found = compute(values, *(_fill_up(array) for array in arrays))
        return np.asarray(found)[: len(arrays[0])]

    return run


def differentiate(function: Callable, x):
    """Returns the gradient of each row's number with respect to the row.

    Args:
        function: From `[B, ...]` to `[B]`; acts on each row alone.
        x: `[B, ...]` floats, a tensor.
    """
    return jax.grad(lambda x: jnp.sum(function(x)))(x)


def make_logit_call(model, x, *, outputs: str) -> Callable:
    """Returns a function of x that gives the model's logits, `[B, C]`.

    From below a softmax or sigmoid that ends the model, in inference mode.

    Args:
        model: A Keras model of one output, `[B, C]`; it is not kept alive.
        x: `[B, ...]` floats, an array.
        outputs: What the model returns, "logits" or "probabilities".

    Raises:
        ValueError: If the model ends in a softmax or a sigmoid in spite of
            "logits".
    """
    return softmax_ends.make_logit_call(
        model, x, outputs=outputs, compile_on_rows=compile_on_rows
    )


def _fill_up(array):
    """Repeats the last row up to a power of two; no rows become one of 0."""
    if not len(array):
        return np.zeros((1, *array.shape[1:]), array.dtype)
    missing = (1 << (len(array) - 1).bit_length()) - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
