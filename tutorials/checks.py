# SPDX-License-Identifier: Apache-2.0
"""What every tutorial checks before it trains, and how it states epsilon."""

import math

from absl import app


def check_arguments(argv) -> None:
    """Raises if anything but flags was given.

    Args:
        argv: The program's name; what is left after the flags.

    Raises:
        absl.app.UsageError: If something is left.
    """
    if len(argv) > 1:
        raise app.UsageError(f"arguments must be flags. Received: {argv[1]!r}.")


def check_above_zero(name: str, value: float) -> None:
    """Raises unless a flag is a finite number above 0.

    Args:
        name: The flag's name.
        value: What it was set to.

    Raises:
        absl.app.UsageError: If it is not.
    """
    if not 0 < value < math.inf:
        raise app.UsageError(
            f"{name} must be a finite number > 0. Received: {value}."
        )


def check_delta(delta: float, num_examples: int) -> None:
    """Raises unless delta is below one over the number of examples.

    A mechanism that publishes one example at random has a delta of
    1 / num_examples: at that delta a guarantee is worth nothing.

    Args:
        delta: The flag's value.
        num_examples: Examples in the training set.

    Raises:
        absl.app.UsageError: If it is not in (0, 1 / num_examples).
    """
    if not 0 < delta < 1 / num_examples:
        raise app.UsageError(
            f"delta must be above 0 and below 1 / {num_examples} training "
            f"examples. Received: {delta}."
        )


def check_batch_size(batch_size: int, num_examples: int) -> None:
    """Raises unless a batch fits in the training set.

    Args:
        batch_size: The flag's value.
        num_examples: Examples in the training set.

    Raises:
        absl.app.UsageError: If it is not in [1, num_examples].
    """
    if not 0 < batch_size <= num_examples:
        raise app.UsageError(
            f"batch_size must be in [1, {num_examples}], the training "
            f"examples. Received: {batch_size}."
        )


def round_up(epsilon: float) -> float:
    """Returns epsilon with three decimals, never below what it is.

    Args:
        epsilon: Nats.
    """
    return math.ceil(1000 * epsilon) / 1000
