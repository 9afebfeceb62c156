# SPDX-License-Identifier: Apache-2.0
"""Tests of what the engine asks of TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

from tests.clipping import exactness
from tf_privacy.clipping.backend import tensorflow as backend
from tf_privacy.clipping.backend.batches import batches
from tf_privacy.clipping.backend.execution import execution
from tf_privacy.clipping.backend.row_maps import row_maps


def test_cotangents_stop_at_the_taps():
    def function(tap):
        first = tap(tf.constant([1.0, 2.0]))
        second = tap(3.0 * first)
        tap(tf.constant(5.0))
        return tf.reduce_sum(second**2), "aux"

    aux, cotangents = backend.pull_back(function)
    assert aux == "aux"
    np.testing.assert_allclose(cotangents[0], [18.0, 36.0])
    np.testing.assert_allclose(cotangents[1], [6.0, 12.0])
    assert cotangents[2] is None


@pytest.mark.parametrize("piece_size", [1, 2, 5, 7, 100])
@pytest.mark.parametrize("num_rows", [0, 1, 5, 7])
@pytest.mark.parametrize("graph", [True, False])
def test_pieces_cover_every_row_once(num_rows, piece_size, graph):
    rows = tf.constant(np.random.default_rng(0).normal(size=(7, 3)))

    def run(num_rows):
        return batches.sum_over_pieces(
            lambda start, stop: [tf.reduce_sum(rows[start:stop], axis=0)],
            num_rows,
            piece_size,
            [tf.zeros(3, rows.dtype)],
        )

    (total,) = tf.function(run)(num_rows) if graph else run(num_rows)
    expected = rows.numpy()[:num_rows].sum(axis=0)
    np.testing.assert_allclose(total, expected, atol=1e-12)


def spread(weight, inputs):
    return tf.tanh(inputs @ weight.value)


@pytest.mark.parametrize("num_rows", [0, 1, 2, 5])
def test_row_gradients_for_any_number_of_rows(num_rows):
    layer = exactness.ApplyWeight(spread)
    layer.build((None, 3))
    rows = exactness.normal(0, num_rows, 3)
    cotangents = exactness.normal(1, num_rows, 3)
    (got,) = row_maps.map_row_gradients(
        lambda row: [layer.call(row[0][None])[0]],
        [tf.constant(rows)],
        [tf.constant(cotangents)],
        [layer.weight],
    )
    slopes = 1 - np.tanh(rows @ layer.weight.numpy()) ** 2
    expected = np.einsum("bi,bj->bij", rows, cotangents * slopes)
    assert got.shape == (num_rows, 3, 3)
    np.testing.assert_allclose(got, expected, 1e-5, 1e-6)


@tf.custom_gradient
def mix_backward(inputs):
    """Returns its input; its gradient holds a part of every row."""

    def gradient(upstream):
        return upstream + tf.reduce_mean(upstream, axis=0, keepdims=True)

    return tf.identity(inputs), gradient


@pytest.mark.parametrize(
    "function, leaks",
    [
        (lambda x: 2.0 * x, False),
        (lambda x: x - 1e-6 * tf.reduce_mean(x, axis=0), True),
        (lambda x: tf.reverse(x, axis=[0]), True),
        (mix_backward, True),
    ],
)
@pytest.mark.parametrize("surroundings", ["eager", "outside", "graph"])
def test_a_gradient_at_another_row_is_a_leak(function, leaks, surroundings):
    inputs = tf.constant(exactness.normal(0, 7, 3))
    found = []

    def look():
        found.append(backend.row_leak(function, inputs))

    def look_outside():
        # Where check_model looks from.
        execution.run_outside_of_graph(look)

    if surroundings == "eager":
        look()
    elif surroundings == "outside":
        look_outside()
    else:
        tf.function(look_outside, autograph=False)()
    assert (found[0] > 0.0) is leaks
