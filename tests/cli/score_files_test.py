# SPDX-License-Identifier: Apache-2.0
"""Files of scores: both forms, and what is wrong with a bad one."""

import pickle
import time

import numpy as np
import pytest

from tf_privacy.cli import score_files

MEMBERS = np.array([0.5, -1.25, 1e300])
OTHERS = np.array([0.1, 2.0])


def check(found):
    np.testing.assert_array_equal(found[0], MEMBERS)
    np.testing.assert_array_equal(found[1], OTHERS)
    assert found[0].dtype == found[1].dtype == np.float64


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_npz_of_two_arrays(tmp_path):
    path = str(tmp_path / "scores.npz")
    np.savez(path, member_scores=MEMBERS, non_member_scores=OTHERS, other=1)
    check(score_files.read_scores(path))


@pytest.mark.parametrize("kind", [bool, int, np.float32])
def test_npz_of_marked_scores(tmp_path, kind):
    path = str(tmp_path / "scores.NPZ")
    with open(path, "wb") as file:
        np.savez_compressed(
            file,
            scores=np.array([0.5, 0.1, -1.25, 2.0, 1e300]),
            is_member=np.array([1, 0, 1, 0, 1]).astype(kind),
        )
    check(score_files.read_scores(path))


def test_csv(tmp_path):
    path = write(
        tmp_path / "scores.csv",
        "\ufeffid, score ,is_member\r\n7,0.5,1\n8,0.1,False\n\n9,-1.25,TRUE\n"
        '10," 2.0",0\n11,1e300, 1\n',
    )
    check(score_files.read_scores(path))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "scores must have one column named score"),
        ("score\n1\n", "scores must have one column named is_member"),
        ("score,score,is_member\n", "scores must have one column named score"),
        ("score,is_member\n1,1\nnan,0\n", "score must be finite.*in line 3"),
        ("score,is_member\n1,1\n\n-inf,0\n", "score must be finite.*in line 4"),
        ("score,is_member\n1,2\n", "scores must have a number.*in line 2"),
        ("score,is_member\none,1\n", "scores must have a number.*in line 2"),
        ("score,is_member\n1,1\n2\n", "scores must have a number.*in line 3"),
        ('score,is_member\n1,1\n"2,1\n', "scores must be a .csv text file"),
        ("score,is_member\n1,1\n", "score must hold .* of non-members"),
        ("score,is_member\n1,0\n", "score must hold .* of members"),
        ("score,is_member\n", "score must hold at least 1"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    path = write(tmp_path / "scores.csv", text)
    with pytest.raises(ValueError, match=f"^{message}"):
        score_files.read_scores(path)


def test_csv_that_is_no_text(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_bytes(b"score,is_member\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="^scores must be a .csv text file"):
        score_files.read_scores(str(path))


@pytest.mark.parametrize(
    "error, arrays, message",
    [
        (ValueError, {"scores": [1.0]}, "scores must hold the arrays"),
        (
            ValueError,
            {"member_scores": [1.0, np.nan], "non_member_scores": [1.0]},
            "member_scores must be finite.*index 1",
        ),
        (
            ValueError,
            {"member_scores": [1.0], "non_member_scores": []},
            "non_member_scores must hold",
        ),
        (
            ValueError,
            {"scores": [1.0, 2.0], "is_member": [1, 2]},
            "is_member must be 0 or 1",
        ),
        (
            ValueError,
            {"scores": [1.0, 2.0], "is_member": [1]},
            "is_member must be 0 or 1",
        ),
        (
            ValueError,
            {"scores": [1.0, 2.0], "is_member": [1, 1]},
            "scores must hold .* of non-members",
        ),
        (
            TypeError,
            {"member_scores": ["a"], "non_member_scores": [1.0]},
            "member_scores must be real numbers",
        ),
    ],
)
def test_bad_npz(tmp_path, error, arrays, message):
    path = str(tmp_path / "scores.npz")
    np.savez(path, **arrays)
    with pytest.raises(error, match=f"^{message}"):
        score_files.read_scores(path)


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def test_pickles_are_never_loaded(tmp_path):
    inside = tmp_path / "inside.npz"
    trap = np.array([Trap()], dtype=object)
    np.savez(inside, member_scores=trap, non_member_scores=[1.0])
    whole = tmp_path / "whole.npz"
    whole.write_bytes(pickle.dumps(Trap()))
    for path in (inside, whole):
        with pytest.raises(ValueError, match="^scores must be an undamaged"):
            score_files.read_scores(str(path))


def test_damaged_npz(tmp_path):
    good = tmp_path / "good.npz"
    np.savez_compressed(
        good, member_scores=np.arange(1000.0), non_member_scores=OTHERS
    )
    data = good.read_bytes()
    garbled = data[:200] + b"\0" * 100 + data[300:]
    array = tmp_path / "array.npy"
    np.save(array, MEMBERS)
    for wrong in (b"", data[:300], garbled, b"PK\3\4", array.read_bytes()):
        bad = tmp_path / "bad.npz"
        bad.write_bytes(wrong)
        with pytest.raises(ValueError, match="^scores must be an undamaged"):
            score_files.read_scores(str(bad))


def test_other_files(tmp_path):
    with pytest.raises(ValueError, match="^scores must be a file that ends"):
        score_files.read_scores(str(tmp_path / "scores.txt"))
    for name in ("none.npz", "none.csv"):
        with pytest.raises(FileNotFoundError):
            score_files.read_scores(str(tmp_path / name))


def test_many_scores_are_read_in_less_than_two_seconds(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        f"{s!r},{i % 2}"
        for i, s in enumerate(rng.normal(size=100_000).tolist())
    ]
    path = write(
        tmp_path / "scores.csv", "score,is_member\n" + "\n".join(lines)
    )
    start = time.perf_counter()
    members, others = score_files.read_scores(path)
    assert time.perf_counter() - start < 2.0
    assert members.size == others.size == 50_000
