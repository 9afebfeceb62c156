# SPDX-License-Identifier: Apache-2.0
"""How each family of Keras layers gives its gradient terms.

A rule says how to run a layer so that its linear outputs pass through a tap,
and how to turn the saved inputs and the cotangents at the taps into gradient
terms. A layer without a rule takes the generic path, with the same result.
"""

from tf_privacy.clipping.rules import attention
from tf_privacy.clipping.rules import conv_lstm
from tf_privacy.clipping.rules import convolution
from tf_privacy.clipping.rules import dense
from tf_privacy.clipping.rules import depthwise_convolution
from tf_privacy.clipping.rules import einsum_dense
from tf_privacy.clipping.rules import embedding
from tf_privacy.clipping.rules import normalization
from tf_privacy.clipping.rules import prelu
from tf_privacy.clipping.rules import recurrent
from tf_privacy.clipping.rules import recurrent_cells
from tf_privacy.clipping.rules import rule
from tf_privacy.clipping.rules import separable_convolution
from tf_privacy.clipping.rules import time_distributed
from tf_privacy.clipping.rules import transposed_convolution

Rule = rule.ClippingRule

_RULES = (
    dense.DenseRule(),
    convolution.ConvolutionRule(),
    depthwise_convolution.DepthwiseConvolutionRule(),
    separable_convolution.SeparableConvolutionRule(),
    transposed_convolution.TransposedConvolutionRule(),
    embedding.EmbeddingRule(),
    embedding.ReversibleEmbeddingRule(),
    einsum_dense.EinsumDenseRule(),
    normalization.NormalizationRule(),
    recurrent.RecurrentRule(),
    recurrent_cells.CellRule(),
    conv_lstm.ConvLSTMRule(),
    attention.AttentionRule(),
    prelu.PReLURule(),
)


_OWN_RULES = []


def add_rule(rule: Rule) -> None:
    """Puts a rule before all others.

    Args:
        rule: The rule.
    """
    _OWN_RULES.insert(0, rule)


def find_rule(layer, variables, input_shapes):
    """Returns the rule for a layer, or None.

    Args:
        layer: A built `keras.layers.Layer`.
        variables: The trainable variables that its call reads.
        input_shapes: Static shapes of the tensors that it is called on, batch
            axis included; None for an unknown length.
    """
    within = time_distributed.shapes_within(layer, input_shapes)
    if within is not None:
        found = find_rule(layer.layer, variables, within)
        return found and time_distributed.TimeDistributedRule(found)
    for candidate in (*_OWN_RULES, *_RULES):
        if candidate.supports(layer, variables, input_shapes):
            return candidate
    return None
