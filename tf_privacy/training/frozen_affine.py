# SPDX-License-Identifier: Apache-2.0
"""A fixed scale and offset for each channel."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tf_privacy")
class FrozenAffine(keras.layers.Layer):
    """What a BatchNormalization computes once its statistics are fixed.

        result[..., c] = inputs[..., c] * scale[c] + offset[c]

    Neither is ever trained, so that the layer costs no noise, and each row is
    computed alone. Masks pass through. Like BatchNormalization, it computes in
    float32 or wider, whatever the dtype of its inputs.

    Args:
        axis: The channels' axis.
        **kwargs: As in `keras.layers.Layer`: name, dtype, trainable (which
            changes nothing).
    """

    def __init__(self, *, axis: int = -1, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis
        self.supports_masking = True
        self.scale = None
        self.offset = None

    def build(self, input_shape):
        """Makes the weights: one number of each kind for a channel.

        Args:
            input_shape: `[B, ...]`; the channels' axis has a known length.
        """
        for name, initializer in (("scale", "ones"), ("offset", "zeros")):
            weight = self.add_weight(
                name=name,
                shape=(input_shape[self.axis],),
                dtype=keras.backend.result_type(self.variable_dtype, "float32"),
                initializer=initializer,
                trainable=False,
                autocast=False,
            )
            setattr(self, name, weight)
        self.input_spec = keras.InputSpec(
            ndim=len(input_shape), axes={self.axis: input_shape[self.axis]}
        )

    def call(self, inputs):
        """Returns the inputs, scaled and shifted.

        Args:
            inputs: `[B, ...]` floating point.
        """
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1
        scale = ops.cast(ops.reshape(self.scale, shape), dtype)
        offset = ops.cast(ops.reshape(self.offset, shape), dtype)
        outputs = ops.cast(inputs, dtype) * scale + offset
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """Returns the inputs' shape.

        Args:
            input_shape: `[B, ...]`.
        """
        return input_shape

    def get_config(self):
        """Returns what `from_config` takes."""
        return {**super().get_config(), "axis": self.axis}
