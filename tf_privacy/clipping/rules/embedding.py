# SPDX-License-Identifier: Apache-2.0
"""Embedding: z[b, t] = table[ids[b, t]]."""

import keras
from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import rule


class EmbeddingRule(rule.Rule):
    """The table's gradient is a scatter of the cotangents; never dense."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for `keras.layers.Embedding` without LoRA or quantisation."""
        return keras_internals.uses_own_call(
            layer, keras.layers.Embedding
        ) and rule.only_uses(variables, layer._embeddings)

    def forward(self, layer, call, tap, args, kwargs):
        """Saves the indices."""
        indices = args[0] if args else kwargs["inputs"]
        return tap(call(*args, **kwargs)), ops.cast(indices, "int32")

    def terms(self, layer, saved, cotangents):
        """Returns the table's term."""
        (cotangent,) = cotangents
        indices = rule.to_positions(saved, num_axes=0)[..., 0]
        return [
            (
                layer._embeddings,
                gradient_terms.Gather(
                    ops.cast(indices, "int32"),
                    rule.to_positions(cotangent),
                    layer._embeddings.shape[0],
                ),
            )
        ]
