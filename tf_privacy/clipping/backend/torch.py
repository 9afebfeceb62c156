# SPDX-License-Identifier: Apache-2.0
"""Gradients at taps and weights, and their norms, in PyTorch."""

import math

import keras
import torch

from tf_privacy.clipping import keras_internals

# Terms that are added one after the other: a longer sum is one of such sums.
_BLOCK = 1024
_INNER_BLOCK = 4096


def pull_back(function):
    """Returns a scalar's value and its cotangents at the tapped tensors.

    One forward pass, and one backward pass that stops at the taps: PyTorch
    computes what leads there, and so no weight gradient.

    Args:
        function: `function(tap) -> (scalar, aux)`; `tap(tensor)` returns the
            tensor to go on with.

    Returns:
        `aux`, and a list with the cotangent of each tap in the order of the
        calls; None where the scalar does not depend on it.
    """
    taps = []

    def tap(tensor):
        # A view, where an earlier tap has a part in it: the cotangent is then
        # that of what comes after, and not of other uses of the tensor.
        if tensor.requires_grad:
            tensor = tensor.view_as(tensor)
        else:
            tensor = tensor.detach().requires_grad_()
        taps.append(tensor)
        return tensor

    with torch.enable_grad():
        scalar, aux = function(tap)
    return _detach(aux), _differentiate(scalar, taps)


def _differentiate(scalar, tensors):
    """Returns the gradient at each tensor; None where there is none."""
    if not tensors or not scalar.requires_grad:
        return [None] * len(tensors)
    return list(torch.autograd.grad(scalar, tensors, allow_unused=True))


def _detach(structure):
    """Returns a structure whose tensors no longer hold the forward pass."""

    def detach(leaf):
        if not torch.is_tensor(leaf) or not leaf.requires_grad:
            return leaf
        detached = leaf.detach()
        mask = keras_internals.get_keras_mask(leaf)
        if mask is not None:
            keras_internals.set_keras_mask(detached, mask)
        return detached

    return keras.tree.map_structure(detach, structure)


def gradient(function, variables):
    """Returns the gradient of `function()` for each variable, never None."""
    values = [v.value for v in variables]
    with torch.enable_grad():
        scalar = function()
    return [
        torch.zeros_like(v) if g is None else g
        for v, g in zip(values, _differentiate(scalar, values), strict=True)
    ]


def isolated_gradient(function, variables):
    """Returns `gradient(function, variables)` without changing any state."""
    with keras.StatelessScope():
        return gradient(function, variables)


def squared_norms(array, axes):
    """Returns squared L2 norms along axes, in one pass over the array.

    A square and a sum would write the squares out. PyTorch's norm adds up one
    after the other: 1e-3 too little for a long row, hence the blocks.

    Args:
        array: A float32 tensor.
        axes: A tuple of axes.
    """
    axes = tuple(axis % array.ndim for axis in axes)
    kept = [axis for axis in range(array.ndim) if axis not in axes]
    length = math.prod(array.shape[axis] for axis in axes)
    rows = array.permute(*kept, *axes)
    rows = rows.reshape(*(array.shape[axis] for axis in kept), length)
    num_blocks = length // _BLOCK
    end = num_blocks * _BLOCK
    total = _short_squared_norms(rows[..., end:])
    if num_blocks:
        blocks = rows[..., :end].unflatten(-1, (num_blocks, _BLOCK))
        total = total + _short_squared_norms(blocks).sum(-1)
    return total


def _short_squared_norms(rows):
    return torch.linalg.vector_norm(rows, dim=-1).square()


def products_of_rows(left, right):
    """Returns `[B, C, D]`: left[b]^T right[b].

    Args:
        left: `[B, P, C]`.
        right: `[B, P, D]`.
    """
    return torch.matmul(left.transpose(1, 2), right)


def grams_of_rows(array):
    """Returns `[B, T, T]`: array[b] array[b]^T.

    In blocks of the inner axis: for a small T, PyTorch may add up all of it
    one after the other.

    Args:
        array: `[B, T, P]`.
    """
    blocks = array.split(_INNER_BLOCK, dim=2)
    return sum(torch.matmul(block, block.transpose(1, 2)) for block in blocks)


def densify(tensor):
    """Returns a dense tensor for what may be a sparse one."""
    return tensor.to_dense() if tensor.is_sparse else tensor


def row_leak(function, inputs, row: int = 0) -> float:
    """Returns how much one output row's gradient touches other rows.

    Args:
        function: Maps a structure of tensors `[B, ...]` to such a structure.
        inputs: Tensors; only the floating ones are differentiated.
        row: Which output row.

    Returns:
        The largest absolute gradient in any row but that one; 0 if none.
    """
    inputs = keras.tree.map_structure(_as_leaf, inputs)
    leaves = [t for t in keras.tree.flatten(inputs) if t.requires_grad]
    with keras.StatelessScope(), torch.enable_grad():
        outputs = keras.tree.flatten(function(inputs))
        total = sum(
            torch.sum(torch.sin(o[row].float()))
            for o in outputs
            if o.is_floating_point() and o.ndim
        )
    if not torch.is_tensor(total):
        return 0.0
    gradients = [g for g in _differentiate(total, leaves) if g is not None]
    others = [torch.cat([g[:row], g[row + 1 :]]).float() for g in gradients]
    largest = [float(g.abs().max()) for g in others if g.numel()]
    return max((v for v in largest if math.isfinite(v)), default=0.0)


def _as_leaf(tensor):
    tensor = tensor.detach()
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor
