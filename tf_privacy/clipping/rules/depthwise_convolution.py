# SPDX-License-Identifier: Apache-2.0
"""DepthwiseConv1D, DepthwiseConv2D: a small kernel for each channel.

Measured on 2 CPU cores, in units of the gradient summed over the batch: a loop
over the examples costs 1.2 to 2.2 on images of some size, and 3.7 on 8 x 8 x
16. There the batch is folded into the channels of one large image, which gives
all examples' gradients at once: 1.9, but 2 to 7 on larger images, since one
image keeps one core busy.
"""

import math

import keras
from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping.backend.execution import execution
from tf_privacy.clipping.rules import convolutional
from tf_privacy.clipping.rules import filter_gradient
from tf_privacy.clipping.rules import windows

# Multiplications for one example, below which the loop costs more than them.
_MAX_FOLDED = 2**16


class DepthwiseConvolutionRule(convolutional.ConvolutionalRule):
    """The kernel's gradient by a loop or, for small images, at once."""

    layer_classes = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)

    def kernels(self, layer) -> tuple:
        """Returns the kernel.

        Args:
            layer: The layer.
        """
        return (layer.kernel,)

    def kernel_pairs(self, layer, inputs, cotangent) -> list:
        """Returns the kernel's term.

        Args:
            layer: The layer.
            inputs: `[B, *spatial, C]`.
            cotangent: `[B, *output_size, D]` float32.
        """
        term = depthwise_term(layer, inputs, cotangent, layer.kernel.shape)
        return [(layer.kernel, term)]


def depthwise_term(layer, inputs, cotangent, shape):
    """Returns the term of a kernel that each channel has a part of.

    Args:
        layer: The layer, for its settings.
        inputs: `[B, *spatial, C]`.
        cotangent: `[B, *output_size, C * M]` float32.
        shape: The kernel's, `[*kernel_size, C, M]`.
    """
    shape = tuple(shape)
    num_outputs = cotangent.shape[1:-1]
    places = windows.find_windows(layer, inputs.shape[1:-1], num_outputs)
    padded = places.pad(inputs)
    num_products = math.prod(num_outputs) * math.prod(shape)
    # TensorFlow dilates by moving pixels to the batch: not of unknown channels.

    def one_by_one():
        return filter_gradient.map_rows(
            lambda row, g: _gradient(places, row[None], g[None], shape),
            padded,
            cotangent,
            shape,
        )

    if num_products > _MAX_FOLDED or max(places.dilation_rate) > 1:
        return gradient_terms.Instantiated(one_by_one())
    stack = _folded_gradients(places, padded, cotangent, shape)
    if not execution.MIXES_GROUPS:
        return gradient_terms.Instantiated(stack)
    stack = execution.cond(
        ops.all(ops.isfinite(stack)), lambda: stack, one_by_one
    )
    return gradient_terms.Instantiated(stack)


def _gradient(places, padded, cotangent, shape):
    def convolve(kernel):
        return ops.depthwise_conv(
            padded,
            kernel,
            strides=places.strides,
            padding="valid",
            dilation_rate=places.dilation_rate,
            data_format="channels_last",
        )

    return filter_gradient.kernel_gradient(convolve, cotangent, shape)


def _folded_gradients(places, padded, cotangent, shape):
    """Returns `[B, *shape]`, with the examples as channels of one image."""
    *kernel_size, channels, multiplier = shape
    gradient = _gradient(
        places,
        _fold(padded),
        _fold(cotangent),
        (*kernel_size, ops.shape(padded)[0] * channels, multiplier),
    )
    split = ops.reshape(gradient, (*kernel_size, -1, channels, multiplier))
    return ops.moveaxis(split, -3, 0)


def _fold(array):
    """Returns `[1, *spatial, B * C]` of `[B, *spatial, C]`."""
    folded = ops.moveaxis(array, 0, -2)
    return ops.reshape(folded, (1, *array.shape[1:-1], -1))
