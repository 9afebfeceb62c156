# SPDX-License-Identifier: Apache-2.0
"""A Keras callback that audits the model while it trains."""

import importlib.util
import numbers
from collections.abc import Callable
from collections.abc import Mapping

import keras

from tf_privacy import _checks


class AuditCallback(keras.callbacks.Callback):
    """Audits the model while it trains, every few epochs.

    What `audit` returns is kept in `history`, as numbers also in the epoch's
    logs (so that `History` and callbacks after this one see them, as
    `audit_<name>`) and, with `log_dir`, in TensorBoard. `CSVLogger` writes only
    what it saw in the first epoch: use every=1 with it.

    An audit that looks at a private model and at made-up canaries alone costs
    no privacy budget: it is post-processing. One that scores real training
    examples computes figures of the raw data, which no epsilon covers: do not
    publish them, and do not choose a model by them.

    Args:
        audit: Called with the model and the epoch's number; returns a mapping
            of names to numbers, or an object whose `to_scalars()` does.
        every: Epochs between two audits; >= 1. The model that `fit` ends with
            is audited in any case.
        log_dir: Folder of TensorBoard's files; None writes none.

    Raises:
        ValueError: If `every` is no whole number >= 1.
        TypeError: If `audit` cannot be called.
        ImportError: If `log_dir` is given and TensorBoard is not installed.
    """

    def __init__(
        self,
        audit: Callable,
        *,
        every: int = 1,
        log_dir: str | None = None,
    ):
        super().__init__()
        if not callable(audit):
            raise TypeError(
                "audit must be a function of the model and the epoch. "
                f"Received: {audit!r}."
            )
        self._audit = audit
        self._every = _checks.check_integer("every", every, at_least=1)
        self._board = None
        if log_dir is not None:
            _check_tensorboard()
            self._board = keras.callbacks.TensorBoard(
                str(log_dir), write_graph=False
            )
        self._last = self._audited = None
        self.history = []

    def set_model(self, model):
        """Takes the model that is trained.

        Args:
            model: Any Keras model.
        """
        super().set_model(model)
        if self._board is not None:
            self._board.set_model(model)

    def on_train_begin(self, logs=None):
        """Forgets where an earlier `fit` ended.

        Args:
            logs: Not used.
        """
        self._last = self._audited = None

    def on_epoch_end(self, epoch, logs=None):
        """Audits if it is this epoch's turn.

        Args:
            epoch: From 0.
            logs: The epoch's figures, to which the audit's are added.
        """
        self._last = epoch
        is_last = epoch + 1 == self.params.get("epochs")
        if (epoch + 1) % self._every == 0 or is_last:
            self._run(epoch, logs)

    def _run(self, epoch, logs):
        result = self._audit(self.model, epoch)
        self._audited = epoch
        self.history.append((epoch, result))
        named = {f"audit_{k}": v for k, v in _list_scalars(result).items()}
        if logs is not None:
            logs.update(named)
        if self._board is not None:
            self._board.on_epoch_end(epoch, dict(named))

    def on_train_end(self, logs=None):
        """Audits once more if `fit` was stopped early, and closes files.

        Args:
            logs: Not used.
        """
        if self._last != self._audited:
            self._run(self._last, None)
        if self._board is not None:
            self._board.on_train_end(logs)


def _list_scalars(result) -> dict[str, float]:
    if hasattr(result, "to_scalars"):
        return result.to_scalars()
    good = isinstance(result, Mapping) and all(
        isinstance(value, numbers.Real) for value in result.values()
    )
    if not good:
        raise TypeError(
            "audit must return a mapping of names to numbers, or a report. "
            f"Received: {result!r}."
        )
    return {name: float(value) for name, value in result.items()}


def _check_tensorboard() -> None:
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "log_dir needs TensorBoard. Received: no such package. Run pip "
            "install tensorboard."
        )
