# SPDX-License-Identifier: Apache-2.0
"""What happens to the arguments of `fit` before its first step."""

import dataclasses

from tf_privacy.training import fit_data
from tf_privacy.training import fit_order
from tf_privacy.training import padding
from tf_privacy.training import replica_training


def start(
    model,
    arrays,
    *,
    callbacks,
    shuffle: bool,
    class_weight,
    batch_size,
    steps_per_epoch,
    validation_split: float,
    validation_data,
    epochs: int,
) -> fit_data.FitData:
    """Returns what Keras is to train on, after all checks.

    Args:
        model: A compiled model that trains privately.
        arrays: x, y and sample_weight as `fit` received them.
        callbacks: As `fit` received them.
        shuffle: As `fit` received it.
        class_weight: As `fit` received it.
        batch_size: Expected batch size for arrays.
        steps_per_epoch: As `fit` received it.
        validation_split: As `fit` received it.
        validation_data: As `fit` received it.
        epochs: As `fit` received it.

    Raises:
        ValueError: If the data or the model cannot be trained privately.
    """
    source = fit_order.prepare(
        arrays,
        model.optimizer,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        validation_split=validation_split,
        validation_data=validation_data,
        epochs=epochs,
    )
    fit_data.check_rows(model, source)
    fit_data.warn_of_raw_monitors(callbacks)
    fit_data.show_data(callbacks, source)
    # An order of their own is part of the guarantee.
    shuffle = shuffle and not fit_order.has_own_order(source.x)
    source = replica_training.share(
        model, source, shuffle=shuffle, class_weight=class_weight
    )
    x, padded, class_weight = padding.pad_batches(
        source.x, model.optimizer, class_weight
    )
    return dataclasses.replace(
        source,
        x=x,
        padding=padded,
        class_weight=class_weight,
        shuffle=shuffle,
    )
