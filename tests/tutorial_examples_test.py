# SPDX-License-Identifier: Apache-2.0
"""What the tutorials on users, texts, features and LoRA claim is so."""

import dataclasses
import functools
import importlib

import keras
import numpy as np
import pytest
from absl import flags

import tf_privacy
from tests import tutorials_test

TUTORIALS = tutorials_test.ROOT / "tutorials"


@pytest.fixture
def load(monkeypatch):
    """Returns a function that imports a script with flags of its own."""
    monkeypatch.syspath_prepend(str(TUTORIALS))

    def load_script(name, *arguments):
        values = flags.FlagValues()
        with monkeypatch.context() as patch:
            for kind in ("string", "integer", "float", "bool", "list", "enum"):
                define = getattr(flags, f"DEFINE_{kind}")
                bound = functools.partial(define, flag_values=values)
                patch.setattr(flags, f"DEFINE_{kind}", bound)
            spec = importlib.util.spec_from_file_location(
                name, TUTORIALS / f"{name}.py"
            )
            script = importlib.util.module_from_spec(spec)
            patch.setitem(importlib.sys.modules, name, script)
            spec.loader.exec_module(script)
        values([name, *arguments])
        return script

    return load_script


def make_ratings(star_ratings, num_users=40):
    return star_ratings.make_ratings(
        num_users=num_users, num_items=30, num_each=12
    )


def test_a_users_history_is_of_their_own_ratings(load):
    star_ratings = load("star_ratings")
    ratings = make_ratings(star_ratings)
    others = ratings.take(ratings.users != 7)
    with_all, without = (
        star_ratings.make_rows(others, star_ratings.make_histories(known))
        for known in (ratings, others)
    )
    for name, column in with_all.items():
        np.testing.assert_array_equal(column, without[name], err_msg=name)


def test_a_rating_is_not_predicted_from_itself(load):
    star_ratings = load("star_ratings")
    ratings = make_ratings(star_ratings)
    changed = dataclasses.replace(ratings, stars=ratings.stars.copy())
    changed.stars[3] = 1.0 if ratings.stars[3] > 2 else 5.0
    before, after = (
        star_ratings.make_rows(each, star_ratings.make_histories(each))
        for each in (ratings, changed)
    )
    for name in ("opinions", "mean"):
        np.testing.assert_array_equal(before[name][3], after[name][3])
    # It is in the history of the same user's next rating.
    assert np.any(before["opinions"][4] != after["opinions"][4])


def test_the_model_of_items_holds_no_user(load):
    recommender = load("recommender_users")
    sizes = [
        recommender.make_model(
            num_users=num_users, num_items=30, has_table=False
        ).count_params()
        for num_users in (10, 1000)
    ]
    assert sizes[0] == sizes[1]
    table = recommender.make_model(num_users=10, num_items=30, has_table=True)
    assert {10, 30} == {v.shape[0] for v in table.trainable_variables}


def test_epsilon_of_a_user_is_stated_for_all_of_their_ratings(load):
    recommender = load("recommender_users", "--examples_per_unit=5")
    ratings = make_ratings(load("star_ratings"))
    by_rating, by_user = (
        next(
            t
            for t in recommender.TRAININGS
            if (t.protects, t.has_table) == kind
        )
        for kind in (("rating", True), ("user", False))
    )
    model = recommender.train(by_rating, ratings, epochs=1)
    words = recommender.describe_epsilon(model, 12).split()
    assert words[1] == "3.0" and words[2:5] == ["for", "a", "rating,"]
    assert int(words[5]) > 12
    model = recommender.train(by_user, ratings, epochs=1)
    assert recommender.describe_epsilon(model, 12) == "epsilon 3.0 for a user"
    (phase,) = model.privacy_statement(delta=1e-5).phases
    assert phase.num_examples == 40


def test_words_are_numbered_without_the_other_texts(load):
    mails = load("mails")
    both = mails.encode(["Call 42 now", "a b"], num_words=50, length=4)
    alone = mails.encode(["call, 42! NOW"], num_words=50, length=4)
    np.testing.assert_array_equal(both[:1], alone)
    assert both.min() == 0 and both[0, 3] == 0 and np.all(both[0, :3] > 0)
    # CRC-32's published check value: the same in every process.
    check = 0xCBF43926 % (2**31 - 1)
    one = mails.encode(["123456789"], num_words=2**31, length=1)
    assert one.tolist() == [[1 + check]]


