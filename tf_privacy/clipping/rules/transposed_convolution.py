# SPDX-License-Identifier: Apache-2.0
"""Conv1DTranspose, Conv2DTranspose, Conv3DTranspose.

A transposed convolution maps the outputs of a convolution to its inputs, so
that the gradient of their common kernel is that of the convolution, with input
and cotangent exchanged.
"""

import keras
from keras import ops

from tf_privacy.clipping.rules import convolutional
from tf_privacy.clipping.rules import filter_gradient
from tf_privacy.clipping.rules import windows


class TransposedConvolutionRule(convolutional.ConvolutionalRule):
    """The kernel's gradient as that of a convolution over the cotangent."""

    layer_classes = (
        keras.layers.Conv1DTranspose,
        keras.layers.Conv2DTranspose,
        keras.layers.Conv3DTranspose,
    )

    def kernels(self, layer) -> tuple:
        """Returns the kernel.

        Args:
            layer: The layer.
        """
        return (layer.kernel,)

    def kernel_pairs(self, layer, inputs, cotangent) -> list:
        """Returns the kernel's term.

        Args:
            layer: The layer.
            inputs: `[B, *spatial, C]`.
            cotangent: `[B, *output_size, D]` float32.
        """
        places = windows.find_windows(
            layer, cotangent.shape[1:-1], inputs.shape[1:-1]
        )
        term = filter_gradient.filter_term(
            places,
            cotangent,
            ops.cast(inputs, "float32"),
            layer.kernel.shape,
        )
        return [(layer.kernel, term)]
