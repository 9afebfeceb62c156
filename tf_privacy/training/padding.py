# SPDX-License-Identifier: Apache-2.0
"""Batches of one shape: filled up with rows that do not count.

Where a step is compiled for fixed shapes, a batch of random size would compile
it again and again. The rows that fill it up carry a sample weight of NaN, which
no row that counts can have: such a row adds nothing in any case.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping.backend.execution import execution
from tf_privacy.clipping.backend.replicas import replicas
from tf_privacy.training import fit_order


@dataclasses.dataclass(frozen=True, kw_only=True)
class Padding:
    """What batches are filled up to.

    Attributes:
        num_units: Units in a batch, or in each part of a larger one; >= 1.
        examples_per_unit: Consecutive rows that make up one unit.
        adds_weights: Whether there are no sample weights but those that mark
            the rows.
    """

    num_units: int
    examples_per_unit: int
    adds_weights: bool

    def put_on(self, data):
        """Returns a batch `(x, y, sample_weight)` filled up.

        Args:
            data: The same, numpy arrays `[B, ...]`; B may be 0.
        """
        x, y, weight = data
        num_rows = len(keras.tree.flatten(x)[0])
        size = self.num_units * self.examples_per_unit
        size *= max(1, math.ceil(num_rows / size))
        if weight is None:
            weight = np.ones((num_rows,), "float32")
        elif self.adds_weights:
            raise ValueError(
                "sample_weight must be given to the data set's constructor. "
                "Received: weights that come with a batch only. Where batches "
                "have one shape, weights mark the rows that fill them up."
            )
        weight = keras.tree.map_structure(lambda w: _mark(w, size), weight)
        x, y = keras.tree.map_structure(
            lambda array: None if array is None else _fill(array, size), (x, y)
        )
        return x, y, weight

    def take_off(self, data):
        """Returns the data with sample weights as they were, and the marks.

        Args:
            data: `(x, y, sample_weight)`, tensors, from `put_on`.

        Returns:
            The data; `[U]` bool, false for units that only fill up.
        """
        x, y, weight = data
        first = keras.tree.flatten(weight)[0]
        rows = ops.reshape(first, (ops.shape(first)[0], -1))[:, 0]
        counted = ~ops.isnan(rows)
        units = ops.reshape(counted, (-1, self.examples_per_unit))[:, 0]
        if self.adds_weights:
            return (x, y, None), units
        weight = keras.tree.map_structure(
            lambda w: ops.where(ops.isnan(w), ops.zeros_like(w), w), weight
        )
        return (x, y, weight), units


def _fill(array, size: int):
    """Returns so many rows: the first ones come again, or zeros."""
    array = np.asarray(array)
    missing = size - len(array)
    if not len(array):
        return np.zeros((size, *array.shape[1:]), array.dtype)
    again = array[np.arange(missing) % len(array)]
    return np.concatenate([array, again])


def _mark(weight, size: int):
    weight = np.asarray(weight, "float32")
    marks = np.full((size - len(weight), *weight.shape[1:]), np.nan, "float32")
    return np.concatenate([weight, marks])


def pad_batches(data, optimizer, class_weight=None):
    """Returns data in batches of one shape, where steps need that.

    Args:
        data: What `fit` is to train on.
        optimizer: The DPOptimizer.
        class_weight: As `fit` received it.

    Returns:
        The data, the Padding or None, and the class weights that are left.
    """
    is_own = fit_order.has_own_order(data)
    if not execution.FIXED_SHAPES or not is_own:
        return data, None, class_weight
    padding = Padding(
        num_units=math.ceil(data.largest_batch_size / num_shards())
        * num_shards(),
        examples_per_unit=optimizer.examples_per_unit,
        adds_weights=class_weight is None and not data.has_sample_weight,
    )
    padded = PaddedDataset(data, padding, class_weight=class_weight)
    return padded, padding, None


def num_shards() -> int:
    """Returns how many parts each process's batches are spread over."""
    layout = keras.distribution.distribution()
    if layout is None:
        return 1
    mesh = layout.device_mesh
    size = mesh.shape[mesh.axis_names.index(layout.batch_dim_name)]
    return max(1, size // replicas.num_processes())


class PaddedDataset(keras.utils.PyDataset):
    """The batches of a data set, filled up.

    Args:
        source: A PyDataset that returns numpy arrays; it stays the one that
            draws, and that others ask for its state.
        padding: What to fill up to.
        class_weight: None, or as in Keras's `fit`: weights for classes.
    """

    def __init__(self, source, padding: Padding, *, class_weight=None):
        super().__init__(
            workers=source.workers,
            use_multiprocessing=source.use_multiprocessing,
            max_queue_size=source.max_queue_size,
        )
        self._source = source
        self._padding = padding
        self._class_weight = class_weight

    def __len__(self) -> int:
        """Returns the number of batches in one pass."""
        return len(self._source)

    def __getitem__(self, index: int):
        """Returns a batch of the source, filled up."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(self._source[index])
        if self._class_weight is not None:
            weight = _weigh_classes(y, self._class_weight, weight)
        return self._padding.put_on((x, y, weight))

    def on_epoch_begin(self):
        """Starts a pass; called by Keras."""
        self._source.on_epoch_begin()

    def on_epoch_end(self):
        """Ends a pass; called by Keras."""
        self._source.on_epoch_end()


def _weigh_classes(y, class_weight, sample_weight):
    """Returns each row's weight by its class."""
    if sample_weight is not None:
        raise ValueError(
            "class_weight must be None where there are sample weights. "
            "Received: both. Multiply them yourself."
        )
    if keras.tree.is_nested(y):
        raise ValueError(
            "class_weight must be None for models with several outputs. "
            "Received: a structure of labels. Use sample_weight."
        )
    classes = y
    if y.ndim > 1:
        classes = y.argmax(axis=-1) if y.shape[-1] > 1 else y[..., 0]
    weigh = np.vectorize(lambda c: class_weight.get(int(c), 1.0), otypes="f")
    return weigh(classes)
