# SPDX-License-Identifier: Apache-2.0
"""Four ways to train the same model: plain, only clipped, only noised, private.

The first three are *not private*: they exist to be compared with the fourth,
inside of a sanity check, and have no ledger and no statement. They share its
inner optimizer, learning rate, batch size and number of steps.
"""

import math

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping import engine
from tf_privacy.clipping import microbatches
from tf_privacy.clipping import regularization
from tf_privacy.clipping.backend import backend
from tf_privacy.clipping.backend.execution import execution
from tf_privacy.noise import gaussian
from tf_privacy.training import models
from tf_privacy.training import padding
from tf_privacy.training import poisson_dataset
from tf_privacy.training import sanity_plan
from tf_privacy.training.backend.trainer import trainer


def train(model, rows, *, plan, update: int, callbacks) -> None:
    """Trains a fresh model in one of the four ways.

    Args:
        model: A `keras.Model` that was never trained here; it is changed.
        rows: The `sanity_data.Rows` to train on.
        plan: The `SanityPlan`.
        update: One of ORDINARY, CLIPPED, NOISED and PRIVATE of `sanity_plan`.
        callbacks: For `fit`.
    """
    unit = plan.optimizer.examples_per_unit
    settings = {"epochs": plan.epochs, "verbose": 0, "callbacks": callbacks}
    data = {"x": rows.x, "y": rows.y, "sample_weight": rows.sample_weight}
    if update == sanity_plan.PRIVATE:
        models.privatize(model)
        model.compile(optimizer=plan.make_optimizer(), loss=plan.loss)
        model.fit(**data, batch_size=plan.batch_size, **settings)
        return
    trained = model
    if update == sanity_plan.CLIPPED:
        trained = _ClippedTrainer(model, plan)
        batches = poisson_dataset.PoissonDataset(
            *data.values(),
            expected_batch_size=plan.batch_size,
            examples_per_unit=unit,
        )
        batches, trained.padding, _ = padding.pad_batches(
            batches, plan.optimizer
        )
        data = {"x": batches}
    else:
        if update == sanity_plan.NOISED:
            trained = _NoisedTrainer(model, plan)
        # A private step sums the gradients of a unit's rows; the mean over a
        # batch of rows is that much smaller.
        if unit > 1:
            weights = rows.sample_weight
            if weights is None:
                weights = np.ones(len(rows.classes), "float32")
            data["sample_weight"] = unit * weights
        data |= {"batch_size": plan.batch_size * unit, "shuffle": True}
    trained.compile(
        optimizer=plan.make_inner_optimizer(), loss=plan.loss, jit_compile=False
    )
    trained.fit(**data, **settings)


class _Trainer(keras.Model):
    """Trains the model that it wraps, with a step of its own.

    It is also what `trainer` asks for that step, as a `private_step.Step`.
    """

    def __init__(self, model, plan):
        super().__init__(name="trainer")
        self.model = model
        self.padding = None
        self._dp = plan.optimizer
        self._batch_size = plan.batch_size

    def train_step(self, *batch):
        """Takes one step; called by `fit`."""
        return trainer.run_step(self, self, *batch)

    def make_train_function(self, force=False):
        """Builds the step function."""
        if self.train_function is None or force:
            self.train_function = trainer.make_train_function(
                self, self, super().make_train_function
            )
        return self.train_function

    def secret_variables(self):
        """Returns what steps read and write that is not the model's."""
        return []

    def prepare(self, data):
        """Checks nothing."""

    def take(self, data):
        """Takes one step on a batch."""
        with execution.without_gradients():
            return self._take(*self._unpack(data))

    def _unpack(self, data):
        data = keras.utils.unpack_x_y_sample_weight(data)
        return (
            (data, None)
            if self.padding is None
            else (self.padding.take_off(data))
        )

    def call(self, inputs, training=None):
        """Returns the model's outputs."""
        return self.model(inputs, training=training)

    def _step(self, gradients):
        variables = self.model.trainable_variables
        self.optimizer.apply(
            [
                ops.cast(gradient, variable.dtype)
                for gradient, variable in zip(gradients, variables, strict=True)
            ],
            variables,
        )
        return {"updates": self.optimizer.iterations.value}


class _ClippedTrainer(_Trainer):
    """Clips each unit's gradient as in private training, and adds no noise.

    A clip that moves stays where it starts.
    """

    def _plan(self, data):
        settings = engine.ClipSettings(
            style=self._dp.clipping_style,
            loss=engine.compiled_loss(self),
            examples_per_unit=self._dp.examples_per_unit,
        )
        units_per_piece = microbatches.find_units_per_piece(
            self.model,
            data[0],
            settings,
            microbatch_size=self._dp.microbatch_size,
            memory_limit=self._dp.memory_limit,
            expected_batch_size=self._batch_size,
        )
        return settings, units_per_piece

    def prepare(self, data):
        """Checks the model on a batch, as the first step of it would."""
        self._plan(self._unpack(data)[0])

    def _take(self, data, counted):
        """Takes one step with the mean of the clipped gradients."""
        settings, units_per_piece = self._plan(data)
        clipped = microbatches.sum_over_microbatches(
            self.model,
            data,
            settings,
            units_per_piece=units_per_piece or math.ceil(self._batch_size),
            compiled=False,
            observe=lambda step, piece, counted: None,
            counted=counted,
        )
        gradients = [g / self._batch_size for g in clipped.gradients]
        extra = regularization.regularizer_gradients(self.model)
        if extra is not None:
            gradients = [
                g + ops.cast(addend, g.dtype)
                for g, addend in zip(gradients, extra, strict=True)
            ]
        return self._step(gradients)


class _NoisedTrainer(_Trainer):
    """Adds to ordinary gradients the noise of private training.

    Without a clip that noise hides nobody. It is independent from step to step,
    whatever the optimizer's noise is.
    """

    def __init__(self, model, plan):
        super().__init__(model, plan)
        self._source = gaussian.NoiseSource()

    def secret_variables(self):
        """Returns the state of the noise."""
        return self._source.state_variables

    def _take(self, data, counted):
        """Takes one step with the noised mean gradient of the batch."""
        del counted
        x, y, sample_weight = data
        variables = self.model.trainable_variables

        def loss():
            return self.compute_loss(
                x=x,
                y=y,
                y_pred=self(x, training=True),
                sample_weight=sample_weight,
                training=True,
            )

        gradients = backend.gradient(loss, variables)
        stddev = (
            self._dp.noise_multiplier * self._dp.l2_norm_clip / self._batch_size
        )
        noise = self._source.normal([tuple(v.shape) for v in variables])
        return self._step(
            [
                ops.cast(backend.densify(g), "float32") + stddev * z
                for g, z in zip(gradients, noise, strict=True)
            ]
        )
