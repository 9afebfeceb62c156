# SPDX-License-Identifier: Apache-2.0
"""Tests of files of plans of canaries: what is damaged is never read."""

import io
import random
import zipfile

import numpy as np
import pytest

from tf_privacy.audit import canaries
from tf_privacy.audit import canary_files
from tf_privacy.audit import canary_makers

BAD = "path must be a file that Canaries.save wrote"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "plan.npz"


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
def test_a_lost_array_is_not_one_that_never_was(name, path):
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
def test_other_compression_than_that_written_is_damage(method, path):
    make_plan().save(path)
    content = bytearray(path.read_bytes())
    # The method stands 10 bytes into each entry of the central directory.
    place = content.index(b"PK\x01\x02")
    content[place + 10] = method
    path.write_bytes(content)
    with pytest.raises(ValueError, match=BAD):
        canaries.Canaries.load(path)


@pytest.mark.filterwarnings("ignore")
def test_changed_bytes_are_refused_or_change_nothing(path):
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


def test_fields_come_back_as_they_were(path):
    plan = make_plan()
    plan.save(path)
    fields = canary_files.read(path)
    assert fields["kind"] == "mislabeled" and fields["has_coins"] is True
    assert isinstance(fields["values"]["b"], tuple)
    np.testing.assert_array_equal(fields["source_rows"], plan.source_rows)


def test_a_folder_is_no_damaged_file(tmp_path):
    with pytest.raises(OSError):
        canaries.Canaries.load(tmp_path)
