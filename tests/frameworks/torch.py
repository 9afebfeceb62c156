# SPDX-License-Identifier: Apache-2.0
"""Plain gradients of PyTorch."""

import keras
import numpy as np
import torch


def compute_gradients(function, variables):
    """Return the gradients of the sum of `function()`, as float64 arrays.

    Args:
        function: Returns a tensor.
        variables: Keras variables; zeros for those without a gradient.
    """
    values = [v.value for v in variables]
    for value in values:
        value.grad = None
    with torch.enable_grad():
        total = function().sum()
        if total.requires_grad:
            total.backward()
    gradients = [v.grad if v.grad is not None else 0.0 * v for v in values]
    for value in values:
        value.grad = None
    return [np.array(g.detach().cpu(), np.float64) for g in gradients]


def compile_for_any_rows(function, data):
    """Return the function, which PyTorch runs as it is.

    Args:
        function: Takes tensors.
        data: Arrays of the shapes and dtypes of its arguments.
    """
    del data
    return function


def fit_weights(weights, outputs):
    """Return sample weights of the shape of the masks.

    Keras multiplies them in place on PyTorch, and raises if they are smaller.

    Args:
        weights: A structure of arrays.
        outputs: A structure of tensors, with their Keras masks.
    """

    def fit(weight, output):
        mask = getattr(output, "_keras_mask", None)
        if mask is None:
            return weight
        axes = (1,) * (mask.ndim - weight.ndim)
        ones = np.ones(tuple(mask.shape), weight.dtype)
        return weight.reshape(weight.shape + axes) * ones

    return keras.tree.map_structure(fit, weights, outputs)
