# SPDX-License-Identifier: Apache-2.0
"""What the rules of all layers `activation(convolution + bias)` share."""

import abc

from keras import ops

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import rule


class ConvolutionalRule(rule.ClippingRule):
    """Taps what goes into the activation; all terms come from there.

    Attributes:
        layer_classes: The classes of Keras that the rule is for.
    """

    layer_classes = ()

    @abc.abstractmethod
    def kernels(self, layer) -> tuple:
        """Returns the layer's weights, its bias aside.

        Args:
            layer: The layer.
        """

    @abc.abstractmethod
    def kernel_pairs(self, layer, inputs, cotangent) -> list:
        """Returns a list of (variable, term) pairs, the bias's aside.

        Args:
            layer: The layer.
            inputs: `[B, *spatial, C]`, whatever the layer's data format.
            cotangent: `[B, *output_size, D]` float32.
        """

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for the layers themselves, on inputs of known size."""
        return (
            is_supported(layer, self.layer_classes, input_shapes)
        ) and rule.only_uses(variables, *self.kernels(layer), layer.bias)

    def forward(self, layer, call, tap, args, kwargs):
        """Saves the input."""
        inputs = args[0] if args else kwargs["inputs"]
        outputs = rule.call_with_tapped_activation(
            layer, call, tap, args, kwargs
        )
        return outputs, inputs

    def terms(self, layer, saved, cotangents):
        """Returns the kernels' and the bias's terms."""
        inputs = channels_last(layer, saved)
        cotangent = as_outputs(layer, inputs, cotangents[0])
        return [
            *self.kernel_pairs(layer, inputs, cotangent),
            *bias_pairs(layer, cotangent),
        ]


def is_supported(layer, layer_classes, input_shapes) -> bool:
    """True for one of these layers on one input of known spatial size.

    Args:
        layer: A `keras.layers.Layer`.
        layer_classes: Classes of Keras.
        input_shapes: As for `Rule.supports`.
    """
    if not any(keras_internals.uses_own_call(layer, c) for c in layer_classes):
        return False
    (shape, *others) = input_shapes
    return not others and len(shape) == layer.rank + 2 and None not in shape[1:]


def bias_pairs(layer, cotangent) -> list:
    """Returns the bias and its term in a list, or [] if there is none.

    Args:
        layer: The layer.
        cotangent: `[B, ..., D]` float32.
    """
    if layer.bias is None:
        return []
    return [(layer.bias, rule.bias_term(cotangent, layer.bias.shape))]


def channels_last(layer, array):
    """Returns an input or output of a layer with its channels moved last.

    Args:
        layer: The layer.
        array: `[B, C, *spatial]` or `[B, *spatial, C]`, as it has them.
    """
    if layer.data_format == "channels_first":
        return ops.moveaxis(array, 1, -1)
    return array


def as_outputs(layer, inputs, cotangent):
    """Returns a cotangent of the layer's output with its channels moved last.

    And with its lengths known: Keras loses those where it strides and dilates.

    Args:
        layer: The layer.
        inputs: `[B, *spatial, C]`, whatever the layer's data format.
        cotangent: As the layer has its outputs.
    """
    input_shape = tuple(channels_as_layer(layer, inputs).shape)
    shape = layer.compute_output_shape(input_shape)
    first = 2 if layer.data_format == "channels_first" else 1
    lengths = shape[first : first + layer.rank]
    cotangent = channels_last(layer, cotangent)
    return ops.reshape(cotangent, (-1, *lengths, cotangent.shape[-1]))


def channels_as_layer(layer, array):
    """Undoes `channels_last`.

    Args:
        layer: The layer.
        array: `[B, *spatial, C]`.
    """
    if layer.data_format == "channels_first":
        return ops.moveaxis(array, -1, 1)
    return array
