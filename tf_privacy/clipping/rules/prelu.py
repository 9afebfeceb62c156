# SPDX-License-Identifier: Apache-2.0
"""PReLU: y = max(x, 0) + alpha min(x, 0)."""

import keras
from keras import ops

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import rule


class PReLURule(rule.ClippingRule):
    """Alpha's gradient is the cotangent times min(x, 0)."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for `keras.layers.PReLU`."""
        return keras_internals.uses_own_call(
            layer, keras.layers.PReLU
        ) and rule.only_uses(variables, layer.alpha)

    def forward(self, layer, call, tap, args, kwargs):
        """Saves the input."""
        inputs = args[0] if args else kwargs["inputs"]
        return tap(call(*args, **kwargs)), inputs

    def terms(self, layer, saved, cotangents):
        """Returns alpha's term."""
        (cotangent,) = cotangents
        product = cotangent * ops.minimum(ops.cast(saved, "float32"), 0.0)
        return [(layer.alpha, rule.bias_term(product, layer.alpha.shape))]
