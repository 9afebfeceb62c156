# SPDX-License-Identifier: Apache-2.0
"""Files of shadow models' scores: one for the plan, one for each model.

A file appears whole or not at all. Each carries the plan's digest, so that one
from another run is not taken for its own, and a digest of its scores.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import re
import zipfile
from collections.abc import Mapping

import numpy as np

from tf_privacy.audit import tables

_PLAN = "plan.npz"
_MODEL = re.compile(r"model_(\d{5,})\.npz")
# What numpy and zipfile raise on bytes that are not what they look like.
_DAMAGED = (
    ValueError,
    KeyError,
    RuntimeError,
    OSError,
    EOFError,
    zipfile.BadZipFile,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ShadowDirectory:
    """A directory whose plan has been checked.

    Attributes:
        path: The directory.
        is_member: `[S, N]` bool; the plan: who is trained on what.
        digest: Of the plan and its settings, in hexadecimal.
    """

    path: pathlib.Path
    is_member: np.ndarray
    digest: str

    def list_models(self) -> list[int]:
        """Returns the indices of the models that have a file.

        Raises:
            ValueError: If one is not in the plan.
        """
        matches = map(_MODEL.fullmatch, sorted(os.listdir(self.path)))
        indices = [int(match.group(1)) for match in matches if match]
        for index in indices:
            if index >= len(self.is_member):
                raise ValueError(
                    "directory must hold the models of its plan only. "
                    f"Received: {self._name(index)} of "
                    f"{len(self.is_member)} models. Use an empty directory."
                )
        return indices

    def read(self, index: int) -> np.ndarray:
        """Returns a model's scores.

        Args:
            index: Of a model that has a file.

        Raises:
            ValueError: If the file is damaged or of another plan.
        """
        path = self._name(index)
        arrays = _read(path, ("scores", "scores_digest", "plan_digest"))
        if str(arrays["plan_digest"]) != self.digest:
            raise ValueError(
                "directory must hold the models of its plan only. Received: "
                f"{path}, which is of another plan. Use an empty directory."
            )
        scores = arrays["scores"]
        fits = scores.ndim in (1, 2) and scores.dtype == np.float64
        fits = fits and scores.shape[-1] == self.is_member.shape[1]
        if not fits or str(arrays["scores_digest"]) != _hash(scores):
            _refuse_damaged(path)
        return scores

    def write(self, index: int, scores: np.ndarray) -> None:
        """Writes a model's scores, all or nothing.

        Args:
            index: Of the model.
            scores: `[N]` or `[A, N]` float64.
        """
        _write(
            self._name(index),
            scores=scores,
            scores_digest=np.array(_hash(scores)),
            plan_digest=np.array(self.digest),
        )

    def _name(self, index: int) -> pathlib.Path:
        return self.path / f"model_{index:05d}.npz"


def open_directory(
    path: pathlib.Path, *, is_member: np.ndarray, settings: Mapping
) -> ShadowDirectory:
    """Returns the directory, with the plan it holds or else the one given.

    Args:
        path: The directory; made if it does not exist.
        is_member: `[S, N]` bool; the plan of a new directory.
        settings: What the plan and the scores follow from. A seed of None
            means that the plan in the directory is taken as it is.

    Raises:
        TypeError: If a setting cannot be written as JSON.
        ValueError: If the directory holds other settings or a damaged plan.
    """
    text = tables.to_json(_sort(settings), indent=None)
    path.mkdir(parents=True, exist_ok=True)
    if not (path / _PLAN).exists():
        _write(
            path / _PLAN,
            bits=np.packbits(is_member, axis=1),
            settings=np.array(text),
            digest=np.array(_hash(np.packbits(is_member, axis=1), text)),
        )
    plan = _read(path / _PLAN, ("bits", "settings", "digest"))
    bits, found = plan["bits"], str(plan["settings"])
    digest = _hash(bits, found)
    if str(plan["digest"]) != digest:
        _refuse_damaged(path / _PLAN)
    if found != text:
        raise ValueError(
            f"directory must be empty or of the same settings. Received: "
            f"{path}, which is of {found}, not {text}. Use another directory."
        )
    num_examples = is_member.shape[1]
    stored = np.unpackbits(bits, axis=1, count=num_examples).astype(bool)
    return ShadowDirectory(path=path, is_member=stored, digest=digest)


def _sort(value):
    """Returns the value with its mappings in the order of their keys."""
    if isinstance(value, Mapping):
        return {key: _sort(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_sort(each) for each in value]
    return value


def _hash(array: np.ndarray, text: str = "") -> str:
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}{text}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _write(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes a file that is there only once it is whole."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    try:
        with open(draft, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _read(path: pathlib.Path, names: tuple[str, ...]) -> dict:
    content = io.BytesIO(path.read_bytes())
    try:
        with np.load(content, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except _DAMAGED as error:
        _refuse_damaged(path, error)


def _refuse_damaged(path: pathlib.Path, cause: Exception | None = None):
    raise ValueError(
        f"directory must hold whole files only. Received: {path}, which is "
        "damaged. Delete it, and its model is trained again; after a damaged "
        f"{_PLAN} start in an empty directory."
    ) from cause
