# SPDX-License-Identifier: Apache-2.0
"""A callback that shows epsilon and stops before the budget is passed."""

import keras

from tf_privacy import _checks
from tf_privacy.optimizers import budget_error
from tf_privacy.optimizers import dp_optimizer
from tf_privacy.training import ledger


class PrivacyBudget(keras.callbacks.Callback):
    """Holds training within (target_epsilon, target_delta).

    Adds `epsilon` to the logs and the progress bar (within an epoch up to a
    tenth too large, at its end exact), and stops `fit` with the
    last step that fits in the budget. The budget stays with the optimizer and
    is saved with it: a later step past it, by `fit`, `train_on_batch` or a
    custom loop, releases nothing and raises `PrivacyBudgetError`. A new
    PrivacyBudget replaces it.

    Args:
        target_epsilon: What may be spent in all, earlier steps included; nats;
            > 0.
        target_delta: The delta that goes with it; in (0, 1).

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, target_epsilon: float, target_delta: float):
        super().__init__()
        self._target_epsilon = _checks.check_real(
            "target_epsilon", target_epsilon, above=0.0
        )
        self._target_delta = _checks.check_delta(
            target_delta, name="target_delta"
        )
        self._steps = None

    @property
    def target_epsilon(self) -> float:
        """What may be spent, in nats."""
        return self._target_epsilon

    @property
    def target_delta(self) -> float:
        """The delta that goes with it."""
        return self._target_delta

    def limit(self, optimizer, *, sampling=None) -> int:
        """Puts the budget on an optimizer; for custom loops.

        Args:
            optimizer: A `DPOptimizer` whose expected_batch_size is set.
            sampling: The `PoissonSampling` that the loop will pass to
                `optimizer.apply`; None if it passes none.

        Returns:
            How many more such steps fit in the budget.

        Raises:
            PrivacyBudgetError: If not one does.
        """
        steps = ledger.FurtherSteps(optimizer, sampling=sampling)
        return self._put(optimizer, steps)

    def _put(self, optimizer, steps) -> int:
        optimizer.set_budget((self._target_epsilon, self._target_delta))
        remaining = steps.limit()
        if remaining < 1:
            noise = optimizer.noise_multiplier
            raise budget_error.PrivacyBudgetError(
                "target_epsilon must leave room for at least one step. "
                f"Received: {self._target_epsilon:g} at delta "
                f"{self._target_delta:g}, after {optimizer.ledger.num_steps()} "
                f"steps, with noise_multiplier {noise:g}. Use "
                "more noise, a smaller batch, or a larger target."
            )
        return remaining

    def on_train_begin(self, logs=None):
        """Sets the limit for this run's kind of steps."""
        optimizer = self.model.optimizer
        if not isinstance(optimizer, dp_optimizer.DPOptimizer):
            raise TypeError(
                "model must be compiled with a DP optimizer for PrivacyBudget "
                f"to hold. Received: {type(optimizer).__name__}. Use "
                "tf_privacy.DPSGD or another of them."
            )
        self._steps = self.model.further_steps()
        self._put(optimizer, self._steps)

    def on_epoch_begin(self, epoch, logs=None):
        """Works the limit out again: a callback may have restored a ledger."""
        self._steps = self.model.further_steps()
        self._steps.limit()

    def on_train_batch_end(self, batch, logs=None):
        """Logs a bound of epsilon; stops after the last step that fits."""
        is_last = self._steps.remaining() < 1
        self._add_epsilon(logs, exact=is_last)
        if is_last:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        """Logs epsilon for the history."""
        self._add_epsilon(logs, exact=True)

    def _add_epsilon(self, logs, *, exact):
        if logs is None:
            return
        curve, ran = self._steps.make_curve(delta=self._target_delta)
        if exact:
            logs["epsilon"] = curve.compute_epsilon(ran)
        else:
            # A further step would fit, so the target is a bound as well.
            logs["epsilon"] = min(
                curve.bound_epsilon(ran), self._target_epsilon
            )
