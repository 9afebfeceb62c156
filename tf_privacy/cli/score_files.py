# SPDX-License-Identifier: Apache-2.0
"""Scores of members and non-members, read from a file and checked."""

import csv
import pathlib
import tokenize
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from tf_privacy.audit import scores as scores_lib

_BOTH = ("member_scores", "non_member_scores")
_MARKED = ("scores", "is_member")
_COLUMNS = ("score", "is_member")
# What numpy.load raises, depending on the place of the damage.
_DAMAGED = (
    EOFError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_TRUTH = {"0": False, "1": True, "false": False, "true": True}


def read_scores(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores of members and of non-members.

    A .npz file holds the arrays member_scores and non_member_scores, or scores
    and is_member (0 or 1); arrays of Python objects are refused, because
    reading them could run any code. A .csv file has a first line that names
    the columns score and is_member (0, 1, true, false); others are ignored.

    Args:
        path: The file; ends in .npz or .csv.

    Returns:
        Two float64 vectors, each of one score or more, all finite.

    Raises:
        OSError: If the file cannot be opened.
        TypeError: If an array holds no numbers.
        ValueError: If the file is damaged, lacks an array or a column, or a
            score is not finite; says which line or index.
    """
    ending = pathlib.Path(path).suffix.lower()
    if ending not in (".npz", ".csv"):
        raise ValueError(
            f"scores must be a file that ends in .npz or .csv. Received: "
            f"{path!r}."
        )
    if ending == ".csv":
        return _split(*_read_csv(path), names=_COLUMNS)
    arrays = _read_npz(path)
    for names in (_BOTH, _MARKED):
        if set(names) <= set(arrays):
            first, second = (arrays[name] for name in names)
            if names == _MARKED:
                return _split(first, second, names=names)
            return (
                scores_lib.check_scores(names[0], first),
                scores_lib.check_scores(names[1], second),
            )
    raise ValueError(
        "scores must hold the arrays member_scores and non_member_scores, or "
        f"scores and is_member. Received: {path!r} with {sorted(arrays)}."
    )


def _read_npz(path: str) -> Mapping[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = {*_BOTH, *_MARKED} & set(file)
            return {name: file[name] for name in names}
    except _DAMAGED as error:
        raise ValueError(
            "scores must be an undamaged .npz file of plain number arrays. "
            f"Received: {path!r} ({error}). Write it with numpy.savez."
        ) from error


def _read_csv(path: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _parse_rows(csv.reader(file, strict=True), path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"scores must be a .csv text file in UTF-8. Received: {path!r} "
            f"({error})."
        ) from error


def _parse_rows(reader, path: str) -> tuple[np.ndarray, np.ndarray]:
    heading = [name.strip() for name in next(reader, [])]
    missing = [name for name in _COLUMNS if heading.count(name) != 1]
    if missing:
        raise ValueError(
            f"scores must have one column named {missing[0]}. Received: "
            f"{path!r} with the columns {heading}. Name them in line 1."
        )
    places = [heading.index(name) for name in _COLUMNS]
    scores, truths = [], []
    for row in reader:
        if not row:
            continue
        try:
            score, truth = (row[place] for place in places)
            number = float(score)
            truths.append(_TRUTH[truth.strip().lower()])
        except (IndexError, KeyError, ValueError) as error:
            raise ValueError(
                "scores must have a number as score and 0 or 1 as is_member in "
                f"each line. Received: {','.join(row)!r} in line "
                f"{reader.line_num}."
            ) from error
        if not np.isfinite(number):
            raise ValueError(
                f"score must be finite. Received: {score} in line "
                f"{reader.line_num}. Find out why the model gives it."
            )
        scores.append(number)
    return np.array(scores), np.array(truths, dtype=bool)


def _split(scores, is_member, *, names) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores of either kind, in the file's order."""
    scores = scores_lib.check_scores(names[0], scores)
    truths = scores_lib.check_scores(names[1], is_member)
    if truths.shape != scores.shape or not np.all(np.isin(truths, (0.0, 1.0))):
        raise ValueError(
            f"{names[1]} must be 0 or 1 for each of the {scores.size} scores. "
            f"Received: {truths.size} values from {truths.min():g} to "
            f"{truths.max():g}."
        )
    found = {
        "of members (is_member 1)": scores[truths == 1.0],
        "of non-members (is_member 0)": scores[truths == 0.0],
    }
    for kind, part in found.items():
        if not part.size:
            raise ValueError(
                f"{names[0]} must hold at least one score {kind}. Received: "
                "none. An audit compares the two."
            )
    members, non_members = found.values()
    return members, non_members
