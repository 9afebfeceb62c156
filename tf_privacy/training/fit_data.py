# SPDX-License-Identifier: Apache-2.0
"""What `fit` was given, and how the accountant must see it."""

import dataclasses
import warnings
from typing import Any

import keras
import numpy as np

from tf_privacy import _checks
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import row_independence
from tf_privacy.clipping.backend.replicas import replicas
from tf_privacy.sampling import poisson
from tf_privacy.sampling import shards
from tf_privacy.training import poisson_dataset
from tf_privacy.training import shared_coins

_PROBE_ROWS = 7


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FitData:
    """Arguments for Keras's `fit`, and what they mean for privacy.

    Attributes:
        x: For `fit`.
        y: For `fit`.
        sample_weight: For `fit`.
        batch_size: For `fit`.
        steps_per_epoch: For `fit`.
        validation_data: For `fit`.
        sampling: How the batches are drawn; None if the user made them.
        expected_batch_size: What it implies; None if the user made them.
        example_rows: A few rows of x to check the model on; None if there are
            none at hand.
        labels: All of y where it is in memory, else None.
        class_weight: For `fit`.
        shuffle: For `fit`.
        padding: What batches are filled up to, a `padding.Padding`, or None.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None
    batch_size: Any = None
    steps_per_epoch: Any = None
    validation_data: Any = None
    sampling: poisson.PoissonSampling | None = None
    expected_batch_size: float | None = None
    example_rows: Any = None
    labels: Any = None
    class_weight: Any = None
    shuffle: bool = False
    padding: Any = None

    def for_keras(self) -> dict:
        """Returns the arguments for Keras's `fit`."""
        names = (
            "x",
            "y",
            "sample_weight",
            "batch_size",
            "steps_per_epoch",
            "validation_data",
        )
        return {name: getattr(self, name) for name in names}


def is_array_input(x) -> bool:
    """True if `x` can be Poisson sampled by row."""
    return x is not None and poisson_dataset.is_indexable(x)


def prepare(
    arrays,
    *,
    batch_size,
    steps_per_epoch,
    validation_split,
    validation_data,
    examples_per_unit: int = 1,
) -> FitData:
    """Returns what to hand to Keras, and how to account for it.

    Args:
        arrays: x, y and sample_weight as `fit` received them.
        batch_size: Expected batch size for arrays.
        steps_per_epoch: As `fit` received it.
        validation_split: As `fit` received it.
        validation_data: As `fit` received it.
        examples_per_unit: Consecutive rows that make up one unit.

    Returns:
        A FitData.

    Raises:
        ValueError: If arrays do not match, or a split is asked of what is not
            an array.
    """
    x, y, sample_weight = arrays
    if is_array_input(x):
        return _from_arrays(
            x,
            y,
            sample_weight,
            batch_size,
            steps_per_epoch,
            validation_split,
            validation_data,
            examples_per_unit,
        )
    if validation_split:
        raise ValueError(
            "validation_split must be 0 for what is not an array: the rows "
            f"cannot be counted. Received: {validation_split}. Split the data "
            "yourself and pass validation_data."
        )
    if isinstance(x, poisson_dataset.PoissonDataset):
        _check_units(x, examples_per_unit)
    expected = None
    if type(x) is poisson_dataset.PoissonDataset:
        expected = x.sampling.expected_batch_size
    return FitData(
        x=x,
        y=y,
        sample_weight=sample_weight,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        validation_data=validation_data,
        sampling=find_sampling(x),
        expected_batch_size=expected,
    )


def find_sampling(x) -> poisson.PoissonSampling | None:
    """Returns the law of the draws of a data set, if it can be relied upon.

    Args:
        x: What Keras iterates over.
    """
    # A subclass may change what it draws: only the class itself is trusted.
    if type(x) is poisson_dataset.PoissonDataset and not x.has_fixed_coins:
        return x.sampling
    return None


def _check_units(dataset, examples_per_unit):
    if dataset.sampling.examples_per_unit != examples_per_unit:
        raise ValueError(
            "examples_per_unit of the data must be the optimizer's, "
            f"{examples_per_unit}. Received: a PoissonDataset with "
            f"{dataset.sampling.examples_per_unit}. What is sampled and what "
            "is clipped must be the same unit."
        )


