# SPDX-License-Identifier: Apache-2.0
"""What every rule answers, and what the rules share."""

import abc

from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals


class ClippingRule(abc.ABC):
    """How one family of layers gives its per-unit gradients.

    Attributes:
        covers_sublayers: Whether the layer's weights belong to a sublayer (a
            cell) that the rule covers with it.
    """

    covers_sublayers = False

    @abc.abstractmethod
    def supports(self, layer, variables, input_shapes) -> bool:
        """Returns whether this rule is exact for that layer.

        Args:
            layer: A built `keras.layers.Layer`.
            variables: The trainable variables that its call reads.
            input_shapes: Static shapes of its input tensors.
        """

    @abc.abstractmethod
    def forward(self, layer, call, tap, args, kwargs):
        """Runs the layer with its linear outputs sent through `tap`.

        Args:
            layer: The layer.
            call: Its `call`.
            tap: Takes a tensor, returns the tensor to go on with.
            args: What `call` is to be called with, by position.
            kwargs: The same, by name.

        Returns:
            The layer's outputs, and whatever `terms` needs later.
        """

    @abc.abstractmethod
    def terms(self, layer, saved, cotangents):
        """Returns a list of (variable, term) pairs.

        Args:
            layer: The layer.
            saved: From `forward`.
            cotangents: One float32 tensor for each tap, of its shape.
        """


def call_with_tapped_activation(layer, call, tap, args, kwargs):
    """Runs a layer that ends in `self.activation`, and taps what goes in."""
    activation = layer.activation
    if activation is None:
        return tap(call(*args, **kwargs))

    def tapped_activation(linear):
        return activation(tap(linear))

    with keras_internals.replaced_attribute(
        layer, "activation", tapped_activation
    ):
        return call(*args, **kwargs)


def only_uses(variables, *own) -> bool:
    """True if every variable read is one of the layer's known ones."""
    return {id(v) for v in variables} <= {id(v) for v in own}


def to_positions(array, num_axes: int = 1):
    """Returns `[B, T, C]` float32: middle axes as T, the last ones as C.

    Args:
        array: `[B, ..., C_1, ..., C_num_axes]`.
        num_axes: How many trailing axes make up C.
    """
    array = ops.cast(array, "float32")
    middle = array.shape[1 : len(array.shape) - num_axes]
    channels = array.shape[len(array.shape) - num_axes :]
    num_channels = 1
    for size in channels:
        num_channels *= size
    if any(size is None for size in middle):
        num_positions = 1
        for size in ops.shape(array)[1 : len(array.shape) - num_axes]:
            num_positions = num_positions * size
    else:
        num_positions = 1
        for size in middle:
            num_positions *= size
    return ops.reshape(array, (-1, num_positions, num_channels))


def bias_term(cotangent, shape):
    """Returns the term of a bias that was added by broadcasting.

    Args:
        cotangent: `[B, ...]` float32.
        shape: The bias's shape; aligned with the last axes of `cotangent`.
    """
    rank = len(cotangent.shape)
    aligned = (1,) * (rank - 1 - len(shape)) + tuple(shape)
    axes = tuple(
        axis
        for axis, size in enumerate(aligned, start=1)
        if size == 1 and cotangent.shape[axis] != 1
    )
    total = ops.sum(cotangent, axis=axes) if axes else cotangent
    return gradient_terms.Instantiated(ops.reshape(total, (-1,) + tuple(shape)))
