# SPDX-License-Identifier: Apache-2.0
"""What an optimizer must be to work on noised means."""

import keras

from tf_privacy.optimizers import noise_corrected_adam


def check_inner(inner_optimizer, *, has_even_noise: bool) -> None:
    """Raises if an optimizer cannot work on noised means.

    Args:
        inner_optimizer: What the caller passed.
        has_even_noise: Whether the noise is as large on every weight.

    Raises:
        TypeError: If it is not a Keras optimizer.
        ValueError: If it accumulates, scales or wraps gradients by itself.
    """
    if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            "inner_optimizer must be a keras.optimizers.Optimizer. Received: "
            f"{type(inner_optimizer).__name__}. Example: "
            "DPOptimizer(keras.optimizers.SGD(0.1), l2_norm_clip=1.0, "
            "noise_multiplier=1.1)."
        )
    if hasattr(inner_optimizer, "inner_optimizer"):
        raise ValueError(
            "inner_optimizer must be a plain optimizer. Received: "
            f"{type(inner_optimizer).__name__}. Loss scaling of float16 models "
            "is done before the clip; pass its inner optimizer."
        )
    if inner_optimizer.gradient_accumulation_steps:
        raise ValueError(
            "gradient_accumulation_steps must be None: it would add noise to "
            "every part. Received: "
            f"{inner_optimizer.gradient_accumulation_steps}. For a large batch "
            "in little memory use microbatch_size."
        )
    if inner_optimizer.loss_scale_factor is not None:
        raise ValueError(
            "loss_scale_factor must be None: the loss is not scaled by the "
            f"optimizer here. Received: {inner_optimizer.loss_scale_factor}. "
            "Leave it out."
        )
    is_aware = isinstance(inner_optimizer, noise_corrected_adam.NoiseAware)
    if is_aware and not has_even_noise:
        raise ValueError(
            "inner_optimizer must not correct for the noise where it is not "
            "the same on every weight. Received: "
            f"{type(inner_optimizer).__name__} with row_selection or "
            "gradient_scaling. Use keras.optimizers.Adam there."
        )
