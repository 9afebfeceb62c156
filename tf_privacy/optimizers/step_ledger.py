# SPDX-License-Identifier: Apache-2.0
"""The count of noisy steps, in variables, by what each step was.

One row of a table for each distinct kind of step: which noise, which sampling.
A step adds one to its row inside of the compiled step, so that the count is
right for `fit`, `train_on_batch`, custom loops and any `steps_per_execution`.
The table is kept twice: in variables of the optimizer, which are saved with it
and which `tf.train.Checkpoint` may overwrite at any time, and where no
checkpoint reaches. The second one rules; the first one can only add to it.
Counts are int32 and what was counted is in `float_words`: all is exact on any
backend of Keras. A step only changes counts; the rest has a copy on the host.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping.backend.execution import execution
from tf_privacy.noise import noise_style
from tf_privacy.optimizers import float_words
from tf_privacy.optimizers import shared_number
from tf_privacy.optimizers import step_tables

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
_RUN = slice(0, float_words.NUM_WORDS)  # Of a key's words.
_DELTA = slice(float_words.NUM_WORDS, None)  # Of a budget's words.
NO_LIMIT = 2**31 - 1  # Steps. No int32 counts further; the next is refused.


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
        add_variable: Makes variables, all zero, that may be tracked and
            restored by any checkpoint, from a shape, a dtype and a name; as of
            an optimizer.
    """

    def __init__(self, add_variable):
        words = float_words.NUM_WORDS
        self._tracked_keys = add_variable(
            (_CAPACITY, words * _COUNT), dtype="int32", name="ledger_keys"
        )
        self._tracked_counts = add_variable(
            (_CAPACITY,), dtype="int32", name="ledger_counts"
        )
        self._tracked_budget = add_variable(
            (words * 2,), dtype="int32", name="budget"
        )
        self._known_keys = np.zeros((_CAPACITY, _COUNT))
        self._known_budget = None
        self._known_limits = np.full(_CAPACITY, NO_LIMIT)
        # Variables of this plain object, which no checkpoint restores.
        self._runs = _untracked(np.zeros((_CAPACITY, words)))
        self._counts = _untracked(np.zeros(_CAPACITY))
        self._has_budget = _untracked(0)
        self._limits = _untracked(self._known_limits)
        self._refused = _untracked(0)
        # A row of its own for every optimizer object, so that a count restored
        # from a file and the count of this object add up.
        self._run = shared_number.draw_number()
        self._rows = {}

    @property
    def state_variables(self) -> list[keras.Variable]:
        """What steps read and write besides the variables that are tracked."""
        constants = (self._runs, self._has_budget, self._limits)
        return [*constants, self._counts, self._refused]

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
            table = self.to_numpy()
            check_one_unit([kind, *(k for k, _ in _list_entries(table))])
            line = (self._run, *kind._key(), 0.0)
            self._rows[kind] = step_tables.append(table, line)
            self._write(table)
        return self._rows[kind]

    def allows(self, row):
        """Returns whether one more step fits in row `row`; none if < 0."""
        own, tracked = self._counts.value, self._tracked_counts.value
        entry = ops.maximum(row, 0)
        count = ops.take(ops.maximum(own, tracked), entry)
        fits = count < ops.take(self._limits.value, entry)
        # What a checkpoint brought in behind our back is in no limit yet.
        runs = self._tracked_keys.value[:, _RUN]
        are_others = ops.any(ops.not_equal(runs, self._runs.value), axis=-1)
        other_rows = float_words.is_nonzero(runs) & are_others
        delta = self._tracked_budget.value[_DELTA]
        has_own_budget = self._has_budget.value > 0
        has_budget = has_own_budget | float_words.is_nonzero(delta)
        unseen = ops.any(other_rows | (tracked > own)) | ~has_own_budget
        return fits & ops.greater_equal(row, 0) & ~(has_budget & unseen)

    def position(self, row, steps_per_release: int):
        """Returns which step of its release the next one of a row is, int32.

        Args:
            row: Row of the ledger; an int or a scalar tensor; >= 0.
            steps_per_release: Of the row's kind.
        """
        return ops.mod(ops.take(self._counts.value, row), steps_per_release)

    def count(self, row):
        """Adds one noisy step to row `row`."""
        one = ops.one_hot(row, _CAPACITY, dtype="int32")
        for counts in (self._counts, self._tracked_counts):
            # A sum beyond the largest int32 would be negative.
            has_room = ops.cast(counts.value < NO_LIMIT, "int32")
            counts.assign_add(one * has_room)

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
        # Fails in a graph, where it would be asked once and not in each step.
        return int(self._refused.numpy())

    def num_taken(self) -> int:
        """Returns how many steps this optimizer object made itself."""
        (counts,) = _read(self._counts)
        return int(np.sum(counts[self._known_keys[:, 0] == self._run]))

    @property
    def budget(self) -> tuple[float, float] | None:
        """(target_epsilon, target_delta) in force, or None."""
        if self._known_budget is not None:
            return self._known_budget
        (words,) = _read(self._tracked_budget)
        epsilon, delta = map(float, float_words.from_words(words))
        return (epsilon, delta) if delta > 0.0 else None

    def set_budget(self, budget: tuple[float, float] | None) -> None:
        """Keeps a budget; no row may go on until its limit is set.

        Args:
            budget: (target_epsilon, target_delta); None takes the budget off,
                and every limit.
        """
        self._set_own_budget(budget)
        words = float_words.to_words(budget or (0.0, 0.0))
        _assign((self._tracked_budget, words))
        self._set_limits(np.full(_CAPACITY, 0 if budget else NO_LIMIT))

    def _set_own_budget(self, budget) -> None:
        self._known_budget = budget and tuple(map(float, budget))
        _assign((self._has_budget, int(budget is not None)))

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
        # The limit was worked out for what there is, restored or not.
        own, restored = self._read_tables()
        table = step_tables.union(own, restored)
        if not np.array_equal(own, restored):
            self._write(table)
        if self._known_budget is None:
            self._set_own_budget(self.budget)
        limits = np.zeros(_CAPACITY, np.int64)
        for row, steps in num_more_steps.items():
            limits[row] = min(int(table[row, _COUNT]) + steps, NO_LIMIT)
        self._set_limits(limits)

    def _set_limits(self, limits) -> None:
        self._known_limits = limits
        _assign((self._limits, limits))

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
        left = np.maximum(0, self._known_limits[rows] - counts)
        return int(np.sum(left))

    def entries(self) -> list[tuple[StepKind, int]]:
        """Returns each kind of step and how many of it ran, in first order."""
        return _list_entries(self.to_numpy())

    def num_steps(self) -> int:
        """Returns how many noisy steps ran in all."""
        return sum(count for _, count in self.entries())

    def to_numpy(self) -> np.ndarray:
        """Returns a copy of the table."""
        return step_tables.union(*self._read_tables())

    def _read_tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the own table, and the one that may have been restored."""
        own_counts, words, counts = _read(
            self._counts, self._tracked_keys, self._tracked_counts
        )
        own = np.column_stack([self._known_keys, own_counts])
        keys = float_words.from_words(words)
        return own, np.column_stack([keys, counts])

    def _write(self, table) -> None:
        self._known_keys = np.array(table[:, _KEY])
        words = float_words.to_words(self._known_keys)
        counts = table[:, _COUNT]
        _assign(
            (self._runs, words[:, _RUN]),
            (self._tracked_keys, words),
            (self._counts, counts),
            (self._tracked_counts, counts),
        )

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
        self._write(step_tables.union(self.to_numpy(), other))


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
        or (table[:, _COUNT] > NO_LIMIT).any()
        or (table[:, _COUNT] % 1.0).any()
    ):
        raise ValueError(
            f"ledger must be a finite table of shape {shape}, nowhere "
            f"negative, its counts whole and at most {NO_LIMIT}. Received: "
            f"shape {table.shape}. The file was not saved by this version of "
            "tf_privacy."
        )
    return table


def _list_entries(table) -> list[tuple[StepKind, int]]:
    counts = {}
    for line in table[table[:, 0] > 0]:
        kind = StepKind._from_key(line[1:_COUNT])
        counts[kind] = counts.get(kind, 0) + int(line[_COUNT])
    return [(kind, count) for kind, count in counts.items() if count]


def _untracked(value):
    return keras.Variable(value, dtype="int32", trainable=False)


def _read(*variables) -> list[np.ndarray]:
    with execution.outside_of_graph():
        return [ops.convert_to_numpy(v.value) for v in variables]


def _assign(*pairs) -> None:
    with execution.outside_of_graph():
        for variable, value in pairs:
            variable.assign(np.asarray(value, np.int32))
