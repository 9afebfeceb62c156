# SPDX-License-Identifier: Apache-2.0
"""TimeDistributed: the layer within, once for the steps of all examples.

Keras calls the layer within at each step. Called once on `[B * T, ...]` it
gives the same outputs, and terms of B * T gradients of which each T
consecutive ones make up an example.
"""

import keras
from keras import ops

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import rule
from tf_privacy.clipping.rules import steps


def shapes_within(layer, input_shapes):
    """Returns the shapes that the layer within is called on.

    Args:
        layer: Any layer.
        input_shapes: Static shapes of the tensors that it is called on.

    Returns:
        A tuple of shapes, or None if `layer` is no `TimeDistributed` or its
        number of steps is unknown.
    """
    if not keras_internals.uses_own_call(layer, keras.layers.TimeDistributed):
        return None
    if input_shapes[0][1] is None:
        return None
    shapes = tuple((None, *shape[2:]) for shape in input_shapes)
    takes_mask = keras_internals.takes_argument(layer.layer, "mask")
    return shapes if takes_mask else shapes[:1]


class TimeDistributedRule(rule.ClippingRule):
    """The rule of the layer within, with the steps folded into the batch.

    Args:
        within: The rule of the layer within.
    """

    covers_sublayers = True

    def __init__(self, within):
        self._within = within

    def supports(self, layer, variables, input_shapes) -> bool:
        """True where the other rule is exact for the layer within."""
        shapes = shapes_within(layer, input_shapes)
        return shapes is not None and self._within.supports(
            layer.layer, variables, shapes
        )

    def forward(self, layer, call, tap, args, kwargs):
        """Saves the number of steps, and what the other rule saves."""
        given = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
        inputs, mask = given["inputs"], given.get("mask")
        num_steps = ops.shape(inputs)[1]
        options = {}
        if mask is not None and keras_internals.takes_argument(
            layer.layer, "mask"
        ):
            options["mask"] = steps.fold(mask)
        if keras_internals.takes_argument(layer.layer, "training"):
            options["training"] = given.get("training")
        outputs, saved = self._within.forward(
            layer.layer, layer.layer.call, tap, (steps.fold(inputs),), options
        )
        return steps.unfold(outputs, num_steps), (num_steps, saved)

    def terms(self, layer, saved, cotangents):
        """Returns the other rule's terms, summed over the steps."""
        num_steps, saved = saved
        pairs = self._within.terms(layer.layer, saved, cotangents)
        return [
            (variable, steps.join(term, num_steps)) for variable, term in pairs
        ]


_ARGUMENTS = ("inputs", "training", "mask")
