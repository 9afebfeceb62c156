# SPDX-License-Identifier: Apache-2.0
"""Embedding: z[b, t] = table[ids[b, t]]; reversed: z = x table^T."""

import keras
from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import einsum_products
from tf_privacy.clipping.rules import lora
from tf_privacy.clipping.rules import rule


class EmbeddingRule(rule.ClippingRule):
    """The table's gradient is a scatter of the cotangents; never dense."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for `keras.layers.Embedding` without quantisation."""
        return keras_internals.uses_own_call(
            layer, keras.layers.Embedding
        ) and rule.only_uses(variables, layer._embeddings, *lora.factors(layer))

    def forward(self, layer, call, tap, args, kwargs):
        """Saves the rows of the table that were looked up."""
        indices = args[0] if args else kwargs["inputs"]
        indices = ops.cast(indices, "int32")
        # As Keras looks them up: from the end of the table.
        indices = ops.where(indices < 0, indices + layer.input_dim, indices)
        return tap(call(*args, **kwargs)), indices

    def terms(self, layer, saved, cotangents):
        """Returns the table's term, or those of its adaptation."""
        (cotangent,) = cotangents
        indices = rule.to_positions(saved, num_axes=0)[..., 0]
        indices = ops.cast(indices, "int32")
        cotangent = rule.to_positions(cotangent)
        table = layer._embeddings
        pairs = [
            (table, gradient_terms.Gather(indices, cotangent, table.shape[0]))
        ]
        if lora.factors(layer):
            pairs += _adaptation_pairs(layer, indices, cotangent)
        return pairs


def _adaptation_pairs(layer, indices, cotangent):
    """Returns A and B with their terms: z = table[ids] + scale A[ids] B."""
    a, b = lora.factors(layer)
    a_value, b_value = lora.scaled_values(layer)
    narrow = ops.matmul(cotangent, ops.transpose(b_value))
    looked_up = ops.take(lora.scale(layer) * a_value, indices, axis=0)
    return [
        (a, gradient_terms.Gather(indices, narrow, a.shape[0])),
        (b, gradient_terms.OuterProduct(looked_up, cotangent, b.shape)),
    ]


class ReversibleEmbeddingRule(EmbeddingRule):
    """Forwards as an embedding; backwards as a product with the table."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for `keras.layers.ReversibleEmbedding`, not quantised."""
        return keras_internals.uses_own_call(
            layer, keras.layers.ReversibleEmbedding
        ) and rule.only_uses(
            variables,
            layer._embeddings,
            None if layer.tie_weights else layer.reverse_embeddings,
            *lora.factors(layer),
        )

    def forward(self, layer, call, tap, args, kwargs):
        """Saves whether the call is reversed, and its input."""
        reverse = args[1] if len(args) > 1 else kwargs.get("reverse", False)
        if not reverse:
            outputs, indices = super().forward(layer, call, tap, args, kwargs)
            return outputs, (False, indices)
        inputs = args[0] if args else kwargs["inputs"]
        if layer.reverse_dtype is not None:
            inputs = ops.cast(inputs, layer.reverse_dtype)
        cap = layer.logit_soft_cap
        with keras_internals.replaced_attribute(layer, "logit_soft_cap", None):
            logits = tap(call(*args, **kwargs))
        if cap is not None:
            logits = ops.multiply(ops.tanh(ops.divide(logits, cap)), cap)
        return logits, (True, inputs)

    def terms(self, layer, saved, cotangents):
        """Returns the terms of the table or tables that this call uses."""
        reverse, saved = saved
        if not reverse:
            return super().terms(layer, saved, cotangents)
        inputs = rule.to_positions(saved)
        cotangent = rule.to_positions(cotangents[0])
        if not layer.tie_weights:
            table = layer.reverse_embeddings
            term = gradient_terms.OuterProduct(inputs, cotangent, table.shape)
            return [(table, term)]
        table = layer._embeddings
        term = gradient_terms.OuterProduct(cotangent, inputs, table.shape)
        # The table is [V, D]: the logits have its first axis.
        letters = einsum_products.Letters(
            inputs="btv", kernel="vd", outputs="btd"
        )
        return [
            (table, term),
            *lora.product_pairs(layer, cotangent, inputs, letters),
        ]
