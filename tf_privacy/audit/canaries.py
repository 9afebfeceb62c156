# SPDX-License-Identifier: Apache-2.0
"""A plan of canaries, made before training: which examples, and which go in.

A canary is an example made for the audit. A fair coin of its own decides
whether it is in the training data; a model that lets the coins be guessed
leaks, and how often they are guessed bounds epsilon from below. For that the
coins must be drawn before training, independent of everything, and kept: this
is the plan's task. Canaries that are all in, a known number of times, measure
exposure instead and bound no epsilon.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_privacy.audit import array_structures
from tf_privacy.audit import canary_files
from tf_privacy.audit import canary_format
from tf_privacy.audit import insertion
from tf_privacy.audit import scores as scores_lib

# What a file without pickle can hold.
_KINDS = "biufUS"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Canaries:
    """Canaries, their coins, and how often each goes in.

    The plan is secret until the audit is done: whoever sees the coins passes
    every audit. All arrays are copied and cannot be written to. Use the `make_`
    functions of `canary_makers` to get one.

    The neighbors of an audit differ by one canary, with all its copies, added
    or removed. An epsilon that is claimed for one example covers one copy; for
    a canary that goes in r times it must be claimed for groups of r.

    Attributes:
        kind: What sort of canary, one word.
        description: One line on how they were made, without secrets.
        values: Inputs of the M canaries: nested tuples and dicts of arrays
            `[M, ...]`, or a sequence of M texts.
        labels: Their labels, nested as above; None without labels.
        is_member: `[M]` bool; which of them go in.
        has_coins: Whether `is_member` are fair coins; if not, all are True.
        repetitions: `[M]` int >= 1; copies of each canary that goes in.
        source_rows: `[M]` distinct rows of the user's data that canaries were
            made of, and that go out whatever the coins are; None if none.
        text_format: The format of text canaries that are secrets, or None.
        secret_indices: `[M]` their distinct numbers in that format, or None.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If lengths differ, there is no canary, or a number is out
            of range.
    """

    kind: str
    description: str
    values: Any
    labels: Any = None
    is_member: np.ndarray
    has_coins: bool
    repetitions: np.ndarray
    source_rows: np.ndarray | None = None
    text_format: canary_format.CanaryFormat | None = None
    secret_indices: Sequence[int] | None = None

    def __post_init__(self):
        fields = {
            "values": tuple(self.values)
            if _is_texts(self.values)
            else _freeze_structure("values", self.values),
            "is_member": _freeze_vector(
                "is_member", self.is_member, kinds="b", least=0
            ),
            "repetitions": _freeze_vector(
                "repetitions", self.repetitions, kinds="iu", least=1
            ),
        }
        if self.labels is not None:
            fields["labels"] = _freeze_structure("labels", self.labels)
        if self.source_rows is not None:
            fields["source_rows"] = _freeze_vector(
                "source_rows", self.source_rows, kinds="iu", least=0
            )
        if self.secret_indices is not None:
            fields["secret_indices"] = tuple(map(int, self.secret_indices))
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        if self.is_text:
            fields["values"] = np.empty(len(self.values))
        if self.secret_indices is not None:
            fields["secret_indices"] = np.empty(len(self.secret_indices))
        if not array_structures.count_rows(**fields) >= 1:
            raise ValueError(
                "values must hold at least one canary. Received: none."
            )
        self._check_membership()
        self._check_secrets()

    def _check_membership(self) -> None:
        words = {"kind": str, "description": str, "has_coins": bool}
        for name, wanted in words.items():
            value = getattr(self, name)
            if not isinstance(value, wanted):
                raise TypeError(
                    f"{name} must be of type {wanted.__name__}. Received: "
                    f"{value!r}."
                )
        if not (self.has_coins or np.all(self.is_member)):
            raise ValueError(
                "is_member must be True for all canaries without coins. "
                "Received: a canary that is out. Draw a fair coin for each."
            )
        rows = self.source_rows
        if rows is not None and len(np.unique(rows)) != len(rows):
            raise ValueError(
                "source_rows must be distinct. Received: a row twice. Make one "
                "canary of a row."
            )

    def _check_secrets(self) -> None:
        text_format, indices = self.text_format, self.secret_indices
        if (text_format is None) != (indices is None):
            raise ValueError(
                "secret_indices must be given if and only if text_format is. "
                f"Received: {text_format!r}."
            )
        if indices is not None and not (
            len(set(indices)) == len(indices)
            and tuple(text_format.make_secrets(indices)) == self.values
        ):
            raise ValueError(
                "secret_indices must be distinct and give the values. Received:"
                f" others, for {text_format.template!r}."
            )

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.num_canaries} {self.kind} canaries: {self.description}",
                "  in or out by fair coins, which are secret"
                if self.has_coins
                else "  all of them in: they measure exposure, no epsilon",
                f"  copies of one that is in: at most {self.max_repetitions}",
            ]
        )

    def __repr__(self) -> str:
        # Logs are not secret: neither coins nor values are shown.
        return f"<Canaries: {self.num_canaries} of kind {self.kind!r}>"

    @property
    def num_canaries(self) -> int:
        """Returns M, in and out together."""
        return len(self.is_member)

    @property
    def num_members(self) -> int:
        """Returns how many canaries go in, each counted once."""
        return int(np.count_nonzero(self.is_member))

    @property
    def max_repetitions(self) -> int:
        """Returns r, the size of the groups that the claim must be for."""
        return int(np.max(self.repetitions))

    @property
    def is_text(self) -> bool:
        """Returns whether the values are texts and no arrays."""
        return _is_texts(self.values)

    @property
    def members(self) -> tuple:
        """Returns values and labels of the canaries that go in, once each."""
        return self._take(np.flatnonzero(self.is_member))

    @property
    def non_members(self) -> tuple:
        """Returns values and labels of the canaries that stay out."""
        return self._take(np.flatnonzero(~self.is_member))

    def split_scores(self, scores) -> tuple[np.ndarray, np.ndarray]:
        """Returns the scores of members and of non-members, as audits take.

        Args:
            scores: `[M]` finite, one for each canary, computed without the
                coins.

        Returns:
            `[num_members]` and `[M - num_members]` float64.

        Raises:
            ValueError: If there is not one finite score for each canary.
        """
        scores = scores_lib.check_scores("scores", scores)
        if len(scores) != self.num_canaries:
            raise ValueError(
                f"scores must hold one for each of the {self.num_canaries} "
                f"canaries, in and out. Received: {len(scores)}. Score "
                "canaries.values, not the training data."
            )
        return scores[self.is_member], scores[~self.is_member]

    def make_references(
        self, num_references: int, *, rng: np.random.Generator | None = None
    ) -> list[str]:
        """Returns random secrets of the same format that are no canaries.

        Exposure measured among them is relative to the format's secrets other
        than the canaries: limits from `estimate_exposure_by_sampling` may be
        too high by the share that canaries have of all secrets. For a small
        format, `compute_exact_exposure` of all secrets has no such gap.

        Args:
            num_references: How many, distinct; >= 0.
            rng: Source of the draws; None takes fresh entropy.

        Raises:
            ValueError: If the canaries are no secrets of a format, or it has
                not so many.
        """
        if self.text_format is None:
            raise ValueError(
                f"text_format must be known. Received: {self.kind} canaries "
                "without one. Make them with make_text_canaries."
            )
        indices = self.text_format.sample_indices(
            num_references, rng=_or_entropy(rng), exclude=self.secret_indices
        )
        return self.text_format.make_secrets(indices)

    def insert(self, x, y=None, *, rng: np.random.Generator | None = None):
        """Returns the training data: yours, and the canaries that go in.

        Each canary whose coin says so is put in as often as `repetitions`
        says, at random places; `source_rows` go out. The number of rows
        depends on the coins: compute what you claim from the new one.

        Args:
            x: Nested tuples and dicts of arrays `[N, ...]`, as `values`.
            y: The same for labels; None if the canaries have none.
            rng: Source of the places; None takes fresh entropy.

        Returns:
            New arrays (x, y); y is None if it was.

        Raises:
            TypeError: If `x` or `y` is no structure of arrays.
            ValueError: If the structure, a shape or a type does not fit, or
                `x` is not the data that `source_rows` are of.
        """
        if self.is_text:
            raise TypeError(
                "insert must be used with canaries that are arrays. Received: "
                f"{self.kind} canaries, texts. Use insert_into_documents, "
                "insert_into_text or insert_into_dataset."
            )
        if self.source_rows is not None:
            x, y = self._withhold_source_rows(x, y)
        values, labels = self._take(self._list_copies())
        return insertion.insert_rows(
            x, y, values=values, labels=labels, rng=_or_entropy(rng)
        )

    def insert_into_documents(
        self,
        documents: Sequence[str],
        *,
        rng: np.random.Generator | None = None,
    ) -> list[str]:
        """Returns your documents and the canaries that go in, one for each.

        Args:
            documents: `[N]` texts.
            rng: Source of the places; None takes fresh entropy.

        Raises:
            TypeError: If canaries or documents are no texts.
        """
        return insertion.insert_documents(
            documents, additions=self._list_texts(), rng=_or_entropy(rng)
        )

    def insert_into_text(
        self,
        text: str,
        *,
        between: str,
        rng: np.random.Generator | None = None,
    ) -> str:
        """Returns your text with the canaries that go in put in between.

        Args:
            text: One long text.
            between: "lines", each canary a line of its own, or "words".
            rng: Source of the places; None takes fresh entropy.

        Raises:
            TypeError: If the canaries or the text are no text.
            ValueError: If `between` is another word.
        """
        return insertion.insert_text(
            text,
            additions=self._list_texts(),
            between=between,
            rng=_or_entropy(rng),
        )

    def insert_into_dataset(
        self, dataset, *, rng: np.random.Generator | None = None
    ):
        """Returns your `tf.data.Dataset` with the canaries that go in.

        Args:
            dataset: Of elements x, or (x, y) if the canaries have labels; not
                batched, not repeated, of known length.
            rng: Source of the places, the same in every epoch; None takes
                fresh entropy.

        Raises:
            TypeError: If it is no `tf.data.Dataset` of dense tensors.
            ValueError: If it is batched or of unknown length, elements do not
                fit, or the canaries were made of rows of an array.
        """
        if self.source_rows is not None:
            raise ValueError(
                "dataset must not be where canaries were made of rows of an "
                "array, which a dataset does not number. Received: canaries "
                "with source_rows. Use insert, and make a dataset of that."
            )
        values, labels = self._take(self._list_copies())
        if self.is_text:
            values = np.array(values, dtype=object)
        return insertion.insert_elements(
            dataset, values=values, labels=labels, rng=_or_entropy(rng)
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes the plan to a new file, to be kept secret until the audit.

        The file holds the coins and the canaries, and rows of your data where
        they were made of it. Only its owner may read it; there is no pickle.

        Args:
            path: Of a file that does not exist yet.

        Raises:
            FileExistsError: If it does: coins once used are not written over.
        """
        names = [field.name for field in dataclasses.fields(self)]
        fields = {name: getattr(self, name) for name in names}
        canary_files.write(path, fields=fields)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Canaries":
        """Returns the plan that `save` wrote, checked once more.

        Args:
            path: Of the file.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is no such file, or damaged.
        """
        return cls(**canary_files.read(path))

    def _take(self, rows: np.ndarray) -> tuple:
        """Returns values and labels of some canaries."""
        labels = self.labels
        if labels is not None:
            labels = array_structures.take_rows(labels, rows)
        if self.is_text:
            return tuple(self.values[row] for row in rows), labels
        return array_structures.take_rows(self.values, rows), labels

    def _list_copies(self) -> np.ndarray:
        """Returns the canary of each row that goes in."""
        members = np.flatnonzero(self.is_member)
        return np.repeat(members, self.repetitions[members])

    def _list_texts(self) -> tuple[str, ...]:
        """Returns the texts that go in, each as often as it does."""
        if not self.is_text or self.labels is not None:
            raise TypeError(
                "values must be texts without labels to go into a text. "
                f"Received: {self.kind} canaries. Use insert, or "
                "insert_into_dataset."
            )
        return self._take(self._list_copies())[0]

    def _withhold_source_rows(self, x, y) -> tuple:
        """Returns the data without the rows that canaries were made of."""
        data = {"x": x} if y is None else {"x": x, "y": y}
        data = {k: array_structures.check_arrays(k, v) for k, v in data.items()}
        num_rows = array_structures.count_rows(**data)
        sources = self.source_rows
        same = np.max(sources) < num_rows and _are_equal(
            array_structures.take_rows(data["x"], sources), self.values
        )
        if not same:
            raise ValueError(
                "x must be the data that the canaries were made of, in its "
                f"order. Received: {num_rows} others. Insert once, before the "
                "data is shuffled or changed."
            )
        kept = np.ones(num_rows, dtype=bool)
        kept[sources] = False
        data = {
            name: array_structures.take_rows(structure, kept)
            for name, structure in data.items()
        }
        return data["x"], data.get("y")


