# SPDX-License-Identifier: Apache-2.0
"""Tests of gradients with respect to inputs, in the Keras backend in use."""

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import layers
from scipy import special

from tests.audit import precision
from tf_privacy.audit.backend import input_gradients as backend

SHAPE = (3, 2)
STEP = 1e-6


@pytest.fixture(autouse=True)
def wide():
    """Computes in float64, against which differences are taken."""
    with precision.wide_floats():
        yield


def make_model(last=(), *, num_outputs=4, activation=None, scale=1.0):
    """Returns a float64 network, with dropout that inference leaves out."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(SHAPE, dtype="float64"),
            layers.Flatten(dtype="float64"),
            layers.Dense(5, activation="tanh", dtype="float64"),
            layers.Dropout(0.5, dtype="float64"),
            layers.Dense(num_outputs, activation=activation, dtype="float64"),
            *last,
        ]
    )
    model.set_weights([scale * w for w in model.get_weights()])
    return model


def make_x(num_rows):
    return np.random.default_rng(1).normal(size=(num_rows, *SHAPE))


def compute_logits(model, x):
    """Returns what the last dense layer gives, by NumPy."""
    kernels = [w for w in model.get_weights() if w.dtype == np.float64]
    hidden = np.tanh(x.reshape(len(x), 6) @ kernels[0] + kernels[1])
    return hidden @ kernels[2] + kernels[3]


def differentiate(function, x):
    """Returns the gradient of each row's number, by central differences."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape[1:]):
        up, down = x.copy(), x.copy()
        up[(slice(None), *index)] += STEP
        down[(slice(None), *index)] -= STEP
        gradient[(slice(None), *index)] = (function(up) - function(down)) / (
            2 * STEP
        )
    return gradient


def compute_log_odds(logits, classes):
    """Returns log(p / (1 - p)) of the softmax, from its sums alone."""
    rows = np.arange(len(logits))
    powers = np.exp(logits)
    p = powers[rows, classes]
    return np.log(p / (powers.sum(axis=1) - p))


@pytest.mark.parametrize(
    "activation, last, outputs",
    [
        (None, [], "logits"),
        ("softmax", [], "probabilities"),
        (None, [layers.Softmax(dtype="float64")], "probabilities"),
        # No softmax ends this one: the logarithm must do.
        ("softmax", [layers.Rescaling(1.0, dtype="float64")], "probabilities"),
    ],
)
def test_gradient_is_that_of_the_log_odds(activation, last, outputs):
    model = make_model(last, activation=activation)
    x, classes = make_x(7), np.array([0, 1, 2, 3, 0, 1, 2])
    got = backend.compute_input_gradient(model, x, classes, outputs=outputs)
    wanted = differentiate(
        lambda x: compute_log_odds(compute_logits(model, x), classes), x
    )
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-8)
    scores = backend.compute_class_scores(model, x, outputs=outputs)
    np.testing.assert_allclose(
        special.softmax(scores, axis=1),
        special.softmax(compute_logits(model, x), axis=1),
        rtol=1e-10,
    )


@pytest.mark.parametrize(
    "activation, last, outputs",
    [
        (None, [], "logits"),
        ("sigmoid", [], "probabilities"),
        ("sigmoid", [layers.Rescaling(1.0, dtype="float64")], "probabilities"),
    ],
)
def test_one_output_is_the_second_of_two_classes(activation, last, outputs):
    model = make_model(last, activation=activation, num_outputs=1)
    x, classes = make_x(4), np.array([0, 1, 1, 0])
    got = backend.compute_input_gradient(model, x, classes, outputs=outputs)
    signs = np.array([-1, 1, 1, -1])
    wanted = differentiate(lambda x: signs * compute_logits(model, x)[:, 0], x)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-8)
    scores = backend.compute_class_scores(model, x, outputs=outputs)
    np.testing.assert_allclose(
        scores[:, 1] - scores[:, 0], compute_logits(model, x)[:, 0], rtol=1e-10
    )


def test_gradient_does_not_vanish_where_the_softmax_rounds_to_one():
    model = make_model(activation="softmax", scale=200.0)
    x = make_x(100)
    probabilities = model.predict(x, verbose=0)
    is_certain = probabilities.max(axis=1) == 1.0
    assert is_certain.sum() > 10
    classes = probabilities.argmax(axis=1)
    got = backend.compute_input_gradient(
        model, x, classes, outputs="probabilities"
    )
    # The tanh saturates too; what is left of the slope must come through.
    logits = compute_logits(model, x)
    top, second = np.argsort(logits, axis=1)[:, :-3:-1].T
    rows = np.arange(100)

    def compute_margin(x):
        logits = compute_logits(model, x)
        return logits[rows, top] - logits[rows, second]

    wanted = differentiate(compute_margin, x)
    slopes = is_certain & (np.abs(wanted).max(axis=(1, 2)) > 1e-3)
    assert slopes.sum() > 5
    np.testing.assert_allclose(
        got[slopes], wanted[slopes], rtol=1e-3, atol=1e-4
    )


