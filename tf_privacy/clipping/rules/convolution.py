# SPDX-License-Identifier: Apache-2.0
"""Conv1D, Conv2D, Conv3D: a matrix product on patches of the input."""

import itertools
import math

import keras
from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import rule

_LAYERS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)

# Measured on 2 CPU cores: with fewer input channels the products for single
# places of the kernel are too small, and one product on patches is faster.
_MIN_CHANNELS = 16


class ConvolutionRule(rule.Rule):
    """The kernel's gradient as outer products of patches and cotangents."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for ConvND on inputs of known spatial size."""
        if not any(keras_internals.uses_own_call(layer, c) for c in _LAYERS):
            return False
        return (
            rule.only_uses(variables, layer._kernel, layer.bias)
            and len(input_shapes) == 1
            and all(size is not None for size in input_shapes[0][1:])
        )

    def forward(self, layer, call, tap, args, kwargs):
        """Saves the input."""
        inputs = args[0] if args else kwargs["inputs"]
        outputs = rule.call_with_tapped_activation(
            layer, call, tap, args, kwargs
        )
        return outputs, inputs

    def terms(self, layer, saved, cotangents):
        """Returns the kernel's and the bias's terms."""
        (cotangent,) = cotangents
        inputs = ops.cast(saved, "float32")
        if layer.data_format == "channels_first":
            inputs = _channels_last(inputs)
            cotangent = _channels_last(cotangent)
        term = _kernel_term(layer, inputs, rule.to_positions(cotangent))
        pairs = [(layer._kernel, term)]
        if layer.bias is not None:
            pairs.append(
                (layer.bias, rule.bias_term(cotangent, layer.bias.shape))
            )
        return pairs


def _channels_last(array):
    rank = len(array.shape)
    return ops.transpose(array, (0, *range(2, rank), 1))


def _padding(layer, axis: int, size: int) -> tuple[int, int]:
    """Returns zeros before and after one spatial axis, as Keras pads."""
    reach = (layer.kernel_size[axis] - 1) * layer.dilation_rate[axis]
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "causal":
        return reach, 0
    stride = layer.strides[axis]
    num_outputs = -(-size // stride)
    total = max((num_outputs - 1) * stride + reach + 1 - size, 0)
    return total // 2, total - total // 2


def _kernel_term(layer, inputs, cotangents):
    """Returns the kernel's term, in the form that is cheapest for its shape."""
    *kernel_size, in_channels, filters = shape = layer._kernel.shape
    width = math.prod(kernel_size) * in_channels
    windows = _extract_windows(layer, inputs)
    if layer.groups > 1:
        return _grouped_term(windows, cotangents, shape, layer.groups)
    few_channels = in_channels < _MIN_CHANNELS
    if few_channels or gradient_terms.prefers_gram(
        cotangents.shape[1], width, filters
    ):
        patches = rule.to_positions(ops.concatenate(windows, axis=-1))
        return gradient_terms.OuterProduct(patches, cotangents, shape)
    # One product for each place in the kernel: the patches, kernel_size times
    # as large as the input, never exist.
    parts = [
        ops.einsum("btp,btd->bpd", rule.to_positions(window), cotangents)
        for window in windows
    ]
    return gradient_terms.Instantiated(
        ops.reshape(ops.stack(parts, axis=1), (-1, *shape))
    )


def _extract_windows(layer, inputs):
    """Returns the input as each place of the kernel sees it.

    A list, the kernel's last axis fastest, of `[B, *output_size, C]`.
    """
    spatial = inputs.shape[1:-1]
    pads = [_padding(layer, axis, size) for axis, size in enumerate(spatial)]
    padded = ops.pad(inputs, [(0, 0), *pads, (0, 0)])
    slices = []
    for axis, size in enumerate(spatial):
        dilation, stride = layer.dilation_rate[axis], layer.strides[axis]
        kernel_size = layer.kernel_size[axis]
        last = size + sum(pads[axis]) - (kernel_size - 1) * dilation
        slices.append(
            [
                slice(i * dilation, i * dilation + last, stride)
                for i in range(kernel_size)
            ]
        )
    return [
        padded[(slice(None), *offsets)]
        for offsets in itertools.product(*slices)
    ]


def _grouped_term(windows, cotangents, shape, groups: int):
    """Returns the kernel's term where output groups see their own inputs."""
    in_group, filters = shape[-2:]
    num_positions = cotangents.shape[1]
    out_group = filters // groups
    patches = ops.reshape(
        ops.stack([rule.to_positions(w) for w in windows], axis=2),
        (-1, num_positions, len(windows), groups, in_group),
    )
    cotangents = ops.reshape(cotangents, (-1, num_positions, groups, out_group))
    stack = ops.einsum("btkgi,btgo->bkigo", patches, cotangents)
    return gradient_terms.Instantiated(ops.reshape(stack, (-1, *shape)))
