# SPDX-License-Identifier: Apache-2.0
"""Tests of plans of canaries."""

import collections
import dataclasses
import os
import stat

import numpy as np
import pytest

from tf_privacy.audit import canaries
from tf_privacy.audit import canary_format
from tf_privacy.audit import canary_makers

COINS = np.array([True, False, True, True, False])
COPIES = np.array([1, 5, 3, 2, 1])


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


def make_rng(seed=0):
    return np.random.default_rng(seed)


def make_plan(**fields):
    """Returns five canaries, the numbers 100 to 104; 0, 2 and 3 are in."""
    numbers = np.arange(100, 105)
    fields = {
        "kind": "custom",
        "description": "numbers",
        "values": {"a": numbers.astype(np.float32), "b": (numbers,)},
        "labels": numbers[:, None],
        "is_member": COINS,
        "has_coins": True,
        "repetitions": COPIES,
        **fields,
    }
    return canaries.Canaries(**fields)


def make_texts(**kwargs):
    kwargs = {"num_canaries": 20, "repetitions": 3, "seed": 1, **kwargs}
    return canary_makers.make_text_canaries("my pin is {digit:6}", **kwargs)


def count_copies(plan):
    """Returns how often each text of the plan goes in, by its definition."""
    rows = zip(plan.values, plan.is_member, plan.repetitions, strict=True)
    return {text: n for text, is_in, n in rows if is_in}


def test_members_go_in_as_often_as_planned_and_no_others():
    x = np.arange(30)
    plan = make_plan()
    got_x, got_y = plan.insert(
        {"a": x.astype(np.float32), "b": (x,)}, x[:, None], rng=make_rng()
    )
    wanted = {i: 1 for i in range(30)} | {100: 1, 102: 3, 103: 2}
    assert collections.Counter(got_y[:, 0].tolist()) == wanted
    np.testing.assert_array_equal(got_x["a"], got_y[:, 0])
    np.testing.assert_array_equal(got_x["b"][0], got_y[:, 0])


def test_places_are_random_unless_rng_is_given():
    x, plan = np.arange(1000), make_plan(values=np.arange(5), labels=None)
    first, y = plan.insert(x, rng=make_rng(1))
    assert y is None
    np.testing.assert_array_equal(plan.insert(x, rng=make_rng(1))[0], first)
    # Six places in a thousand.
    assert not np.array_equal(plan.insert(x)[0], plan.insert(x)[0])


def test_members_and_non_members_are_all():
    plan = make_plan()
    values, labels = plan.members
    assert labels[:, 0].tolist() == [100, 102, 103]
    assert values["b"][0].tolist() == [100, 102, 103]
    values, labels = plan.non_members
    assert labels[:, 0].tolist() == [101, 104]
    assert (plan.num_canaries, plan.num_members) == (5, 3)
    assert plan.max_repetitions == 5


def test_scores_are_split_by_the_coins():
    members, others = make_plan().split_scores([0.0, 1.0, 2.0, 3.0, 4.0])
    assert members.tolist() == [0.0, 2.0, 3.0]
    assert others.tolist() == [1.0, 4.0]
    with pytest.raises(ValueError, match="scores must hold one for each of th"):
        make_plan().split_scores([0.0, 1.0])
    with pytest.raises(ValueError, match="scores must be finite"):
        make_plan().split_scores([0.0, 1.0, 2.0, 3.0, float("nan")])


def test_texts_go_into_documents_and_into_a_text():
    plan = make_texts()
    wanted = count_copies(plan)
    assert 0 < len(wanted) < 20
    documents = ["a", "b", "c"]
    got = plan.insert_into_documents(documents, rng=make_rng())
    assert collections.Counter(got) == {"a": 1, "b": 1, "c": 1, **wanted}
    text = plan.insert_into_text("a\nb\nc", between="lines", rng=make_rng())
    assert collections.Counter(text.split("\n")) == collections.Counter(got)
    text = plan.insert_into_text("a b c", between="words", rng=make_rng())
    for value in plan.values:
        assert text.count(value) == wanted.get(value, 0)


def test_canaries_go_into_a_dataset(tf):
    x = np.arange(30)
    dataset = tf.data.Dataset.from_tensor_slices(
        ({"a": x.astype(np.float32), "b": (x,)}, x[:, None])
    )
    got = make_plan().insert_into_dataset(dataset, rng=make_rng())
    numbers = [int(y[0]) for _, y in got.as_numpy_iterator()]
    wanted = {i: 1 for i in range(30)} | {100: 1, 102: 3, 103: 2}
    assert collections.Counter(numbers) == wanted
    plan = make_texts()
    texts = plan.insert_into_dataset(
        tf.data.Dataset.from_tensor_slices(["a", "b"]), rng=make_rng()
    )
    got = [text.decode() for text in texts.as_numpy_iterator()]
    wanted = {"a": 1, "b": 1, **count_copies(plan)}
    assert collections.Counter(got) == wanted


