# SPDX-License-Identifier: Apache-2.0
"""ConvLSTM1D, 2D, 3D: an LSTM whose products are convolutions.

As for the other recurrent layers, the inputs of all steps are convolved at
once and tapped, and the cotangent there gives both kernels and the bias.
"""

import types

import keras
from keras import ops

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import convolutional
from tf_privacy.clipping.rules import filter_gradient
from tf_privacy.clipping.rules import rule
from tf_privacy.clipping.rules import steps
from tf_privacy.clipping.rules import windows

_LAYERS = (
    keras.layers.ConvLSTM1D,
    keras.layers.ConvLSTM2D,
    keras.layers.ConvLSTM3D,
)


class ConvLSTMRule(rule.ClippingRule):
    """Kernel, recurrent kernel and bias from the convolved inputs."""

    covers_sublayers = True

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for the layers themselves, without dropout, not stateful."""
        if not any(keras_internals.uses_own_call(layer, c) for c in _LAYERS):
            return False
        cell = layer.cell
        return (
            keras_internals.uses_own_call(cell, keras_internals.ConvLSTMCell)
            and cell.compute_dtype == layer.compute_dtype
            and not layer.stateful
            and not (cell.dropout or cell.recurrent_dropout)
            and rule.only_uses(
                variables, cell.kernel, cell.recurrent_kernel, cell.bias
            )
        )

    def forward(self, layer, call, tap, args, kwargs):
        """Saves inputs and previous outputs of all steps."""
        saved = {}

        def inner_loop(sequences, initial_state, mask, training=False):
            del training
            return _run(layer, tap, saved, sequences, initial_state, mask)

        with keras_internals.added_attribute(layer, "inner_loop", inner_loop):
            outputs = call(*args, **kwargs)
        return outputs, saved

    def terms(self, layer, saved, cotangents):
        """Returns the terms of kernel, recurrent kernel and bias."""
        cell = layer.cell
        num_steps = ops.shape(saved["inputs"])[1]
        inputs, previous, cotangent = (
            convolutional.channels_last(cell, steps.fold(array))
            for array in (saved["inputs"], saved["previous"], cotangents[0])
        )
        lengths = cotangent.shape[1:-1]
        places = windows.find_windows(cell, inputs.shape[1:-1], lengths)
        term = filter_gradient.filter_term(
            places, inputs, cotangent, cell.kernel.shape
        )
        pairs = [(cell.kernel, steps.join(term, num_steps))]
        places = windows.find_windows(_recurrent(cell), lengths, lengths)
        term = filter_gradient.filter_term(
            places, previous, cotangent, cell.recurrent_kernel.shape
        )
        pairs.append((cell.recurrent_kernel, steps.join(term, num_steps)))
        if cell.bias is not None:
            cotangent = steps.unfold(cotangent, num_steps)
            term = rule.bias_term(cotangent, cell.bias.shape)
            pairs.append((cell.bias, term))
        return pairs


def _recurrent(cell):
    """Returns the settings of the convolution with the previous output."""
    ones = (1,) * cell.rank
    return types.SimpleNamespace(
        kernel_size=cell.kernel_size,
        strides=ones,
        dilation_rate=ones,
        padding="same",
    )


def _channel_axis(cell) -> int:
    return 1 if cell.data_format == "channels_first" else -1


def _convolve(cell, sequences):
    """Returns the convolved inputs of all steps and gates, with the bias."""
    num_steps = ops.shape(sequences)[1]
    inputs = steps.fold(sequences)
    outputs = cell.input_conv(inputs, cell.kernel, padding=cell.padding)
    # Keras loses the lengths where it dilates.
    shape = list(cell.compute_output_shape((None, *inputs.shape[1:]))[0])
    shape[_channel_axis(cell)] = 4 * cell.filters
    outputs = ops.reshape(outputs, (-1, *shape[1:]))
    if cell.bias is not None:
        bias_shape = [1] * len(shape)
        bias_shape[_channel_axis(cell)] = 4 * cell.filters
        outputs = outputs + ops.reshape(cell.bias, bias_shape)
    return steps.unfold(outputs, num_steps)


def _run(layer, tap, saved, sequences, initial_state, mask):
    """Runs the loop over time as `layer.inner_loop` does, with a tap."""
    cell = layer.cell
    axis = _channel_axis(cell)
    if isinstance(mask, (list, tuple)):
        mask = mask[0]
    if layer.go_backwards:
        sequences = ops.flip(sequences, axis=1)
        mask = None if mask is None else ops.flip(mask, axis=1)

    def step(convolved, states):
        previous, carry = states
        gates = convolved + cell.recurrent_conv(previous, cell.recurrent_kernel)
        i, f, c, o = ops.split(gates, 4, axis=axis)
        carry = cell.recurrent_activation(
            f
        ) * carry + cell.recurrent_activation(i) * cell.activation(c)
        output = cell.recurrent_activation(o) * cell.activation(carry)
        return ops.concatenate([output, previous], axis=axis), [output, carry]

    last, seen, states = keras_internals.run_recurrence(
        step, tap(_convolve(cell, sequences)), initial_state, mask, layer
    )
    saved["inputs"] = sequences
    after_time = axis + 1 if axis > 0 else axis
    outputs, saved["previous"] = ops.split(seen, 2, axis=after_time)
    return ops.split(last, 2, axis=axis)[0], outputs, states
