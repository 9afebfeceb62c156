# SPDX-License-Identifier: Apache-2.0
"""Tests of what the audit asks a Keras model."""

import functools

import keras
import numpy as np
import pytest

from tf_privacy.audit import canary_makers
from tf_privacy.audit import claim as claim_lib
from tf_privacy.audit import keras_language
from tf_privacy.audit import keras_model
from tf_privacy.audit import report as report_lib
from tf_privacy.audit import shadow_models

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
    # Round-off of float32 outputs near 1.
    np.testing.assert_allclose(got, np.ravel(expected), rtol=1e-5, atol=1e-7)


def test_losses_of_sequences_are_means_over_the_tokens():
    model = make_recurrent()
    model.compile(loss="sparse_categorical_crossentropy")
    tokens = RNG.integers(0, 6, (5, 9))
    got = keras_model.compute_losses(model, tokens[:, :-1], tokens[:, 1:])
    bits = keras_language.make_language_model(
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
    got = keras_language.make_language_model(
        model, outputs="probabilities", batch_size=2
    )
    tokens = RNG.integers(0, 6, (5, 4))
    expected = np.zeros(5)
    for i in range(1, 4):
        p = keras.ops.convert_to_numpy(model(tokens[:, :i]))
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
        keras_language.make_language_model(
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
        keras_language.make_language_model(model, outputs="logits")


@functools.cache
def train_on_noise(epochs, repetitions=1):
    """A model that learns random labels by heart, canaries among them."""
    plan = make_plan(repetitions=repetitions)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = rng.integers(0, 3, 60)
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Elsewhere it takes longer than it saves.
        jit_compile=keras.backend.backend() == "jax",
    )
    x, y = plan.insert(x, y, rng=rng)
    model.fit(x, y, epochs=epochs, batch_size=256, verbose=0)
    return model, plan


def make_plan(**settings):
    rng = np.random.default_rng(2)
    values = rng.normal(size=(240, 4)).astype(np.float32)
    return canary_makers.make_custom_canaries(
        values, rng.integers(0, 3, 240), seed=4, **settings
    )


def test_canaries_learnt_by_heart_contradict_a_small_claim():
    model, plan = train_on_noise(80)
    report = keras_model.audit_canaries(
        model, plan, delta=1e-5, claimed_epsilon=0.5
    )
    assert report.is_bound
    assert report.verdict is report_lib.Verdict.CLAIM_REJECTED
    assert report.num_members == plan.num_members
    fresh = keras_model.audit_canaries(
        *train_on_noise(0), delta=1e-5, claimed_epsilon=0.5
    )
    assert fresh.verdict is report_lib.Verdict.CLAIM_NOT_REJECTED


def test_canaries_are_scored_by_a_function_of_ones_own():
    plan = make_plan()
    seen = []

    def score(model, values):
        seen.append((model, values))
        return np.where(plan.is_member, 1.0, 0.0) + 1e-3 * np.arange(240)

    report = keras_model.audit_canaries("model", plan, delta=1e-5, score=score)
    assert report.auc == 1.0
    assert seen == [("model", plan.values)]


def test_texts_are_scored_by_their_bits():
    plan = canary_makers.make_text_canaries("code {digit:4}", num_canaries=40)
    alphabet = " code0123456789"

    def encode(text):
        return [alphabet.index(c) for c in text]

    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(len(alphabet), 4),
            keras.layers.GRU(7, return_sequences=True),
            keras.layers.Dense(len(alphabet)),
        ]
    )
    score = keras_language.make_text_score(encode, outputs="logits")
    got = score(model, [*plan.values, "code"])
    bits = keras_language.make_language_model(model, outputs="logits")
    for text, value in zip([*plan.values, "code"], got, strict=True):
        tokens = np.array([encode(text)])
        expected = -bits.compute_bits(tokens, num_given=1)[0]
        assert value == pytest.approx(expected, rel=1e-5)
    report = keras_model.audit_canaries(model, plan, delta=1e-5, score=score)
    assert report.is_bound


