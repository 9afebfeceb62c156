# SPDX-License-Identifier: Apache-2.0
"""Dense: z = x W + b on the last axis."""

import keras

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import einsum_products
from tf_privacy.clipping.rules import lora
from tf_privacy.clipping.rules import rule


class DenseRule(rule.ClippingRule):
    """The kernel's gradient is a sum of outer products over positions."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for `keras.layers.Dense` without quantisation."""
        return keras_internals.uses_own_call(
            layer, keras.layers.Dense
        ) and rule.only_uses(
            variables, layer._kernel, layer.bias, *lora.factors(layer)
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
        inputs = rule.to_positions(saved)
        positions = rule.to_positions(cotangent)
        kernel = layer._kernel
        term = gradient_terms.OuterProduct(inputs, positions, kernel.shape)
        pairs = [(kernel, term)]
        letters = einsum_products.Letters(
            inputs="btp", kernel="pd", outputs="btd"
        )
        pairs += lora.product_pairs(layer, inputs, positions, letters)
        if layer.bias is not None:
            pairs.append(
                (layer.bias, rule.bias_term(cotangent, layer.bias.shape))
            )
        return pairs
