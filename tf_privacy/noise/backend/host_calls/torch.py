# SPDX-License-Identifier: Apache-2.0
"""Calls of numpy functions from PyTorch."""

import torch


def map_on_host(function, tensor):
    """Returns what a numpy function makes of a tensor.

    Works on any device; the function runs on the processor.

    Args:
        function: From an array to one of its shape and dtype; it may have
            state and randomness.
        tensor: Of any shape.
    """
    mapped = function(tensor.detach().cpu().numpy())
    return torch.from_numpy(mapped).to(tensor.device)
