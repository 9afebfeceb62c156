# SPDX-License-Identifier: Apache-2.0
"""Tests of files of plans; `canaries_test` saves and loads whole plans."""

import json
import os

import numpy as np
import pytest

from tf_privacy.audit import canary_files

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
