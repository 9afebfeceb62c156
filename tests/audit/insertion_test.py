# SPDX-License-Identifier: Apache-2.0
"""Tests of putting rows into training data."""

import collections
import re

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import insertion

TEXT = "one two\n\n three  four\r\nfive"


def make_rng(seed=0):
    return np.random.default_rng(seed)


def make_rows(num_rows, start):
    numbers = np.arange(start, start + num_rows)
    x = {"a": numbers.astype(np.float32), "b": (np.stack([numbers] * 2, 1),)}
    return x, numbers[:, None]


def test_rows_go_in_and_the_rest_keeps_its_order():
    x, y = make_rows(50, 0)
    values, labels = make_rows(7, 1000)
    got_x, got_y = insertion.insert_rows(
        x, y, values=values, labels=labels, rng=make_rng()
    )
    assert got_y.shape == (57, 1)
    numbers = got_y[:, 0]
    np.testing.assert_array_equal(numbers[numbers < 1000], np.arange(50))
    assert sorted(numbers[numbers >= 1000]) == list(range(1000, 1007))
    # x and y, and all leaves of x, stay together.
    np.testing.assert_array_equal(got_x["a"], numbers)
    np.testing.assert_array_equal(got_x["b"][0], np.stack([numbers] * 2, 1))
    assert got_x["a"].dtype == np.float32
    # The caller's arrays are as they were.
    np.testing.assert_array_equal(x["a"], np.arange(50))


def test_every_place_is_equally_likely_for_every_row():
    # Two rows into three: 20 equally likely ordered pairs of places.
    rng = make_rng()
    counts = collections.Counter()
    for _ in range(4000):
        got, _ = insertion.insert_rows(
            np.zeros(3), values=np.array([1.0, 2.0]), rng=rng
        )
        counts[tuple(got)] += 1
    assert len(counts) == 20
    assert stats.chisquare(list(counts.values())).pvalue > 1e-6


def test_no_rows_and_no_data():
    x = np.arange(4)
    got, y = insertion.insert_rows(x, values=np.zeros(0, int), rng=make_rng())
    np.testing.assert_array_equal(got, x)
    assert y is None
    got, _ = insertion.insert_rows(x[:0], values=x, rng=make_rng())
    assert sorted(got) == [0, 1, 2, 3]


def test_order_of_keys_does_not_matter():
    got, _ = insertion.insert_rows(
        {"a": np.zeros(2), "b": np.ones(2)},
        values={"b": np.ones(3), "a": np.zeros(3)},
        rng=make_rng(),
    )
    assert list(got) == ["a", "b"]
    assert not np.any(got["a"]) and np.all(got["b"] == 1)


@pytest.mark.parametrize(
    "values, dtype",
    [
        (np.array([3, 255]), np.uint8),
        (np.array([0.1, np.nan]), np.float32),
        (np.array([True, False]), np.int32),
        (np.array([1.0, 2.0]), np.int64),
        (np.array(["long text"]), np.dtype("U3")),
        (np.array(["text"]), np.dtype("O")),
    ],
)
def test_types_that_hold_the_values(values, dtype):
    x = np.zeros(2, dtype)
    got, _ = insertion.insert_rows(x, values=values, rng=make_rng())
    assert got.dtype.kind == np.dtype(dtype).kind
    added = sorted(map(str, got))
    wanted = values.astype(got.dtype)
    assert added == sorted(map(str, [*x.astype(got.dtype), *wanted]))


@pytest.mark.parametrize(
    "values, dtype",
    [
        (np.array([256]), np.uint8),
        (np.array([-1]), np.uint8),
        (np.array([0.5]), np.uint8),
        (np.array([np.nan]), np.int32),
        (np.array([1e30]), np.float16),
        (np.array([2]), np.bool_),
        (np.array([2**53 + 1]), np.float64),
        (np.array([1.0]), np.dtype("U3")),
        (np.array(["1"]), np.float64),
        (np.array([b"1"]), np.dtype("U3")),
        (np.array([1]), np.dtype("O")),
    ],
)
def test_types_that_would_change_the_values_are_refused(values, dtype):
    with pytest.raises(ValueError, match="x must be of a type that holds"):
        insertion.insert_rows(np.zeros(2, dtype), values=values, rng=make_rng())


