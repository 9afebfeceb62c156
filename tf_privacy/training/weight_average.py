# SPDX-License-Identifier: Apache-2.0
"""A callback that averages the weights over the steps of training."""

import keras
import numpy as np
from keras import ops

from tf_privacy import _checks


class WeightAverage(keras.callbacks.Callback):
    """Keeps a moving average of the weights, and evaluates with it.

        average = mu[t] * average + (1 - mu[t]) * weights    after update t
        mu[t] = min(decay, (1 + t) / (warm_up + t)),          t = 0, 1, ...
    starting from the weights at the start of training, which the warm-up makes
    it forget soon. The noise of the steps averages out in part, so averages
    are as a rule more accurate than the last weights.

    Costs no privacy: what the steps released covers the weights after each of
    them, and the average is computed from these alone (post-processing).

    Validation in `fit`, and `evaluate` and `predict` where the callback is
    given to them, see the averages; training goes on with the weights
    themselves. With `steps_per_execution` above 1 only the weights at the end
    of each execution are seen: they count for all its updates. A step that a
    privacy budget refuses is no update.

    Args:
        decay: Largest share that the average keeps in one update; in [0, 1).
            1 / (1 - decay) is about how many updates it spans.
        warm_up: Updates before which the average mostly follows the weights;
            >= 1. At 1 there is no warm-up.
        swap_on_epoch: Whether callbacks that come after this one see the
            averages at the end of an epoch, so that `ModelCheckpoint` saves
            them.
        finalize: Whether the averages replace the weights at the end of
            training.

    Raises:
        ValueError: If an argument is out of range.

    Source: De et al. 2022, arXiv:2204.13650, section 3.
    """

    def __init__(
        self,
        decay: float = 0.999,
        *,
        warm_up: float = 10.0,
        swap_on_epoch: bool = False,
        finalize: bool = True,
    ):
        super().__init__()
        self._decay = _checks.check_real(
            "decay", decay, at_least=0.0, below=1.0
        )
        self._warm_up = _checks.check_real("warm_up", warm_up, at_least=1.0)
        self._swap_on_epoch = swap_on_epoch
        self._finalize = finalize
        self._num_updates = 0
        self._iterations = 0
        self._variables = []
        self._averages = []
        # The weights themselves, while the averages stand in their place.
        self._weights = None

    def get_averages(self) -> list[np.ndarray]:
        """Returns the averages, in the order of `model.trainable_variables`."""
        return [np.array(ops.convert_to_numpy(a)) for a in self._averages]

    def get_state(self) -> dict:
        """Returns what to save with a checkpoint: numbers and arrays."""
        return {
            "num_updates": self._num_updates,
            "averages": self.get_averages(),
        }

    def set_state(self, state: dict) -> None:
        """Goes on from a saved state; before or between calls of `fit`.

        Args:
            state: From `get_state()`.

        Raises:
            ValueError: If it is of a model of other shapes, once training
                starts.
        """
        self._num_updates = _checks.check_integer(
            "num_updates", state["num_updates"], at_least=0
        )
        self._averages = [_make_average(a) for a in state["averages"]]

    def on_train_begin(self, logs=None):
        """Starts from the model's weights, or goes on with what it has."""
        self._show_weights()
        self._variables = list(self.model.trainable_variables)
        if not self._averages:
            self._averages = [_make_average(v) for v in self._variables]
        own = [tuple(a.shape) for a in self._averages]
        shapes = [tuple(v.shape) for v in self._variables]
        if own != shapes:
            raise ValueError(
                "model must have the trainable variables whose average was "
                f"kept so far, of shapes {own}. Received: {shapes}. Use a new "
                "WeightAverage."
            )
        self._iterations = self._count_iterations()

    def on_train_batch_end(self, batch, logs=None):
        """Takes in the weights after the updates since the last call."""
        iterations = self._count_iterations()
        kept = 1.0
        for _ in range(iterations - self._iterations):
            t = self._num_updates
            kept *= min(self._decay, (1.0 + t) / (self._warm_up + t))
            self._num_updates += 1
        self._iterations = iterations
        if kept == 1.0:
            return
        for variable, average in zip(
            self._variables, self._averages, strict=True
        ):
            value = ops.cast(variable, "float32")
            average.assign(average + (1.0 - kept) * (value - average))

    def on_epoch_begin(self, epoch, logs=None):
        """Puts the weights back."""
        self._show_weights()

    def on_epoch_end(self, epoch, logs=None):
        """Shows the averages to later callbacks, if asked."""
        if self._swap_on_epoch:
            self._show_averages()

    def on_test_begin(self, logs=None):
        """Shows the averages."""
        self._show_averages()

    def on_test_end(self, logs=None):
        """Puts the weights back."""
        self._show_weights()

    def on_predict_begin(self, logs=None):
        """Shows the averages."""
        self._show_averages()

    def on_predict_end(self, logs=None):
        """Puts the weights back."""
        self._show_weights()

    def on_train_end(self, logs=None):
        """Leaves the averages in the model, if asked, else the weights."""
        self._show_weights()
        if self._finalize:
            self._show_averages()
            self._weights = None

    def _count_iterations(self) -> int:
        return int(ops.convert_to_numpy(self.model.optimizer.iterations))

    def _show_averages(self):
        if self._weights is not None or not self._variables:
            return
        self._weights = [
            np.array(ops.convert_to_numpy(v)) for v in self._variables
        ]
        for variable, average in zip(
            self._variables, self._averages, strict=True
        ):
            variable.assign(ops.cast(average, variable.dtype))

    def _show_weights(self):
        if self._weights is None:
            return
        for variable, value in zip(self._variables, self._weights, strict=True):
            variable.assign(value)
        self._weights = None


def _make_average(value):
    """Returns a float32 variable: steps of 1 - decay vanish in bfloat16."""
    return keras.Variable(
        ops.cast(value, "float32"), dtype="float32", trainable=False
    )
