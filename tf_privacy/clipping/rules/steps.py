# SPDX-License-Identifier: Apache-2.0
"""Steps of time folded into the batch: T consecutive rows for each example."""

from keras import ops

from tf_privacy.clipping import gradient_terms


def fold(array):
    """Returns `[B * T, ...]` for `[B, T, ...]`.

    Args:
        array: The array.
    """
    return ops.reshape(array, (-1, *ops.shape(array)[2:]))


def unfold(array, num_steps):
    """Returns `[B, T, ...]` for `[B * T, ...]`.

    Args:
        array: The array.
        num_steps: T; an int, or a tensor where it is not known.
    """
    return ops.reshape(array, (-1, num_steps, *ops.shape(array)[1:]))


def join(term, num_steps):
    """Returns the term of the sums over each T consecutive gradients.

    Args:
        term: Of B * T gradients.
        num_steps: T; an int, or a tensor where it is not known.
    """
    if isinstance(num_steps, int):
        return term.joined(num_steps)
    stack = unfold(term.instantiate(), num_steps)
    return gradient_terms.Instantiated(ops.sum(stack, axis=1))