def test_what_does_not_fit_is_refused():
    x, values = np.zeros((3, 2)), np.zeros((1, 2))
    rng = make_rng()
    with pytest.raises(ValueError, match="x must have rows of the canaries' s"):
        insertion.insert_rows(x, values=values[:, :1], rng=rng)
    with pytest.raises(ValueError, match="x must have rows of the canaries' s"):
        insertion.insert_rows(x, values=values[..., None], rng=rng)
    with pytest.raises(ValueError, match="x must have the structure of the"):
        insertion.insert_rows(x, values={"a": values}, rng=rng)
    with pytest.raises(ValueError, match="y must be given if and only if"):
        insertion.insert_rows(x, x, values=values, rng=rng)
    with pytest.raises(ValueError, match="y must be given if and only if"):
        insertion.insert_rows(x, values=values, labels=values, rng=rng)
    with pytest.raises(ValueError, match="x and y must hold arrays of one len"):
        insertion.insert_rows(x, x[1:], values=values, labels=values, rng=rng)
    with pytest.raises(TypeError, match="x must be an array"):
        insertion.insert_rows([1, 2], values=values, rng=rng)
    with pytest.raises(TypeError, match="rng must be a np.random.Generator"):
        insertion.insert_rows(x, values=values, rng=7)


def test_documents_go_in_anywhere():
    documents = [f"old {i}" for i in range(40)]
    additions = ["new a", "new b", "new b"]
    got = insertion.insert_documents(
        documents, additions=additions, rng=make_rng()
    )
    assert [text for text in got if text.startswith("old")] == documents
    assert sorted(text for text in got if text.startswith("new")) == additions
    assert insertion.insert_documents([], additions=[], rng=make_rng()) == []


def test_places_of_documents_are_uniform():
    rng = make_rng()
    counts = np.zeros(5)
    for _ in range(5000):
        got = insertion.insert_documents(["x"] * 4, additions=["y"], rng=rng)
        counts[got.index("y")] += 1
    assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("between", ["lines", "words"])
@pytest.mark.parametrize(
    "text", ["", " ", "\n", "one", "one\n", " one two ", TEXT, TEXT + "\n\n"]
)
def test_the_text_without_the_additions_is_the_old_one(text, between):
    separator = {"lines": "\n", "words": " "}[between]
    for seed in range(20):
        additions = ["<a>", "<b>", "<b>", "<c c>"]
        got = insertion.insert_text(
            text, additions=additions, between=between, rng=make_rng(seed)
        )
        for addition in additions:
            assert got.count(addition) == additions.count(addition)
            if between == "lines":
                assert addition in got.split("\n")
            else:
                assert re.search(rf"(?<!\S){addition}(?!\S)", got)
        # Additions at the end of an unended text have theirs before them.
        rest = re.sub(f"({separator}<[^>]*>)+$", "", got)
        rest = re.sub(f"<[^>]*>{separator}", "", rest)
        assert rest == text


@pytest.mark.parametrize(
    "between, wanted",
    [
        ("lines", {"@\na b\nc", "a b\n@\nc", "a b\nc\n@"}),
        ("words", {"@ a b\nc", "a @ b\nc", "a b\n@ c", "a b\nc @"}),
    ],
)
def test_gaps_are_equally_likely(between, wanted):
    rng = make_rng()
    counts = collections.Counter(
        insertion.insert_text(
            "a b\nc", additions=["@"], between=between, rng=rng
        )
        for _ in range(4000)
    )
    assert set(counts) == wanted
    assert stats.chisquare(list(counts.values())).pvalue > 1e-6


def test_order_within_a_gap_is_random():
    rng = make_rng()
    counts = collections.Counter(
        insertion.insert_text(
            "", additions=["a", "b", "c"], between="words", rng=rng
        )
        for _ in range(3000)
    )
    assert len(counts) == 6
    assert stats.chisquare(list(counts.values())).pvalue > 1e-6