def _from_arrays(
    x,
    y,
    sample_weight,
    batch_size,
    steps_per_epoch,
    validation_split,
    validation_data,
    examples_per_unit,
):
    x, y, sample_weight = keras.tree.map_structure(
        poisson_dataset.as_source, (x, y, sample_weight)
    )
    num_rows = poisson_dataset.check_lengths((x, y, sample_weight))
    poisson_dataset.check_integers(x, "x")
    poisson_dataset.check_integers(y, "y")
    batch_size = _checks.check_real("batch_size", batch_size, above=0.0)
    num_examples = num_rows
    if validation_split and validation_data is None:
        num_examples, validation_data = _split(
            (x, y, sample_weight),
            num_rows,
            validation_split,
            examples_per_unit,
        )
    shard, coins = _share_batches()
    dataset = poisson_dataset.PoissonDataset(
        x,
        y,
        sample_weight,
        expected_batch_size=min(batch_size, num_examples // examples_per_unit),
        steps_per_epoch=steps_per_epoch,
        num_examples=num_examples,
        examples_per_unit=examples_per_unit,
        shard=shard,
        coins=coins,
    )
    return FitData(
        x=dataset,
        validation_data=validation_data,
        sampling=dataset.sampling,
        expected_batch_size=dataset.sampling.expected_batch_size,
        example_rows=keras.tree.map_structure(
            lambda a: _as_floatx(np.asarray(a[:_PROBE_ROWS])), x
        ),
        labels=y,
    )


def _share_batches():
    """Returns this process's part of each batch, and the common coins."""
    scope = replicas.current_scope()
    count = replicas.num_processes(scope)
    if count == 1:
        return None, None
    index = replicas.process_index(scope)
    return shards.Shard(index=index, count=count), shared_coins.share_coins()


def _split(arrays, num_rows, validation_split, examples_per_unit):
    """Returns how many rows train, and the other ones as validation data."""
    validation_split = _checks.check_real(
        "validation_split", validation_split, above=0.0, below=1.0
    )
    num_examples = int(num_rows * (1.0 - validation_split))
    num_examples -= num_examples % examples_per_unit
    if not 0 < num_examples < num_rows:
        raise ValueError(
            "validation_split must leave rows on both sides. Received: "
            f"{validation_split} of {num_rows} rows. Choose another."
        )
    held_out = tuple(
        keras.tree.map_structure(
            lambda a: None if a is None else np.asarray(a[num_examples:]),
            arrays,
        )
    )
    return num_examples, held_out[:2] if held_out[2] is None else held_out


def _as_floatx(array):
    if array.dtype.kind == "f":
        return array.astype(keras.config.floatx())
    return array


def show_data(callbacks, source: FitData) -> None:
    """Gives the data to the callbacks that ask for it, by a `set_data`.

    Args:
        callbacks: As `fit` received them.
        source: From `prepare`.
    """
    callbacks = getattr(callbacks, "callbacks", callbacks)
    for callback in keras.tree.flatten(callbacks):
        if hasattr(callback, "set_data"):
            callback.set_data(source.x)


_REACTING = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.ModelCheckpoint,
)


def warn_of_raw_monitors(callbacks) -> None:
    """Warns of callbacks that steer training by metrics on the training data.

    Args:
        callbacks: As `fit` received them.
    """
    if not isinstance(callbacks, (list, tuple)):
        callbacks = [callbacks]
    for callback in callbacks:
        if not isinstance(callback, _REACTING):
            continue
        if not getattr(callback, "save_best_only", True):
            continue
        if not callback.monitor.startswith("val_"):
            warnings.warn(
                f"{type(callback).__name__}(monitor={callback.monitor!r}) acts "
                "on a metric of the raw training data, which the guarantee "
                "does not cover. Monitor a metric on public validation data.",
                stacklevel=4,
            )


_SPARSE_LOSSES = (
    "sparse_categorical_crossentropy",
    keras.losses.sparse_categorical_crossentropy,
    keras.losses.SparseCategoricalCrossentropy,
)


def check_rows(model, source: FitData) -> None:
    """Checks model and labels on what `fit` was given, before any work.

    Args:
        model: A compiled model that trains privately.
        source: From `prepare`.

    Raises:
        ValueError: If a class label is out of range, or a row of the model's
            output depends on other rows.
    """
    rows = source.example_rows
    if rows is None:
        return
    check_labels(model, source.labels)
    if model.augmentation is not None:
        rows = model.augmentation.one_view(rows)
    keras_internals.build_for(model, rows)
    row_independence.check_model(model, rows)


def check_labels(model, labels) -> None:
    """Raises if a class label is not one of the model's classes.

    Only for a single output with a sparse categorical loss, where the number
    of classes is known; other labels are checked by no one.

    Args:
        model: A compiled model.
        labels: `[N, ...]` array, or None.

    Raises:
        ValueError: If a label is negative or too large.
    """
    sparse = isinstance(
        model.loss, keras.losses.SparseCategoricalCrossentropy
    ) or any(model.loss is s or model.loss == s for s in _SPARSE_LOSSES)
    shape = getattr(model, "output_shape", None)
    if not sparse or not isinstance(labels, np.ndarray):
        return
    if not isinstance(shape, tuple) or not isinstance(shape[-1], int):
        return
    if getattr(model.loss, "ignore_class", None) is not None:
        return
    low, high = labels.min(), labels.max()
    if not (low >= 0 and high < shape[-1]):
        raise ValueError(
            f"y must hold class labels in [0, {shape[-1] - 1}], the outputs of "
            f"{model.name!r}. Received: labels from {low} to {high}. Renumber "
            "them, or give the last layer more units."
        )
