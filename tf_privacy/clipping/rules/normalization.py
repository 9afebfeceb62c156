# SPDX-License-Identifier: Apache-2.0
"""Normalisations within an example: y = gamma * normalised(x) + beta."""

import keras
from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import rule

_LAYERS = (
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.RMSNormalization,
)


class NormalizationRule(rule.ClippingRule):
    """Runs the layer with gamma 1 and beta 0 to see what gamma multiplies."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for Layer-, Group- and RMSNormalization."""
        return any(
            keras_internals.uses_own_call(layer, c) for c in _LAYERS
        ) and rule.only_uses(variables, *_weights(layer))

    def forward(self, layer, call, tap, args, kwargs):
        """Saves the normalised input."""
        gamma, beta = _weights(layer)
        neutral = []
        if gamma is not None:
            neutral.append((gamma, ops.ones(gamma.shape)))
        if beta is not None:
            neutral.append((beta, ops.zeros(beta.shape)))
        with keras_internals.InnerScope(neutral):
            normalised = call(*args, **kwargs)
        shape = _parameter_shape(layer, normalised)
        outputs = normalised
        if gamma is not None:
            outputs = outputs * ops.cast(
                ops.reshape(gamma, shape), outputs.dtype
            )
        if beta is not None:
            outputs = outputs + ops.cast(
                ops.reshape(beta, shape), outputs.dtype
            )
        return tap(outputs), (normalised, shape)

    def terms(self, layer, saved, cotangents):
        """Returns gamma's and beta's terms."""
        gamma, beta = _weights(layer)
        normalised, shape = saved
        (cotangent,) = cotangents
        pairs = []
        if gamma is not None:
            product = cotangent * ops.cast(normalised, "float32")
            pairs.append((gamma, _sum_term(product, shape, gamma)))
        if beta is not None:
            pairs.append((beta, _sum_term(cotangent, shape, beta)))
        return pairs


def _weights(layer):
    """Returns gamma and beta; None for one that the layer does not have."""
    if isinstance(layer, keras.layers.RMSNormalization):
        return layer.scale, None
    return layer.gamma, layer.beta


def _parameter_shape(layer, outputs):
    """Returns the shape, batch axis included, in which weights broadcast."""
    rank = len(outputs.shape)
    if isinstance(layer, keras.layers.RMSNormalization):
        # Keras puts the scale on the last axes, whichever it normalises.
        own = tuple(layer.scale.shape)
        return (1,) * (rank - len(own)) + own
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    axes = {axis % rank for axis in axes}
    return tuple(
        outputs.shape[axis] if axis in axes else 1 for axis in range(rank)
    )


def _sum_term(array, shape, variable):
    total = rule.bias_term(array, shape[1:]).instantiate()
    return gradient_terms.Instantiated(
        ops.reshape(total, (-1,) + tuple(variable.shape))
    )
