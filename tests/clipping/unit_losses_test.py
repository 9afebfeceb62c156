# SPDX-License-Identifier: Apache-2.0
"""Tests of the losses of single examples."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tests.clipping import exactness
from tf_privacy.clipping import unit_losses

ROWS, TIME, WIDTH = 6, 4, 3
RNG = np.random.default_rng(0)
NUMBERS = exactness.normal(0, ROWS, TIME, WIDTH)
POSITIVE = np.abs(exactness.normal(1, ROWS, TIME, WIDTH)) + 0.1
PROBABILITIES = 1 / (1 + np.exp(-NUMBERS))
BITS = RNG.integers(0, 2, NUMBERS.shape).astype("float32")
CLASSES = RNG.integers(0, WIDTH, (ROWS, TIME)).astype("int32")
ROW_WEIGHTS = np.array([1, 0, 2, 0.5, 3, 1], "float32")
STEP_WEIGHTS = RNG.integers(0, 3, (ROWS, TIME)).astype("float32")
STEP_WEIGHTS[1] = 0
MASK = np.arange(TIME) < np.array([4, 2, 1, 0, 3, 4])[:, None]


def take(structure, index):
    return keras.tree.map_structure(
        lambda a: None if a is None else tf.constant(a[index : index + 1]),
        structure,
    )


def loop(loss, y, y_pred, sample_weight=None, mask=None):
    """Returns each row's loss as Keras computes it for a batch of one."""
    values = []
    for index in range(ROWS):
        row = take(y_pred, index)
        if mask is not None:
            row._keras_mask = tf.constant(mask[index : index + 1])
        value = loss(take(y, index), row, take(sample_weight, index))
        values.append(np.sum(np.asarray(value, "f8")))
    return np.array(values)


def compute(loss, y, y_pred, sample_weight=None, mask=None):
    tensors = keras.tree.map_structure(
        lambda a: None if a is None else tf.constant(a),
        (y, y_pred, sample_weight),
    )
    if mask is not None:
        tensors[1]._keras_mask = tf.constant(mask)
    return unit_losses.compute_unit_losses(loss, *tensors).numpy()


def assert_is_loop(loss, *data, **options):
    got = compute(loss, *data, **options)
    assert got.shape == (ROWS,)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, loop(loss, *data, **options), 1e-5, 1e-6)


@pytest.mark.parametrize("mask", [None, MASK], ids=["plain", "masked"])
@pytest.mark.parametrize(
    "weight",
    [None, ROW_WEIGHTS, ROW_WEIGHTS[:, None], STEP_WEIGHTS],
    ids=["none", "rows", "column", "steps"],
)
@pytest.mark.parametrize(
    "reduction", ["sum", None, "mean", "mean_with_sample_weight"]
)
def test_reductions_see_one_row(reduction, weight, mask):
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    assert_is_loop(loss, POSITIVE, NUMBERS, weight, mask=mask)


@pytest.mark.parametrize(
    "name",
    [
        "BinaryCrossentropy",
        "BinaryFocalCrossentropy",
        "CategoricalCrossentropy",
        "CategoricalFocalCrossentropy",
        "CategoricalHinge",
        "CosineSimilarity",
        "Hinge",
        "Huber",
        "KLDivergence",
        "LogCosh",
        "MeanAbsoluteError",
        "MeanAbsolutePercentageError",
        "MeanSquaredLogarithmicError",
        "Poisson",
        "SquaredHinge",
    ],
)
def test_losses_of_keras(name):
    loss = getattr(keras.losses, name)()
    assert_is_loop(loss, BITS + 0.1, PROBABILITIES, STEP_WEIGHTS)


def test_sparse_losses():
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=1
    )
    assert_is_loop(loss, CLASSES, NUMBERS, ROW_WEIGHTS)


