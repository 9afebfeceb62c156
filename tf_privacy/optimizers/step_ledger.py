# SPDX-License-Identifier: Apache-2.0
"""The count of noisy steps, in variables, by what each step was.

One row of a table for each distinct kind of step: which noise, which sampling.
A step adds one to its row inside of the compiled step, so that the count is
right for `fit`, `train_on_batch`, custom loops and any `steps_per_execution`.
The table is a variable of the optimizer and is saved with it.
"""

import dataclasses
import secrets

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping.backend import backend

_CAPACITY = 512
_COLUMNS = (
    "run",  # Which optimizer object counted; 0 marks an unused row.
    "noise_multiplier",
    "sampling_probability",  # 0: batches made by the user.
    "num_examples",  # 0: unknown.
    "l2_norm_clip",
    "expected_batch_size",
    "fixed_seed",
    "count",
    "limit",
)
_COUNT = _COLUMNS.index("count")
_LIMIT = _COLUMNS.index("limit")
_KEY = slice(0, _COUNT)
NO_LIMIT = 1e15  # Steps; beyond any run, below 2**53.


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepKind:
    """What one noisy step was, for the accountant.

    Attributes:
        noise_multiplier: Standard deviation of the noise over l2_norm_clip.
        sampling_probability: Of Poisson sampling; None where the user made
            the batches.
        num_examples: Size of the training set; None where unknown.
        l2_norm_clip: The clip; gradient units.
        expected_batch_size: The divisor.
        fixed_seed: Whether the noise came from a fixed seed.
    """

    noise_multiplier: float
    sampling_probability: float | None
    num_examples: int | None
    l2_norm_clip: float
    expected_batch_size: float
    fixed_seed: bool

    def _key(self) -> tuple[float, ...]:
        return (
            self.noise_multiplier,
            self.sampling_probability or 0.0,
            float(self.num_examples or 0),
            self.l2_norm_clip,
            self.expected_batch_size,
            float(self.fixed_seed),
        )

    @classmethod
    def _from_key(cls, key) -> "StepKind":
        noise, probability, examples, clip, batch, fixed = key
        return cls(
            noise_multiplier=float(noise),
            sampling_probability=float(probability) or None,
            num_examples=int(examples) or None,
            l2_norm_clip=float(clip),
            expected_batch_size=float(batch),
            fixed_seed=bool(fixed),
        )


