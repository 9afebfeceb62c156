# SPDX-License-Identifier: Apache-2.0
"""The count of noisy steps, in variables, by what each step was.

One row of a table for each distinct kind of step: which noise, which sampling.
A step adds one to its row inside of the compiled step, so that the count is
right for `fit`, `train_on_batch`, custom loops and any `steps_per_execution`.
The table is kept twice: in a variable of the optimizer, which is saved with it
and which `tf.train.Checkpoint` may overwrite at any time, and in one that no
checkpoint reaches. The second one rules; the first one can only add to it.
"""

import dataclasses
import secrets

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping.backend.execution import execution
from tf_privacy.noise import noise_style

_CAPACITY = 512
_COLUMNS = (
    "run",  # Which optimizer object counted; 0 marks an unused row.
    "noise_multiplier",
    "sampling_probability",  # 0: batches made by the user.
    "num_examples",  # 0: unknown.
    "l2_norm_clip",
    "expected_batch_size",
    "fixed_seed",
    "examples_per_unit",
    "moving_clip",
    "query_stddev",  # 0: no query.
    "family",  # Of the noise; an index.
    "sensitivity",
    "steps_per_release",
    "min_separation",
    "max_participations",  # 0: no limit.
    "release",  # Where noise is correlated, which sequence of it.
    "selection_fraction",  # 0: all rows are noised.
    "count",
)
_COUNT = _COLUMNS.index("count")
_KEY = slice(0, _COUNT)
NO_LIMIT = 1e15  # Steps; beyond any run, below 2**53.


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepKind:
    """What one noisy step was, for the accountant.

    Attributes:
        noise_multiplier: Standard deviation of the noise over l2_norm_clip.
        sampling_probability: Of Poisson sampling; None where the user made
            the batches.
        num_examples: Units in the training set; None where unknown.
        l2_norm_clip: The clip; gradient units.
        expected_batch_size: The divisor.
        fixed_seed: Whether the noise came from a fixed seed.
        examples_per_unit: Consecutive examples that make up one unit.
        moving_clip: Whether l2_norm_clip is only where the clip began.
        query_stddev: Standard deviation of the noise on the query that moves
            the clip, over the query's sensitivity; None if there is no query.
            noise_multiplier is that of gradients and query together.
        family: Of the noise; one of `noise_style.FAMILIES`.
        sensitivity: L2 norm that a unit adds to a release over l2_norm_clip.
        steps_per_release: Steps whose noise belongs together.
        min_separation: Steps between two participations of a unit, at least.
        max_participations: Of a unit in one release, or None for no limit.
        release: Tells sequences of correlated noise apart; else 0.
        selection_fraction: Part of the budget that selected rows of embedding
            tables; None where all rows are noised.
    """

    noise_multiplier: float
    sampling_probability: float | None
    num_examples: int | None
    l2_norm_clip: float
    expected_batch_size: float
    fixed_seed: bool
    examples_per_unit: int = 1
    moving_clip: bool = False
    query_stddev: float | None = None
    family: str = "gaussian"
    sensitivity: float = 1.0
    steps_per_release: int = 1
    min_separation: int = 1
    max_participations: int | None = None
    release: float = 0.0
    selection_fraction: float | None = None

    def _key(self) -> tuple[float, ...]:
        return (
            self.noise_multiplier,
            self.sampling_probability or 0.0,
            float(self.num_examples or 0),
            self.l2_norm_clip,
            self.expected_batch_size,
            float(self.fixed_seed),
            float(self.examples_per_unit),
            float(self.moving_clip),
            self.query_stddev or 0.0,
            float(noise_style.FAMILIES.index(self.family)),
            self.sensitivity,
            float(self.steps_per_release),
            float(self.min_separation),
            float(self.max_participations or 0),
            self.release,
            self.selection_fraction or 0.0,
        )

    @classmethod
    def _from_key(cls, key) -> "StepKind":
        values = dict(zip(_COLUMNS[_KEY][1:], map(float, key), strict=True))
        return cls(
            noise_multiplier=values["noise_multiplier"],
            sampling_probability=values["sampling_probability"] or None,
            num_examples=int(values["num_examples"]) or None,
            l2_norm_clip=values["l2_norm_clip"],
            expected_batch_size=values["expected_batch_size"],
            fixed_seed=bool(values["fixed_seed"]),
            examples_per_unit=int(values["examples_per_unit"]),
            moving_clip=bool(values["moving_clip"]),
            query_stddev=values["query_stddev"] or None,
            family=noise_style.FAMILIES[int(values["family"])],
            sensitivity=values["sensitivity"],
            steps_per_release=int(values["steps_per_release"]),
            min_separation=int(values["min_separation"]),
            max_participations=int(values["max_participations"]) or None,
            release=values["release"],
            selection_fraction=values["selection_fraction"] or None,
        )


