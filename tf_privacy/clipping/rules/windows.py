# SPDX-License-Identifier: Apache-2.0
"""Where a convolution's kernel lies over its input."""

import dataclasses
import itertools

from keras import ops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """The places of a kernel over an input, for each spatial axis.

    Output t sees, at place k of the kernel, input
    `t * strides + k * dilation_rate - padding[0]`.

    Attributes:
        kernel_size: Places of the kernel.
        strides: Inputs from one output to the next.
        dilation_rate: Inputs from one place to the next.
        padding: (before, after), the zeros around the input.
        num_outputs: Outputs.
    """

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation_rate: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    num_outputs: tuple[int, ...]

    def pad(self, inputs):
        """Returns the input with its padding, as float32.

        Args:
            inputs: `[B, *spatial, C]`.
        """
        inputs = ops.cast(inputs, "float32")
        if not any(itertools.chain(*self.padding)):
            return inputs
        return ops.pad(inputs, [(0, 0), *self.padding, (0, 0)])

    def extract(self, padded):
        """Returns the padded input as each place of the kernel sees it.

        Args:
            padded: `[B, *spatial, C]`, from `pad`.

        Returns:
            A list, the kernel's last axis fastest, of
            `[B, *num_outputs, C]`.
        """
        return [cut() for cut in self.cuts(padded)]

    def cuts(self, padded):
        """Returns functions without arguments that give what `extract` lists.

        Args:
            padded: `[B, *spatial, C]`, from `pad`.
        """
        slices = [
            [
                slice(k * dilation, k * dilation + (n - 1) * stride + 1, stride)
                for k in range(size)
            ]
            for size, stride, dilation, n in zip(
                self.kernel_size,
                self.strides,
                self.dilation_rate,
                self.num_outputs,
                strict=True,
            )
        ]
        return [
            lambda places=places: padded[(slice(None), *places)]
            for places in itertools.product(*slices)
        ]


def find_windows(layer, spatial, num_outputs) -> Windows:
    """Returns where a layer's kernel lies.

    Args:
        layer: A convolution of Keras, of any kind.
        spatial: The lengths of the input's spatial axes.
        num_outputs: The lengths of the output's.
    """
    axes = zip(
        layer.kernel_size,
        layer.strides,
        layer.dilation_rate,
        spatial,
        num_outputs,
        strict=True,
    )
    return Windows(
        kernel_size=tuple(layer.kernel_size),
        strides=tuple(layer.strides),
        dilation_rate=tuple(layer.dilation_rate),
        padding=tuple(_padding(layer.padding, *axis) for axis in axes),
        num_outputs=tuple(num_outputs),
    )


def _padding(kind, kernel_size, stride, dilation, size, num_outputs):
    """Returns zeros before and after one spatial axis, as Keras pads."""
    reach = (kernel_size - 1) * dilation
    if kind == "valid":
        return 0, 0
    if kind == "causal":
        return reach, 0
    total = max((num_outputs - 1) * stride + reach + 1 - size, 0)
    return total // 2, total - total // 2
