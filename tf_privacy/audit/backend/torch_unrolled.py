# SPDX-License-Identifier: Apache-2.0
"""Steps of training as functions of a state, and derivatives, in PyTorch."""

from collections.abc import Callable

import keras
import torch


def compile_step(function: Callable, *examples) -> Callable:
    """Returns `function` without its tensors' history; PyTorch runs it as is.

    Args:
        function: Of tensors and lists of tensors.
        *examples: What it is of: `[B, ...]` arrays, or lists of tensors, whose
            shapes stay the same.
    """
    del examples

    def run(*arguments):
        found = function(*arguments)
        return keras.tree.map_structure(torch.Tensor.detach, found)

    return run


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
    weights = [
        w if w.requires_grad else w.detach().requires_grad_() for w in weights
    ]
    with torch.enable_grad():
        total, others = function(weights)
    gradients = torch.autograd.grad(
        total,
        weights,
        create_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return gradients, others


def pull_back(function: Callable, inputs, cotangents):
    """Returns the derivative of a function's weighted outputs by its inputs.

    Of what the function computes: a gradient that a layer stops in a step of
    training, by `detach`, is followed here, because the step does depend on
    what it stops. What a layer computes under `torch.no_grad`, or takes from a
    tensor's `data`, is not seen.

    Args:
        function: From a list of tensors to a list of tensors.
        inputs: Floating tensors.
        cotangents: Weights of the outputs, of their shapes; None for a single
            number.
    """
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    # The other kernels of attention have no second derivative.
    in_full = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.enable_grad(), _FollowedStops(), in_full:
        outputs = function(inputs)
    if cotangents is None:
        cotangents = [torch.ones_like(output) for output in outputs]
    connected = [i for i, o in enumerate(outputs) if o.requires_grad]
    if not connected:
        return [torch.zeros_like(tensor) for tensor in inputs]
    gradients = torch.autograd.grad(
        [outputs[i] for i in connected],
        inputs,
        [cotangents[i] for i in connected],
        allow_unused=True,
        materialize_grads=True,
    )
    return list(gradients)


class _Stop(torch.autograd.Function):
    """Stops the gradient of a step, and lets its derivative pass."""

    @staticmethod
    def forward(ctx, tensor):
        """Returns the tensor."""
        del ctx
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, cotangent):
        """Returns 0 while the gradient is recorded, to be differentiated."""
        del ctx
        if torch.is_grad_enabled():
            return torch.zeros_like(cotangent)
        return cotangent


class _FollowedStops(torch.overrides.TorchFunctionMode):
    """Within it, `detach` stops the gradient of a step alone."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Runs a function of PyTorch, or what stands for it here."""
        is_stop = function is torch.Tensor.detach
        if is_stop and args[0].is_floating_point():
            return _Stop.apply(args[0])
        return function(*args, **(kwargs or {}))