def check_one_unit(kinds) -> None:
    """Raises if steps protect units of different sizes.

    The guarantee of a step on single examples is weaker for a person with
    several; that of a step on units says nothing of an example within one.

    Args:
        kinds: A list of StepKinds.

    Raises:
        ValueError: If they do: they compose to no one guarantee.
    """
    sizes = sorted({kind.examples_per_unit for kind in kinds})
    if len(sizes) > 1:
        raise ValueError(
            "examples_per_unit must be the same for all steps on one model. "
            f"Received: steps with {sizes}. Train on one kind of unit from "
            "untrained weights on."
        )


class StepLedger:
    """Counts steps by kind, and keeps the budget that they must fit in.

    Args:
        table: A float64 variable of shape `table_shape()`; may be tracked and
            restored by any checkpoint.
        budget: A float64 variable of shape `(2,)`, all zero; likewise.
    """

    def __init__(self, table, budget):
        self._table = table
        self._budget = budget
        # Variables of this plain object, which no checkpoint restores.
        self._own_table = _untracked(np.zeros(self.table_shape()))
        self._own_budget = _untracked(np.zeros(2))
        self._known_limits = np.full(_CAPACITY, NO_LIMIT)
        self._limits = _untracked(self._known_limits)
        self._refused = _untracked(0, "int32")
        # A row of its own for every optimizer object, so that a count restored
        # from a file and the count of this object add up.
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
            ValueError: If there are more kinds of steps than rows, or steps
                on other units ran before.
        """
        if kind not in self._rows:
            check_one_unit([kind, *(k for k, _ in self.entries())])
            table = self.to_numpy()
            line = (self._run, *kind._key(), 0.0)
            self._rows[kind] = _append(table, line)
            self._write(table)
        return self._rows[kind]

    def allows(self, row):
        """Returns whether one more step fits in row `row`; none if < 0."""
        own, table = self._own_table.value, self._table.value
        entry = ops.maximum(row, 0)
        count = ops.take(own[:, _COUNT], entry)
        fits = count < ops.take(self._limits.value, entry)
        # What a checkpoint brought in behind our back is in no limit yet.
        other_rows = (table[:, 0] > 0.0) & (table[:, 0] != own[:, 0])
        more_steps = table[:, _COUNT] > own[:, _COUNT]
        has_own_budget = self._own_budget.value[1] > 0.0
        has_budget = has_own_budget | (self._budget.value[1] > 0.0)
        unseen = ops.any(other_rows | more_steps) | ~has_own_budget
        return fits & ops.greater_equal(row, 0) & ~(has_budget & unseen)

    def position(self, row, steps_per_release: int):
        """Returns which step of its release the next one of a row is, int32.

        Args:
            row: Row of the ledger; an int or a scalar tensor; >= 0.
            steps_per_release: Of the row's kind.
        """
        count = ops.take(self._own_table.value[:, _COUNT], row)
        return ops.cast(ops.mod(count, steps_per_release), "int32")

    def count(self, row):
        """Adds one noisy step to row `row`."""
        rows = ops.one_hot(row, _CAPACITY, dtype="float64")
        columns = ops.one_hot(_COUNT, len(_COLUMNS), dtype="float64")
        one = rows[:, None] * columns[None, :]
        self._own_table.assign_add(one)
        self._table.assign_add(one)

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
        return int(self._refused.numpy())

    def num_taken(self) -> int:
        """Returns how many steps this optimizer object made itself."""
        table = ops.convert_to_numpy(self._own_table.value)
        return int(np.sum(table[table[:, 0] == self._run, _COUNT]))

    @property
    def budget(self) -> tuple[float, float] | None:
        """(target_epsilon, target_delta) in force, or None."""
        for variable in (self._own_budget, self._budget):
            epsilon, delta = ops.convert_to_numpy(variable.value)
            if delta > 0.0:
                return float(epsilon), float(delta)
        return None

    def set_budget(self, budget: tuple[float, float] | None) -> None:
        """Keeps a budget; no row may go on until its limit is set.

        Args:
            budget: (target_epsilon, target_delta); None takes the budget off,
                and every limit.
        """
        value = np.array(budget or (0.0, 0.0), np.float64)
        self._own_budget.assign(value)
        self._budget.assign(value)
        self._set_limits(np.full(_CAPACITY, 0.0 if budget else NO_LIMIT))

    def set_limit(self, row: int, num_more_steps: int) -> None:
        """Lets one row go on for so many more steps, and no other row.

        Args:
            row: From `row_of`.
            num_more_steps: Steps from now; >= 0.
        """
        self.set_limits({row: num_more_steps})

    def set_limits(self, num_more_steps: dict[int, int]) -> None:
        """Lets rows go on for so many more steps, and no other row.

        Args:
            num_more_steps: For rows from `row_of`, steps from now; >= 0.
        """
        table = self.to_numpy()
        self._write(table)
        # The limit was worked out for the budget in force, restored or not.
        self._own_budget.assign(np.array(self.budget or (0.0, 0.0)))
        limits = np.zeros(_CAPACITY)
        for row, steps in num_more_steps.items():
            limits[row] = table[row, _COUNT] + steps
        self._set_limits(limits)

    def _set_limits(self, limits) -> None:
        self._known_limits = limits
        self._limits.assign(limits)

    @property
    def has_limits(self) -> bool:
        """Whether a limit was set; known without a look at the variables."""
        return bool(np.any(self._known_limits < NO_LIMIT))

    def remaining(self, rows: int | list[int]) -> int:
        """Returns how many more steps a row, or several together, may make.

        Args:
            rows: From `row_of`.
        """
        counts = self.to_numpy()[rows, _COUNT]
        left = np.maximum(0.0, self._known_limits[rows] - counts)
        return int(np.sum(left))

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
        with execution.outside_of_graph():
            own = ops.convert_to_numpy(self._own_table.value)
            restored = ops.convert_to_numpy(self._table.value)
        return _union(own, restored)

    def _write(self, table) -> None:
        with execution.outside_of_graph():
            self._own_table.assign(table)
            self._table.assign(table)

    def merge(self, other: np.ndarray) -> None:
        """Takes in a saved table; no step that ran is forgotten.

        Rows are matched by the object that counted and the kind of step; of
        two counts of one row the larger stands.

        Args:
            other: From `to_numpy`.

        Raises:
            ValueError: If it is not such a table.
        """
        other = check_table(other)
        self._write(_union(self.to_numpy(), other))


def check_table(table) -> np.ndarray:
    """Returns a saved table as float64.

    Args:
        table: From `StepLedger.to_numpy`.

    Raises:
        ValueError: If it is not such a table: steps must not be forgotten.
    """
    table = np.asarray(table, np.float64)
    shape = StepLedger.table_shape()
    if (
        table.shape != shape
        or not np.isfinite(table).all()
        or (table < 0.0).any()
    ):
        raise ValueError(
            f"ledger must be a finite table of shape {shape}, nowhere "
            f"negative. Received: shape {table.shape}. The file was not saved "
            "by this version of tf_privacy."
        )
    return table


def _untracked(value, dtype="float64"):
    return keras.Variable(value, dtype=dtype, trainable=False)


def _union(table, other) -> np.ndarray:
    """Returns `table`, its rows in place, with what only `other` counted."""
    union = np.array(table, np.float64)
    if np.array_equal(table, other):  # As after every step but a restored one.
        return union
    rows = {tuple(union[row, _KEY]): row for row in np.flatnonzero(union[:, 0])}
    for line in other[other[:, 0] > 0]:
        key = tuple(line[_KEY])
        if key in rows:
            row = rows[key]
            union[row, _COUNT] = max(union[row, _COUNT], line[_COUNT])
        else:
            rows[key] = _append(union, line)
    return union


def _append(table, line) -> int:
    """Writes a line into the first free row of `table`; returns the row."""
    row = int(np.count_nonzero(table[:, 0]))
    if row >= _CAPACITY:
        raise ValueError(
            f"a ledger must hold at most {_CAPACITY} kinds of steps. Received: "
            "one more. Keep the noise and the sampling the same for longer; "
            "with correlated noise, fit for more epochs at a time."
        )
    table[row] = line
    return row
