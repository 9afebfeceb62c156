# SPDX-License-Identifier: Apache-2.0
"""The gradient of one operand of an einsum, as a term.

In `einsum(inputs, kernel -> outputs)` every letter plays one part: the batch;
a *position* is in inputs and outputs, a *width* in inputs and kernel, a *depth*
in kernel and outputs, and a *group* in all three. Inputs and outputs are
interchangeable: the kernel's gradient is
`einsum(inputs, cotangents -> kernel)` for each example.
"""

import dataclasses

from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping.rules import rule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Letters:
    """The letters of each operand, the batch first in inputs and outputs.

    Attributes:
        inputs: Of the input.
        kernel: Of the kernel.
        outputs: Of the output.
    """

    inputs: str
    kernel: str
    outputs: str

    def shared(self, *operands: str) -> str:
        """Returns the kernel's letters that are in all of `operands`.

        Args:
            *operands: Letters of operands.
        """
        return "".join(
            c for c in self.kernel if all(c in other for other in operands)
        )

    def positions(self) -> str:
        """Returns the letters of the positions, without the batch."""
        return "".join(
            c
            for c in self.inputs[1:]
            if c in self.outputs and c not in self.kernel
        )


def parse(equation: str, input_rank: int) -> Letters | None:
    """Returns the letters of an equation, or None if its form is unusual.

    Unusual: a batch axis that is not first, a letter twice in one operand, or
    one that is summed away in a single operand.

    Args:
        equation: Of two operands, as `keras.ops.einsum` takes it.
        input_rank: Axes of the first operand, the batch included.
    """
    left, outputs = equation.replace(" ", "").split("->")
    inputs, kernel = left.split(",")
    if "..." in kernel:
        return None
    if "..." in inputs:
        spare = [c for c in _LETTERS if c not in equation]
        missing = input_rank - (len(inputs) - 3)
        ellipsis = "".join(spare[:missing])
        inputs = inputs.replace("...", ellipsis)
        outputs = outputs.replace("...", ellipsis)
    operands = (inputs, kernel, outputs)
    if any(len(set(o)) != len(o) for o in operands):
        return None
    if not inputs or inputs[:1] != outputs[:1] or inputs[0] in kernel:
        return None
    everything = "".join(operands)
    if any(everything.count(c) < 2 for c in everything):
        return None
    return Letters(inputs=inputs, kernel=kernel, outputs=outputs)


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def spare_letter(letters: Letters) -> str:
    """Returns a letter that no operand has.

    Args:
        letters: From `parse`.
    """
    used = letters.inputs + letters.kernel + letters.outputs
    return next(c for c in _LETTERS if c not in used)


def product_term(inputs, cotangents, letters: Letters, shape):
    """Returns the kernel's term.

    Args:
        inputs: Of the axes `letters.inputs`.
        cotangents: Of the axes `letters.outputs`; float32.
        letters: The einsum's letters.
        shape: The kernel's shape.
    """
    inputs = ops.cast(inputs, "float32")
    shape = tuple(shape)
    if letters.shared(letters.inputs, letters.outputs):
        batch = letters.inputs[0]
        stack = ops.einsum(
            f"{letters.inputs},{letters.outputs}->{batch}{letters.kernel}",
            inputs,
            cotangents,
        )
        return gradient_terms.Instantiated(stack)
    positions = letters.positions()
    width = "".join(c for c in letters.inputs if c in letters.kernel)
    depth = "".join(c for c in letters.outputs if c in letters.kernel)
    sizes = dict(zip(letters.kernel, shape, strict=True))
    order = width + depth
    term = gradient_terms.OuterProduct(
        _gathered(inputs, letters.inputs, positions, width),
        _gathered(cotangents, letters.outputs, positions, depth),
        tuple(sizes[c] for c in order),
    )
    if letters.kernel == order:
        return term
    permutation = (0,) + tuple(order.index(c) + 1 for c in letters.kernel)
    return gradient_terms.Rearranged(
        term, lambda stack: ops.transpose(stack, permutation)
    )


def _gathered(array, letters, positions, channels):
    """Returns `[B, T, C]` with the axes gathered into positions, channels."""
    order = (0,) + tuple(letters.index(c) for c in positions + channels)
    return rule.to_positions(
        ops.transpose(array, order), num_axes=len(channels)
    )
