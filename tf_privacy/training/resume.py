# SPDX-License-Identifier: Apache-2.0
"""Training that may be killed at any moment and goes on, still private.

A checkpoint holds the weights, the inner optimizer, the ledger and the budget,
the place within the epoch, and where the coins of the sampling stand. Two are
kept, and a kill while one is written leaves the others whole. Five things keep
the guarantee.

*No step is forgotten.* A step is a release once it ran, whether or not a
checkpoint followed: a log, a copy or a picture of the weights may have shown
it. So before steps run, a journal on the disk says up to which count the
ledger may come. A resumed run takes the larger of both counts: a crash counts
at most `reserve_steps` too many, and never one too few.

*Coins of a lost step are not thrown again.* Say a step drew the batch C and was
lost, and the resumed run used C once more, with fresh noise. The accountant
would compose two steps, each with coins of its own. But the two share theirs:
a unit is in both batches or in neither, and together they are one sampled
Gaussian release with noise_multiplier / sqrt(2). That is worse: with
a = exp(1 / noise_multiplier^2) - 1 and sampling probability q, the moment of
order 2 is 1 + q^2 (2 a + a^2) and not (1 + q^2 a)^2 = 1 + q^2 (2 a + q^2 a^2).
So after any step that may have run without a checkpoint, the coins are new
ones from the operating system. They are independent of all that was seen, so
the lost steps and those that replace them are two sampled steps each, in an
adaptive composition, and both are counted: what the accountant assumes.

*After a clean stop the coins go on.* Where the journal announces no step beyond
the checkpoint, no release has used the coins that follow it. Batches that were
read ahead for later steps released nothing. The resumed run then draws what the
uninterrupted one would have drawn, and is the same mechanism.

*Noise is never taken up again.* Its key is in no file. A lost step and its
replay with the same noise would differ by their sums alone.

*The files are secret.* Whoever has the coins of a run knows who was in which
batch, and what sampling adds to the guarantee is lost. Only the owner may read
a checkpoint; delete the folder after the run. A copy of the folder must not go
on as well: two runs would share their coins.

That a step crashed at all is not covered: a batch so large that memory runs out
shows its size. Dropout and other random layers draw anew after a resume.

`keras.callbacks.BackupAndRestore` is not enough. It restores weights, inner
optimizer and ledger, but forgets the steps since; it begins an epoch again that
it left half-way; it knows nothing of the coins; and a kill while it writes
leaves a half-written file in the place of its only copy.

Source: the moment of order 2, Mironov et al. 2019, arXiv:1908.10530, section
3.3; composition of adaptive releases, Abadi et al. 2016, arXiv:1607.00133.
"""

import contextlib
import warnings
from collections.abc import Iterator

import keras

from tf_privacy.optimizers import dp_optimizer
from tf_privacy.training import fit_data
from tf_privacy.training import poisson_dataset
from tf_privacy.training import private_training
from tf_privacy.training import run_state

_RAN_OUT = "Your input ran out of data"