class StepLedger:
    """Counts steps by kind, in a variable.

    Args:
        table: A float64 variable of shape `table_shape()`; may be tracked and
            restored by any checkpoint.
    """

    def __init__(self, table):
        self._table = table
        # Variables of this plain object, which no checkpoint restores.
        self._refused = keras.Variable(0, dtype="int32", trainable=False)
        self._own_counts = keras.Variable(
            np.zeros(_CAPACITY), dtype="float64", trainable=False
        )
        # A counter of its own for every optimizer object, so that a count
        # restored from a file and the count of this object add up, and a file
        # older than this object's own steps cannot take them back.
        self._run = float(secrets.randbelow(2**52) + 1)
        self._rows = {}

    @staticmethod
    def table_shape() -> tuple[int, int]:
        """Returns the shape of the table."""
        return _CAPACITY, len(_COLUMNS)

    def row_of(self, kind: StepKind) -> int:
        """Returns the row that counts steps of `kind`, made if need be.

        Args:
            kind: What the steps are.

        Raises:
            ValueError: If there are more kinds of steps than rows.
        """
        if kind not in self._rows:
            table = self.to_numpy()
            row = int(np.count_nonzero(table[:, 0]))
            if row >= _CAPACITY:
                raise ValueError(
                    f"a ledger must hold at most {_CAPACITY} kinds of steps. "
                    f"Received: one more, {kind}. Keep the noise and the "
                    "sampling the same for longer."
                )
            # Under a budget, a kind of step nobody has planned for is refused
            # until its limit is set.
            budgeted = np.any(table[table[:, 0] > 0, _LIMIT] < NO_LIMIT)
            limit = 0.0 if budgeted else NO_LIMIT
            table[row] = (self._run, *kind._key(), 0.0, limit)
            with backend.outside_of_graph():
                self._table.assign(table)
            self._rows[kind] = row
        return self._rows[kind]

    def allows(self, row):
        """Returns whether one more step fits in row `row`; none if < 0."""
        entry = ops.take(self._table.value, ops.maximum(row, 0), axis=0)
        fits = entry[_COUNT] < entry[_LIMIT]
        return ops.logical_and(fits, ops.greater_equal(row, 0))

    def count(self, row):
        """Adds one noisy step to row `row`."""
        rows = ops.one_hot(row, _CAPACITY, dtype="float64")
        columns = ops.one_hot(_COUNT, len(_COLUMNS), dtype="float64")
        self._table.assign_add(rows[:, None] * columns[None, :])
        self._own_counts.assign_add(rows)

    def refuse(self):
        """Notes that a step was asked for and not made."""
        self._refused.assign_add(ops.ones((), self._refused.dtype))

    def take_refused(self) -> int:
        """Returns how many steps were refused since the last call."""
        refused = self.num_refused()
        if refused:
            self._refused.assign(ops.zeros((), self._refused.dtype))
        return refused

    def num_refused(self) -> int:
        """Returns how many steps were refused and not yet reported."""
        return int(ops.convert_to_numpy(self._refused.value))

    def num_taken(self) -> int:
        """Returns how many steps this optimizer object made itself."""
        return int(np.sum(ops.convert_to_numpy(self._own_counts.value)))

    def set_limit(self, row: int, num_more_steps: int) -> None:
        """Lets row `row` go on for so many more steps, and no other row.

        Args:
            row: From `row_of`.
            num_more_steps: Steps from now; >= 0.
        """
        self.close()
        table = self.to_numpy()
        table[row, _LIMIT] = table[row, _COUNT] + num_more_steps
        self._table.assign(table)

    def close(self) -> None:
        """Lets no row go on until its limit is set."""
        table = self.to_numpy()
        table[:, _LIMIT] = np.where(table[:, 0] > 0, table[:, _COUNT], 0.0)
        self._table.assign(table)

    def lift_limits(self) -> None:
        """Removes every limit."""
        table = self.to_numpy()
        table[:, _LIMIT] = np.where(table[:, 0] > 0, NO_LIMIT, 0.0)
        self._table.assign(table)

    def remaining(self, row: int) -> int:
        """Returns how many more steps row `row` may make."""
        table = self.to_numpy()
        return int(table[row, _LIMIT] - table[row, _COUNT])

    def entries(self) -> list[tuple[StepKind, int]]:
        """Returns each kind of step and how many of it ran, in first order."""
        table = self.to_numpy()
        counts = {}
        for line in table[table[:, 0] > 0]:
            kind = StepKind._from_key(line[1:_COUNT])
            counts[kind] = counts.get(kind, 0) + int(line[_COUNT])
        return [(kind, count) for kind, count in counts.items() if count]

    def num_steps(self) -> int:
        """Returns how many noisy steps ran in all."""
        return sum(count for _, count in self.entries())

    def to_numpy(self) -> np.ndarray:
        """Returns a copy of the table."""
        with backend.outside_of_graph():
            table = np.array(
                ops.convert_to_numpy(self._table.value), np.float64
            )
            own = ops.convert_to_numpy(self._own_counts.value)
        return self._with_own_rows(table, own)

    def _with_own_rows(self, table, own):
        """Puts this object's rows back where a restored table lacks them."""
        for kind, row in self._rows.items():
            key = (self._run, *kind._key())
            if tuple(table[row, _KEY]) != key:
                displaced = table[row].copy()
                table[row] = (*key, 0.0, NO_LIMIT)
                if displaced[0] > 0:
                    free = max(self._rows.values()) + 1
                    free = max(free, int(np.count_nonzero(table[:, 0])))
                    table[free] = displaced
            table[row, _COUNT] = max(table[row, _COUNT], own[row])
        return table

    def to_rows(self) -> list[list[float]]:
        """Returns the used rows of the table as plain numbers."""
        table = self.to_numpy()
        return table[table[:, 0] > 0].tolist()

    @staticmethod
    def from_rows(rows) -> np.ndarray:
        """Returns a table for `merge` from `to_rows()`.

        Args:
            rows: At most as many rows as a table has.
        """
        table = np.zeros((_CAPACITY, len(_COLUMNS)))
        table[: len(rows)] = np.asarray(rows, np.float64)
        return table

    def merge(self, other: np.ndarray) -> None:
        """Takes in a saved table; no step that ran is forgotten.

        Rows are matched by the object that counted and the kind of step; of
        two counts of one row the larger stands.

        Args:
            other: From `to_numpy`.

        Raises:
            ValueError: If it is not such a table.
        """
        other = np.asarray(other, np.float64)
        if (
            other.shape != self.table_shape()
            or not np.isfinite(other).all()
            or (other < 0.0).any()
        ):
            raise ValueError(
                "ledger must be a finite table of shape "
                f"{self.table_shape()}, nowhere negative. Received: shape "
                f"{other.shape}. The file was not saved by this version of "
                "tf_privacy."
            )
        table = self.to_numpy()
        known = {
            tuple(line[_KEY]): row
            for row, line in enumerate(table)
            if line[0] > 0
        }
        for line in other[other[:, 0] > 0]:
            row = known.get(tuple(line[_KEY]), len(known))
            if row >= _CAPACITY:
                raise ValueError(
                    f"a ledger must hold at most {_CAPACITY} kinds of steps. "
                    "Received: more, from two runs together."
                )
            count = max(table[row, _COUNT], line[_COUNT])
            limit = line[_LIMIT] if table[row, 0] == 0 else table[row, _LIMIT]
            table[row] = line
            table[row, _COUNT] = count
            table[row, _LIMIT] = limit
            known[tuple(line[_KEY])] = row
        self._table.assign(table)
