# SPDX-License-Identifier: Apache-2.0
"""Tests of what the audit asks a Keras model."""

import keras
import numpy as np
import pytest

from tf_privacy.audit import keras_model

RNG = np.random.default_rng(11)
X = RNG.normal(size=(23, 4)).astype(np.float32)


def make_classifier(*, num_outputs=3, activation=None):
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(num_outputs, activation=activation),
        ]
    )


def make_recurrent(*, causal=True):
    layers = keras.layers
    recurrent = layers.GRU(7, return_sequences=causal)
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(6, 4),
            recurrent,
            layers.Dense(6, activation="softmax"),
        ]
    )


CASES = {
    "sparse": (
        3,
        None,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        RNG.integers(0, 3, 23),
    ),
    "one_hot": (3, "softmax", "categorical_crossentropy", np.eye(3)[[0] * 23]),
    "binary": (1, "sigmoid", "binary_crossentropy", RNG.integers(0, 2, 23)),
    "regression": (2, None, "mse", RNG.normal(size=(23, 2))),
    "scalar": (1, None, keras.losses.Huber(), RNG.normal(size=23)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("given", ["compiled", "argument"])
def test_losses_are_those_of_evaluate_on_one_example(case, given):
    num_outputs, activation, loss, y = CASES[case]
    model = make_classifier(num_outputs=num_outputs, activation=activation)
    model.compile(loss=loss)
    expected = [
        model.test_on_batch(X[i : i + 1], y[i : i + 1]) for i in range(len(X))
    ]
    if given == "compiled":
        got = keras_model.compute_losses(model, X, y, batch_size=8)
    else:
        model = keras.Sequential(model.layers)
        got = keras_model.compute_losses(model, X, y, loss=loss)
    np.testing.assert_allclose(got, np.ravel(expected), rtol=1e-5)


def test_losses_of_sequences_are_means_over_the_tokens():
    model = make_recurrent()
    model.compile(loss="sparse_categorical_crossentropy")
    tokens = RNG.integers(0, 6, (5, 9))
    got = keras_model.compute_losses(model, tokens[:, :-1], tokens[:, 1:])
    bits = keras_model.make_language_model(
        model, outputs="probabilities"
    ).compute_bits(tokens, num_given=1)
    np.testing.assert_allclose(got, bits * np.log(2.0) / 8, rtol=1e-5)


def test_loss_that_is_not_finite_is_refused_by_index():
    model = make_classifier()
    model.compile(loss="mse")
    y = np.zeros((23, 3))
    y[17, 0] = np.nan
    with pytest.raises(ValueError, match="losses must be finite.*index 17"):
        keras_model.compute_losses(model, X, y)


@pytest.mark.parametrize("loss", [None, ["mse", "mse"]])
def test_no_single_loss_is_refused(loss):
    with pytest.raises(ValueError, match="loss must be one Keras loss"):
        keras_model.compute_losses(make_classifier(), X, X, loss=loss)


@pytest.mark.parametrize("causal", [True, False])
def test_language_model_is_the_model(causal):
    model = make_recurrent(causal=causal)
    got = keras_model.make_language_model(
        model, outputs="probabilities", batch_size=2
    )
    tokens = RNG.integers(0, 6, (5, 4))
    expected = np.zeros(5)
    for i in range(1, 4):
        p = np.asarray(model(tokens[:, :i]))
        p = p[:, -1] if causal else p
        expected -= np.log2(p[np.arange(5), tokens[:, i]])
    np.testing.assert_allclose(
        got.compute_bits(tokens, num_given=1), expected, rtol=1e-5
    )
    by_step = sum(
        got.compute_next_bits(tokens[:, :i])[np.arange(5), tokens[:, i]]
        for i in range(1, 4)
    )
    np.testing.assert_allclose(by_step, expected, rtol=1e-5)


def test_language_model_needs_tokens_in_and_scores_out():
    with pytest.raises(ValueError, match="model must map tokens"):
        keras_model.make_language_model(
            keras.Sequential([keras.Input((4, 2)), keras.layers.Dense(3)]),
            outputs="logits",
        )


def test_bidirectional_model_is_refused():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(6, 4),
            layers.Bidirectional(layers.GRU(7, return_sequences=True)),
            layers.Dense(6),
        ]
    )
    # Weights of a trained model's size: fresh ones hardly say anything.
    model.set_weights([10 * w for w in model.get_weights()])
    with pytest.raises(ValueError, match="model must be causal"):
        keras_model.make_language_model(model, outputs="logits")