@pytest.mark.parametrize(
    "plan, error, message",
    [
        ("plan.npz", TypeError, "canaries must be the plan"),
        (
            canary_makers.make_text_canaries("{digit:4}", num_canaries=4),
            ValueError,
            "score must be given for canaries without labels",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(plan, error, message):
    with pytest.raises(error, match=message):
        keras_model.audit_canaries(None, plan, delta=1e-5)


def test_repeated_canaries_need_the_claim_of_a_group():
    trained = train_on_noise(0, 3)
    report = keras_model.audit_canaries(*trained, delta=1e-5)
    assert any("up to 3 times" in text for text in report.warnings)
    claim = claim_lib.Claim.from_pair(1.0, 1e-5)
    with pytest.raises(ValueError, match="claim must be None for canaries"):
        keras_model.audit_canaries(*trained, delta=1e-5, claim=claim)


def test_canaries_without_coins_are_refused():
    plan = canary_makers.make_exposure_canaries("code {digit:4}", seed=0)
    with pytest.raises(ValueError, match="canaries must have coins"):
        keras_model.audit_canaries(None, plan, delta=1e-5)


@pytest.mark.parametrize(
    "attack", ["logit", "confidence", "modified_entropy", "entropy"]
)
def test_membership_of_what_was_learnt_by_heart(attack):
    model, plan = train_on_noise(80)
    rows = np.flatnonzero(plan.is_member), np.flatnonzero(~plan.is_member)
    members, others = (
        (np.asarray(plan.values)[r], np.asarray(plan.labels)[r]) for r in rows
    )
    result = keras_model.audit_membership(
        model, members, others, outputs="logits", attack=attack
    )
    # Without the label, wrong and certain looks like right and certain.
    assert result.auc.lower > (0.5 if attack == "entropy" else 0.7)
    assert not result.is_bound
    groupings = {each.grouping for each in result.slices.slices}
    assert groupings == {"class", "prediction", "loss"}


def test_shadow_models_of_keras_tell_members_apart(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(80, 4)).astype(np.float32)
    y = rng.integers(0, 3, 80)

    def make_model():
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(3),
            ]
        )
        model.compile(
            keras.optimizers.Adam(0.03),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            # Elsewhere it takes longer than it saves.
            jit_compile=keras.backend.backend() == "jax",
        )
        return model

    shadows = shadow_models.train_shadow_models(
        keras_model.make_shadow_trainer(
            make_model, x, y, outputs="logits", epochs=15, batch_size=40
        ),
        num_examples=80,
        num_models=2,
        directory=tmp_path,
        seed=0,
    )
    assert shadows.scores.shape == (2, 80)
    inside = shadows.scores[shadows.is_member]
    outside = shadows.scores[~shadows.is_member]
    assert inside.mean() > outside.mean() + 0.3


def test_critical_samples_of_a_line():
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(2, use_bias=False)]
    )
    model.set_weights([np.array([[1.0, -1.0]], np.float32)])
    x = np.array([[-1.0], [-0.25], [0.2], [0.7]], np.float32)
    found = keras_model.find_critical_samples(
        model, x, outputs="logits", radius=0.3, rng=np.random.default_rng(0)
    )
    np.testing.assert_array_equal(found.is_critical, [False, True, True, False])


def test_loss_slopes_of_a_line():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([np.array([[1.0], [-3.0]]), np.zeros(1)])
    x = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 0.0]], np.float32)
    y = np.zeros((3, 1), np.float32)
    got = keras_model.compute_loss_slopes(
        model, x, y, loss=keras.losses.MeanSquaredError(), batch_size=2
    )
    # |d (w x)^2 / d x| = 2 |w x| |w|, and |w| sums to 4.
    np.testing.assert_allclose(got, [8.0, 8.0, 0.0], rtol=1e-6)


def test_loss_sensitivities_are_zero_for_inputs_without_weight():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.set_weights([np.array([[1.0], [0.0], [0.0]]), np.zeros(1)])
    x = np.zeros((4, 3), np.float32)
    x[:, 0] = [0.0, 1.0, 2.0, 3.0]
    y = x[:, :1].copy()
    # All residuals are 0: nothing is learnt, no example moves the loss.
    got = keras_model.compute_loss_sensitivities(
        model,
        x,
        y,
        loss=keras.losses.MeanSquaredError(),
        learning_rate=0.01,
        num_steps=2,
        batch_size=2,
        rng=np.random.default_rng(0),
    )
    np.testing.assert_array_equal(got, np.zeros(4))
    y[3] += 1.0
    got = keras_model.compute_loss_sensitivities(
        model,
        x,
        y,
        loss=keras.losses.MeanSquaredError(),
        learning_rate=0.01,
        num_steps=2,
        batch_size=2,
        rng=np.random.default_rng(0),
    )
    assert got.argmax() == 3
