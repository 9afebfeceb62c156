# SPDX-License-Identifier: Apache-2.0
"""Training on several replicas: each takes its share of every batch."""

import dataclasses

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping.backend.replicas import replicas
from tf_privacy.training import fit_data
from tf_privacy.training.backend.shares import shares


class ReplicaTraining:
    """A mixin for `keras.Model`: hands each replica its share of a batch.

    Keras's own splitting knows nothing of units of several rows, and gives
    the whole of a batch of `train_on_batch` to every replica.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Builds model, metrics and optimizer in the scope of the strategy.

        Keras would average the first shares, which differ in size.
        """
        strategy = keras_internals.get_strategy(self)
        if strategy is not None and iterator is not None:
            data_batch = shares.describe(iterator, strategy)
        super()._maybe_symbolic_build(data_batch=data_batch)

    def make_train_function(self, force=False):
        """Builds the step function, which splits what is not split yet."""
        super().make_train_function(force=force)
        step, strategy = self.train_function, keras_internals.get_strategy(self)
        if strategy is not None:
            self.train_function = lambda batches: step(
                shares.split_each(
                    batches, strategy, self.optimizer.examples_per_unit
                )
            )


def check_scope(model, optimizer) -> None:
    """Raises unless model and optimizer belong to the strategy in force.

    Args:
        model: A Keras model that is being compiled.
        optimizer: A DPOptimizer.

    Raises:
        ValueError: If one of them was made under another strategy, or none.
    """
    replicas.check_scope(keras_internals.get_strategy(model), "model")
    optimizer.step_noise.check_scope()


def share(model, source: fit_data.FitData, *, shuffle, class_weight):
    """Returns what to train on, in shares where there are several replicas.

    Args:
        model: A compiled model that trains privately.
        source: From `fit_order.prepare`.
        shuffle: As for Keras's `fit`.
        class_weight: As for Keras's `fit`.

    Returns:
        A FitData.

    Raises:
        NotImplementedError: If several processes train together.
        TypeError: If the data are distributed already.
        ValueError: If an execution is to take several steps.
    """
    strategy = keras_internals.get_strategy(model)
    if strategy is None:
        return source
    count = replicas.num_processes(strategy)
    if count > 1:
        raise NotImplementedError(
            "fit must be used by one process: Keras's own fails under "
            f"MultiWorkerMirroredStrategy. Received: {count} processes. Write "
            "a loop, as tutorials/multi_worker.py shows."
        )
    if shares.is_distributed(source.x):
        raise TypeError(
            "x must be whole batches: fit shares them out. Received: a "
            f"{type(source.x).__name__}. Pass what it was made of."
        )
    if model.steps_per_execution > 1:
        raise ValueError(
            "steps_per_execution must be 1 under a strategy: Keras's own fit "
            f"fails with more. Received: {model.steps_per_execution}. Leave "
            "it out of compile."
        )
    adapter = keras_internals.make_data_adapter(
        x=source.x,
        y=source.y,
        sample_weight=source.sample_weight,
        batch_size=source.batch_size,
        steps_per_epoch=source.steps_per_epoch,
        shuffle=shuffle,
        class_weight=class_weight,
    )
    shared = shares.SharedData(
        adapter, strategy, model.optimizer.examples_per_unit
    )
    return dataclasses.replace(source, x=shared, y=None, sample_weight=None)


def split_over_replicas(batch, strategy, *, examples_per_unit: int = 1):
    """Returns a batch in shares, for `strategy.run` in a custom loop.

    Each share is a run of consecutive units, and may be empty. To be called
    outside of compiled functions. Where several processes train together, it
    splits the batch of this process over the replicas of this process: which
    batch that is, `Shard` says.

    Args:
        batch: A structure of arrays `[B, ...]`.
        strategy: A `tf.distribute` strategy; None returns the batch.
        examples_per_unit: So many consecutive rows stay together; >= 1.
    """
    return shares.split_over_replicas(batch, strategy, examples_per_unit)
