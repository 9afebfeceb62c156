# SPDX-License-Identifier: Apache-2.0
"""Attention, AdditiveAttention: scores that trained weights multiply.

With the batch and the positions left out,
    dot:      scores = scale (q . k)
    concat:   scores = weight sum(tanh(scale (q + k)))
    additive: scores = sum(scale tanh(q + k)), one scale for each feature
"""

import keras
from keras import ops

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import rule


class AttentionRule(rule.ClippingRule):
    """Taps what a weight was multiplied into."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for `keras.layers.Attention` and `AdditiveAttention`."""
        if keras_internals.uses_own_call(layer, keras.layers.AdditiveAttention):
            return rule.only_uses(variables, layer.scale)
        return keras_internals.uses_own_call(
            layer, keras.layers.Attention
        ) and rule.only_uses(variables, layer.scale, layer.concat_score_weight)

    def forward(self, layer, call, tap, args, kwargs):
        """Saves, for each tap, the weight and what it multiplies."""
        saved = []

        def multiply(weight, array):
            if weight is None:
                return array
            saved.append((weight, array))
            return tap(ops.multiply(weight, array))

        def calculate_scores(query, key):
            if isinstance(layer, keras.layers.AdditiveAttention):
                summands = multiply(layer.scale, ops.tanh(_sums(query, key)))
                return ops.sum(summands, axis=-1)
            if layer.score_mode == "dot":
                scores = ops.matmul(query, ops.swapaxes(key, -2, -1))
                return multiply(layer.scale, scores)
            summands = ops.tanh(multiply(layer.scale, _sums(query, key)))
            return multiply(
                layer.concat_score_weight, ops.sum(summands, axis=-1)
            )

        with keras_internals.added_attribute(
            layer, "_calculate_scores", calculate_scores
        ):
            return call(*args, **kwargs), saved

    def terms(self, layer, saved, cotangents):
        """Returns the terms of the weights."""
        pairs = []
        for (weight, array), cotangent in zip(saved, cotangents, strict=True):
            product = ops.cast(array, "float32") * cotangent
            pairs.append((weight, rule.bias_term(product, weight.shape)))
        return pairs


def _sums(query, key):
    return ops.expand_dims(query, axis=-2) + ops.expand_dims(key, axis=-3)
