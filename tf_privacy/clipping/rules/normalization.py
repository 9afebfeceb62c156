# SPDX-License-Identifier: Apache-2.0
"""Normalisations within an example: y = gamma * normalised(x) + beta."""

import keras
from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import rule

_LAYERS = (keras.layers.LayerNormalization, keras.layers.GroupNormalization)


class NormalizationRule(rule.Rule):
    """Runs the layer with gamma 1 and beta 0 to see what gamma multiplies."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for Layer- and GroupNormalization."""
        return any(
            keras_internals.uses_own_call(layer, c) for c in _LAYERS
        ) and rule.only_uses(variables, layer.gamma, layer.beta)

    def forward(self, layer, call, tap, args, kwargs):
        """Saves the normalised input."""
        inputs = args[0] if args else kwargs["inputs"]
        neutral = []
        if layer.gamma is not None:
            neutral.append((layer.gamma, ops.ones(layer.gamma.shape)))
        if layer.beta is not None:
            neutral.append((layer.beta, ops.zeros(layer.beta.shape)))
        with keras.StatelessScope(neutral):
            normalised = call(*args, **kwargs)
        shape = _parameter_shape(layer, inputs)
        outputs = normalised
        if layer.gamma is not None:
            outputs = outputs * ops.cast(
                ops.reshape(layer.gamma, shape), outputs.dtype
            )
        if layer.beta is not None:
            outputs = outputs + ops.cast(
                ops.reshape(layer.beta, shape), outputs.dtype
            )
        return tap(outputs), (normalised, shape)

    def terms(self, layer, saved, cotangents):
        """Returns gamma's and beta's terms."""
        normalised, shape = saved
        (cotangent,) = cotangents
        pairs = []
        if layer.gamma is not None:
            product = cotangent * ops.cast(normalised, "float32")
            pairs.append((layer.gamma, _sum_term(product, shape, layer.gamma)))
        if layer.beta is not None:
            pairs.append((layer.beta, _sum_term(cotangent, shape, layer.beta)))
        return pairs


def _axes(layer, rank):
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return {axis % rank for axis in axes}


def _parameter_shape(layer, inputs):
    rank = len(inputs.shape)
    axes = _axes(layer, rank)
    return tuple(
        inputs.shape[axis] if axis in axes else 1 for axis in range(rank)
    )


def _sum_term(array, shape, variable):
    total = rule.bias_term(array, shape[1:]).instantiate()
    return gradient_terms.Instantiated(
        ops.reshape(total, (-1,) + tuple(variable.shape))
    )
