# SPDX-License-Identifier: Apache-2.0
"""SimpleRNNCell, LSTMCell, GRUCell: their steps, and their weights' terms.

Of a cell's pre-activation `x W + h U + b` the projected input `p = x W + b` is
computed beforehand, for as many steps as are known, and tapped. Its cotangent
dp[t] is that of the whole pre-activation at step t, so it gives the kernel
(with x[t]), the recurrent kernel (with h[t-1]) and the bias.
"""

import keras
from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import rule


def is_own_cell(cell) -> bool:
    """Returns whether a cell computes what is computed here.

    Args:
        cell: A recurrent cell.
    """
    if not any(keras_internals.uses_own_call(cell, c) for c in _STEPS):
        return False
    # Not all cells of Keras drop out at a rate of 1.
    return cell.dropout < 1.0 and cell.recurrent_dropout < 1.0


def weights(cell) -> tuple:
    """Returns a cell's weights; None for a bias that it does not have.

    Args:
        cell: A cell for which `is_own_cell` is true.
    """
    return cell.kernel, cell.recurrent_kernel, cell.bias


def project(cell, tap, sequences, states, training):
    """Projects the inputs of all known steps.

    Args:
        cell: A cell for which `is_own_cell` is true.
        tap: Takes a tensor, returns the tensor to go on with.
        sequences: `[B, T, F]` inputs.
        states: The cell's states before the first step, a list.
        training: Whether there is dropout.

    Returns:
        What `pairs` needs of the inputs, by name; what they gave; and
        `step(projected[:, t], states) -> (seen, states)`, where the first
        entries of `seen` are the output and the rest is for `split_seen`.
    """
    input_masks = recurrent_masks = None
    if training:
        input_masks = _as_list(cell.get_dropout_mask(sequences[:, 0, :]))
        recurrent_masks = _as_list(cell.get_recurrent_dropout_mask(states[0]))
    projected = _multiply(
        sequences,
        input_masks and [mask[:, None, :] for mask in input_masks],
        cell.kernel,
    )
    if cell.bias is not None:
        bias = cell.bias[0] if len(cell.bias.shape) == 2 else cell.bias
        projected = projected + ops.cast(bias, projected.dtype)
    known = {
        "inputs": sequences,
        "input_masks": input_masks,
        "recurrent_masks": recurrent_masks,
    }
    step = _STEPS[type(cell)](cell, recurrent_masks)
    return known, tap(projected), step


def _as_list(masks):
    return [masks] if ops.is_tensor(masks) else masks


def _multiply(array, masks, kernel):
    """Returns `array @ kernel`, for each gate's columns under its own mask.

    Args:
        array: `[B, ..., F]`.
        masks: None, or a list of one mask for all gates or one for each.
        kernel: `[F, D]`.
    """
    if masks is None:
        return ops.matmul(array, kernel)
    parts = ops.split(kernel, len(masks), axis=1)
    products = [
        ops.matmul(array * mask, part)
        for mask, part in zip(masks, parts, strict=True)
    ]
    return ops.concatenate(products, axis=-1)


def split_seen(cell, seen) -> dict:
    """Returns what `pairs` needs of what the steps returned, by name.

    Args:
        cell: The cell.
        seen: `[B, T, ...]`; the first results of all steps.
    """
    units = cell.units
    parts = {"previous": seen[..., units : 2 * units]}
    if isinstance(cell, keras.layers.GRUCell):
        parts["reset"] = seen[..., 2 * units :]
    return parts


def pairs(cell, saved, cotangent):
    """Returns a cell's weights with their terms.

    Args:
        cell: The cell.
        saved: From `project` and `split_seen`.
        cotangent: `[B, T, ...]` float32; of what the inputs gave.
    """
    previous = ops.cast(saved["previous"], "float32")
    masks = saved["recurrent_masks"]
    reset = saved.get("reset")
    term = _masked_term(
        ops.cast(saved["inputs"], "float32"),
        saved["input_masks"],
        cotangent,
        cell.kernel.shape,
    )
    found = [(cell.kernel, term)]
    recurrent = cotangent
    if reset is not None and cell.reset_after:
        gates = 2 * cell.units
        recurrent = ops.concatenate(
            [
                cotangent[..., :gates],
                cotangent[..., gates:] * ops.cast(reset, "float32"),
            ],
            axis=-1,
        )
    if reset is not None and not cell.reset_after:
        term = _reset_before_term(cell, previous, reset, masks, cotangent)
    else:
        term = _masked_term(
            previous, masks, recurrent, cell.recurrent_kernel.shape
        )
    found.append((cell.recurrent_kernel, term))
    if cell.bias is not None:
        bias = ops.sum(cotangent, axis=1)
        if len(cell.bias.shape) == 2:
            bias = ops.stack([bias, ops.sum(recurrent, axis=1)], axis=1)
        found.append((cell.bias, gradient_terms.Instantiated(bias)))
    return found


