# SPDX-License-Identifier: Apache-2.0
"""From a noised sum to an update by the inner optimizer."""

from keras import ops

from tf_privacy.noise import gaussian
from tf_privacy.optimizers import noise_corrected_adam


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
    means = [g / expected_batch_size for g in noised.gradients]
    if scales is not None:
        means = [s.divide(g) for s, g in zip(scales, means, strict=True)]
    if preconditioner is not None:
        preconditioner.update(means)
    if isinstance(inner_optimizer, noise_corrected_adam.NoiseAware):
        inner_optimizer.observe_noise(
            (noised.stddev / expected_batch_size) ** 2
        )
    addends = data_independent_gradients or [None] * len(means)
    gradients = [
        ops.cast(
            mean if addend is None else mean + ops.cast(addend, "float32"),
            variable.dtype,
        )
        for mean, addend, variable in zip(
            means, addends, noised.variables, strict=True
        )
    ]
    inner_optimizer.apply(gradients, list(noised.variables))