@pytest.mark.parametrize(
    "loss",
    [keras.losses.Dice(), keras.losses.Tversky(alpha=0.3)],
    ids=["dice", "tversky"],
)
def test_losses_that_would_couple_rows_see_one_row(loss):
    assert_is_loop(loss, BITS, PROBABILITIES)
    together = float(loss(BITS, PROBABILITIES))
    assert abs(np.mean(compute(loss, BITS, PROBABILITIES)) - together) > 1e-3


def test_losses_that_tensorflow_cannot_vectorise_run_in_a_loop():
    labels = RNG.integers(1, 3, (ROWS, 2)).astype("int32")
    outputs = tf.nn.softmax(exactness.normal(3, ROWS, 5, 4)).numpy()
    assert_is_loop(keras.losses.CTC(), labels, outputs)


CUSTOM = {
    "scalar": lambda y, p, w: ops.sum(ops.square(y - p)),
    "rows": lambda y, p, w: ops.mean(ops.square(y - p), axis=(1, 2)),
    "steps": lambda y, p, w: ops.mean(ops.square(y - p), axis=2),
    "entries": lambda y, p, w: ops.square(y - p),
    "float16": lambda y, p, w: ops.cast(ops.square(y - p), "float16"),
    "float64": lambda y, p, w: ops.cast(ops.square(y - p), "float64"),
    "ratio": lambda y, p, w: ops.sum(y * p) / ops.sum(ops.square(p)),
    "over_the_batch": lambda y, p, w: ops.sum(ops.normalize(p, axis=0) * y),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_custom_losses_of_any_shape_are_summed(name):
    got = compute(CUSTOM[name], POSITIVE, NUMBERS)
    expected = loop(CUSTOM[name], POSITIVE, NUMBERS)
    np.testing.assert_allclose(got, expected, 2e-3)


def test_structures_and_absent_parts():
    def loss(y, y_pred, sample_weight):
        assert sample_weight is None
        first, second = y_pred["a"], y_pred["b"]
        return ops.sum(first * y[0]) + ops.sum(second) + 0 * len(y)

    y = (POSITIVE, None)
    y_pred = {"a": NUMBERS, "b": exactness.normal(5, ROWS, 2)}
    got = compute(loss, y, y_pred)
    expected = np.sum(NUMBERS * POSITIVE, axis=(1, 2)) + np.sum(
        y_pred["b"], axis=1
    )
    np.testing.assert_allclose(got, expected, 1e-4, 1e-5)


def test_no_targets_at_all():
    got = compute(lambda y, p, w: ops.mean(p), None, NUMBERS)
    np.testing.assert_allclose(got, NUMBERS.mean(axis=(1, 2)), 1e-5, 1e-6)


def test_compiled_losses_of_several_outputs():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss=["mse", "mae"], loss_weights=[0.5, 2.0])
    loss = model._compile_loss
    y = [POSITIVE[:, 0], POSITIVE[:, 1]]
    y_pred = [NUMBERS[:, 0], NUMBERS[:, 1]]
    got = compute(loss, y, y_pred, [ROW_WEIGHTS, ROW_WEIGHTS[::-1].copy()])
    squares = np.square(y[0] - y_pred[0]).mean(axis=1)
    sizes = np.abs(y[1] - y_pred[1]).mean(axis=1)
    expected = 0.5 * squares * ROW_WEIGHTS + 2.0 * sizes * ROW_WEIGHTS[::-1]
    np.testing.assert_allclose(got, expected, 1e-5, 1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_bad_row_leaves_the_others_alone(value):
    loss = keras.losses.MeanSquaredError()
    clean = compute(loss, POSITIVE, NUMBERS, STEP_WEIGHTS)
    for which in range(3):
        data = [POSITIVE.copy(), NUMBERS.copy(), STEP_WEIGHTS.copy()]
        data[which][2] = value
        got = compute(loss, *data)
        np.testing.assert_array_equal(np.delete(got, 2), np.delete(clean, 2))


def test_no_rows():
    loss = keras.losses.MeanSquaredError()
    got = compute(loss, POSITIVE[:0], NUMBERS[:0], STEP_WEIGHTS[:0])
    assert got.shape == (0,)