def _masked_term(array, masks, cotangent, shape):
    """Returns the term of a kernel, of `[B, T, F]` seen under masks."""
    if masks is not None and len(masks) == 1:
        array = array * ops.cast(masks[0], "float32")[:, None, :]
        masks = None
    term = gradient_terms.OuterProduct(array, cotangent, shape)
    return _with_gate_masks(term, masks)


def _with_gate_masks(term, masks):
    """Returns a kernel's term once the gates' masks have been applied."""
    if masks is None:
        return term
    # A mask is the same at all steps: it comes out of the sum over them.
    stack = term.instantiate()
    factors = ops.cast(ops.stack(masks, axis=-1), "float32")
    factors = ops.repeat(factors, stack.shape[-1] // len(masks), axis=-1)
    return gradient_terms.Instantiated(stack * factors)


def _reset_before_term(cell, previous, reset, masks, cotangent):
    """Returns the recurrent kernel's term where r multiplies h first."""
    gates = 2 * cell.units
    candidate = previous * ops.cast(reset, "float32")
    stack = ops.concatenate(
        [
            ops.matmul(ops.swapaxes(previous, 1, 2), cotangent[..., :gates]),
            ops.matmul(ops.swapaxes(candidate, 1, 2), cotangent[..., gates:]),
        ],
        axis=-1,
    )
    return _with_gate_masks(gradient_terms.Instantiated(stack), masks)


def _simple_step(cell, masks):
    def step(projected, states):
        previous = states[0]
        output = projected + _multiply(previous, masks, cell.recurrent_kernel)
        if cell.activation is not None:
            output = cell.activation(output)
        return ops.concatenate([output, previous], axis=-1), [output]

    return step


def _lstm_step(cell, masks):
    def step(projected, states):
        previous, carry = states[0], states[1]
        gates = projected + _multiply(previous, masks, cell.recurrent_kernel)
        i, f, c, o = ops.split(gates, 4, axis=-1)
        carry = cell.recurrent_activation(
            f
        ) * carry + cell.recurrent_activation(i) * cell.activation(c)
        output = cell.recurrent_activation(o) * cell.activation(carry)
        return ops.concatenate([output, previous], axis=-1), [output, carry]

    return step


def _gru_step(cell, masks):
    units = cell.units

    def step(projected, states):
        previous = states[0]
        x_z, x_r, x_h = ops.split(projected, 3, axis=-1)
        kernel = cell.recurrent_kernel
        if cell.reset_after:
            inner = _multiply(previous, masks, kernel)
            if cell.bias is not None:
                inner = inner + ops.cast(cell.bias[1], inner.dtype)
        else:
            inner = _multiply(
                previous, masks and masks[:2], kernel[:, : 2 * units]
            )
        z = cell.recurrent_activation(x_z + inner[:, :units])
        r = cell.recurrent_activation(x_r + inner[:, units : 2 * units])
        if cell.reset_after:
            candidate = r * inner[:, 2 * units :]
        else:
            candidate = _multiply(
                r * previous, masks and masks[2:], kernel[:, 2 * units :]
            )
        candidate = cell.activation(x_h + candidate)
        output = z * previous + (1 - z) * candidate
        return ops.concatenate([output, previous, r], axis=-1), [output]

    return step


_STEPS = {
    keras.layers.SimpleRNNCell: _simple_step,
    keras.layers.LSTMCell: _lstm_step,
    keras.layers.GRUCell: _gru_step,
}


_ARGUMENTS = ("inputs", "states", "training")


class CellRule(rule.ClippingRule):
    """A cell that a model calls by itself, one step at a time."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for Keras's own cells."""
        return is_own_cell(layer) and rule.only_uses(variables, *weights(layer))

    def forward(self, layer, call, tap, args, kwargs):
        """Saves input, previous state and reset gate."""
        given = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
        # A SimpleRNNCell calls its input `sequence`.
        inputs = given["inputs" if "inputs" in given else "sequence"]
        states = given["states"]
        nested = isinstance(states, (list, tuple))
        states = list(states) if nested else [states]
        known, projected, step = project(
            layer, tap, inputs[:, None], states, given.get("training")
        )
        seen, states = step(projected[:, 0], states)
        saved = known | split_seen(layer, seen[:, None])
        outputs = seen[..., : layer.units]
        return (outputs, states if nested else states[0]), saved

    def terms(self, layer, saved, cotangents):
        """Returns the terms of kernel, recurrent kernel and bias."""
        (cotangent,) = cotangents
        return pairs(layer, saved, cotangent)
