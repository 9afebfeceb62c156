# SPDX-License-Identifier: Apache-2.0
"""Conv1D, Conv2D, Conv3D, with or without low-rank adaptation.

An adapted layer convolves with `kernel + scale * A B`, which is to convolve
with A, to few channels, and to multiply with B: two kernels, two terms.
"""

import keras
from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping.rules import convolutional
from tf_privacy.clipping.rules import filter_gradient
from tf_privacy.clipping.rules import lora
from tf_privacy.clipping.rules import rule
from tf_privacy.clipping.rules import windows


class ConvolutionRule(convolutional.ConvolutionalRule):
    """The kernel's gradient in the form that is cheapest for its shape."""

    layer_classes = (
        keras.layers.Conv1D,
        keras.layers.Conv2D,
        keras.layers.Conv3D,
    )

    def kernels(self, layer) -> tuple:
        """Returns the kernel, and A and B where there are any.

        Args:
            layer: The layer.
        """
        return layer._kernel, *lora.factors(layer)

    def kernel_pairs(self, layer, inputs, cotangent) -> list:
        """Returns the terms of what `kernels` returns.

        Args:
            layer: The layer.
            inputs: `[B, *spatial, C]`.
            cotangent: `[B, *output_size, D]` float32.
        """
        places = windows.find_windows(
            layer, inputs.shape[1:-1], cotangent.shape[1:-1]
        )
        pairs = []
        if lora.factors(layer) and layer.groups == 1:
            pairs += _factor_pairs(layer, places, inputs, cotangent)
        elif lora.factors(layer):
            pairs += _grouped_factor_pairs(layer, places, inputs, cotangent)
        if layer._kernel.trainable:
            pairs.append(
                (layer._kernel, _kernel_term(layer, places, inputs, cotangent))
            )
        return pairs


def _kernel_term(layer, places, inputs, cotangent):
    return filter_gradient.filter_term(
        places, inputs, cotangent, layer._kernel.shape, groups=layer.groups
    )


def _factor_pairs(layer, places, inputs, cotangent):
    """Returns A and B with their terms, from the convolution's two steps."""
    a, b = lora.factors(layer)
    a_value, b_value = lora.scaled_values(layer)
    term_a = filter_gradient.filter_term(
        places, inputs, ops.matmul(cotangent, ops.transpose(b_value)), a.shape
    )
    narrow = filter_gradient.convolve(places, places.pad(inputs), a_value)
    term_b = gradient_terms.OuterProduct(
        rule.to_positions(lora.scale(layer) * narrow),
        rule.to_positions(cotangent),
        b.shape,
    )
    return [(a, term_a), (b, term_b)]


def _grouped_factor_pairs(layer, places, inputs, cotangent):
    """Returns A and B with their terms, from the gradient of their product.

    All groups share A, so that there is no convolution with A alone.
    """
    a, b = lora.factors(layer)
    a_value, b_value = lora.scaled_values(layer)
    product = _kernel_term(layer, places, inputs, cotangent).instantiate()
    rank, filters = b.shape
    flat = rule.to_positions(product)
    gradient_b = ops.matmul(
        ops.transpose(ops.reshape(a_value, (-1, rank))),
        lora.scale(layer) * flat,
    )
    return [
        (
            a,
            gradient_terms.Instantiated(
                ops.matmul(product, ops.transpose(b_value))
            ),
        ),
        (b, gradient_terms.Instantiated(gradient_b)),
    ]
