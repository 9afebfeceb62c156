# SPDX-License-Identifier: Apache-2.0
"""Tests of the makers of canaries."""

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import canary_format
from tf_privacy.audit import canary_makers

X = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
Y = np.arange(300) % 5
MAKERS = {
    "text": lambda **k: canary_makers.make_text_canaries("{digit:9}", **k),
    "token": lambda **k: canary_makers.make_token_canaries(
        vocabulary_size=50, length=8, **k
    ),
    "image": lambda **k: canary_makers.make_image_canaries(
        (4, 4, 1), y=Y, num_classes=5, **k
    ),
    "tabular": lambda **k: canary_makers.make_tabular_canaries(X, Y, **k),
    "mislabeled": lambda **k: canary_makers.make_mislabeled_canaries(
        X, Y, num_classes=5, **k
    ),
    "custom": lambda num_canaries, **k: canary_makers.make_custom_canaries(
        X[:num_canaries], Y[:num_canaries], **k
    ),
}


def are_equal(first, second):
    return np.array_equal(np.asarray(first), np.asarray(second))


@pytest.mark.parametrize("kind", MAKERS)
def test_coins_are_drawn_apart_from_the_canaries(kind):
    first, again, other = [
        MAKERS[kind](num_canaries=200, seed=seed) for seed in (3, 3, 4)
    ]
    assert first.kind == kind and first.has_coins
    assert first.num_canaries == 200 and first.max_repetitions == 1
    assert are_equal(first.values, again.values)
    assert are_equal(first.is_member, again.is_member)
    assert not are_equal(first.is_member, other.is_member)
    # The coins of a seed are the same whatever the canaries are.
    custom = MAKERS["custom"](num_canaries=200, seed=3)
    assert are_equal(first.is_member, custom.is_member)
    # They are not those of a caller who takes the same seed.
    caller = np.random.default_rng(3).integers(2, size=200)
    assert not are_equal(first.is_member, caller)


@pytest.mark.parametrize("kind", MAKERS)
def test_coins_come_from_entropy_by_default(kind):
    # Equal with probability 2^-200.
    first, second = [MAKERS[kind](num_canaries=200) for _ in range(2)]
    assert not are_equal(first.is_member, second.is_member)
    np.random.seed(0)
    first = MAKERS[kind](num_canaries=200)
    np.random.seed(0)
    second = MAKERS[kind](num_canaries=200)
    assert not are_equal(first.is_member, second.is_member)


def test_coins_are_fair_and_never_forced_to_a_half():
    # 400 plans of 100: counts must be those of a binomial.
    plans = [
        canary_makers.make_custom_canaries(np.zeros(100), seed=seed)
        for seed in range(400)
    ]
    coins = np.array([plan.is_member for plan in plans])
    assert abs(coins.mean() - 0.5) < 6 * 0.5 / np.sqrt(coins.size)
    counts = coins.sum(axis=1)
    # Exactly 50 would have no variance; coins that agree, a larger one.
    statistic = np.sum((counts - 50.0) ** 2) / 25.0
    assert 1e-7 < stats.chi2.cdf(statistic, 400) < 1 - 1e-7
    # Neighbors are independent.
    agree = np.mean(coins[:, 1:] == coins[:, :-1])
    assert abs(agree - 0.5) < 6 * 0.5 / np.sqrt(400 * 99)


