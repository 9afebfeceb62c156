# SPDX-License-Identifier: Apache-2.0
"""Where a convolution's kernel lies over its input."""

import dataclasses
import itertools
import math

import numpy as np
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

    def folded(self) -> "Windows":
        """Returns the windows over `fold(padded)`, whose strides are all 1.

        Raises:
            ValueError: If there are strides and dilations above 1 together.
        """
        if max(self.strides) == 1:
            return self
        if max(self.dilation_rate) > 1:
            raise ValueError(
                "strides and dilation_rate must not both be above 1. Received: "
                f"{self.strides} and {self.dilation_rate}. Keras has none such."
            )
        ones = (1,) * len(self.strides)
        sizes = zip(self.kernel_size, self.strides, strict=True)
        return Windows(
            kernel_size=tuple(-(-size // stride) for size, stride in sizes),
            strides=ones,
            dilation_rate=ones,
            padding=((0, 0),) * len(ones),
            num_outputs=self.num_outputs,
        )

    def fold(self, padded):
        """Returns each `strides` consecutive places as channels of one place.

        Cutting windows out of that is several times faster than with strides.

        Args:
            padded: `[B, *spatial, C]`, from `pad`.

        Returns:
            `[B, *places, prod(strides) * C]`.
        """
        if max(self.strides) == 1:
            return padded
        kernel_size = self.folded().kernel_size
        places = [
            n - 1 + k
            for n, k in zip(self.num_outputs, kernel_size, strict=True)
        ]
        lengths = [n * s for n, s in zip(places, self.strides, strict=True)]
        missing = [
            (0, max(0, n - size))
            for n, size in zip(lengths, padded.shape[1:-1], strict=True)
        ]
        channels = padded.shape[-1]
        padded = ops.pad(padded, [(0, 0), *missing, (0, 0)])
        padded = padded[(slice(None), *(slice(0, n) for n in lengths))]
        pairs = itertools.chain(*zip(places, self.strides, strict=True))
        split = ops.reshape(padded, (-1, *pairs, channels))
        rank = len(places)
        axes = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2)]
        split = ops.transpose(split, (*axes, 2 * rank + 1))
        return ops.reshape(
            split, (-1, *places, math.prod(self.strides) * channels)
        )

    def cut_folded(self, gradient, place: int):
        """Returns what of a folded kernel's gradient is the kernel's.

        The folded kernel reaches past the end where its size is no multiple of
        the strides.

        Args:
            gradient: `[U, prod(strides) * C, D]`, at one place of the folded
                kernel.
            place: Which one, the last axis fastest.
        """
        kernel_size = self.folded().kernel_size
        indices = np.unravel_index(place, kernel_size)
        filters = gradient.shape[-1]
        split = ops.reshape(
            gradient,
            (
                -1,
                *self.strides,
                gradient.shape[1] // math.prod(self.strides),
                filters,
            ),
        )
        ends = [
            min(stride, size - int(index) * stride)
            for index, stride, size in zip(
                indices, self.strides, self.kernel_size, strict=True
            )
        ]
        return split[(slice(None), *(slice(0, end) for end in ends))]

    def unfold(self, gradients):
        """Returns the kernel's gradients, `[U, *kernel_size, C, D]`.

        Args:
            gradients: A list, for each place of the folded kernel, of
                `[U, prod(strides) * C, D]`.
        """
        kernel_size = self.folded().kernel_size
        channels = gradients[0].shape[1] // math.prod(self.strides)
        filters = gradients[0].shape[-1]
        stack = ops.reshape(
            ops.stack(gradients, axis=1),
            (-1, *kernel_size, *self.strides, channels, filters),
        )
        rank = len(kernel_size)
        pairs = [(1 + axis, 1 + rank + axis) for axis in range(rank)]
        axes = [0, *itertools.chain(*pairs), 1 + 2 * rank, 2 + 2 * rank]
        lengths = [
            k * s for k, s in zip(kernel_size, self.strides, strict=True)
        ]
        whole = ops.reshape(
            ops.transpose(stack, axes), (-1, *lengths, channels, filters)
        )
        return whole[(slice(None), *(slice(0, k) for k in self.kernel_size))]


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
