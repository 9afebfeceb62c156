# SPDX-License-Identifier: Apache-2.0
"""One private step of a model in `fit`, and what is true while it runs."""

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import regularization
from tf_privacy.clipping.backend.execution import execution
from tf_privacy.training import logical_batch


class Phase:
    """What the steps that run now are, to the ledger and to the data.

    A plain object, so that its variable is no weight of the model.

    Args:
        optimizer: The DPOptimizer.

    Attributes:
        rows: int32 variable; the row of the ledger for each level of the
            noise; negative where no step may run.
        sampling: The PoissonSampling of the batches, or None.
        is_open: Whether steps may run.
        padding: A `padding.Padding`, or None.
    """

    def __init__(self, optimizer):
        self.optimizer = optimizer
        levels = len(optimizer.noise_style.noise_multipliers)
        none = np.full(levels, -1, np.int32)
        self.rows = keras.Variable(none, dtype="int32", trainable=False)
        self.sampling = None
        self.is_open = False
        self.padding = None


class Step:
    """Takes steps of a model that is compiled with a DPOptimizer.

    Args:
        model: The model.
        phase: The model's Phase.
    """

    def __init__(self, model, phase: Phase):
        self._model = model
        self._phase = phase

    @property
    def padding(self):
        """What batches are filled up to, a `padding.Padding`, or None."""
        return self._phase.padding

    def secret_variables(self) -> list[keras.Variable]:
        """Returns what steps read and write that no file may hold."""
        augment = self._model.augmentation
        return [
            self._phase.rows,
            *self._phase.optimizer.state_variables,
            # A layer that makes views draws others in each step.
            *(augment.variables if augment is not None else ()),
        ]

    def take(self, data) -> dict:
        """Takes one private step.

        Args:
            data: A batch, as Keras hands it over.

        Returns:
            The logs; not private.

        Raises:
            RuntimeError: If nobody counts what is released.
        """
        if not self._phase.is_open:
            raise RuntimeError(
                "model.train_step must be called by fit() or train_on_batch(), "
                "which count what it releases. Received: a direct call. In a "
                "custom loop use tf_privacy.clipped_gradients and "
                "optimizer.apply."
            )
        with execution.without_gradients():
            return self._take(data)

    def prepare(self, data) -> None:
        """Checks the model on a batch, as the first step of it would.

        Args:
            data: A batch, as Keras hands it over.
        """
        data, _ = self._unpack(data)
        logical_batch.plan_batch(self._model, data, **self._settings())

    def _unpack(self, data):
        data = keras.utils.unpack_x_y_sample_weight(data)
        if self._phase.padding is None:
            return data, None
        return self._phase.padding.take_off(data)

    def _settings(self):
        return {
            "augment": self._model.augmentation,
            "jit_compile": getattr(self._model, "_jit_compile_pieces", False),
        }

    def _take(self, data):
        model = self._model
        data, counted = self._unpack(data)
        clipped, logs = logical_batch.clip_batch(
            model, data, log=self._log, counted=counted, **self._settings()
        )
        model.optimizer.apply_in_rows(
            clipped,
            self._phase.rows.value,
            regularization.regularizer_gradients(model),
        )
        return {**logs, **model.optimizer.clip_logs()}

    def _log(self, x, y, y_pred, sample_weight, counted=None):
        """Updates the training metrics, which are raw, and returns them."""
        model = self._model
        if counted is not None:
            num_rows = ops.sum(ops.cast(counted, "int32"))
            with keras_internals.counting_rows(model, y_pred, counted):
                self._track(x, y, y_pred, sample_weight, num_rows)
                if sample_weight is None:
                    sample_weight = ops.cast(counted, "float32")
                return model.compute_metrics(
                    x, y, y_pred, sample_weight=sample_weight
                )
        num_rows = ops.shape(keras.tree.flatten(x)[0])[0]
        self._track(x, y, y_pred, sample_weight, num_rows)
        return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _track(self, x, y, y_pred, sample_weight, num_rows):
        model = self._model

        def track():
            loss = keras_internals.compute_logged_loss(
                model, x, y, y_pred, sample_weight
            )
            model._loss_tracker.update_state(loss, sample_weight=num_rows)
            return num_rows

        # The mean over no examples is NaN and would stay in the average.
        execution.cond(num_rows > 0, track, lambda: num_rows)
