# SPDX-License-Identifier: Apache-2.0
"""In which order `fit` goes through its data: by coins, or always the same."""

import contextlib

import keras

from tf_privacy.optimizers import units_check
from tf_privacy.training import cyclic_dataset
from tf_privacy.training import fit_data
from tf_privacy.training import poisson_dataset


def prepare(
    arrays,
    optimizer,
    *,
    batch_size,
    steps_per_epoch,
    validation_split: float,
    validation_data,
    epochs: int,
):
    """Returns what to train on, in the order that the optimizer's noise needs.

    Args:
        arrays: x, y and sample_weight as `fit` received them.
        optimizer: The DPOptimizer.
        batch_size: Expected batch size for arrays.
        steps_per_epoch: As `fit` received it.
        validation_split: As `fit` received it.
        validation_data: As `fit` received it.
        epochs: As `fit` received it.

    Returns:
        A FitData.

    Raises:
        ValueError: If the noise does not fit the order, or the arrays do not
            match.
    """
    arrays, is_ordered = _keep_order(
        arrays,
        optimizer,
        batch_size=batch_size,
        validation_split=validation_split,
    )
    if is_ordered and steps_per_epoch not in (None, len(arrays[0])):
        raise ValueError(
            "steps_per_epoch must be None where data keep their order, or the "
            f"{len(arrays[0])} batches of a pass. Received: {steps_per_epoch}. "
            "An epoch that ends within a pass may begin the next one too soon."
        )
    _check_return(arrays[0], optimizer.noise_style, epochs)
    return fit_data.prepare(
        arrays,
        batch_size=None if is_ordered else batch_size,
        steps_per_epoch=steps_per_epoch,
        validation_split=validation_split,
        validation_data=validation_data,
        examples_per_unit=optimizer.examples_per_unit,
    )


@contextlib.contextmanager
def own_release(optimizer):
    """Gives what runs within a release of its own.

    The order of the data starts anew with each `fit`, and again with whatever
    comes after it.

    Args:
        optimizer: The DPOptimizer.
    """
    optimizer.start_release()
    try:
        yield
    finally:
        optimizer.start_release()


def _check_return(data, noise_style, epochs: int) -> None:
    """Raises if data are known to come back sooner than noise allows."""
    if not noise_style.is_correlated:
        return
    if isinstance(data, poisson_dataset.PoissonDataset):
        # Whatever it is to the accountant: coins let a unit come at once.
        units_check.check_separation(noise_style, data.sampling)
    try:
        length = len(data)
    except TypeError:
        return
    if epochs > 1 and length < noise_style.min_separation:
        raise ValueError(
            "min_separation of the noise must be at most the batches of one "
            f"pass, {length}: then the data come back. Received: "
            f"{noise_style.min_separation}. Use that, or a single epoch."
        )
    allowed = noise_style.max_participations
    steps = noise_style.steps_per_release
    most = min(epochs, -(-steps // max(1, length)))
    if allowed is not None and most > allowed:
        raise ValueError(
            f"max_participations of the noise must be at least {most}: so many "
            f"passes of {length} batches are in {steps} steps. Received: "
            f"{allowed}. Use that, None, or shorter releases."
        )


def has_own_order(data) -> bool:
    """True if the order of batches is part of the guarantee.

    Args:
        data: What Keras's `fit` gets as x.
    """
    return isinstance(
        data, (poisson_dataset.PoissonDataset, cyclic_dataset.CyclicDataset)
    )


def _keep_order(arrays, optimizer, *, batch_size, validation_split: float):
    """Returns what `fit` was given, arrays in a fixed order if noise needs it.

    The second value says whether the order is to be kept.
    """
    x, y, sample_weight = arrays
    style = optimizer.noise_style
    if style.is_correlated and poisson_dataset.is_indexable(x):
        if validation_split:
            raise ValueError(
                "validation_split must be 0 where the noise is correlated. "
                f"Received: {validation_split}. Split the data yourself and "
                "pass validation_data."
            )
        num_units = len(keras.tree.flatten(x)[0]) // optimizer.examples_per_unit
        x = cyclic_dataset.CyclicDataset(
            x,
            y,
            sample_weight,
            batch_size=min(batch_size, max(1, num_units)),
            examples_per_unit=optimizer.examples_per_unit,
        )
        y = sample_weight = None
    if not isinstance(x, cyclic_dataset.CyclicDataset):
        return (x, y, sample_weight), False
    if x.examples_per_unit != optimizer.examples_per_unit:
        raise ValueError(
            "examples_per_unit of the data must be the optimizer's, "
            f"{optimizer.examples_per_unit}. Received: a CyclicDataset with "
            f"{x.examples_per_unit}. What is clipped must be the same unit."
        )
    x.check_noise(style)
    optimizer.set_expected_batch_size(x.batch_size)
    return (x, y, sample_weight), True
