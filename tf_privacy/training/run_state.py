# SPDX-License-Identifier: Apache-2.0
"""What must be kept of a run, for it to go on after a crash.

See `resume` for the argument that this keeps the guarantee. Where several
processes train together under TensorFlow, the first one writes, and all read
what it wrote; on JAX each has a folder of its own within. What is announced
is on the disk before any step is complete: none is without the first process.
"""

import contextlib
import dataclasses
import json
import pathlib
import warnings

import keras
import numpy as np

from tf_privacy import _checks
from tf_privacy.clipping.backend.replicas import replicas
from tf_privacy.optimizers import dp_optimizer
from tf_privacy.optimizers import step_check
from tf_privacy.sampling import poisson
from tf_privacy.training import ledger
from tf_privacy.training import poisson_dataset
from tf_privacy.training import run_files
from tf_privacy.training import saved_ledger

SPENT, UNSEEN = "spent", "unseen"
_FORMAT = 1  # Of the record; another one is not understood.
_COUNT = -1  # The last column of a ledger's table.
# May differ from one start of a run to the next.
_FREE = (
    "optimizer.name",
    "optimizer.learning_rate",
    "optimizer.microbatch_size",
    "optimizer.memory_limit",
    "optimizer.inner_optimizer.config.name",
    "optimizer.inner_optimizer.config.learning_rate",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """How far a run has come.

    Attributes:
        epoch: Epochs that are complete; >= 0.
        batch: Batches of the next one that are done; >= 0.
    """

    epoch: int = 0
    batch: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is kept.

    Attributes:
        every_steps: Steps between two checkpoints; >= 1; None where only the
            caller says when.
        reserve_steps: Steps that one entry of the journal announces; >= 1.
        lost_steps: What a resumed run does about steps that no checkpoint
            has; "spent" or "unseen".
    """

    every_steps: int | None
    reserve_steps: int
    lost_steps: str

    def __post_init__(self):
        if self.every_steps is not None:
            _checks.check_integer("every_steps", self.every_steps, at_least=1)
        _checks.check_integer("reserve_steps", self.reserve_steps, at_least=1)
        _checks.check_choice(
            "lost_steps",
            self.lost_steps,
            (SPENT, UNSEEN),
            hint="Only steps of which nothing was seen outside are 'unseen'.",
        )


class _Trained(keras.Model):
    """A model and its optimizer, to be written into one file."""

    def __init__(self, trained, trainer):
        super().__init__()
        self.trained, self.trainer = trained, trainer
        self.built = True


class RunState:
    """The state of one run, its checkpoints and its journal.

    Args:
        directory: Of the run's files.
        settings: How it is kept.
        model: A built Keras model.
        optimizer: The `DPOptimizer` that trains it.
        dataset: The `PoissonDataset` that it is trained on, or None.
        sampling: What the ledger knows of the batches, or None.

    Raises:
        TypeError: If the optimizer adds no noise.
        ValueError: If the model is not built, or the divisor not known.
    """

    def __init__(
        self,
        directory,
        *,
        settings: Settings,
        model: keras.Model,
        optimizer: dp_optimizer.DPOptimizer,
        dataset: poisson_dataset.PoissonDataset | None,
        sampling: poisson.PoissonSampling | None,
    ):
        _check_trained(model, optimizer)
        self._scope = optimizer.step_noise.scope
        index = replicas.process_index(self._scope)
        # Without a scope all processes run one program, step by step: each has
        # files of its own, and none does what the others do not.
        self._is_alone = self._scope is None
        self._is_writer = self._is_alone or index == 0
        if self._is_alone and replicas.num_processes(self._scope) > 1:
            directory = pathlib.Path(directory) / f"process_{index}"
        self._files = run_files.RunFiles(directory)
        self._settings = settings
        self._model, self._optimizer = model, optimizer
        self._dataset, self._sampling = dataset, sampling
        self._num_reserved = self._num_since_save = self._num_lost = 0
        self._announced = None
        self._described = None

    @property
    def num_lost_steps(self) -> int:
        """Steps that ran or may have, and that no checkpoint holds."""
        return self._num_lost

    def start(self) -> Place:
        """Goes on from the newest checkpoint, or writes the first one.

        All processes that train together must call it.

        Returns:
            How far the run has come.

        Raises:
            RuntimeError: If another process trains in the folder.
            ValueError: If the folder is of another run or damaged.
        """
        if not self._is_writer:
            self._wait_for_all()  # The first one reads, or makes, a checkpoint.
            place = self._find_place()
            self._wait_for_all()
            return place
        self._files.lock()
        with contextlib.ExitStack() as refused:
            refused.callback(self._files.unlock)
            place = self._find_place()
            self._check_agreement(place)
            self._wait_for_all()
            # Nothing is written before all others have read.
            self._wait_for_all()
            refused.pop_all()
        return place

    def _wait_for_all(self) -> None:
        """Returns once all processes that train together have called it."""
        if not self._is_alone:
            replicas.share_words([0], self._scope)

    def _check_agreement(self, place) -> None:
        """Raises if processes with files of their own go on from elsewhere."""
        if not self._is_alone:
            return
        counted = self._optimizer.ledger.num_steps()
        own = [place.epoch, place.batch, counted, self._num_lost]
        if replicas.share_words(own, self._scope) != own:
            raise ValueError(
                "directory must hold the same state for all processes. "
                f"Received: another one in {str(self._files.directory)!r} than "
                "that of the first process: one was killed while it wrote. "
                "Copy the folder of the process that counted more steps over "
                "the others'."
            )

    def _find_place(self) -> Place:
        journal = self._files.read_journal()
        found = self._files.read_checkpoint()
        # As the caller made it: a restored optimizer may describe itself
        # otherwise, as after a callback has changed it.
        self._described = _describe(self._model, self._optimizer, self._dataset)
        if found is None:
            self._take_in(journal)
            self._limit()
            self.save(Place())
            return Place()
        if journal is None:
            raise ValueError(
                "directory must hold the journal of its checkpoints: it says "
                "how many steps may have run. Received: none in "
                f"{str(self._files.directory)!r}. Copy whole folders only."
            )
        record, weights = found
        self._restore(record, weights, journal)
        return Place(epoch=record["epoch"], batch=record["batch"])

    def _restore(self, record, weights, journal):
        _check_same(record["settings"], self._described)
        self._described = record["settings"]
        _Trained(self._model, self._optimizer).load_weights(weights)
        if self._settings.lost_steps == SPENT:
            self._take_in(journal)
        self._limit()
        saved = saved_ledger.SavedLedger.from_config(record["ledger"]).table
        table = self._optimizer.ledger.to_numpy()
        self._num_lost = int(np.sum(table[:, _COUNT]) - saved[:, _COUNT].sum())
        if self._num_lost:
            warnings.warn(
                f"{self._num_lost} steps ran, or may have, after the last "
                "checkpoint. They are counted as spent. More frequent "
                "checkpoints and a smaller reserve_steps lose fewer.",
                stacklevel=4,
            )
        if self._dataset is not None and not self._num_lost:
            self._dataset.set_state(poisson.CoinState(**record["coins"]))

    def _take_in(self, journal):
        if journal is not None:
            saved = saved_ledger.SavedLedger.from_config(journal)
            self._optimizer.inherit(saved.table, saved.budget)

    def _limit(self):
        ledger.FurtherSteps(self._optimizer, sampling=self._sampling).limit()

    def before_steps(self, num_steps: int) -> None:
        """Announces steps; must return before they run.

        Args:
            num_steps: How many; >= 1.

        Raises:
            RuntimeError: If earlier steps were not the ones announced.
        """
        if self._num_reserved < num_steps:
            self._reserve(max(num_steps, self._settings.reserve_steps))
        self._num_reserved -= num_steps
        self._num_since_save += num_steps

    def _reserve(self, num_steps):
        table = self._optimizer.ledger.to_numpy()
        rows = self._optimizer.rows_of(self._sampling)
        self._check_announced(table, rows)
        before = int(self._optimizer.iterations.numpy())
        counts = self._optimizer.noise_style.count_levels(before, num_steps)
        # Two levels may share a row, which then takes both.
        np.add.at(table[:, _COUNT], rows, counts)
        self._write_journal(table)
        self._num_reserved = num_steps

    def _check_announced(self, table, rows):
        """Raises if this optimizer made steps that the journal lacks."""
        if self._announced is None:
            return
        own = table[:, 0] == table[rows[0], 0]
        more = table[:, _COUNT] > self._announced[:, _COUNT]
        if np.any(own & more):
            self._write_journal(table)
            raise RuntimeError(
                "each step must be announced before it runs, with the sampling "
                "that optimizer.apply is given. Received: steps of another "
                "kind, or more of them. Take one step for each that is "
                "announced, and pass the same sampling to both."
            )

    def _write_journal(self, table):
        if self._is_writer:
            self._files.write_journal(self._to_config(table))
        self._announced = table

    def _to_config(self, table):
        return saved_ledger.SavedLedger(
            table=table, budget=self._optimizer.budget
        ).to_config()

    @property
    def is_due(self) -> bool:
        """Whether `every_steps` ran since the last checkpoint."""
        every = self._settings.every_steps
        return every is not None and self._num_since_save >= every

    def save(self, place: Place, *, last_index: int | None = None) -> None:
        """Writes a checkpoint, and then that nothing more is announced.

        Args:
            place: How far the run has come.
            last_index: Of the data set's pass: the last batch that was used;
                None where all that were drawn were used.
        """
        table = self._optimizer.ledger.to_numpy()
        if self._is_writer:
            self._write_checkpoint(place, last_index, table)
        self._write_journal(table)
        self._num_reserved = self._num_since_save = 0

    def _write_checkpoint(self, place, last_index, table):
        coins = None
        if self._dataset is not None:
            coins = dataclasses.asdict(self._dataset.get_state(last_index))
        record = {
            "epoch": place.epoch,
            "batch": place.batch,
            "coins": coins,
            "settings": self._described,
            "ledger": self._to_config(table),
        }
        pair = _Trained(self._model, self._optimizer)
        self._files.write_checkpoint(record, pair.save_weights)

    def close(self) -> None:
        """Lets other processes into the folder."""
        self._files.unlock()


def _check_trained(model, optimizer) -> None:
    if not isinstance(optimizer, dp_optimizer.DPOptimizer):
        raise TypeError(
            "optimizer must be a DP optimizer: what is kept is what it spent. "
            f"Received: {type(optimizer).__name__}. For training without "
            "privacy use keras.callbacks.BackupAndRestore."
        )
    if not model.built:
        raise ValueError(
            "model must be built before it is resumed: its weights are to be "
            f"restored. Received: {model.name!r}, which is not. Begin it with "
            "keras.Input, or call it on a batch."
        )
    step_check.check_divisor(optimizer.expected_batch_size)
    scope = replicas.current_scope()
    if scope is not None and replicas.num_processes(scope) > 1:
        # Saving makes variables, which all processes would have to make.
        raise RuntimeError(
            "the loop must be outside of the strategy's scope where several "
            f"processes train. Received: a call under {type(scope).__name__}. "
            "Make the model in strategy.scope(), and leave it before the loop."
        )
    optimizer.build(model.trainable_variables)


def _describe(model, optimizer, dataset) -> dict:
    """Returns what must not change between the starts of one run."""
    settings = {
        "format": _FORMAT,
        "model.weights": [
            [list(v.shape), v.dtype, v.trainable] for v in model.weights
        ],
        "optimizer.class": type(optimizer).__name__,
        **_flatten("optimizer", optimizer.get_config()),
    }
    if dataset is not None:
        settings |= _flatten("dataset", dataclasses.asdict(dataset.sampling))
        settings["dataset.steps_per_epoch"] = dataset.steps_per_epoch
    kept = {
        key: value
        for key, value in settings.items()
        if not any(key == free or key.startswith(free + ".") for free in _FREE)
    }
    return json.loads(json.dumps(kept, default=str))


def _flatten(prefix, value) -> dict:
    if not isinstance(value, dict):
        return {prefix: value}
    flat = {}
    for key, item in value.items():
        flat |= _flatten(f"{prefix}.{key}", item)
    return flat


def _check_same(saved: dict, current: dict) -> None:
    for key in sorted({*saved, *current}):
        if saved.get(key) != current.get(key):
            raise ValueError(
                f"{key} must be what the run began with, {saved.get(key)!r}. "
                f"Received: {current.get(key)!r}. To train on with other "
                "settings, load the weights and choose another folder."
            )