def test_what_is_no_text_is_refused():
    rng = make_rng()
    with pytest.raises(TypeError, match="documents must be text"):
        insertion.insert_documents("one text", additions=[], rng=rng)
    with pytest.raises(TypeError, match="additions must be text"):
        insertion.insert_documents([], additions=[1], rng=rng)
    with pytest.raises(TypeError, match="text must be text"):
        insertion.insert_text(["a"], additions=[], between="words", rng=rng)
    with pytest.raises(ValueError, match="between must be one of"):
        insertion.insert_text("a", additions=[], between="letters", rng=rng)


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


def make_dataset(tf, structure):
    return tf.data.Dataset.from_tensor_slices(structure)


def test_elements_go_into_a_dataset(tf):
    dataset = make_dataset(tf, make_rows(50, 0))
    values, labels = make_rows(7, 1000)
    got = insertion.insert_elements(
        dataset, values=values, labels=labels, rng=make_rng()
    )
    assert int(got.cardinality()) == 57
    assert got.element_spec == dataset.element_spec
    elements = list(got.as_numpy_iterator())
    numbers = np.array([y[0] for _, y in elements])
    np.testing.assert_array_equal(numbers[numbers < 1000], np.arange(50))
    assert sorted(numbers[numbers >= 1000]) == list(range(1000, 1007))
    for number, (x, _) in zip(numbers, elements, strict=True):
        assert x["a"] == number and list(x["b"][0]) == [number, number]
    again = [y[0] for _, y in got.as_numpy_iterator()]
    np.testing.assert_array_equal(again, numbers)


def test_places_in_a_dataset_are_those_in_arrays(tf):
    x, values = np.arange(30), np.arange(100, 106)
    wanted, _ = insertion.insert_rows(x, values=values, rng=make_rng())
    got = insertion.insert_elements(
        make_dataset(tf, x), values=values, rng=make_rng()
    )
    np.testing.assert_array_equal(list(got.as_numpy_iterator()), wanted)


def test_texts_go_into_a_dataset(tf):
    got = insertion.insert_elements(
        make_dataset(tf, ["a", "b"]),
        values=np.array(["new", "é"], dtype=object),
        rng=make_rng(),
    )
    texts = sorted(text.decode() for text in got.as_numpy_iterator())
    assert texts == ["a", "b", "new", "é"]


def test_elements_of_varying_length_and_other_types(tf):
    dataset = tf.data.Dataset.from_generator(
        lambda: iter([[1], [1, 2]]),
        output_signature=tf.TensorSpec([None], tf.bfloat16),
    ).apply(tf.data.experimental.assert_cardinality(2))
    got = insertion.insert_elements(
        dataset, values=np.array([[0.5, 3.0]]), rng=make_rng()
    )
    elements = sorted(tuple(map(float, e)) for e in got.as_numpy_iterator())
    assert elements == [(0.5, 3.0), (1.0,), (1.0, 2.0)]


def test_datasets_that_do_not_fit_are_refused(tf):
    x, y = make_rows(6, 0)
    dataset, rng = make_dataset(tf, (x, y)), make_rng()

    def insert(dataset, values=x, labels=y):
        return insertion.insert_elements(
            dataset, values=values, labels=labels, rng=rng
        )

    with pytest.raises(ValueError, match=r"dataset\[0\].* must not be batched"):
        insert(dataset.batch(2))
    with pytest.raises(ValueError, match="dataset must have a known number"):
        insert(dataset.repeat())
    with pytest.raises(ValueError, match="dataset must have a known number"):
        insert(dataset.filter(lambda x, y: True))
    with pytest.raises(ValueError, match="dataset must have the structure of"):
        insert(dataset, labels=None)
    with pytest.raises(ValueError, match="dataset must have the structure of"):
        insert(dataset.map(lambda x, y: (x["a"], y)))
    with pytest.raises(ValueError, match=r"dataset\[1\] must have rows of the"):
        insert(dataset, labels=np.zeros((6, 2), int))
    with pytest.raises(ValueError, match=r"dataset\[1\] must be of a type"):
        insert(dataset, labels=y + 0.5)
    with pytest.raises(TypeError, match="dataset must be a tf.data.Dataset"):
        insert(x)
    ragged = tf.data.Dataset.from_tensor_slices(tf.ragged.constant([[1], [2]]))
    with pytest.raises(TypeError, match="dataset must be a dense tensor"):
        insert(ragged, values=np.ones((1, 1), int), labels=None)