def test_private_training_moves_the_vectors_of_unused_words(load):
    text = load("text_dpadam")
    rng = np.random.default_rng(0)
    x = rng.integers(1, 200, size=(64, 100)).astype(np.int32)
    data = x, rng.integers(2, size=64).astype(np.int32)
    plain = text.train(data, data, epochs=1)
    unused = 4096 - len(np.unique(x))
    # Nor does the vector of the padding move.
    assert plain.num_unmoved == unused
    private = text.train(data, data, epochs=1, epsilon=3.0)
    assert private.num_unmoved == 0


def test_only_the_new_layer_is_trained_on_frozen_features(load):
    transfer = load("transfer_features")
    rng = np.random.default_rng(0)
    x = rng.random((64, 28, 28, 1), np.float32)
    y = rng.integers(10, size=64)
    trained = tf_privacy.fold_batch_normalization(transfer.make_network())
    model = transfer.make_new(trained, is_frozen=True)
    before = [w.copy() for w in model.get_weights()]
    data = transfer.datasets.ImageData(x_train=x, y_train=y, x_test=x, y_test=y)
    model = transfer.train_privately(
        model, data, rate=0.1, epsilon=1.0, epochs=1
    )
    assert transfer.count_trained(model) == 650
    after = model.get_weights()
    moved = [np.any(a != b) for a, b in zip(before, after, strict=True)]
    assert sum(moved) == 2 and moved[-2:] == [True, True]


def test_features_are_of_each_image_alone(load):
    transfer = load("transfer_features")
    trained = tf_privacy.fold_batch_normalization(transfer.make_network())
    model = transfer.make_new(trained, is_frozen=True)
    features = keras.Sequential(model.layers[:-1])
    x = np.random.default_rng(0).random((8, 28, 28, 1), np.float32)
    alone = np.concatenate([features(x[i : i + 1]) for i in range(8)])
    np.testing.assert_allclose(features(x), alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1.0, atol=1e-5)


def test_folding_keeps_what_the_public_network_predicts(load):
    transfer = load("transfer_features")
    rng = np.random.default_rng(0)
    network = transfer.make_network()
    weights = [rng.uniform(0.5, 1.5, w.shape) for w in network.get_weights()]
    network.set_weights(weights)
    x = rng.random((4, 28, 28, 1), np.float32)
    folded = tf_privacy.fold_batch_normalization(network)
    np.testing.assert_allclose(folded(x), network(x), rtol=1e-4)


def test_lora_trains_few_weights_from_where_the_model_stands(load):
    lora = load("lora_finetuning")
    transformer = lora.make_transformer(1)
    x = np.random.default_rng(0).integers(1, 2048, size=(4, 32))
    adapted = lora.adapt(transformer, 2)
    np.testing.assert_allclose(adapted(x), transformer(x), atol=1e-6)
    model = lora.make_classifier(adapted)
    model(x)
    names = [v.name for v in model.trainable_variables]
    assert names.count("lora_kernel_a") == names.count("lora_kernel_b") == 6
    # The only kernel is the head's; no table, no scale of a normalisation.
    assert names.count("kernel") == 1
    assert set(names) == {"kernel", "bias", "lora_kernel_a", "lora_kernel_b"}
    everything = lora.make_classifier(lora.copy(transformer))
    everything(x)
    assert lora.count_trained(everything) > 20 * lora.count_trained(model)
    _, *lines = tf_privacy.explain_clipping(model, x).splitlines()
    assert len(lines) == 7 and all(" rule " in line for line in lines)


@pytest.mark.parametrize(
    "script, argument, message",
    [
        ("recommender_users", "--delta=0.01", "delta must be"),
        ("text_dpadam", "--target_epsilon=nan", "target_epsilon must be"),
        ("transfer_features", "--target_epsilons=1,x", "target_epsilons must"),
        ("lora_finetuning", "--target_epsilon=-1", "target_epsilon must be"),
    ],
)
def test_refuses(load, script, argument, message):
    module = load(script, argument, "--smoke")
    with pytest.raises(module.app.UsageError, match=f"^{message}"):
        module.main([script])
