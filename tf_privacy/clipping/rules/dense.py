# SPDX-License-Identifier: Apache-2.0
"""Dense: z = x W + b on the last axis."""

import keras

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import rule


class DenseRule(rule.Rule):
    """The kernel's gradient is a sum of outer products over positions."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for `keras.layers.Dense` without LoRA or quantisation."""
        return keras_internals.uses_own_call(
            layer, keras.layers.Dense
        ) and rule.only_uses(variables, layer._kernel, layer.bias)

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
        pairs = [
            (
                layer._kernel,
                gradient_terms.OuterProduct(
                    rule.to_positions(saved),
                    rule.to_positions(cotangent),
                    layer._kernel.shape,
                ),
            )
        ]
        if layer.bias is not None:
            pairs.append(
                (layer.bias, rule.bias_term(cotangent, layer.bias.shape))
            )
        return pairs