def test_source_rows_go_out_whatever_the_coins_are():
    x = make_rng().normal(size=(40, 3))
    x[5, 1] = np.nan
    y = np.arange(40) % 4
    plan = canary_makers.make_mislabeled_canaries(
        x, y, num_canaries=38, num_classes=4, seed=1
    )
    assert 0 < plan.num_members < 38
    got_x, got_y = plan.insert(x, y)
    rest = np.setdiff1d(np.arange(40), plan.source_rows)
    assert len(got_x) == len(rest) + plan.num_members
    for row in range(40):
        found = np.flatnonzero(
            np.all((got_x == x[row]) | np.isnan(x[row]), axis=1)
        )
        (place,) = np.flatnonzero(plan.source_rows == row).tolist() or [None]
        if place is None:
            assert got_y[found].tolist() == [y[row]]
        elif plan.is_member[place]:
            assert got_y[found].tolist() == [plan.labels[place]] != [y[row]]
        else:
            assert not found.size


def test_other_data_than_that_of_the_source_rows_is_refused(tf):
    x, y = np.arange(20.0), np.arange(20) % 2
    plan = canary_makers.make_mislabeled_canaries(
        x, y, num_canaries=10, num_classes=2
    )
    for other in (x[::-1], x[:10], x + 1.0):
        with pytest.raises(ValueError, match="x must be the data that the can"):
            plan.insert(other, y[: len(other)])
    with pytest.raises(ValueError, match="x must be the data that the canari"):
        plan.insert(*plan.insert(x, y))
    with pytest.raises(ValueError, match="dataset must not be where canaries"):
        plan.insert_into_dataset(tf.data.Dataset.from_tensor_slices((x, y)))


def test_references_are_of_the_format_and_no_canaries():
    plan = canary_makers.make_text_canaries("{digit:2}", num_canaries=60)
    references = plan.make_references(40)
    assert sorted([*references, *plan.values]) == [
        f"{i:02d}" for i in range(100)
    ]
    assert plan.make_references(5, rng=make_rng()) == plan.make_references(
        5, rng=make_rng()
    )
    with pytest.raises(ValueError, match="num_samples must be at most 40"):
        plan.make_references(41)
    with pytest.raises(ValueError, match="text_format must be known"):
        make_plan().make_references(1)


def test_a_plan_cannot_be_changed():
    numbers, coins = np.arange(5), COINS.copy()
    plan = make_plan(values=numbers, is_member=coins)
    numbers[0], coins[0] = 9, False
    assert plan.values[0] == 0 and plan.is_member[0]
    for array in (plan.values, plan.labels, plan.is_member, plan.repetitions):
        with pytest.raises(ValueError):
            array[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.has_coins = False


def test_neither_coins_nor_secrets_are_shown():
    plan = make_texts()
    shown = f"{plan} {plan!r}"
    assert "my pin is {digit:6}" in shown and "fair coins" in shown
    assert not any(value in shown for value in plan.values)
    assert "rue" not in shown and str(plan.num_members) not in shown
    assert "20 text canaries" in shown and "at most 3" in shown
    assert "all of them in" in str(
        canary_makers.make_exposure_canaries("{digit:2}")
    )


def is_same(first, second):
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(
            is_same(first[key], second[key]) for key in first
        )
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(is_same, first, second))
    return type(first) is type(second) and first == second


WORDS = canary_format.CanaryFormat(
    "{word} {word}.{digit:40}", alphabets={"word": ["é", "ét\0", "\ud800"]}
)


@pytest.mark.parametrize(
    "plan",
    [
        make_plan(),
        make_plan(labels=None, values=np.array(["a", "bc", "", "d", "e"])),
        make_plan(values=(np.zeros((5, 2), bool), {"x": {}, "y/z": COPIES})),
        make_plan(values=["a", "", "b\0", "\ud800", "a"]),
        make_texts(),
        canary_makers.make_text_canaries(WORDS, num_canaries=9),
        canary_makers.make_exposure_canaries("{digit:16}", num_each=2),
        canary_makers.make_mislabeled_canaries(
            np.zeros((9, 2)), np.arange(9) % 3, num_canaries=4, num_classes=3
        ),
    ],
)
def test_saved_and_loaded_plans_are_the_same(plan, tmp_path):
    path = tmp_path / "plan.npz"
    plan.save(path)
    loaded = canaries.Canaries.load(str(path))
    for field in dataclasses.fields(canaries.Canaries):
        old, new = getattr(plan, field.name), getattr(loaded, field.name)
        assert is_same(old, new), field.name
    # No pickle: numpy reads it without.
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["is_member"], plan.is_member)
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_coins_are_not_written_over(tmp_path):
    path = tmp_path / "plan.npz"
    make_plan().save(path)
    content = path.read_bytes()
    with pytest.raises(FileExistsError):
        make_plan(is_member=~COINS).save(path)
    assert path.read_bytes() == content