class ResumableTraining(keras.callbacks.Callback):
    """Lets `fit` be killed at any moment and go on where it was.

    Start the same script again with the same folder: weights, optimizer, ledger
    and budget are restored, and training goes on at the epoch and, for arrays
    and a `PoissonDataset`, at the step where the last checkpoint was made, up
    to `epochs` in all. See the module's docstring for why it stays private. A
    run that has come to its end trains no more.

    What it does not restore: the state of other callbacks, such as the patience
    of EarlyStopping, and the metrics of an epoch that it enters half-way, which
    are then those of the rest. Of data that is neither, a started epoch begins
    anew.

    Args:
        directory: Folder of this run alone. Its files are secret.
        every_steps: Steps between checkpoints within an epoch; >= 1. None
            writes one at the end of each epoch only, where one is always
            written.
        reserve_steps: Steps announced at a time; >= 1. A crash counts up to so
            many steps that did not run; each announcement waits for the disk.
        lost_steps: "spent" counts the steps since the last checkpoint and draws
            new batches. "unseen" does neither: say it only if nobody can have
            seen anything of them, no log and no file.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        directory: str,
        *,
        every_steps: int | None = None,
        reserve_steps: int = 16,
        lost_steps: str = run_state.SPENT,
    ):
        super().__init__()
        self._directory = directory
        self._settings = run_state.Settings(
            every_steps=every_steps,
            reserve_steps=reserve_steps,
            lost_steps=lost_steps,
        )
        self._data = self._dataset = self._state = None
        self._start = run_state.Place()
        self._epoch = self._num_begun = 0
        self._quiet = contextlib.ExitStack()

    @property
    def num_lost_steps(self) -> int:
        """Steps of earlier runs that are counted and that no checkpoint has."""
        return self._state.num_lost_steps if self._state else 0

    def set_data(self, data) -> None:
        """Takes what `fit` trains on; called by `fit`.

        Args:
            data: What Keras iterates over.
        """
        self._data = data

    def on_train_begin(self, logs=None):
        """Restores the newest checkpoint, or writes the first one."""
        self._check_data()
        self._state = run_state.RunState(
            self._directory,
            settings=self._settings,
            model=self.model,
            optimizer=self.model.optimizer,
            dataset=self._dataset,
            sampling=fit_data.find_sampling(self._data),
        )
        self._start = self._state.start()
        if self._dataset is not None:
            self._dataset.skip(self._start.batch)
        # Where `fit` begins; as keras.callbacks.BackupAndRestore tells it.
        self.model._initial_epoch = self._start.epoch

    def _check_data(self):
        if not isinstance(self.model, private_training.PrivateTraining):
            raise TypeError(
                "model must be private for ResumableTraining. Received: "
                f"{type(self.model).__name__}. Wrap it with "
                "tf_privacy.privatize."
            )
        if self._data is None:
            raise RuntimeError(
                "set_data must be called before training, as fit() of a "
                "private model does. Received: no data. Do not replace the "
                "model's fit."
            )
        self._dataset = None
        # A subclass may draw in another way.
        if type(self._data) is poisson_dataset.PoissonDataset:
            self._dataset = self._data
            steps = self.params.get("steps")
            if steps != self._dataset.steps_per_epoch:
                raise ValueError(
                    "steps_per_epoch must be given to the PoissonDataset, "
                    "which has "
                    f"{self._dataset.steps_per_epoch}. Received: {steps} from "
                    "fit(). Leave it out there."
                )
        elif self._settings.every_steps is not None:
            raise ValueError(
                "every_steps must be None for data that cannot be taken up "
                "within an epoch. Received: "
                f"{self._settings.every_steps} for {type(self._data).__name__}."
                " Use arrays or a PoissonDataset."
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the epoch."""
        self.model._initial_epoch = None  # It holds for one `fit` only.
        self._epoch, self._num_begun = epoch, 0
        if self._num_skipped:
            # The pass is shorter than Keras expects; it says so in a warning.
            self._quiet.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message=_RAN_OUT)

    @property
    def _num_skipped(self):
        """Batches of the running epoch that ran before this `fit`."""
        return self._start.batch if self._epoch == self._start.epoch else 0

    def on_train_batch_begin(self, batch, logs=None):
        """Writes a checkpoint if one is due, and announces the next steps.

        Args:
            batch: Of this pass, from 0.
            logs: Not used.

        Raises:
            StopIteration: Where an epoch that was entered half-way is at its
                end, which tells Keras so. Left to itself it would find out
                within a step, which then counts without having run.
        """
        if self._num_skipped and batch >= len(self._dataset):
            raise StopIteration
        if self._state.is_due:
            self._save(batch)
        steps = self.model.steps_per_execution
        self._state.before_steps(steps)
        self._num_begun = batch + steps

    def on_epoch_end(self, epoch, logs=None):
        """Writes a checkpoint."""
        self._quiet.close()
        self._save(self._num_begun)

    def _save(self, num_batches):
        """Writes a checkpoint after so many batches of this pass."""
        if self._dataset is None:
            self._state.save(run_state.Place(epoch=self._epoch + 1))
            return
        total, skipped = self._dataset.steps_per_epoch, self._num_skipped
        done = min(skipped + num_batches, total)
        place = run_state.Place(epoch=self._epoch, batch=done)
        if done == total:
            place = run_state.Place(epoch=self._epoch + 1)
        last = done - skipped - 1
        self._state.save(place, last_index=last if last >= 0 else None)

    def on_train_end(self, logs=None):
        """Lets other processes into the folder."""
        self.model._initial_epoch = None
        self._state.close()


class ResumableLoop:
    """Lets a custom loop be killed at any moment and go on where it was.

    The loop takes its steps from here, and each of them calls
    `optimizer.apply` once:

        loop = tf_privacy.ResumableLoop(
            "run", model=model, optimizer=optimizer, dataset=dataset,
            every_steps=100)
        for step in loop.steps(5000):
            x, y = dataset[step]
            ...
            optimizer.apply(clipped, sampling=dataset.sampling)
    See the module's docstring for why it stays private. Where several processes
    train together, all of them use it, outside of the scope of their strategy,
    with one folder that all can read.

    Args:
        directory: Folder of this run alone. Its files are secret.
        model: The Keras model, built.
        optimizer: The `DPOptimizer` with its expected_batch_size.
        dataset: The `PoissonDataset` that every batch is drawn from; None if
            the batches come from elsewhere, and go on as the caller lets them.
        every_steps: Steps between checkpoints; >= 1.
        reserve_steps: As for `ResumableTraining`.
        lost_steps: As for `ResumableTraining`.

    Raises:
        TypeError: If the optimizer adds no noise.
        ValueError: If an argument is out of range, or the model not built.
    """

    def __init__(
        self,
        directory: str,
        *,
        model: keras.Model,
        optimizer: dp_optimizer.DPOptimizer,
        dataset: poisson_dataset.PoissonDataset | None,
        every_steps: int,
        reserve_steps: int = 16,
        lost_steps: str = run_state.SPENT,
    ):
        settings = run_state.Settings(
            every_steps=every_steps,
            reserve_steps=reserve_steps,
            lost_steps=lost_steps,
        )
        self._state = run_state.RunState(
            directory,
            settings=settings,
            model=model,
            optimizer=optimizer,
            dataset=dataset,
            sampling=None if dataset is None else dataset.sampling,
        )

    @property
    def num_lost_steps(self) -> int:
        """Steps of earlier runs that are counted and that no checkpoint has."""
        return self._state.num_lost_steps

    def steps(self, num_steps: int) -> Iterator[int]:
        """Yields the number of each step that is still to be taken.

        Restores the newest checkpoint first, and writes one after every
        `every_steps` steps and after the last.

        Args:
            num_steps: Steps of the run in all; >= 0.

        Yields:
            The step's number, from 0.
        """
        done = self._state.start().batch
        for step in range(done, num_steps):
            if self._state.is_due:
                self._state.save(run_state.Place(batch=step))
            self._state.before_steps(1)
            yield step
        if done < num_steps:
            self._state.save(run_state.Place(batch=num_steps))
        self._state.close()
