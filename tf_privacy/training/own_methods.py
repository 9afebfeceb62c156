# SPDX-License-Identifier: Apache-2.0
"""A model's own methods that would bypass the clipping are refused."""


def check_own_methods(model_class, *, train_step, compute_loss) -> None:
    """Raises if a class replaced what makes training private.

    Args:
        model_class: A subclass of `keras.Model`.
        train_step: What its method must be.
        compute_loss: Likewise.

    Raises:
        ValueError: If one of them is another.
    """
    expected = {"train_step": train_step, "compute_loss": compute_loss}
    for method, function in expected.items():
        if getattr(model_class, method) is not function:
            raise ValueError(
                f"model must not define its own {method}: it would bypass the "
                f"clipping. Received: {model_class.__name__}.{method}. Remove "
                "it and give the loss to compile(), or write a custom loop "
                "with tf_privacy.clipped_gradients and optimizer.apply."
            )
