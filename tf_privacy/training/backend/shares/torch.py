# SPDX-License-Identifier: Apache-2.0
"""Batches in PyTorch, which a step sees as a whole."""

from tf_privacy.clipping import keras_internals


def split_over_replicas(batch, strategy, examples_per_unit: int):
    """Returns the batch.

    Args:
        batch: A structure of arrays.
        strategy: None.
        examples_per_unit: Not used.
    """
    del strategy, examples_per_unit
    return batch


def split_each(batches, strategy, examples_per_unit: int):
    """Returns the batches.

    Args:
        batches: An iterator.
        strategy: None.
        examples_per_unit: Not used.
    """
    del strategy, examples_per_unit
    return batches


def is_distributed(data) -> bool:
    """Returns False.

    Args:
        data: What `fit` was given.
    """
    del data
    return False


def describe(batches, strategy):
    """Returns None: there is no strategy to build in.

    Args:
        batches: An iterator.
        strategy: None.
    """
    del batches, strategy


SharedData = keras_internals.DataAdapter
