# SPDX-License-Identifier: Apache-2.0
"""Adam whose second moment does not count the noise (DP-AdamBC)."""

import abc

import keras
from keras import ops

from tf_privacy import _checks


class NoiseAware(abc.ABC):
    """A mixin for inner optimizers that need to know how large the noise is."""

    @abc.abstractmethod
    def observe_noise(self, variance) -> None:
        """Takes note of the noise in the gradients of the next update.

        `DPOptimizer` calls it before each update. The size of the noise is no
        secret: it follows from settings and from what was released before.

        Args:
            variance: Of the noise on each entry of the mean gradient,
                (noise_multiplier * l2_norm_clip / expected_batch_size)^2;
                gradient units squared; >= 0; a float or a float32 scalar.
        """


@keras.saving.register_keras_serializable(package="tf_privacy")
class NoiseCorrectedAdam(NoiseAware, keras.optimizers.Optimizer):
    """Adam with the noise's share taken out of the second moment.

    The square of a noised gradient is too large by the noise's variance, as a
    rule the larger part of it: Adam then divides every entry by about the same
    number, the noise's standard deviation. Here, after update t,

        m = beta_1 m + (1 - beta_1) gradient
        v = beta_2 v + (1 - beta_2) gradient^2
        s = beta_2 s + (1 - beta_2) variance of the noise
        corrected = max(v - s, noise_floor * s) / (1 - beta_2^t)
        variable -= learning_rate * m / (1 - beta_1^t)
                    / (sqrt(corrected) + epsilon)
    with epsilon scaled as in `keras.optimizers.Adam`, whose update it is to
    the last digit where there is no noise. v - s is unbiased also where the
    variance changes, under a noise schedule or a clip that moves: s averages
    the past variances as v does the squares. Moments are kept in float32
    whatever the variable's dtype: v - s is a small difference of large numbers.

    For use in `DPOptimizer`, which tells it the noise; elsewhere it is Adam.
    Costs no privacy: it sees noised gradients and the noise's size alone. It
    takes larger steps than Adam at the same learning rate, on entries of small
    gradients most of all; tune the learning rate anew, and compare: it did not
    help in every published experiment (Ganesh et al. 2025, arXiv:2507.01129).

    Gradients must reach it as they were noised: clipping them once more would
    change the noise, so there are no arguments for it.

    Args:
        learning_rate: As in Keras: a float, a schedule or a function.
        beta_1: Decay of the first moment; in [0, 1).
        beta_2: Decay of the second moment; in [0, 1).
        epsilon: Added to the root; gradient units; >= 0.
        noise_floor: Least corrected second moment over the noise's variance;
            in [0, 1]. It bounds how far noise alone moves an entry: at 0.05,
            about (1 - beta_1) / (1 + beta_1), by some one learning rate a
            step, by at most five in the first ones. The constant gamma' of the
            source is noise_floor times the variance.
        weight_decay: None, or as in `keras.optimizers.AdamW`.
        use_ema: As in Keras.
        ema_momentum: As in Keras.
        ema_overwrite_frequency: As in Keras.
        name: Name of the optimizer.

    Raises:
        ValueError: If an argument is out of range.

    Source: Tang, Shpilevskiy and Lecuyer 2023, arXiv:2312.14334, algorithm 1.
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1: float = 0.9,
        *,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        noise_floor: float = 0.05,
        weight_decay: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        name: str | None = None,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            name=name,
        )
        self.beta_1 = _checks.check_real(
            "beta_1", beta_1, at_least=0.0, below=1.0
        )
        self.beta_2 = _checks.check_real(
            "beta_2", beta_2, at_least=0.0, below=1.0
        )
        self.epsilon = _checks.check_real("epsilon", epsilon, at_least=0.0)
        self.noise_floor = _checks.check_real(
            "noise_floor", noise_floor, at_least=0.0, at_most=1.0
        )

    def build(self, variables):
        """Creates the moments, in float32.

        Args:
            variables: The `keras.Variable`s to train.
        """
        if self.built:
            return
        super().build(variables)
        self._momentums = self._add_moments(variables, "momentum")
        self._velocities = self._add_moments(variables, "velocity")
        self._noise_velocity = self.add_variable(
            (), dtype="float32", name="noise_velocity"
        )

    def _add_moments(self, variables, name: str):
        return [
            self.add_variable(v.shape, dtype="float32", name=name)
            for v in variables
        ]

    def observe_noise(self, variance) -> None:
        """Averages the noise's variance as the squared gradients will be.

        Args:
            variance: Of the noise on each entry of the mean gradient;
                gradient units squared; >= 0.
        """
        variance = ops.cast(variance, "float32")
        self._noise_velocity.assign(
            _move(self._noise_velocity, variance, self.beta_2)
        )

    def update_step(self, gradient, variable, learning_rate):
        """Moves one variable.

        Args:
            gradient: The noised mean gradient, of the variable's shape.
            variable: What to move.
            learning_rate: Scalar.
        """
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        gradient = ops.cast(gradient, "float32")
        learning_rate = ops.cast(learning_rate, "float32")
        step = ops.cast(self.iterations + 1, "float32")
        self.assign(m, _move(m, gradient, self.beta_1))
        self.assign(v, _move(v, ops.square(gradient), self.beta_2))
        noise = self._noise_velocity
        corrected = ops.maximum(v - noise, self.noise_floor * noise)
        step_size = (
            learning_rate
            * ops.sqrt(1 - ops.power(self.beta_2, step))
            / (1 - ops.power(self.beta_1, step))
        )
        update = m * step_size / (ops.sqrt(corrected) + self.epsilon)
        self.assign_sub(variable, ops.cast(update, variable.dtype))

    def get_config(self):
        """Returns the arguments."""
        config = super().get_config()
        for name in _NOT_OFFERED:
            config.pop(name, None)
        return {
            **config,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "noise_floor": self.noise_floor,
        }


# Arguments of every Keras optimizer that change the noise in the gradients.
_NOT_OFFERED = (
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


def _move(average, value, decay: float):
    """Returns an exponential average after one more value."""
    return average + (value - average) * (1.0 - decay)
