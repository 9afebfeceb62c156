# SPDX-License-Identifier: Apache-2.0
"""One batch in shares, one for each replica, under `tf.distribute`.

A share is a run of consecutive whole units, and may be empty: the shares of a
batch have each of its rows once, and every replica gets one for every step.
TensorFlow's own splitting knows nothing of units of several rows.
"""

import keras
import tensorflow as tf

from tf_privacy.clipping import keras_internals


def split_over_replicas(batch, strategy, examples_per_unit: int):
    """Returns a batch in shares, for `strategy.run`.

    Args:
        batch: A structure of arrays `[B, ...]`, on the host; None stays None.
        strategy: A `tf.distribute` strategy, or None.
        examples_per_unit: Consecutive rows that stay together.
    """
    if strategy is None:
        return batch
    count = len(strategy.extended.worker_devices)

    def share(context):
        index = context.replica_id_in_sync_group % count
        return _take_share(batch, index, count, examples_per_unit)

    return strategy.experimental_distribute_values_from_function(share)


def split_each(batches, strategy, examples_per_unit: int):
    """Returns an iterator over batches in shares.

    Args:
        batches: An iterator over batches; one that TensorFlow made has shares
            already.
        strategy: A `tf.distribute` strategy, or None.
        examples_per_unit: Consecutive rows that stay together.
    """
    made = (tf.data.Iterator, tf.distribute.DistributedIterator)
    if strategy is None or isinstance(batches, made):
        return batches
    return (
        split_over_replicas(batch, strategy, examples_per_unit)
        for batch in batches
    )


def _take_share(batch, index, count: int, examples_per_unit: int):
    """Returns the rows of one of `count` shares; the last has what is left."""

    def take(tensor):
        if not hasattr(tensor, "shape"):
            return tensor
        tensor = tf.convert_to_tensor(tensor)
        num_rows = tf.shape(tensor, tf.int64)[0]
        num_units = num_rows // examples_per_unit
        index_ = tf.cast(index, tf.int64)
        start = num_units * index_ // count * examples_per_unit
        stop = num_units * (index_ + 1) // count * examples_per_unit
        # Rows of a unit that is not whole are for the step to refuse.
        stop = tf.where(index_ + 1 == count, num_rows, stop)
        return tensor[start:stop]

    return keras.tree.map_structure(take, batch)


def is_distributed(data) -> bool:
    """True if data are in shares that somebody else made.

    Args:
        data: What `fit` was given.
    """
    return isinstance(data, tf.distribute.DistributedDataset)


def describe(batches, strategy):
    """Returns the shapes of a share of whatever number of rows.

    Args:
        batches: Keras's iterator over an epoch.
        strategy: The strategy.
    """
    if isinstance(batches.data_adapter, SharedData):
        # Nothing is drawn for it.
        return keras.tree.map_structure(
            _describe_one, batches.data_adapter.element_spec
        )
    _, _, iterator = next(iter(batches))
    return keras.tree.map_structure(
        lambda t: _describe_one(strategy.experimental_local_results(t)[0]),
        next(iterator),
    )


def _describe_one(tensor):
    if not isinstance(tensor, (tf.Tensor, tf.TensorSpec)):
        return None
    return keras.KerasTensor((None, *tensor.shape[1:]), tensor.dtype.name)


class SharedData(keras_internals.DataAdapter):
    """What Keras's `fit` iterates over: data of any kind, in shares.

    Args:
        adapter: Keras's own for the data.
        strategy: A `tf.distribute` strategy of one process.
        examples_per_unit: Consecutive rows that stay together.
    """

    def __init__(self, adapter, strategy, examples_per_unit: int):
        self._adapter = adapter
        self._strategy = strategy
        self._examples_per_unit = examples_per_unit
        self.element_spec = None

    def get_tf_dataset(self):
        """Returns a distributed data set of a share for each replica."""
        whole = self._adapter.get_tf_dataset()
        count = len(self._strategy.extended.worker_devices)
        is_tuple = isinstance(whole.element_spec, tuple)

        def shares(*batch):
            batch = batch if is_tuple else batch[0]
            return tf.data.Dataset.range(count).map(
                lambda index: _take_share(
                    batch, index, count, self._examples_per_unit
                )
            )

        self.element_spec = whole.element_spec
        split = whole.flat_map(shares).prefetch(count)
        # Each replica takes the next element in turn.
        return self._strategy.distribute_datasets_from_function(
            lambda context: split
        )

    @property
    def num_batches(self):
        """Batches in a pass, or None."""
        return self._adapter.num_batches

    @property
    def batch_size(self):
        """Rows of a batch, or None."""
        return self._adapter.batch_size

    @property
    def has_partial_batch(self):
        """As Keras's own adapter says."""
        return self._adapter.has_partial_batch

    @property
    def partial_batch_size(self):
        """As Keras's own adapter says."""
        return self._adapter.partial_batch_size

    def on_epoch_begin(self):
        """Starts a pass."""
        self._adapter.on_epoch_begin()

    def on_epoch_end(self):
        """Ends a pass."""
        self._adapter.on_epoch_end()
