# SPDX-License-Identifier: Apache-2.0
"""A callback that writes down what training spends, without a budget."""

import csv
import io
import os
import pathlib

import keras

from tf_privacy import _checks
from tf_privacy.optimizers import dp_optimizer
from tf_privacy.training.backend import backend

_EPOCH = "epoch"
# What the core puts into the logs, both from noised values alone.
_NOISED = ("l2_norm_clip", "clipped_fraction")
_COLUMNS = (_EPOCH, "num_steps", "epsilon", "delta", *_NOISED)


class PrivacyLog(keras.callbacks.Callback):
    """Writes epsilon over the steps to the logs, to CSV and to TensorBoard.

    Each entry has the steps that ran on these weights in all, earlier runs
    included, epsilon at `delta`, and, where the clip moves, the clip in force
    and the noised fraction of units that it clips. All of them are covered by
    the guarantee, unlike the training metrics, which are raw and are not
    written. At the end of an epoch epsilon is exact, within one up to a tenth
    too large.

    `epsilon` is added to the logs for callbacks after this one, such as
    CSVLogger, and for the history; where a PrivacyBudget before it did so, with
    its own delta, that one stays. It stops nothing: see PrivacyBudget.

    Args:
        delta: Probability in (0, 1).
        csv_path: File that gets a line for each entry; a file that is there
            already goes on. None writes none.
        log_dir: Folder of TensorBoard's files; the names are `privacy/...`,
            over the steps. None writes none.
        every: "epoch", or steps between two entries within an epoch; >= 1. The
            end of an epoch is always written.

    Raises:
        ValueError: If an argument is out of range, or the file at `csv_path`
            is not one of this callback.
        ImportError: If `log_dir` is given and TensorBoard is not installed.
    """

    def __init__(
        self,
        delta: float,
        *,
        csv_path: str | None = None,
        log_dir: str | None = None,
        every: int | str = _EPOCH,
    ):
        super().__init__()
        self._delta = _checks.check_delta(delta)
        self._every = None
        if every != _EPOCH:
            self._every = _checks.check_integer(
                "every", every, at_least=1, hint='Or "epoch".'
            )
        self._csv = None if csv_path is None else _LineFile(csv_path)
        self._log_dir = log_dir
        self._board = None if log_dir is None else _open_board(log_dir)
        self._steps = None
        self._epoch = self._num_since_entry = 0
        self._last_batch = -1

    def on_train_begin(self, logs=None):
        """Takes the steps of this run, and opens files again."""
        if not isinstance(self.model.optimizer, dp_optimizer.DPOptimizer):
            raise TypeError(
                "model must be compiled with a DP optimizer for PrivacyLog. "
                f"Received: {type(self.model.optimizer).__name__}. Use "
                "tf_privacy.DPSGD or another of them."
            )
        if self._log_dir is not None and self._board is None:
            self._board = _open_board(self._log_dir)
        self._steps = None
        self._num_since_entry = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the epoch."""
        self._epoch, self._last_batch = epoch, -1
        if self._steps is None:
            # Not before: a callback may restore a ledger as training begins.
            self._steps = self.model.further_steps()

    def on_train_batch_end(self, batch, logs=None):
        """Writes an entry if it is its turn."""
        self._num_since_entry += batch - self._last_batch
        self._last_batch = batch
        if self._every and self._num_since_entry >= self._every:
            self._write(logs, exact=False)

    def on_epoch_end(self, epoch, logs=None):
        """Writes an entry."""
        self._write(logs, exact=True)

    def on_train_end(self, logs=None):
        """Closes TensorBoard's file."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def _write(self, logs, *, exact):
        self._num_since_entry = 0
        logs = {} if logs is None else logs
        curve, ran = self._steps.make_curve(delta=self._delta)
        compute = curve.compute_epsilon if exact else curve.bound_epsilon
        entry = {
            "num_steps": self.model.optimizer.ledger.num_steps(),
            "epsilon": compute(ran),
            "delta": self._delta,
            **{name: float(logs[name]) for name in _NOISED if name in logs},
        }
        logs.setdefault("epsilon", entry["epsilon"])
        if self._csv is not None:
            self._csv.append({_EPOCH: self._epoch, **entry})
        if self._board is not None:
            step = entry.pop("num_steps")
            self._board.write(
                {f"privacy/{name}": value for name, value in entry.items()},
                step=step,
            )


def _open_board(log_dir):
    return backend.ScalarWriter(log_dir)


class _LineFile:
    """A CSV file that grows by whole lines and loses none."""

    def __init__(self, path):
        self._path = pathlib.Path(path)
        header = _format(_COLUMNS)
        if not self._path.exists() or not self._path.stat().st_size:
            self._append(header)
            return
        with open(self._path, encoding="utf-8", newline="") as file:
            text = file.read()
        if not text.startswith(header):
            raise ValueError(
                "csv_path must be a new file, or one that PrivacyLog wrote. "
                f"Received: {str(self._path)!r}, with other columns. Choose "
                "another."
            )
        if not text.endswith("\n"):  # The power failed in the midst of a line.
            self._append("\n")

    def append(self, entry: dict):
        self._append(_format([entry.get(column, "") for column in _COLUMNS]))

    def _append(self, line):
        # One call of the system: a kill leaves a whole line or none, and two
        # processes do not mix theirs.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        file = os.open(self._path, flags, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)


def _format(values) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
