# SPDX-License-Identifier: Apache-2.0
"""tf-privacy-epsilon: the epsilon of a training run."""

import sys
from collections.abc import Sequence

from absl import flags

from tf_privacy.accounting import budget
from tf_privacy.accounting import statement_text
from tf_privacy.cli import command

_FLAGS = command.make_flags(with_noise=True)
flags.DEFINE_float("delta", None, "Probability.", flag_values=_FLAGS)


def _answer() -> tuple[str, dict]:
    probability = command.get_sampling_probability(_FLAGS)
    fields = {
        "noise_multiplier": command.get_required(_FLAGS, "noise_multiplier"),
        "sampling_probability": probability,
        "num_steps": command.get_num_steps(_FLAGS, probability),
        "delta": command.get_required(_FLAGS, "delta"),
    }
    epsilon = budget.compute_epsilon(**fields)
    text = (
        f"epsilon = {statement_text.format_up(epsilon)} at delta = "
        f"{fields['delta']:g} ({fields['num_steps']:g} steps, "
        f"sampling_probability {probability:g})"
    )
    return text, {"epsilon": epsilon, **fields}


def main(argv: Sequence[str]) -> int:
    """Prints the epsilon of the run that the flags describe.

    Args:
        argv: The program's name and its arguments.

    Returns:
        The exit code: 0, or 2 after an error.
    """
    return command.run_command(
        argv, _FLAGS, usage=__doc__.splitlines()[0], answer=_answer
    )


def run() -> None:
    """Runs the command on the process's arguments, then exits."""
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
