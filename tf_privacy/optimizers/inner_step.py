# SPDX-License-Identifier: Apache-2.0
"""From a noised sum to an update by the inner optimizer."""

import dataclasses

from tf_privacy.clipping.backend.replicas import replicas
from tf_privacy.noise import gaussian
from tf_privacy.optimizers import noise_corrected_adam
from tf_privacy.optimizers import row_noise


def take_inner_step(
    inner_optimizer,
    noised: gaussian.NoisedSum,
    *,
    expected_batch_size: float,
    data_independent_gradients=None,
    scales=None,
    preconditioner=None,
) -> None:
    """Divides a noised sum and updates the variables with it.

        mean = noised sum / scales / expected_batch_size
    All of it works on noised values, so that none of it costs privacy.

    Args:
        inner_optimizer: A Keras optimizer that is built; one that is
            NoiseAware is told the variance of the noise on the mean.
        noised: The sum over units with the noise of one step.
        expected_batch_size: Units; > 0.
        data_independent_gradients: None, or a list of tensors or None aligned
            with the variables, to add.
        scales: None, or the Scales that gradients were multiplied by before
            the clip.
        preconditioner: None, or the Preconditioner that learns from the mean.
    """
    if scales is not None:
        pairs = zip(scales, noised.gradients, strict=True)
        noised = dataclasses.replace(
            noised, gradients=tuple(s.divide(g) for s, g in pairs)
        )
    if preconditioner is not None:
        preconditioner.update(
            [g / expected_batch_size for g in noised.gradients]
        )
    if isinstance(inner_optimizer, noise_corrected_adam.NoiseAware):
        variance = (noised.stddev / expected_batch_size) ** 2
        inner_optimizer.observe_noise(variance)
    means = row_noise.make_means(
        noised, data_independent_gradients, divisor=expected_batch_size
    )
    with replicas.updating_all():
        inner_optimizer.apply(means, list(noised.variables))
