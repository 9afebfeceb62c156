# SPDX-License-Identifier: Apache-2.0
"""Tests of files of plans; `canaries_test` saves and loads whole plans."""

import io
import json
import os
import random
import zipfile

import numpy as np
import pytest

from tf_privacy.audit import canaries
from tf_privacy.audit import canary_files
from tf_privacy.audit import canary_makers

FIELDS = {
    "kind": "custom",
    "description": "two",
    "has_coins": True,
    "values": ({"a": np.arange(2)}, np.array([b"x", b"yz"])),
    "labels": None,
    "is_member": np.array([True, False]),
    "repetitions": np.array([1, 2]),
    "source_rows": None,
    "text_format": None,
}
BAD = "path must be a file that Canaries.save wrote"


def test_only_what_is_there_is_written(tmp_path):
    path = tmp_path / "plan"
    canary_files.write(path, fields=FIELDS)
    with np.load(path, allow_pickle=False) as archive:
        header = json.loads(archive["header"].tobytes())
        names = set(archive.files)
    assert names == {
        "header",
        "is_member",
        "repetitions",
        "values[0]['a']",
        "values[1]",
    }
    assert header == {
        "kind": "custom",
        "description": "two",
        "has_coins": True,
        "values": [{"a": None}, None],
        "arrays": ["is_member", "repetitions", "values[0]['a']", "values[1]"],
    }
    read = canary_files.read(path)
    assert read["source_rows"] is None and "labels" not in read
    assert read["values"][1].tolist() == [b"x", b"yz"]


def test_no_half_of_a_file_stays(tmp_path, monkeypatch):
    def fail(file):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        canary_files.write(tmp_path / "plan", fields=FIELDS)
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_there_stays(tmp_path):
    path = tmp_path / "plan"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        canary_files.write(path, fields=FIELDS)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("header", [b"[]", b"{}", b"null", b"{", b"\xff"])
def test_headers_of_something_else_are_refused(tmp_path, header):
    path = tmp_path / "plan.npz"
    np.savez(path, header=np.frombuffer(header, dtype=np.uint8))
    with pytest.raises(ValueError, match="path must be a file that Canaries.s"):
        canary_files.read(path)


def test_a_single_array_is_refused(tmp_path):
    np.save(tmp_path / "plan.npy", np.arange(3))
    with pytest.raises(ValueError, match="path must be a file that Canaries.s"):
        canary_files.read(tmp_path / "plan.npy")


def make_plan():
    x, y = np.arange(9.0), np.arange(9) % 3
    return canary_makers.make_mislabeled_canaries(
        {"a": x, "b": (x[:, None],)}, y, num_canaries=5, num_classes=3, seed=1
    )


def drop_entry(content, name):
    """Returns the same archive, whole but for one entry."""
    changed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(changed, "w") as new,
    ):
        for entry in old.namelist():
            if entry != f"{name}.npy":
                new.writestr(entry, old.read(entry))
    return changed.getvalue()


@pytest.mark.parametrize(
    "name",
    ["is_member", "repetitions", "source_rows", "labels", "values['a']"],
)
def test_a_lost_array_is_not_one_that_never_was(name, tmp_path):
    path = tmp_path / "plan"
    # Without source_rows the audited rows would stay in the data.
    make_plan().save(path)
    content = path.read_bytes()
    whole = drop_entry(content, "none")
    path.write_bytes(whole)
    canaries.Canaries.load(path)
    changed = drop_entry(content, name)
    assert len(changed) < len(whole)
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=BAD):
        canaries.Canaries.load(path)


@pytest.mark.parametrize("method", [1, 8, 9, 12, 14])
def test_other_compression_than_that_written_is_damage(method, tmp_path):
    path = tmp_path / "plan"
    make_plan().save(path)
    content = bytearray(path.read_bytes())
    # The method stands 10 bytes into each entry of the central directory.
    place = content.index(b"PK\x01\x02")
    content[place + 10] = method
    path.write_bytes(content)
    with pytest.raises(ValueError, match=BAD):
        canaries.Canaries.load(path)


@pytest.mark.filterwarnings("ignore")
def test_changed_bytes_are_refused_or_change_nothing(tmp_path):
    path = tmp_path / "plan"
    plan = make_plan()
    plan.save(path)
    content = path.read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(1000):
        changed = bytearray(content)
        for _ in range(draw.choice([1, 1, 2, 8])):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        path.write_bytes(changed)
        try:
            loaded = canaries.Canaries.load(path)
        except ValueError:
            refused += 1
            continue
        for name in ("is_member", "repetitions", "source_rows", "labels"):
            got, wanted = getattr(loaded, name), getattr(plan, name)
            np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(loaded.values["a"], plan.values["a"])
    assert 500 < refused < 1000
