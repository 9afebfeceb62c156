# SPDX-License-Identifier: Apache-2.0
"""Conv1D, Conv2D, Conv3D: a matrix product on patches of the input."""

import itertools

import keras
from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import rule

_LAYERS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


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
        patches = _extract_patches(layer, inputs)
        cotangents = rule.to_positions(cotangent)
        shape = layer._kernel.shape
        if layer.groups == 1:
            term = gradient_terms.OuterProduct(patches, cotangents, shape)
        else:
            term = _grouped_term(patches, cotangents, shape, layer.groups)
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


def _extract_patches(layer, inputs):
    """Returns `[B, T, K * C]`: what the kernel sees at each position.

    Channels vary fastest, then the kernel's last axis: the kernel's own order.
    """
    spatial = inputs.shape[1:-1]
    pads = [_padding(layer, axis, size) for axis, size in enumerate(spatial)]
    padded = ops.pad(inputs, [(0, 0), *pads, (0, 0)])
    slices = []
    for axis, size in enumerate(spatial):
        dilation, stride = layer.dilation_rate[axis], layer.strides[axis]
        kernel_size = layer.kernel_size[axis]
        reach = (kernel_size - 1) * dilation
        last = size + sum(pads[axis]) - reach
        slices.append(
            [
                slice(i * dilation, i * dilation + last, stride)
                for i in range(kernel_size)
            ]
        )
    windows = [
        padded[(slice(None), *offsets)]
        for offsets in itertools.product(*slices)
    ]
    return rule.to_positions(ops.concatenate(windows, axis=-1))


def _grouped_term(patches, cotangents, shape, groups: int):
    """Returns the kernel's term where output groups see their own inputs."""
    *kernel_size, in_group, filters = shape
    offsets = 1
    for size in kernel_size:
        offsets *= size
    num_positions = patches.shape[1]
    out_group = filters // groups
    patches = ops.reshape(
        patches, (-1, num_positions, offsets, groups, in_group)
    )
    cotangents = ops.reshape(
        cotangents, (-1, num_positions, groups, out_group)
    )
    stack = ops.einsum("btkgi,btgo->bkigo", patches, cotangents)
    return gradient_terms.Instantiated(
        ops.reshape(stack, (-1, *shape))
    )
