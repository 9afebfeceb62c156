# SPDX-License-Identifier: Apache-2.0
"""Immutable descriptions of the noisy releases that a training run made."""

import dataclasses

from tf_privacy import _checks

# The ranges in which the accountant is tested against independent values.
MIN_NOISE_MULTIPLIER = 0.01
MAX_NOISE_MULTIPLIER = 1000.0
MIN_SAMPLING_PROBABILITY = 1e-8
MAX_NUM_STEPS = 10**8


def check_noise_multiplier(value) -> float:
    """Returns a noise multiplier within the range of the accountant."""
    _checks.check_noise_multiplier(value)
    return _checks.check_real(
        "noise_multiplier",
        value,
        at_least=MIN_NOISE_MULTIPLIER,
        at_most=MAX_NOISE_MULTIPLIER,
        hint=(
            f"Below {MIN_NOISE_MULTIPLIER} there is no privacy to speak of; "
            f"above {MAX_NOISE_MULTIPLIER:g}, account for "
            f"{MAX_NOISE_MULTIPLIER:g}: its epsilon is an upper bound."
        ),
    )


def check_sampling_probability(value) -> float:
    """Returns a sampling probability within the range of the accountant."""
    _checks.check_sampling_probability(value)
    return _checks.check_real(
        "sampling_probability",
        value,
        at_least=MIN_SAMPLING_PROBABILITY,
        at_most=1.0,
        hint=(
            f"Below {MIN_SAMPLING_PROBABILITY}, account for "
            f"{MIN_SAMPLING_PROBABILITY}: its epsilon is an upper bound."
        ),
    )


def check_num_steps(value, *, at_least: int = 0) -> int:
    """Returns a number of steps within the range of the accountant."""
    return _checks.check_integer(
        "num_steps",
        value,
        at_least=at_least,
        at_most=MAX_NUM_STEPS,
        hint="It counts the noisy releases (optimizer updates).",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mechanism:
    """A number of equal steps of the Poisson-sampled Gaussian mechanism.

    Each step releases the sum of the clipped contributions of a fresh Poisson
    sample plus Gaussian noise. The meaning of an instance never changes.

    Attributes:
        noise_multiplier: Noise stddev over the L2 clip; in [0.01, 1000].
        sampling_probability: Chance that a unit joins a step's batch, drawn
            anew for each unit and step; in [1e-8, 1]. 1 says that any unit may
            be in every batch: no amplification.
        num_steps: Number of releases; whole, in [0, 1e8].
    """

    noise_multiplier: float
    sampling_probability: float
    num_steps: int

    def __post_init__(self):
        checked = {
            "noise_multiplier": check_noise_multiplier(self.noise_multiplier),
            "sampling_probability": check_sampling_probability(
                self.sampling_probability
            ),
            "num_steps": check_num_steps(self.num_steps),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
