# SPDX-License-Identifier: Apache-2.0
"""EinsumDense: z = einsum(equation, x, W) + b; MultiHeadAttention is four."""

import keras

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import einsum_products
from tf_privacy.clipping.rules import lora
from tf_privacy.clipping.rules import rule


class EinsumDenseRule(rule.ClippingRule):
    """The kernel's gradient as outer products, whatever the equation."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for `keras.layers.EinsumDense` with a plain equation."""
        if not keras_internals.uses_own_call(layer, keras.layers.EinsumDense):
            return False
        return (
            rule.only_uses(
                variables, layer._kernel, layer.bias, *lora.factors(layer)
            )
            and len(input_shapes) == 1
            and einsum_products.parse(layer.equation, len(input_shapes[0]))
            is not None
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
        letters = einsum_products.parse(layer.equation, len(saved.shape))
        term = einsum_products.product_term(
            saved, cotangent, letters, layer._kernel.shape
        )
        pairs = [
            (layer._kernel, term),
            *lora.product_pairs(layer, saved, cotangent, letters),
        ]
        if layer.bias is not None:
            pairs.append(
                (layer.bias, rule.bias_term(cotangent, layer.bias.shape))
            )
        return pairs
