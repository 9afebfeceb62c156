# SPDX-License-Identifier: Apache-2.0
"""Tests of what the audit asks a Keras model."""

import pathlib

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

import tf_privacy
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


class Scalars:
    def __init__(self, value):
        self.value = value

    def to_scalars(self):
        return {"exposure": self.value}


@pytest.mark.parametrize(
    "every, expected", [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (9, [4])]
)
def test_callback_audits_every_few_epochs_and_at_the_end(every, expected):
    model = make_classifier()
    model.compile(loss="mse", optimizer="sgd")
    seen = []

    def audit(audited, epoch):
        seen.append(audited)
        return Scalars(epoch + 0.5)

    callback = keras_model.AuditCallback(audit, every=every)
    history = model.fit(
        X, np.zeros((23, 3)), epochs=5, verbose=0, callbacks=[callback]
    )
    assert [epoch for epoch, _ in callback.history] == expected
    assert history.history["audit_exposure"] == [e + 0.5 for e in expected]
    assert all(each is model for each in seen)


def test_callback_logs_to_tensorboard(tmp_path):
    model = make_classifier()
    model.compile(loss="mse", optimizer="sgd")
    callback = keras_model.AuditCallback(
        lambda model, epoch: {"exposure": 2.0 + epoch}, log_dir=tmp_path
    )
    model.fit(X, np.zeros((23, 3)), epochs=2, verbose=0, callbacks=[callback])
    found = {}
    for folder in {
        p.parent for p in pathlib.Path(tmp_path).rglob("*tfevents*")
    }:
        events = event_accumulator.EventAccumulator(str(folder))
        events.Reload()
        for tag in events.Tags()["tensors"]:
            found[tag] = [
                float(
                    np.frombuffer(e.tensor_proto.tensor_content, np.float32)[0]
                )
                if e.tensor_proto.tensor_content
                else e.tensor_proto.float_val[0]
                for e in events.Tensors(tag)
            ]
    assert found["epoch_audit_exposure"] == [2.0, 3.0]


def test_callback_checks_its_arguments():
    with pytest.raises(TypeError, match="audit must be a function"):
        keras_model.AuditCallback("exposure")
    with pytest.raises(ValueError, match="every must be"):
        keras_model.AuditCallback(print, every=0)


def make_private(model, loss, *, optimizer=None):
    model = tf_privacy.privatize(model)
    model.compile(
        optimizer=optimizer
        or tf_privacy.DPSGD(0.25, l2_norm_clip=2.0, noise_multiplier=1e-3),
        loss=loss,
    )
    return model


def test_dirac_steps_are_in_units_of_the_clip():
    is_member = np.arange(40) % 2 == 0
    steps = keras_model.record_dirac_steps(
        make_private,
        is_member=is_member,
        l2_norm_clip=2.0,
        expected_batch_size=10,
        num_steps=30,
    )
    assert steps.shape == (30, 40)
    # Noise of 1e-3 shows who was in which batch; 6 standard deviations.
    near_0, near_1 = abs(steps) < 6e-3, abs(steps - 1.0) < 6e-3
    assert np.all(near_0[:, ~is_member])
    assert np.all(near_0 | near_1)
    # 600 coins of probability 1/4: outside of this once in 10^6.
    assert 98 <= near_1.sum() <= 205


@pytest.mark.parametrize(
    "inner",
    [
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.optimizers.SGD(0.1, weight_decay=0.1),
        keras.optimizers.Adam(0.1),
    ],
)
def test_other_inner_optimizers_are_refused(inner):
    optimizer = tf_privacy.DPOptimizer(
        inner, l2_norm_clip=1.0, noise_multiplier=1.0
    )
    with pytest.raises(ValueError, match="make_private must compile with"):
        keras_model.record_dirac_steps(
            lambda model, loss: make_private(model, loss, optimizer=optimizer),
            is_member=np.ones(8, dtype=bool),
            l2_norm_clip=1.0,
            expected_batch_size=4,
            num_steps=2,
        )


def test_steps_that_cannot_be_seen_one_by_one_are_refused():
    def make(model, loss):
        model = tf_privacy.privatize(model)
        optimizer = tf_privacy.DPSGD(
            0.1, l2_norm_clip=1.0, noise_multiplier=1.0
        )
        model.compile(optimizer=optimizer, loss=loss, steps_per_execution=2)
        return model

    with pytest.raises(ValueError, match="make_private must give a model that"):
        keras_model.record_dirac_steps(
            make,
            is_member=np.ones(8, dtype=bool),
            l2_norm_clip=1.0,
            expected_batch_size=4,
            num_steps=4,
        )
