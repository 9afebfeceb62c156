# SPDX-License-Identifier: Apache-2.0
"""Cells of Keras in its layers, and by themselves."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.clipping import exactness
from tests.clipping.rules import low_precision
from tests.clipping.rules import unknown_lengths

X, Y = exactness.normal(0, 8, 4, 3), exactness.normal(1, 8, 2)

CELLS = {
    "simple": lambda: layers.SimpleRNNCell(3),
    "lstm": lambda: layers.LSTMCell(3),
    "gru": lambda: layers.GRUCell(3),
    "gru reset before": lambda: layers.GRUCell(3, reset_after=False),
    "gru by gates": lambda: layers.GRUCell(3, implementation=1),
}


def stack(*own, length=4):
    """Return a compiled model of recurrent layers."""
    return exactness.stack(
        *own, layers.Dense(2, dtype="float32"), shape=(length, 3)
    )


def assert_exact(model, path, graph=True):
    """Check the gradients, and the path of the first layer."""
    assert exactness.error_to_loop(model, X, Y, graph=graph) <= 1e-5
    assert exactness.paths(model, X)[0][1] == path


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_a_single_cell(kind, graph):
    assert_exact(stack(layers.RNN(CELLS[kind]())), "rule", graph)


@pytest.mark.parametrize("options", [{}, {"unroll": True}], ids=str)
def test_stacked_cells(options):
    cells = [CELLS[kind]() for kind in ("lstm", "gru", "simple")]
    assert_exact(stack(layers.RNN(cells, **options)), "rule")


def test_a_cell_that_is_stacked_on_itself():
    cell = layers.LSTMCell(3)
    assert_exact(stack(layers.RNN([cell, cell])), "rule")


def test_a_frozen_cell_below_a_trained_one():
    cells = [layers.LSTMCell(3, trainable=False), layers.GRUCell(3)]
    assert_exact(stack(layers.RNN(cells)), "rule")


class Doubled(layers.GRUCell):
    """A subclass that computes something else."""

    def call(self, inputs, states, training=False):
        """Return twice the output."""
        outputs, states = super().call(inputs, states, training=training)
        return 2.0 * outputs, states


class Widened(layers.RNN):
    """A subclass that computes something else."""

    def call(self, sequences, initial_state=None, mask=None, training=False):
        """Return twice the outputs."""
        return 2.0 * super().call(sequences, initial_state, mask, training)


class Skipping(layers.StackedRNNCells):
    """A subclass whose cells do not see each other's outputs."""

    def call(self, inputs, states, training=False):
        """Return the sum of the cells' outputs."""
        pairs = [
            cell(inputs, list(state), training=training)
            for cell, state in zip(self.cells, states, strict=True)
        ]
        return sum(output for output, _ in pairs), [state for _, state in pairs]


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.RNN(Doubled(3)),
        lambda: layers.RNN([layers.LSTMCell(3), Doubled(3)]),
        lambda: Widened(layers.LSTMCell(3)),
        lambda: layers.RNN(Skipping([layers.GRUCell(3), layers.GRUCell(3)])),
        lambda: layers.RNN(layers.LSTMCell(3, dtype="float64")),
    ],
    ids=["cell", "stacked cell", "layer", "stack", "precision"],
)
def test_what_computes_something_else_takes_the_generic_path(make):
    assert_exact(stack(make()), "generic")


def test_sequences_of_unknown_length():
    cells = [layers.LSTMCell(3), layers.GRUCell(2)]
    model = stack(layers.RNN(cells), length=None)
    unknown_lengths.assert_exact(model, X, Y)


class FirstStep(layers.Layer):
    """Calls a cell once, from given states."""

    def __init__(self, cell, wrap, **kwargs):
        super().__init__(**kwargs)
        self.cell = cell
        self.wrap = wrap

    def build(self, input_shape):
        """Build the cell for one step."""
        self.cell.build((input_shape[0], input_shape[2]))

    def call(self, inputs):
        """Return output and states."""
        outputs, states = self.cell(inputs[:, 0], self.wrap(inputs[:, 1]))
        return keras.ops.concatenate([outputs, *keras.tree.flatten(states)], -1)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_by_itself(kind, graph):
    wrap = (lambda s: [s, s]) if kind == "lstm" else (lambda s: [s])
    assert_exact(stack(FirstStep(CELLS[kind](), wrap)), "rule", graph)


@pytest.mark.parametrize("kind", ["simple", "gru"])
def test_a_state_need_not_be_a_list(kind):
    assert_exact(stack(FirstStep(CELLS[kind](), lambda s: s)), "rule")


@pytest.mark.parametrize("policy", low_precision.TOLERANCES)
@pytest.mark.parametrize("kind", CELLS)
def test_low_precision(policy, kind):
    x = np.tanh(X)
    low_precision.assert_close_to_float32(
        policy, lambda: stack(layers.RNN(CELLS[kind]())), x, Y
    )
