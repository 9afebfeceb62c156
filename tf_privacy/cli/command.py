# SPDX-License-Identifier: Apache-2.0
"""What every command shares: flags of a run, errors in one line, output.

Each command owns its `absl.flags.FlagValues`, so that all can be imported
into one process.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from collections.abc import Sequence

from absl import flags

from tf_privacy import accounting

_BAD_USAGE = 2
_NUMBERS = {
    "sampling_probability": "Chance that one example joins one batch, by "
    "Poisson sampling; 1 for batches made in any other way.",
    "num_examples": "Examples in the training set.",
    "expected_batch_size": "Mean batch size; with num_examples it gives the "
    "sampling_probability.",
    "num_steps": "Noisy steps (optimizer updates).",
    "num_epochs": "Passes over the data, instead of num_steps.",
    "noise_multiplier": "Noise stddev over the L2 clip.",
}
_RELATIONS = [relation.value for relation in accounting.NeighboringRelation]


def make_flags(*, without: Sequence[str] = ()) -> flags.FlagValues:
    """Returns the flags that describe a training run.

    Args:
        without: Names of numbers that are no input of the command.

    Returns:
        A new `FlagValues`, to which the command adds its own.
    """
    values = flags.FlagValues()
    for name, text in _NUMBERS.items():
        if name not in without:
            flags.DEFINE_float(name, None, text, flag_values=values)
    flags.DEFINE_enum(
        "neighboring_relation",
        "add_or_remove_one",
        _RELATIONS,
        "Which data sets are compared.",
        flag_values=values,
    )
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=values)
    flags.DEFINE_bool("help", False, "Print this text.", flag_values=values)
    return values


def define_plot(values: flags.FlagValues, what: str) -> None:
    """Adds the flag of a plot.

    Args:
        values: The command's flags.
        what: What the plot shows.
    """
    flags.DEFINE_string(
        "plot",
        None,
        f"File to draw {what} to (.png, .svg, .pdf); needs tf_privacy[report].",
        flag_values=values,
    )


def get_relation(values: flags.FlagValues) -> accounting.NeighboringRelation:
    """Returns the neighboring relation.

    Args:
        values: Parsed flags.
    """
    return accounting.NeighboringRelation(values["neighboring_relation"].value)


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
        return int(steps) if steps == steps // 1 else steps
    if not (math.isfinite(epochs) and epochs >= 0 and probability > 0):
        raise ValueError(
            f"num_epochs must be a finite number >= 0. Received: {epochs}."
        )
    return math.ceil(epochs / probability * (1 - 1e-12))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A console command.

    Attributes:
        usage: What it computes, and worked examples.
        values: Its flags.
        answer: Computes the text to print and the same as a dict.
    """

    usage: str
    values: flags.FlagValues
    answer: Callable[[], tuple[str, dict]]

    def main(self, argv: Sequence[str]) -> int:
        """Prints the answer, or an error in one line.

        Args:
            argv: The program's name and its arguments.

        Returns:
            The exit code: 0, or 2 after an error.
        """
        try:
            text = self._answer(argv)
        except (
            flags.Error,
            ValueError,
            TypeError,
            OverflowError,
            ImportError,
            OSError,
        ) as error:
            line = " ".join(str(error).split())
            print(f"error: {line}", file=sys.stderr)
            return _BAD_USAGE
        print(text)
        return 0

    def _answer(self, argv) -> str:
        self.values.unparse_flags()
        rest = self.values(argv)
        if self.values["help"].value:
            return f"{self.usage.strip()}\n\n{self.values.get_help()}"
        if len(rest) > 1:
            raise ValueError(
                f"arguments must be flags. Received: {rest[1]!r}. "
                "Write --name=value."
            )
        text, fields = self.answer()
        if self.values["json"].value:
            return json.dumps(fields, allow_nan=False)
        return text

    def run(self) -> None:
        """Runs the command on the process's arguments, then exits."""
        sys.exit(self.main(sys.argv))
