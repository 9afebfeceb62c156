# SPDX-License-Identifier: Apache-2.0
"""SeparableConv1D, SeparableConv2D: a depthwise convolution, then a product.

Keras runs both as one operation. Here they are run one after the other, with a
tap after each: the second sees what the first has made, and nothing is computed
again.
"""

import keras
from keras import ops

from tf_privacy.clipping.rules import convolutional
from tf_privacy.clipping.rules import depthwise_convolution
from tf_privacy.clipping.rules import filter_gradient
from tf_privacy.clipping.rules import rule
from tf_privacy.clipping.rules import windows

_LAYERS = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


class SeparableConvolutionRule(rule.ClippingRule):
    """Two kernels, two taps."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for both layers, on inputs of known size."""
        return convolutional.is_supported(
            layer, _LAYERS, input_shapes
        ) and rule.only_uses(
            variables,
            layer.depthwise_kernel,
            layer.pointwise_kernel,
            layer.bias,
        )

    def forward(self, layer, call, tap, args, kwargs):
        """Saves the inputs of both steps."""
        inputs = args[0] if args else kwargs["inputs"]
        inputs = convolutional.channels_last(layer, inputs)
        between = tap(
            ops.depthwise_conv(
                inputs,
                layer.depthwise_kernel,
                strides=layer.strides,
                padding=layer.padding,
                dilation_rate=layer.dilation_rate,
                data_format="channels_last",
            )
        )
        outputs = ops.conv(
            between,
            layer.pointwise_kernel,
            padding="valid",
            data_format="channels_last",
        )
        if layer.bias is not None:
            outputs = ops.add(outputs, layer.bias)
        outputs = tap(convolutional.channels_as_layer(layer, outputs))
        if layer.activation is not None:
            outputs = layer.activation(outputs)
        return outputs, (inputs, between)

    def terms(self, layer, saved, cotangents):
        """Returns both kernels' and the bias's terms."""
        inputs, between = saved
        first, second = cotangents
        second = convolutional.as_outputs(layer, inputs, second)
        lengths = second.shape[1:-1]
        first, between = (
            ops.reshape(array, (-1, *lengths, array.shape[-1]))
            for array in (first, between)
        )
        return [
            (
                layer.depthwise_kernel,
                depthwise_convolution.depthwise_term(
                    layer, inputs, first, layer.depthwise_kernel.shape
                ),
            ),
            (
                layer.pointwise_kernel,
                _pointwise_term(between, second, layer.pointwise_kernel.shape),
            ),
            *convolutional.bias_pairs(layer, second),
        ]


def _pointwise_term(inputs, cotangent, shape):
    num_outputs = tuple(cotangent.shape[1:-1])
    ones = (1,) * len(num_outputs)
    places = windows.Windows(
        kernel_size=ones,
        strides=ones,
        dilation_rate=ones,
        padding=((0, 0),) * len(num_outputs),
        num_outputs=num_outputs,
    )
    return filter_gradient.filter_term(places, inputs, cotangent, shape)
