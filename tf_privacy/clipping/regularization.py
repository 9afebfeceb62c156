# SPDX-License-Identifier: Apache-2.0
"""Losses that see no data: added after the noise, never clipped."""

from tf_privacy.clipping.backend import backend


def regularizer_gradients(model):
    """Returns the gradient of the weight regularisers for each variable.

    They see no data, so adding them after the noise costs no privacy.

    Args:
        model: A `keras.Model`.

    Returns:
        A list aligned with `model.trainable_variables`, or None if there is
        no regulariser.
    """
    variables = model.trainable_variables
    if all(v.regularizer is None for v in variables):
        return None

    def total():
        return sum(
            v.regularizer(v) for v in variables if v.regularizer is not None
        )

    return backend.gradient(total, variables)
