# SPDX-License-Identifier: Apache-2.0
"""The files of a run that may be killed at any moment and go on.

    journal            what steps may have run; written before they run
    checkpoint-<n>/    a whole state: record, model.weights.h5; two are kept
    writing/           a checkpoint in the making
    lock               held by the process that trains
What is read is whole: every file is written beside its place, sent to the
disk and then renamed, and what a record says of the files has a checksum.
A checkpoint holds secrets, the coins of the sampling: only its owner may read
it. Keep it as secret as the training data, and delete it after the run.
Needs a POSIX system.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable

_JOURNAL, _RECORD, _WEIGHTS = "journal", "record", "model.weights.h5"
_WRITING, _PREFIX, _LOCK = "writing", "checkpoint-", "lock"
_NUM_KEPT = 2
_DIGEST = "weights_sha256"

# Locks of this process, by folder: after a crash within it, it may go on.
_HELD = {}


class RunFiles:
    """The folder of one run.

    Args:
        directory: Path of the folder; made, for its owner only, if need be.
    """

    def __init__(self, directory):
        self._path = pathlib.Path(directory).resolve()

    @property
    def directory(self) -> pathlib.Path:
        """The folder."""
        return self._path

    def lock(self) -> None:
        """Makes the folder, and keeps other processes out of it.

        Raises:
            RuntimeError: If another process trains there: what it spends would
                be lost.
        """
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._path in _HELD:
            return
        file = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise RuntimeError(
                "directory must be used by one process at a time. Received: "
                f"{str(self._path)!r}, where another one trains. Wait for its "
                "end, or choose another folder."
            ) from error
        _HELD[self._path] = file

    def unlock(self) -> None:
        """Lets other processes in."""
        if self._path in _HELD:
            os.close(_HELD.pop(self._path))

    def write_journal(self, content: dict) -> None:
        """Replaces the journal; on return it is on the disk.

        Args:
            content: What JSON can hold.
        """
        beside = self._path / f"{_JOURNAL}.new"
        _write_record(beside, content)
        os.replace(beside, self._path / _JOURNAL)
        _sync(self._path)

    def read_journal(self) -> dict | None:
        """Returns the journal, or None if there is none.

        Raises:
            ValueError: If it is damaged: it alone knows what may have run.
        """
        try:
            return _read_record(self._path / _JOURNAL)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(
                "directory must hold a whole journal: it says how many steps "
                f"may have run. Received: {error}. Count them by hand, or "
                "train a new model in another folder."
            ) from error

    def write_checkpoint(
        self, record: dict, write_weights: Callable[[str], None]
    ) -> None:
        """Adds a checkpoint; on return it is on the disk.

        Args:
            record: What JSON can hold.
            write_weights: Called with the path of a file to write, which ends
                in `.weights.h5`.
        """
        writing = self._path / _WRITING
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(mode=0o700)
        weights = writing / _WEIGHTS
        write_weights(str(weights))
        weights.chmod(0o600)
        _sync(weights)
        record = {**record, _DIGEST: _compute_digest(weights)}
        _write_record(writing / _RECORD, record)
        _sync(writing)
        numbers = self._list_numbers()
        number = numbers[-1] + 1 if numbers else 1
        writing.rename(self._checkpoint(number))
        _sync(self._path)
        for old in numbers[: 1 - _NUM_KEPT]:
            shutil.rmtree(self._checkpoint(old))

    def read_checkpoint(self) -> tuple[dict, str] | None:
        """Returns the newest record that is whole, and its weights' path.

        Returns:
            None if there is no checkpoint at all.

        Raises:
            ValueError: If none of them is whole.
        """
        damages = []
        for number in reversed(self._list_numbers()):
            folder = self._checkpoint(number)
            try:
                record = _read_record(folder / _RECORD)
                _check_digest(folder / _WEIGHTS, record[_DIGEST])
            except (ValueError, OSError) as error:
                damages.append(str(error))
                continue
            if damages:
                warnings.warn(
                    f"The newest checkpoint is damaged ({damages[0]}); going "
                    "on from the one before it.",
                    stacklevel=2,
                )
            return record, str(folder / _WEIGHTS)
        if damages:
            raise ValueError(
                "directory must hold a whole checkpoint. Received: "
                f"{'; '.join(damages)}. Train anew in another folder; what "
                "ran here was spent."
            )
        return None

    def _checkpoint(self, number):
        return self._path / f"{_PREFIX}{number:08d}"

    def _list_numbers(self):
        names = (path.name for path in self._path.glob(f"{_PREFIX}*"))
        tails = (name.removeprefix(_PREFIX) for name in names)
        return sorted(int(tail) for tail in tails if tail.isdecimal())


def _sync(path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _write_record(path, content: dict) -> None:
    body = json.dumps(content, allow_nan=False).encode()
    head = hashlib.sha256(body).hexdigest().encode()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(head + b"\n" + body)
        file.flush()
        os.fsync(file.fileno())


def _read_record(path) -> dict:
    head, _, body = path.read_bytes().partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != head:
        raise ValueError(f"{path.parent.name}/{path.name} is damaged")
    return json.loads(body)


def _compute_digest(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_digest(path, expected: str) -> None:
    if _compute_digest(path) != expected:
        raise ValueError(f"{path.parent.name}/{path.name} is damaged")