def _are_equal(first, second) -> bool:
    first = array_structures.flatten(first, name="")
    second = array_structures.flatten(second, name="")
    return set(first) == set(second) and all(
        np.array_equal(leaf, second[name], equal_nan=leaf.dtype.kind in "fc")
        for name, leaf in first.items()
    )


def _is_texts(values) -> bool:
    return (
        isinstance(values, tuple | list)
        and len(values) > 0
        and all(isinstance(value, str) for value in values)
    )


def _freeze_structure(name: str, structure):
    """Returns a copy of all arrays that cannot be written to."""

    def freeze(array):
        if array.dtype.kind not in _KINDS:
            raise TypeError(
                f"{name} must be arrays of numbers, bools or text. Received: "
                f"{array.dtype}. Text of any length is of type str_."
            )
        array = array.copy()
        array.setflags(write=False)
        return array

    structure = array_structures.check_arrays(name, structure)
    return array_structures.map_arrays(freeze, structure)


def _freeze_vector(name: str, vector, *, kinds: str, least: int) -> np.ndarray:
    """Returns a copy of a vector that cannot be written to."""
    vector = np.array(vector)
    if vector.ndim != 1 or vector.dtype.kind not in kinds:
        wanted = "True and False" if kinds == "b" else "whole numbers"
        raise TypeError(
            f"{name} must be a vector of {wanted}. Received: {vector.dtype} of "
            f"shape {vector.shape}. Give one to each canary."
        )
    if vector.size and np.min(vector) < least:
        raise ValueError(
            f"{name} must be >= {least}. Received: {np.min(vector)}."
        )
    vector.setflags(write=False)
    return vector


def _or_entropy(rng: np.random.Generator | None) -> np.random.Generator:
    return np.random.default_rng() if rng is None else rng