def test_class_outside_the_range_is_refused():
    model, x = make_model(), make_x(2)
    for classes in ([0, 4], [-1, 0], [0], [0.0, 1.0], [[0, 1]]):
        with pytest.raises(ValueError, match="^class_indices must be 2"):
            backend.compute_input_gradient(model, x, classes, outputs="logits")


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": np.ones((2, *SHAPE), int)}, TypeError, "x must be floats"),
        ({"outputs": "scores"}, ValueError, "outputs must be one of"),
        (
            {"model": {"activation": "softmax"}},
            ValueError,
            "outputs must be 'probabilities' for a model that ends in a soft",
        ),
        (
            {"model": {"activation": "sigmoid", "num_outputs": 1}},
            ValueError,
            "outputs must be 'probabilities' for a model that ends in a sigm",
        ),
        (
            {"model": {"last": [layers.Reshape((2, 2))]}},
            ValueError,
            "model must return one row",
        ),
    ],
)
def test_scores_are_checked(change, error, message):
    values = {"model": {}, "x": make_x(2), "outputs": "logits"} | change
    values["model"] = make_model(**values["model"])
    with pytest.raises(error, match=f"^{message}"):
        backend.compute_class_scores(**values)


def test_loss_gradient_is_that_of_each_rows_own_loss():
    model, x, y = make_model(), make_x(6), np.array([0, 3, 1, 2, 2, 0])

    def compute_loss(x):
        logs = special.log_softmax(compute_logits(model, x), axis=1)
        return -logs[np.arange(6), y]

    wanted = differentiate(compute_loss, x)
    for loss in (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        lambda y, outputs: keras.losses.sparse_categorical_crossentropy(
            y, outputs, from_logits=True
        ),
    ):
        got = backend.compute_loss_input_gradient(model, x, y, loss=loss)
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-8)


def test_one_output_does_not_pair_rows_with_each_other():
    model = make_model(num_outputs=1, activation="sigmoid")
    x, y = make_x(5), np.array([0, 1, 1, 0, 1])

    def compute_loss(x):
        return np.logaddexp(
            0, np.where(y, -1, 1) * compute_logits(model, x)[:, 0]
        )

    got = backend.compute_loss_input_gradient(
        model, x, y, loss=keras.losses.binary_crossentropy
    )
    np.testing.assert_allclose(
        got, differentiate(compute_loss, x), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"loss": "mse"}, TypeError, "loss must be a Keras loss"),
        (
            {"loss": lambda y, p: keras.ops.mean(p)},
            ValueError,
            "loss must return one number for each row",
        ),
        ({"y": np.zeros((3, 4))}, ValueError, "y must have as many rows"),
        ({"x": np.ones((2, *SHAPE), int)}, TypeError, "x must be floats"),
        ({"x": make_x(0), "y": np.zeros((0, 4))}, ValueError, "y must have"),
    ],
)
def test_loss_gradient_is_checked(change, error, message):
    values = {
        "model": make_model(),
        "x": make_x(2),
        "y": np.zeros((2, 4)),
        "loss": keras.losses.MeanSquaredError(),
    }
    with pytest.raises(error, match=f"^{message}"):
        backend.compute_loss_input_gradient(**values | change)


def test_weights_are_read_anew_and_nothing_keeps_the_model():
    x = make_x(2)
    model = make_model(activation="softmax")
    use = {"class_indices": [0, 1], "outputs": "probabilities"}
    before = backend.compute_input_gradient(model, x, **use)
    model.set_weights([2 * w for w in model.get_weights()])
    after = backend.compute_input_gradient(model, x, **use)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(
        after,
        differentiate(
            lambda x, model=model: compute_log_odds(
                compute_logits(model, x), [0, 1]
            ),
            x,
        ),
        rtol=1e-6,
        atol=1e-8,
    )

    loss = keras.losses.MeanSquaredError()
    backend.compute_loss_input_gradient(model, x, np.zeros((2, 4)), loss=loss)
    kept, reference = len(backend._compiled), weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None
    assert len(backend._compiled) < kept


@pytest.mark.parametrize("num_rows", [0, 1, 3, 8])
def test_rows_are_as_many_as_were_given(num_rows):
    model, x = make_model(), make_x(num_rows)
    scores = backend.compute_class_scores(model, x, outputs="logits")
    assert scores.shape == (num_rows, 4)
    np.testing.assert_allclose(scores, compute_logits(model, x), rtol=1e-10)
    classes = np.zeros(num_rows, int)
    got = backend.compute_input_gradient(model, x, classes, outputs="logits")
    assert got.shape == x.shape


def test_model_is_left_as_it_is():
    model, x = make_model(activation="softmax"), make_x(3)
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    names = [layer.name for layer in model.layers]
    last = model.layers[-1]
    backend.compute_input_gradient(model, x, [0, 1, 2], outputs="probabilities")
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(variable), value
        )
    assert [layer.name for layer in model.layers] == names
    assert last.activation is keras.activations.softmax


def test_float32_model_gives_float32():
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="float32"),
            layers.Dense(2, dtype="float32"),
        ]
    )
    x = np.ones((2, 3), np.float32)
    got = backend.compute_input_gradient(model, x, [0, 1], outputs="logits")
    kernel = model.get_weights()[0]
    difference = kernel[:, 0] - kernel[:, 1]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [difference, -difference], rtol=1e-6)
