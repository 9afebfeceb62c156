# SPDX-License-Identifier: Apache-2.0
"""What a step is given must have been clipped, and have its divisor."""

from tf_privacy.clipping import clipped_sum
from tf_privacy.clipping.backend.replicas import replicas

REMEDY = (
    "Wrap the model first: model = tf_privacy.privatize(model). In a custom "
    "loop: step = tf_privacy.clipped_gradients(model, x, y, l2_norm_clip=...); "
    "optimizer.apply(step.clipped_sum)."
)


def check_grads(grads, trainable_variables) -> None:
    """Raises if an argument `grads` is not a ClippedSum.

    Args:
        grads: What the caller passed.
        trainable_variables: Likewise; None, or the sum's own variables.

    Raises:
        TypeError: If it is anything else.
        ValueError: If the variables are others.
    """
    if not isinstance(grads, clipped_sum.ClippedSum):
        raise TypeError(
            "grads must be a ClippedSum. Received: "
            f"{type(grads).__name__}, gradients that were not clipped one "
            f"example at a time. {REMEDY}"
        )
    if trainable_variables is not None and [
        id(v) for v in trainable_variables
    ] != [id(v) for v in grads.variables]:
        raise ValueError(
            "trainable_variables must be the variables of the ClippedSum. "
            "Received: others. Leave the argument out."
        )


def check_may_build(name: str) -> None:
    """Raises if several replicas would each make an optimizer's variables.

    Args:
        name: The optimizer's.

    Raises:
        ValueError: If they would.
    """
    if replicas.current_scope() is not None:
        raise ValueError(
            "optimizer must be built before its first step under a strategy. "
            f"Received: {name!r}, which is not. Call optimizer.build("
            "model.trainable_variables) within strategy.scope()."
        )


def check_divisor(expected_batch_size) -> None:
    """Raises if the divisor is not known.

    Args:
        expected_batch_size: Units, or None.

    Raises:
        ValueError: If it is None.
    """
    if expected_batch_size is None:
        raise ValueError(
            "expected_batch_size must be set before a step. Received: "
            "None. Give it to the optimizer: it is the divisor, and must "
            "not depend on the batch."
        )
