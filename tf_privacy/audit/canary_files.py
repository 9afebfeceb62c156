# SPDX-License-Identifier: Apache-2.0
"""Files of plans of canaries: arrays and a header, no pickle, one reader."""

import io
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_privacy.audit import array_structures
from tf_privacy.audit import canary_format

_HEADER = "header"
_NAMES = "arrays"
# Fields that hold structures of arrays, or texts.
_STRUCTURES = ("values", "labels")
_ARRAYS = ("is_member", "repetitions", "source_rows")
_WORDS = ("kind", "description", "has_coins")
# What numpy, zipfile and json raise on bytes that are not what they look like;
# OSError is bz2's, for the file has been read by then.
_DAMAGED = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    EOFError,
    OSError,
    StopIteration,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def write(path: str | os.PathLike, *, fields: Mapping[str, Any]) -> None:
    """Writes a new file that only its owner may read.

    Args:
        path: Must not exist: the coins of a model that was trained are lost
            for ever once they are written over.
        fields: Those of `Canaries`, by name.

    Raises:
        FileExistsError: If there is such a file.
    """
    header = {name: fields[name] for name in _WORDS}
    arrays = {name: fields[name] for name in _ARRAYS}
    if fields["text_format"] is not None:
        header["template"] = fields["text_format"].template
        header["alphabets"] = fields["text_format"].alphabets
    for name in _STRUCTURES:
        leaves = array_structures.flatten(fields[name], name=name)
        texts = all(isinstance(leaf, str) for leaf in leaves.values())
        if not texts and fields[name] is not None:
            arrays |= leaves
            header[name] = array_structures.make_skeleton(fields[name])
        elif texts:
            header["texts"] = fields[name]
    arrays = {name: a for name, a in arrays.items() if a is not None}
    # An array that is lost, source_rows say, must not read as one never there.
    header[_NAMES] = list(arrays)
    text = json.dumps(header).encode("ascii")
    arrays[_HEADER] = np.frombuffer(text, dtype=np.uint8)
    content = io.BytesIO()
    np.savez(content, **arrays)
    _write_new(path, content.getbuffer())


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the fields that `write` wrote.

    Args:
        path: Of the file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no such file, or damaged.
    """
    with open(path, "rb") as file:
        content = io.BytesIO(file.read())
    try:
        with np.load(content, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return _unpack(json.loads(arrays.pop(_HEADER).tobytes()), arrays)
    except _DAMAGED as error:
        raise ValueError(
            "path must be a file that Canaries.save wrote. Received: "
            f"{os.fspath(path)!r}, which is none or damaged. Without the coins "
            "a model cannot be audited: draw new ones and train again."
        ) from error


def _unpack(header: dict, arrays: dict) -> dict[str, Any]:
    if header[_NAMES] != list(arrays):
        raise ValueError(
            f"path must hold the arrays {header[_NAMES]}. Received: "
            f"{list(arrays)}. Take a whole copy."
        )
    fields = {name: header[name] for name in _WORDS}
    fields |= {name: arrays.get(name) for name in _ARRAYS}
    for name in _STRUCTURES:
        if name in header:
            # Arrays are read in the order in which they were written.
            leaves = (a for key, a in arrays.items() if key.startswith(name))
            fields[name] = array_structures.rebuild(header[name], leaves)
    if "texts" in header:
        fields["values"] = header["texts"]
    if "template" in header:
        text_format = canary_format.CanaryFormat(
            header["template"], alphabets=header["alphabets"]
        )
        fields["text_format"] = text_format
        fields["secret_indices"] = list(
            map(text_format.get_index, fields["values"])
        )
    return fields


def _write_new(path, content) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags, mode=0o600), "wb") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.unlink(path)
            raise
