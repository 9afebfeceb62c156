# SPDX-License-Identifier: Apache-2.0
"""How each family of Keras layers gives its gradient terms.

A rule says how to run a layer so that its linear outputs pass through a tap,
and how to turn the saved inputs and the cotangents at the taps into gradient
terms. A layer without a rule takes the generic path, with the same result.
"""

from tf_privacy.clipping.rules import convolution
from tf_privacy.clipping.rules import dense
from tf_privacy.clipping.rules import einsum_dense
from tf_privacy.clipping.rules import embedding
from tf_privacy.clipping.rules import normalization
from tf_privacy.clipping.rules import recurrent
from tf_privacy.clipping.rules import rule

Rule = rule.Rule

_RULES = (
    dense.DenseRule(),
    convolution.ConvolutionRule(),
    embedding.EmbeddingRule(),
    einsum_dense.EinsumDenseRule(),
    normalization.NormalizationRule(),
    recurrent.RecurrentRule(),
)


def find_rule(layer, variables, input_shapes):
    """Returns the rule for a layer, or None.

    Args:
        layer: A built `keras.layers.Layer`.
        variables: The trainable variables that its call reads.
        input_shapes: Static shapes of the tensors that it is called on, batch
            axis included; None for an unknown length.
    """
    for candidate in _RULES:
        if candidate.supports(layer, variables, input_shapes):
            return candidate
    return None
