# SPDX-License-Identifier: Apache-2.0
"""EinsumDense: z = einsum(equation, x, W) + b; MultiHeadAttention is four."""

import dataclasses

import keras
from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import rule


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Axes:
    """An equation's letters by the part that they play.

    Attributes:
        inputs: Letters of the input, the batch first.
        kernel: Letters of the kernel.
        outputs: Letters of the output, the batch first.
        positions: In input and output but not in the kernel, without batch.
        width: Contracted: in input and kernel only.
        depth: In kernel and output only.
    """

    inputs: str
    kernel: str
    outputs: str
    positions: str
    width: str
    depth: str


def _parse(equation: str, input_rank: int) -> _Axes | None:
    """Returns the parts of an equation, or None if the rule is not for it.

    Not for it: a batch axis that is not first, a letter twice in one operand
    or in all three, or one that is summed away in a single operand.
    """
    left, outputs = equation.replace(" ", "").split("->")
    inputs, kernel = left.split(",")
    if "..." in kernel:
        return None
    if "..." in inputs:
        used = set(equation)
        spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in used]
        missing = input_rank - (len(inputs) - 3)
        ellipsis = "".join(spare[:missing])
        inputs = inputs.replace("...", ellipsis)
        outputs = outputs.replace("...", ellipsis)
    operands = (inputs, kernel, outputs)
    if any(len(set(o)) != len(o) for o in operands):
        return None
    if not inputs or not outputs or inputs[0] != outputs[0]:
        return None
    batch = inputs[0]
    if batch in kernel or set(inputs) & set(kernel) & set(outputs):
        return None
    axes = _Axes(
        inputs=inputs,
        kernel=kernel,
        outputs=outputs,
        positions="".join(
            c for c in inputs[1:] if c in outputs and c not in kernel
        ),
        width="".join(c for c in inputs if c in kernel),
        depth="".join(c for c in outputs if c in kernel),
    )
    covered = {batch, *axes.positions, *axes.width, *axes.depth}
    return axes if covered == set(inputs + kernel + outputs) else None


class EinsumDenseRule(rule.Rule):
    """The kernel's gradient as outer products, whatever the equation."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for `keras.layers.EinsumDense` with a plain equation."""
        if not keras_internals.uses_own_call(layer, keras.layers.EinsumDense):
            return False
        return (
            rule.only_uses(variables, layer._kernel, layer.bias)
            and len(input_shapes) == 1
            and _parse(layer.equation, len(input_shapes[0])) is not None
        )

    def forward(self, layer, call, tap, args, kwargs):
        """Saves the input."""
        inputs = args[0] if args else kwargs["inputs"]
        outputs = rule.call_with_tapped_activation(
            layer, call, tap, args, kwargs
        )
        return outputs, inputs

    def terms(self, layer, saved, cotangents):
        """Returns the kernel's and the bias's terms."""
        (cotangent,) = cotangents
        axes = _parse(layer.equation, len(saved.shape))
        term = gradient_terms.OuterProduct(
            _grouped(saved, axes.inputs, axes.positions, axes.width),
            _grouped(cotangent, axes.outputs, axes.positions, axes.depth),
            _sizes(layer._kernel.shape, axes.kernel, axes.width + axes.depth),
        )
        if axes.kernel != axes.width + axes.depth:
            order = axes.width + axes.depth
            permutation = (0,) + tuple(order.index(c) + 1 for c in axes.kernel)
            term = gradient_terms.Rearranged(
                term, lambda stack: ops.transpose(stack, permutation)
            )
        pairs = [(layer._kernel, term)]
        if layer.bias is not None:
            pairs.append(
                (layer.bias, rule.bias_term(cotangent, layer.bias.shape))
            )
        return pairs


def _sizes(shape, letters, wanted):
    sizes = dict(zip(letters, shape, strict=True))
    return tuple(sizes[c] for c in wanted)


def _grouped(array, letters, positions, channels):
    """Returns `[B, T, C]` with the axes gathered into positions, channels."""
    order = (0,) + tuple(letters.index(c) for c in positions + channels)
    return rule.to_positions(
        ops.transpose(array, order), num_axes=len(channels)
    )
