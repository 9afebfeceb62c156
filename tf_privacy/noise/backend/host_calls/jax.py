# SPDX-License-Identifier: Apache-2.0
"""Calls of numpy functions from JAX."""

import jax
import numpy as np
from jax.experimental import io_callback

from tf_privacy.clipping.backend.execution import execution


def map_on_host(function, tensor):
    """Returns what a numpy function makes of a tensor, run at every call.

    Args:
        function: From an array to one of its shape and dtype; it may have
            state and randomness.
        tensor: Of any shape.
    """
    if execution.is_eager():
        return jax.numpy.asarray(function(np.array(tensor)))
    spec = jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)
    return io_callback(
        lambda array: function(np.array(array)), spec, tensor, ordered=True
    )
