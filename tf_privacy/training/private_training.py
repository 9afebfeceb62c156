# SPDX-License-Identifier: Apache-2.0
"""What makes a Keras model train privately: its `fit`, step and statement."""

import contextlib

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping import augmentation
from tf_privacy.clipping import row_independence
from tf_privacy.optimizers import dp_optimizer
from tf_privacy.training import fit_data
from tf_privacy.training import fit_order
from tf_privacy.training import fit_start
from tf_privacy.training import ledger
from tf_privacy.training import own_methods
from tf_privacy.training import private_step
from tf_privacy.training import replica_training
from tf_privacy.training import saved_ledger
from tf_privacy.training.backend.trainer import trainer

_LEDGER_KEY = "privacy_ledger"


class PrivateTraining(replica_training.ReplicaTraining):
    """A mixin for `keras.Model`: put it before the model's class.

    Every trainable weight gets its gradient clipped one example at a time and
    noised by the `DPOptimizer` that the model must be compiled with. Metrics
    and losses that are reported in training are computed on raw data: they are
    not covered by the guarantee.
    """

    def compile(
        self,
        optimizer,
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
        auto_scale_loss=True,
        augment=None,
    ):
        """Configures training, as in Keras, with a DP optimizer.

        Args:
            optimizer: A `tf_privacy.DPOptimizer`, such as `DPSGD`.
            loss: As in Keras: a name, a Loss, a function, or a structure.
            loss_weights: As in Keras.
            metrics: As in Keras; not private in training.
            weighted_metrics: As in Keras; not private in training.
            run_eagerly: As in Keras.
            steps_per_execution: As in Keras.
            jit_compile: Whether XLA compiles the work on a microbatch, which
                is then padded to one shape; noise and update are not in it.
                "auto" measures both ways on the first batch and keeps the
                faster one; on a CPU, where it gained nothing on the kinds of
                model that were tried, it means no.
            auto_scale_loss: Ignored: float16 losses are always scaled, before
                the clip.
            augment: None, or a `tf_privacy.Augmentation`: views of each
                example whose gradients are averaged before the clip.

        Raises:
            TypeError: If the optimizer adds no noise.
            ValueError: If a layer mixes examples, or model and optimizer were
                not made in the scope of the strategy in force.
        """
        del auto_scale_loss
        if not isinstance(optimizer, dp_optimizer.DPOptimizer):
            received = (
                repr(optimizer)
                if isinstance(optimizer, str)
                else type(optimizer).__name__
            )
            raise TypeError(
                "optimizer must be a DP optimizer: this model is to train "
                f"privately. Received: {received}. Use for example "
                "tf_privacy.DPAdam(1e-3, l2_norm_clip=1.0, "
                "noise_multiplier=1.1), or leave the model a plain Keras model."
            )
        replica_training.check_scope(self, optimizer)
        augmentation.check_augmentation(augment)
        row_independence.check_layers(self)
        own_methods.check_own_methods(
            type(self),
            train_step=PrivateTraining.train_step,
            compute_loss=keras.Model.compute_loss,
        )
        previous = getattr(self, "optimizer", None)
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile if trainer.COMPILES_WHOLE_STEP else False,
            auto_scale_loss=False,
        )
        self._jit_compile_pieces = jit_compile
        self._augmentation = augment
        self._private_phase = private_step.Phase(optimizer)
        self._carry_over(previous)

    def _carry_over(self, previous):
        """Hands to a new optimizer what was spent on these weights before."""
        if (
            isinstance(previous, dp_optimizer.DPOptimizer)
            and previous is not self.optimizer
        ):
            self.optimizer.inherit(previous.ledger.to_numpy(), previous.budget)
        inherited = getattr(self, "_inherited_ledger", None)
        if inherited is not None:
            self.optimizer.inherit(inherited.table, inherited.budget)

    def get_config(self):
        """Returns the model's configuration and what was spent on it.

        The ledger is saved with the optimizer; here it is for a model that is
        loaded without one and compiled anew.
        """
        config = super().get_config()
        optimizer = getattr(self, "optimizer", None)
        saved = getattr(self, "_inherited_ledger", None)
        if isinstance(optimizer, dp_optimizer.DPOptimizer):
            saved = saved_ledger.SavedLedger(
                table=optimizer.ledger.to_numpy(), budget=optimizer.budget
            )
        if saved is not None:
            config[_LEDGER_KEY] = saved.to_config()
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds a model that remembers what was spent on it.

        Args:
            config: From `get_config()`.
            custom_objects: As in Keras.
        """
        config = dict(config)
        saved = config.pop(_LEDGER_KEY, None)
        model = super().from_config(config, custom_objects=custom_objects)
        return model.with_ledger(saved)

    def with_ledger(self, saved):
        """Returns the model after it took note of earlier steps.

        Args:
            saved: From `SavedLedger.to_config()`, or None.
        """
        if saved:
            self._inherited_ledger = saved_ledger.SavedLedger.from_config(saved)
        return self

    def load_weights(self, filepath, *args, **kwargs):
        """Loads weights, and with them what was spent on them.

        Args:
            filepath: As in Keras.
            *args: As in Keras.
            **kwargs: As in Keras.
        """
        super().load_weights(filepath, *args, **kwargs)
        saved = saved_ledger.read_ledger(filepath)
        if saved is None:
            return
        optimizer = getattr(self, "optimizer", None)
        if not isinstance(optimizer, dp_optimizer.DPOptimizer):
            self._inherited_ledger = saved
            return
        optimizer.inherit(saved.table, saved.budget)
        if self._private_phase.is_open:
            # A callback of a running fit: it goes on with what is left.
            self.further_steps().limit()

    @property
    def augmentation(self) -> augmentation.Augmentation | None:
        """The views that stand for each example in training, or None."""
        return getattr(self, "_augmentation", None)

    def get_compile_config(self):
        """Returns the arguments of `compile`, serialised."""
        config, augment = super().get_compile_config(), self.augmentation
        if config:
            config["jit_compile"] = self._jit_compile_pieces
        # Keras's own models, which a clone may become, do not take it.
        if config and augment is not None:
            config["augment"] = keras.saving.serialize_keras_object(augment)
        return config

    def compile_from_config(self, config):
        """Compiles with a deserialised configuration."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """Trains privately; everything not named here is as in Keras.

        Arrays are Poisson sampled: `batch_size` is the expected batch size,
        and `shuffle` has no meaning. Data sets and generators come with
        batches that somebody else made: they are taken as they are, and
        accounted without amplification by sampling.

        Args:
            x: Arrays, a `PoissonDataset`, or anything that Keras takes.
            y: Arrays, or None.
            batch_size: Expected number of units (examples, unless the
                optimizer says otherwise) in a batch of arrays; None takes the
                optimizer's expected_batch_size, else 32.
            epochs: Passes of `steps_per_epoch` steps.
            verbose: As in Keras.
            callbacks: As in Keras; `PrivacyBudget` among them.
            validation_split: Fraction of the rows, the last ones, that are
                held out; the accountant uses the rows that remain.
            validation_data: As in Keras.
            shuffle: As in Keras, for what is not an array.
            class_weight: As in Keras.
            sample_weight: As in Keras; applied before the clip.
            initial_epoch: As in Keras.
            steps_per_epoch: Steps in an epoch; None takes
                ceil(num_examples / batch_size) for arrays.
            validation_steps: As in Keras.
            validation_batch_size: As in Keras.
            validation_freq: As in Keras.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            ValueError: If the data or the model cannot be trained privately.
            PrivacyBudgetError: If a budget is spent.
        """
        self._check_ready("fit")
        source = fit_start.start(
            self,
            (x, y, sample_weight),
            callbacks=callbacks,
            shuffle=shuffle,
            class_weight=class_weight,
            batch_size=self._choose_batch_size(x, batch_size),
            steps_per_epoch=steps_per_epoch,
            validation_split=validation_split,
            validation_data=validation_data,
            epochs=epochs,
        )
        with self._fit_phase(source):
            return super().fit(
                **source.for_keras(),
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                shuffle=source.shuffle,
                class_weight=source.class_weight,
                initial_epoch=initial_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size or batch_size,
                validation_freq=validation_freq,
            )

    def train_on_batch(
        self,
        x,
        y=None,
        sample_weight=None,
        class_weight=None,
        return_dict=False,
    ):
        """Takes one private step on a batch that the caller made.

        Counted without amplification by sampling. The optimizer must have its
        expected_batch_size: the divisor must not follow the batch.

        Args:
            x: As in Keras.
            y: As in Keras.
            sample_weight: As in Keras.
            class_weight: As in Keras.
            return_dict: As in Keras.

        Returns:
            The logs, as in Keras; not private.

        Raises:
            PrivacyBudgetError: If a budget is spent.
        """
        self._check_ready("train_on_batch")
        with self._phase(None, None):
            return super().train_on_batch(
                x,
                y,
                sample_weight=sample_weight,
                class_weight=class_weight,
                return_dict=return_dict,
            )

    def train_step(self, *batch):
        """Takes one private step; called by `fit` and `train_on_batch`.

        Args:
            *batch: What Keras hands over.
        """
        step = private_step.Step(self, self._private_phase)
        return trainer.run_step(self, step, *batch)

    def make_train_function(self, force=False):
        """Builds the step function, which raises once a step is refused."""
        if self.train_function is not None and not force:
            return self.train_function
        step = trainer.make_train_function(
            self,
            private_step.Step(self, self._private_phase),
            super().make_train_function,
        )

        def guarded_step(*batches):
            steps = self.optimizer.ledger
            if not steps.has_limits:
                return step(*batches)
            before = steps.num_taken()
            logs = step(*batches)
            if steps.num_refused():
                if steps.num_taken() == before:
                    self.optimizer.check_budget()
                # The budget ended within one execution of several steps.
                steps.take_refused()
                self.stop_training = True
            return logs

        self.train_function = guarded_step
        return self.train_function

    def privacy_statement(self, delta: float, *, neighboring_relation=None):
        """Returns what was spent by the steps that ran, on what assumptions.

        Args:
            delta: Probability in (0, 1); below 1 / num_examples.
            neighboring_relation: A `NeighboringRelation`; None means
                ADD_OR_REMOVE_ONE, or ZERO_OUT_ONE if noise was correlated.

        Returns:
            A `PrivacyStatement`; `print` it.

        Raises:
            ValueError: If the model is not compiled, or delta is out of range.
        """
        self._check_ready("privacy_statement")
        return ledger.make_statement(
            self.optimizer.ledger.entries(),
            delta=delta,
            neighboring_relation=neighboring_relation,
        )

    def further_steps(self) -> ledger.FurtherSteps:
        """Returns the steps of the running fit as the accountant sees them."""
        return ledger.FurtherSteps(
            self.optimizer, sampling=self._private_phase.sampling
        )

    def _choose_batch_size(self, x, batch_size):
        if batch_size is not None or not fit_data.is_array_input(x):
            return batch_size
        return self.optimizer.expected_batch_size or 32

    def _check_ready(self, method: str):
        optimizer = getattr(self, "optimizer", None)
        if not getattr(self, "compiled", False) or optimizer is None:
            raise ValueError(
                f"model must be compiled before {method}(). Received: a model "
                "that is not. Call model.compile(optimizer=tf_privacy.DPSGD("
                "...), loss=...)."
            )
        if not isinstance(optimizer, dp_optimizer.DPOptimizer):
            raise TypeError(
                "optimizer must be a DP optimizer: it trains privately. "
                f"Received: {type(optimizer).__name__}. Compile it again with "
                "tf_privacy.DPSGD or another of them."
            )
        if not hasattr(self, "_private_phase"):  # Compiled, then privatized.
            self._private_phase = private_step.Phase(optimizer)
        if self._private_phase.optimizer is not optimizer:
            raise TypeError(
                "model.optimizer must be the one that the model was compiled "
                "with: what that one spent would be forgotten. Received: "
                f"another {type(optimizer).__name__}. Call model.compile("
                "optimizer=...) again."
            )

    @contextlib.contextmanager
    def _fit_phase(self, source):
        with fit_order.own_release(self.optimizer):
            with self._phase(
                source.sampling, source.expected_batch_size, source.padding
            ):
                yield

    @contextlib.contextmanager
    def _phase(self, sampling, expected_batch_size, padded=None):
        """Counts the steps made within as of one kind."""
        phase, optimizer = self._private_phase, self.optimizer
        if expected_batch_size is not None:
            optimizer.set_expected_batch_size(expected_batch_size)
        elif optimizer.expected_batch_size is None:
            raise ValueError(
                "expected_batch_size must be given to the optimizer where the "
                "batches are made by the caller. Received: None. It is what "
                "the noised sum is divided by, and must not follow the batch."
            )
        outer_rows = np.array(ops.convert_to_numpy(phase.rows.value))
        outer = phase.sampling, phase.padding, outer_rows, phase.is_open
        phase.sampling, phase.padding, phase.is_open = sampling, padded, True
        optimizer.ledger.take_refused()
        steps = self.further_steps()
        steps.limit()
        phase.rows.assign(np.array(steps.rows, np.int32))
        try:
            with optimizer.step_noise.holding_rows(phase.rows, sampling):
                yield
            # Where a checkpoint restored a budget behind the optimizer's back.
            optimizer.check_budget()
        finally:
            phase.sampling, phase.padding, rows, phase.is_open = outer
            phase.rows.assign(rows)
            if phase.is_open and optimizer.budget is not None:
                self.further_steps().limit()
