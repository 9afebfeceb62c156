# SPDX-License-Identifier: Apache-2.0
"""What every command shares: flags of a run, errors in one line, output.

Each command owns its `absl.flags.FlagValues`, so that all can be imported
into one process.
"""

import json
import math
import sys
from collections.abc import Callable
from collections.abc import Sequence

from absl import flags

_BAD_USAGE = 2


def make_flags(*, with_noise: bool) -> flags.FlagValues:
    """Returns the flags that describe a training run.

    Args:
        with_noise: Whether the run's noise_multiplier is an input.

    Returns:
        A new `FlagValues`, to which the command adds its own.
    """
    values = flags.FlagValues()
    numbers = {
        "sampling_probability": "Chance that one example joins one batch, by "
        "Poisson sampling; 1 for batches made in any other way.",
        "num_examples": "Examples in the training set.",
        "expected_batch_size": "Mean batch size; with num_examples it gives "
        "the sampling_probability.",
        "num_steps": "Noisy steps (optimizer updates).",
        "num_epochs": "Passes over the data, instead of num_steps.",
    }
    if with_noise:
        numbers["noise_multiplier"] = "Noise stddev over the L2 clip."
    for name, text in numbers.items():
        flags.DEFINE_float(name, None, text, flag_values=values)
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=values)
    flags.DEFINE_bool("help", False, "Print the flags.", flag_values=values)
    return values


def get_required(values: flags.FlagValues, name: str) -> float:
    """Returns a flag's value.

    Args:
        values: Parsed flags.
        name: Of the flag.

    Returns:
        The number given.

    Raises:
        ValueError: If the flag was not given.
    """
    value = values[name].value
    if value is None:
        raise ValueError(
            f"{name} must be given. Received: nothing. Pass --{name}=..."
        )
    return value


def get_sampling_probability(values: flags.FlagValues) -> float:
    """Returns the sampling probability, given or as batch over data size.

    Args:
        values: Parsed flags.

    Returns:
        The probability, unchecked.

    Raises:
        ValueError: If it was given neither way, or both ways.
    """
    given = values["sampling_probability"].value
    size = values["num_examples"].value
    batch = values["expected_batch_size"].value
    if (given is None) == (batch is None):
        raise ValueError(
            "sampling_probability must be given once. Received: "
            f"sampling_probability={given}, expected_batch_size={batch}. Pass "
            "--sampling_probability, or --num_examples and "
            "--expected_batch_size."
        )
    if given is not None:
        return given
    size = get_required(values, "num_examples")
    if not 0 < batch <= size:
        raise ValueError(
            "expected_batch_size must be a number > 0 and <= num_examples. "
            f"Received: {batch} of {size}. Check the two flags."
        )
    return batch / size


def get_num_steps(values: flags.FlagValues, probability: float) -> float:
    """Returns the number of steps, given or from epochs and rounded up.

    Args:
        values: Parsed flags.
        probability: Sampling probability; a step is that part of an epoch.

    Returns:
        The number of steps, unchecked.

    Raises:
        ValueError: If it was given neither way, or both ways.
    """
    steps = values["num_steps"].value
    epochs = values["num_epochs"].value
    if (steps is None) == (epochs is None):
        raise ValueError(
            f"num_steps must be given once. Received: num_steps={steps}, "
            f"num_epochs={epochs}. Pass --num_steps or --num_epochs."
        )
    if steps is not None:
        return steps
    if not (math.isfinite(epochs) and epochs >= 0 and probability > 0):
        raise ValueError(
            f"num_epochs must be a finite number >= 0. Received: {epochs}."
        )
    return math.ceil(epochs / probability * (1 - 1e-12))


def run_command(
    argv: Sequence[str],
    values: flags.FlagValues,
    *,
    usage: str,
    answer: Callable[[], tuple[str, dict]],
) -> int:
    """Returns the exit code after answering, or after a one-line error.

    Args:
        argv: The program's name and its arguments.
        values: The command's flags; parsed here.
        usage: One line that says what the command computes.
        answer: Computes the text to print and the same as a dict.

    Returns:
        0, or 2 if a flag or a value was refused.
    """
    try:
        values.unparse_flags()
        rest = values(argv)
        if values["help"].value:
            print(f"{usage}\n\n{values.get_help()}")
            return 0
        if len(rest) > 1:
            raise ValueError(
                f"arguments must be flags. Received: {rest[1]!r}. "
                "Write --name=value."
            )
        text, fields = answer()
    except (flags.Error, ValueError, TypeError, OverflowError) as error:
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr)
        return _BAD_USAGE
    print(json.dumps(fields, allow_nan=False) if values["json"].value else text)
    return 0
