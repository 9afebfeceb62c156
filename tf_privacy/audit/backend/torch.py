# SPDX-License-Identifier: Apache-2.0
"""Functions of a model's rows and their gradients, in PyTorch."""

from collections.abc import Callable

import keras
import numpy as np
import torch

from tf_privacy.audit.backend import softmax_ends


def compile_on_rows(model, function: Callable, *arrays) -> Callable:
    """Returns a function from arrays to an array, for any number of rows.

    PyTorch runs it as it is.

    Args:
        model: A Keras model, whose variables are read anew in each call.
        function: Of tensors; uses no variables but those of `model`, which it
            does not keep alive.
        *arrays: `[B, ...]`; what it is of, but for the number of rows.
    """
    del model, arrays

    def run(*arrays) -> np.ndarray:
        tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
        with torch.no_grad():
            return keras.ops.convert_to_numpy(function(*tensors))

    return run


def differentiate(function: Callable, x):
    """Returns the gradient of each row's number with respect to the row.

    Args:
        function: From `[B, ...]` to `[B]`; acts on each row alone.
        x: `[B, ...]` floats, a tensor.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        total = function(x).sum()
    if not total.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(
        total, x, allow_unused=True, materialize_grads=True
    )
    return gradient


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
