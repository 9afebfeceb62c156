# SPDX-License-Identifier: Apache-2.0
"""The ranges in which the accountants are tested against independent values."""

from tf_privacy import _checks

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


def check_num_steps(value, *, name="num_steps", at_least: int = 0) -> int:
    """Returns a number of steps within the range of the accountant."""
    return _checks.check_integer(
        name,
        value,
        at_least=at_least,
        at_most=MAX_NUM_STEPS,
        hint="It counts the noisy releases (optimizer updates).",
    )