def test_what_is_no_plan_is_not_loaded(tmp_path):
    path = tmp_path / "plan.npz"
    make_plan().save(path)
    content = path.read_bytes()
    np.savez(tmp_path / "other.npz", is_member=COINS)
    np.savez(tmp_path / "object.npz", header=np.array([{}], dtype=object))
    damaged = bytearray(content)
    # Within the numbers of the first array.
    damaged[content.index(COINS.tobytes())] ^= 1
    bad = {
        "empty": b"",
        "text": b"no archive",
        "cut": content[: len(content) // 2],
        "damaged": bytes(damaged),
        "other": (tmp_path / "other.npz").read_bytes(),
        "object": (tmp_path / "object.npz").read_bytes(),
    }
    for name, changed in bad.items():
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(ValueError, match="path must be a file that Canari"):
            canaries.Canaries.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        canaries.Canaries.load(tmp_path / "none")


def test_secrets_must_be_those_of_the_numbers():
    text_format = canary_format.CanaryFormat("{digit:2}")
    fields = {
        "values": ["00", "01", "02", "03", "05"],
        "labels": None,
        "text_format": text_format,
    }
    make_plan(secret_indices=[0, 1, 2, 3, 5], **fields)
    with pytest.raises(ValueError, match="secret_indices must be distinct and"):
        make_plan(secret_indices=[0, 1, 2, 3, 4], **fields)
    with pytest.raises(ValueError, match="secret_indices must be given if and"):
        make_plan(**fields)
    with pytest.raises(ValueError, match="secret_indices must be distinct and"):
        make_plan(secret_indices=[0] * 5, **{**fields, "values": ["00"] * 5})


@pytest.mark.parametrize(
    "fields, error, message",
    [
        ({"is_member": COPIES}, TypeError, "is_member must be a vector of Tru"),
        ({"is_member": COINS[:4]}, ValueError, ".* must hold arrays of one l"),
        ({"is_member": COINS[None]}, TypeError, "is_member must be a vector"),
        ({"repetitions": COPIES - 1}, ValueError, "repetitions must be >= 1"),
        ({"repetitions": COPIES / 2}, TypeError, "repetitions must be a vect"),
        ({"repetitions": COPIES[:2]}, ValueError, ".* must hold arrays of on"),
        ({"labels": COPIES[:2]}, ValueError, ".* must hold arrays of one len"),
        ({"labels": [1, 2, 3, 4, 5]}, TypeError, "labels must be an array"),
        ({"values": COPIES.astype(object)}, TypeError, "values must be arrays"),
        ({"values": ()}, ValueError, "values must hold an array"),
        ({"has_coins": 1}, TypeError, "has_coins must be of type bool"),
        ({"kind": None}, TypeError, "kind must be of type str"),
        ({"has_coins": False}, ValueError, "is_member must be True for all"),
        ({"source_rows": [1, 2, 3, 3, 4]}, ValueError, "source_rows must be d"),
        ({"source_rows": [-1, 2, 3, 5, 4]}, ValueError, "source_rows must be"),
        (
            {
                "values": COPIES[:0],
                "labels": None,
                "is_member": COINS[:0],
                "repetitions": COPIES[:0],
            },
            ValueError,
            "values must hold at least one canary",
        ),
    ],
)
def test_bad_fields_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        make_plan(**fields)


def test_data_of_another_sort_is_refused():
    texts, plan = make_texts(), make_plan()
    with pytest.raises(TypeError, match="insert must be used with canaries th"):
        texts.insert(np.zeros(3))
    with pytest.raises(TypeError, match="values must be texts without labels"):
        plan.insert_into_documents(["a"])
    with pytest.raises(TypeError, match="values must be texts without labels"):
        plan.insert_into_text("a", between="lines")
    with pytest.raises(ValueError, match="y must be given if and only if"):
        plan.insert({"a": np.zeros(3), "b": (np.zeros(3),)})
    with pytest.raises(TypeError, match="documents must be text"):
        texts.insert_into_documents("a")
