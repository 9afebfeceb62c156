# SPDX-License-Identifier: Apache-2.0
"""SimpleRNN, LSTM, GRU, RNN: all steps' inputs projected, then the loop.

As `recurrent_cells` has it, for all steps at once: the loop is run only once
and no gradient is formed inside of it. Stacked cells run one after the other:
each sees all steps of the one below.
"""

import keras
from keras import ops

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.rules import recurrent_cells
from tf_privacy.clipping.rules import rule

_CELLS = {
    keras.layers.SimpleRNN: keras.layers.SimpleRNNCell,
    keras.layers.LSTM: keras.layers.LSTMCell,
    keras.layers.GRU: keras.layers.GRUCell,
}


class RecurrentRule(rule.ClippingRule):
    """Kernel, recurrent kernel and bias from the projected inputs."""

    covers_sublayers = True

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for Keras's own layers and cells, stacked too, not stateful."""
        if not _is_own(layer) or layer.stateful:
            return False
        weights = [w for c in _cells(layer) for w in recurrent_cells.weights(c)]
        return rule.only_uses(variables, *weights)

    def forward(self, layer, call, tap, args, kwargs):
        """Saves inputs, previous states and reset gates of all steps."""
        saved = []

        def inner_loop(sequences, initial_state, mask, training=False):
            return _run(
                layer, tap, saved, sequences, initial_state, mask, training
            )

        with keras_internals.added_attribute(layer, "inner_loop", inner_loop):
            outputs = call(*args, **kwargs)
        return outputs, saved

    def terms(self, layer, saved, cotangents):
        """Returns the terms of kernel, recurrent kernel and bias."""
        pairs = []
        cells = _cells(layer)
        for cell, seen, cotangent in zip(cells, saved, cotangents, strict=True):
            pairs += recurrent_cells.pairs(cell, seen, cotangent)
        return pairs


def _is_own(layer) -> bool:
    """True if layer and cells compute what those of Keras do."""
    own = keras_internals.uses_own_call
    cells = _cells(layer) if isinstance(layer, keras.layers.RNN) else []
    for layer_class, cell_class in _CELLS.items():
        if own(layer, layer_class) and not isinstance(cells[0], cell_class):
            return False
    if not any(own(layer, c) for c in (*_CELLS, keras.layers.RNN)):
        return False
    stacked = isinstance(layer.cell, keras.layers.StackedRNNCells)
    if stacked and not (
        own(layer.cell, keras.layers.StackedRNNCells) and len(cells) > 1
    ):
        return False
    return all(
        recurrent_cells.is_own_cell(cell)
        and cell.compute_dtype == layer.compute_dtype
        for cell in cells
    )


def _cells(layer):
    """Returns the cells of a recurrent layer, the first one first."""
    if isinstance(layer.cell, keras.layers.StackedRNNCells):
        return list(layer.cell.cells)
    return [layer.cell]


def _run(layer, tap, saved, sequences, initial_state, mask, training):
    """Runs the loops over time as `layer.inner_loop` does, with taps."""
    if isinstance(mask, (list, tuple)):
        mask = mask[0]
    if layer.go_backwards:
        sequences = ops.flip(sequences, axis=1)
        mask = None if mask is None else ops.flip(mask, axis=1)
    stacked = isinstance(layer.cell, keras.layers.StackedRNNCells)
    if not isinstance(initial_state, (list, tuple)):
        initial_state = [initial_state]
    states = initial_state if stacked else [initial_state]
    # Where the mask is false all cells keep their states, so it does not
    # matter what the cells above see there.
    last, outputs, new_states = None, sequences, []
    for cell, state in zip(_cells(layer), states, strict=True):
        nested = isinstance(state, (list, tuple))
        last, outputs, new_state = _run_cell(
            layer,
            cell,
            tap,
            saved,
            outputs,
            state if nested else [state],
            mask,
            training,
        )
        new_states.append(list(new_state) if nested else new_state[0])
    return last, outputs, new_states if stacked else new_states[0]


def _run_cell(layer, cell, tap, saved, sequences, states, mask, training):
    """Runs one cell over time; returns what `layer.inner_loop` does."""
    known, projected, step = recurrent_cells.project(
        cell, tap, sequences, states, training
    )
    last, seen, states = keras_internals.run_recurrence(
        step, projected, states, mask, layer
    )
    saved.append(known | recurrent_cells.split_seen(cell, seen))
    units = cell.units
    return last[..., :units], seen[..., :units], states
