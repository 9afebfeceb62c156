# SPDX-License-Identifier: Apache-2.0
"""SimpleRNN, LSTM, GRU: one projection of all time steps, then the loop.

The inputs of all steps are projected at once, p = x W + b, and p is tapped.
Its cotangent dp[t] is that of the whole pre-activation at step t, so it gives
the kernel (with x[t]), the recurrent kernel (with h[t-1]) and the bias; the
loop needs to be run only once and no gradient is formed inside of it.
"""

import keras
from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import rule

_CELLS = {
    keras.layers.SimpleRNN: keras.layers.SimpleRNNCell,
    keras.layers.LSTM: keras.layers.LSTMCell,
    keras.layers.GRU: keras.layers.GRUCell,
}


class RecurrentRule(rule.Rule):
    """Kernel, recurrent kernel and bias from the projected inputs."""

    covers_sublayers = True

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for the three layers with their own cells, not stateful."""
        for layer_class, cell_class in _CELLS.items():
            if keras_internals.uses_own_call(layer, layer_class):
                cell = layer.cell
                return (
                    keras_internals.uses_own_call(cell, cell_class)
                    and not layer.stateful
                    and not _has_gate_masks(cell)
                    and rule.only_uses(
                        variables,
                        cell.kernel,
                        cell.recurrent_kernel,
                        cell.bias,
                    )
                )
        return False

    def forward(self, layer, call, tap, args, kwargs):
        """Saves inputs, previous states and reset gates of all steps."""
        saved = {}

        def inner_loop(sequences, initial_state, mask, training=False):
            return _run(
                layer, tap, saved, sequences, initial_state, mask, training
            )

        with keras_internals.added_attribute(layer, "inner_loop", inner_loop):
            outputs = call(*args, **kwargs)
        return outputs, saved

    def terms(self, layer, saved, cotangents):
        """Returns the terms of kernel, recurrent kernel and bias."""
        cell = layer.cell
        (cotangent,) = cotangents
        inputs = ops.cast(saved["inputs"], "float32")
        previous = ops.cast(saved["previous"], "float32")
        reset = saved.get("reset")
        pairs = [
            (
                cell.kernel,
                gradient_terms.OuterProduct(
                    inputs, cotangent, cell.kernel.shape
                ),
            )
        ]
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
            term = _reset_before_term(cell, previous, reset, cotangent)
        else:
            term = gradient_terms.OuterProduct(
                previous, recurrent, cell.recurrent_kernel.shape
            )
        pairs.append((cell.recurrent_kernel, term))
        if cell.bias is not None:
            bias = ops.sum(cotangent, axis=1)
            if len(cell.bias.shape) == 2:
                bias = ops.stack([bias, ops.sum(recurrent, axis=1)], axis=1)
            pairs.append((cell.bias, gradient_terms.Instantiated(bias)))
        return pairs


def _reset_before_term(cell, previous, reset, cotangent):
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
    return gradient_terms.Instantiated(stack)


def _has_gate_masks(cell) -> bool:
    """True if dropout draws a mask for each gate: another computation."""
    dropout = cell.dropout or cell.recurrent_dropout
    return bool(dropout) and getattr(cell, "implementation", 2) == 1


def _run(layer, tap, saved, sequences, initial_state, mask, training):
    """Runs the loop over time as `layer.inner_loop` does, with a tap."""
    cell = layer.cell
    states = initial_state
    if not isinstance(states, (list, tuple)):
        states = [states]
    if isinstance(mask, (list, tuple)):
        mask = mask[0]
    if layer.go_backwards:
        sequences = ops.flip(sequences, axis=1)
        mask = None if mask is None else ops.flip(mask, axis=1)
    if training and cell.dropout:
        input_mask = cell.get_dropout_mask(sequences[:, 0, :])
        sequences = sequences * input_mask[:, None, :]
    recurrent_mask = None
    # A GRU cell of Keras ignores recurrent_dropout in its fused form, and so
    # does an LSTM cell.
    if training and isinstance(cell, keras.layers.SimpleRNNCell):
        recurrent_mask = cell.get_recurrent_dropout_mask(states[0])
    projected = ops.matmul(sequences, cell.kernel)
    if cell.bias is not None:
        bias = cell.bias[0] if len(cell.bias.shape) == 2 else cell.bias
        projected = projected + ops.cast(bias, projected.dtype)
    projected = tap(projected)
    step = _STEPS[type(cell)](cell, recurrent_mask)
    last, outputs, states = keras_internals.run_recurrence(
        step, projected, states, mask, layer
    )
    units = cell.units
    saved["inputs"] = sequences
    saved["previous"] = outputs[..., units : 2 * units]
    if isinstance(cell, keras.layers.GRUCell):
        saved["reset"] = outputs[..., 2 * units :]
    return last[..., :units], outputs[..., :units], states


def _simple_step(cell, recurrent_mask):
    def step(projected, states):
        previous = states[0]
        if recurrent_mask is not None:
            previous = previous * recurrent_mask
        output = projected + ops.matmul(previous, cell.recurrent_kernel)
        if cell.activation is not None:
            output = cell.activation(output)
        return ops.concatenate([output, previous], axis=-1), [output]

    return step


def _lstm_step(cell, recurrent_mask):
    del recurrent_mask

    def step(projected, states):
        previous, carry = states[0], states[1]
        gates = projected + ops.matmul(previous, cell.recurrent_kernel)
        i, f, c, o = ops.split(gates, 4, axis=-1)
        carry = cell.recurrent_activation(
            f
        ) * carry + cell.recurrent_activation(i) * cell.activation(c)
        output = cell.recurrent_activation(o) * cell.activation(carry)
        return ops.concatenate([output, previous], axis=-1), [output, carry]

    return step


def _gru_step(cell, recurrent_mask):
    del recurrent_mask
    units = cell.units

    def step(projected, states):
        previous = states[0]
        x_z, x_r, x_h = ops.split(projected, 3, axis=-1)
        kernel = cell.recurrent_kernel
        if cell.reset_after:
            inner = ops.matmul(previous, kernel)
            if cell.bias is not None:
                inner = inner + ops.cast(cell.bias[1], inner.dtype)
        else:
            inner = ops.matmul(previous, kernel[:, : 2 * units])
        z = cell.recurrent_activation(x_z + inner[:, :units])
        r = cell.recurrent_activation(x_r + inner[:, units : 2 * units])
        if cell.reset_after:
            candidate = r * inner[:, 2 * units :]
        else:
            candidate = ops.matmul(r * previous, kernel[:, 2 * units :])
        candidate = cell.activation(x_h + candidate)
        output = z * previous + (1 - z) * candidate
        return ops.concatenate([output, previous, r], axis=-1), [output]

    return step


_STEPS = {
    keras.layers.SimpleRNNCell: _simple_step,
    keras.layers.LSTMCell: _lstm_step,
    keras.layers.GRUCell: _gru_step,
}