def test_coins_do_not_depend_on_the_values():
    plans = [
        canary_makers.make_text_canaries(
            "{digit:4}", num_canaries=50, seed=seed
        )
        for seed in range(200)
    ]
    numbers = np.concatenate([plan.secret_indices for plan in plans])
    coins = np.concatenate([plan.is_member for plan in plans])
    table = [
        np.bincount(numbers[coins == side] // 1000, minlength=10)
        for side in (False, True)
    ]
    assert stats.chi2_contingency(table).pvalue > 1e-6


@pytest.mark.parametrize("repetitions", [4, [1, 2, 3] * 10])
def test_repetitions_are_of_all_or_of_each(repetitions):
    for make in MAKERS.values():
        plan = make(num_canaries=30, repetitions=repetitions)
        wanted = np.broadcast_to(repetitions, 30)
        np.testing.assert_array_equal(plan.repetitions, wanted)
    with pytest.raises(ValueError, match=".* must hold arrays of one length"):
        make(num_canaries=29, repetitions=[1] * 30)
    with pytest.raises(ValueError, match="repetitions must be >= 1"):
        make(num_canaries=30, repetitions=0)
    with pytest.raises(TypeError, match="repetitions must be a vector of who"):
        make(num_canaries=30, repetitions=1.5)


@pytest.mark.parametrize("kind", [k for k in MAKERS if k != "custom"])
def test_bad_numbers_are_refused(kind):
    with pytest.raises(ValueError, match="num_canaries must be a whole numbe"):
        MAKERS[kind](num_canaries=0)
    with pytest.raises(ValueError, match="seed must be a whole number"):
        MAKERS[kind](num_canaries=2, seed=-1)


def test_texts_are_distinct_secrets_of_the_format():
    text_format = canary_format.CanaryFormat("pin {digit:3}")
    plan = canary_makers.make_text_canaries(text_format, num_canaries=1000)
    assert sorted(plan.secret_indices) == list(range(1000))
    assert plan.values[:2] == tuple(
        f"pin {index:03d}" for index in plan.secret_indices[:2]
    )
    assert list(plan.secret_indices) != sorted(plan.secret_indices)
    with pytest.raises(ValueError, match="num_samples must be at most 1000"):
        canary_makers.make_text_canaries(text_format, num_canaries=1001)


def test_exposure_canaries_are_all_in_as_often_as_asked():
    plan = canary_makers.make_exposure_canaries(
        "{alphanumeric:30}", repetitions=(1, 4, 16), num_each=3
    )
    assert plan.repetitions.tolist() == [1, 1, 1, 4, 4, 4, 16, 16, 16]
    assert np.all(plan.is_member) and not plan.has_coins
    documents = plan.insert_into_documents([])
    assert [documents.count(text) for text in plan.values] == [
        *plan.repetitions
    ]
    assert len(set(plan.values)) == 9 and max(plan.secret_indices) > 2**64
    with pytest.raises(ValueError, match="num_canaries must be a whole numbe"):
        canary_makers.make_exposure_canaries("{digit}", repetitions=())


def test_every_secret_is_equally_likely_a_canary():
    counts = np.zeros(10)
    for seed in range(3000):
        plan = canary_makers.make_text_canaries(
            "{digit}", num_canaries=2, seed=seed
        )
        counts[list(plan.secret_indices)] += 1
    # Two distinct of ten: 0.9 * 8 / 9 of the variance of independent ones.
    statistic = stats.chisquare(counts).statistic * 9 / 8
    assert stats.chi2.sf(statistic, 9) > 1e-6


def test_tokens_are_uniform_but_for_reserved_ones():
    plan = canary_makers.make_token_canaries(
        vocabulary_size=12,
        length=6,
        num_canaries=5000,
        reserved_tokens=(0, 1, 1),
        seed=0,
    )
    assert plan.values.shape == (5000, 6) and plan.values.dtype == np.int32
    assert plan.values.min() == 2 and plan.values.max() == 11
    for column in plan.values.T:
        counts = np.bincount(column, minlength=12)[2:]
        assert stats.chisquare(counts).pvalue > 1e-6 / 6
    with pytest.raises(ValueError, match="reserved_tokens must leave two"):
        canary_makers.make_token_canaries(
            vocabulary_size=3, length=1, num_canaries=1, reserved_tokens=(0, 1)
        )
    with pytest.raises(ValueError, match="reserved_tokens must be a whole nu"):
        canary_makers.make_token_canaries(
            vocabulary_size=3, length=1, num_canaries=1, reserved_tokens=(3,)
        )


@pytest.mark.parametrize("pattern", ["noise", "blocks", "dot"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_images_have_shape_type_and_range(pattern, dtype):
    plan = canary_makers.make_image_canaries(
        (28, 20, 3),
        num_canaries=60,
        pattern=pattern,
        low=5,
        high=250,
        dtype=dtype,
        seed=0,
    )
    assert plan.values.shape == (60, 28, 20, 3)
    assert plan.values.dtype == dtype and plan.labels is None
    assert 5 <= plan.values.min() < 5.1 and 249.9 < plan.values.max() <= 250
    assert len(np.unique(plan.values.reshape(60, -1), axis=0)) == 60


@pytest.mark.parametrize("form", ["integer", "column", "one_hot"])
def test_labels_of_images_are_uniform_in_the_form_of_the_data(form):
    y = {
        "integer": Y.astype(np.uint8),
        "column": Y[:, None],
        "one_hot": np.eye(5, dtype=np.float32)[Y],
    }[form]
    plan = canary_makers.make_image_canaries(
        (2,), num_canaries=5000, y=y, num_classes=5, seed=0
    )
    assert plan.labels.dtype == y.dtype
    assert plan.labels.shape == (5000, *y.shape[1:])
    classes = plan.labels
    classes = classes.argmax(1) if form == "one_hot" else classes.reshape(-1)
    assert stats.chisquare(np.bincount(classes, minlength=5)).pvalue > 1e-6
    x, labels = plan.insert(np.zeros((300, 2)), y)
    assert len(x) == len(labels) == 300 + plan.num_members


def test_bad_images_are_refused():
    def make(**kwargs):
        canary_makers.make_image_canaries((4, 4), num_canaries=2, **kwargs)

    with pytest.raises(ValueError, match="pattern must be one of"):
        make(pattern="stripes")
    with pytest.raises(ValueError, match="high must be a finite number"):
        make(low=1.0, high=1.0)
    with pytest.raises(ValueError, match="num_classes must be given if and on"):
        make(y=Y)
    with pytest.raises(ValueError, match="num_classes must be given if and on"):
        make(num_classes=5)
    with pytest.raises(ValueError, match="y must hold classes from 0 to 2"):
        make(y=Y, num_classes=3)


def test_table_rows_are_of_the_columns_and_labels_of_the_data():
    x = {"number": X, "city": np.array(["Bern", "Rome", "Oslo"] * 100)}
    y = (Y.astype(np.float32), np.eye(5)[Y])
    plan = canary_makers.make_tabular_canaries(x, y, num_canaries=2000, seed=0)
    for column in range(3):
        drawn = plan.values["number"][:, column]
        assert np.all(np.isin(drawn, X[:, column]))
        # Kolmogorov-Smirnov on 2000 draws of 300 values.
        assert stats.ks_2samp(drawn, X[:, column]).pvalue > 1e-7
    assert set(plan.values["city"]) == {"Bern", "Rome", "Oslo"}
    # Rows are new, and labels hold together.
    rows = {tuple(row) for row in X.tolist()}
    assert not any(tuple(r) in rows for r in plan.values["number"].tolist())
    np.testing.assert_array_equal(plan.labels[0], plan.labels[1].argmax(1))
    got_x, got_y = plan.insert(x, y)
    assert len(got_x["city"]) == len(got_y[0]) == 300 + plan.num_members


def test_bad_tables_are_refused():
    make = canary_makers.make_tabular_canaries
    with pytest.raises(ValueError, match="style must be one of"):
        make(X, num_canaries=1, style="odd")
    with pytest.raises(ValueError, match="x must be finite floats to have out"):
        make(Y, num_canaries=1, style="outliers")
    with pytest.raises(ValueError, match="x must hold at least one row"):
        make(X[:0], num_canaries=1)
    with pytest.raises(TypeError, match="x must be an array"):
        make([1.0], num_canaries=1)


def test_wrong_labels_are_uniform_over_the_others():
    x = {"a": np.arange(4000), "b": np.arange(4000)[:, None]}
    y = (np.arange(4000) % 4)[:, None].astype(np.uint8)
    plan = canary_makers.make_mislabeled_canaries(
        x, y, num_canaries=4000, num_classes=4, seed=0
    )
    assert sorted(plan.source_rows) == list(range(4000))
    np.testing.assert_array_equal(plan.values["a"], plan.source_rows)
    assert plan.labels.shape == (4000, 1) and plan.labels.dtype == np.uint8
    table = np.zeros((4, 4))
    np.add.at(table, (y[plan.source_rows, 0], plan.labels[:, 0]), 1)
    assert not np.any(np.diag(table))
    for true in range(4):
        wrong = np.delete(table[true], true)
        assert stats.chisquare(wrong).pvalue > 1e-6 / 4


def test_source_rows_are_uniform():
    counts = np.zeros(10)
    for seed in range(2000):
        plan = canary_makers.make_mislabeled_canaries(
            X[:10], Y[:10], num_canaries=1, num_classes=5, seed=seed
        )
        counts[plan.source_rows] += 1
    assert stats.chisquare(counts).pvalue > 1e-6


def test_bad_labels_are_refused():
    make = canary_makers.make_mislabeled_canaries
    with pytest.raises(ValueError, match="num_canaries must be a whole numbe"):
        make(X, Y, num_canaries=301, num_classes=5)
    with pytest.raises(ValueError, match="num_classes must be a whole number"):
        make(X, Y, num_canaries=3, num_classes=1)
    with pytest.raises(ValueError, match="x and y must hold arrays of one le"):
        make(X, Y[:5], num_canaries=3, num_classes=5)
    with pytest.raises(ValueError, match="y must hold classes from 0 to 3"):
        make(X, Y, num_canaries=3, num_classes=4)


def test_custom_canaries_are_kept():
    plan = canary_makers.make_custom_canaries(["a", "b"])
    assert plan.values == ("a", "b") and plan.is_text
    plan = canary_makers.make_custom_canaries((X, Y), Y, repetitions=2)
    np.testing.assert_array_equal(plan.values[0], X)
    np.testing.assert_array_equal(plan.labels, Y)
    with pytest.raises(ValueError, match="num_canaries must be a whole numbe"):
        canary_makers.make_custom_canaries([])
