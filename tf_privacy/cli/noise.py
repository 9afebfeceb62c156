# SPDX-License-Identifier: Apache-2.0
"""tf-privacy-noise: the noise multiplier that meets a target epsilon."""

import sys
from collections.abc import Sequence

from absl import flags

from tf_privacy.accounting import budget
from tf_privacy.accounting import statement_text
from tf_privacy.cli import command

_FLAGS = command.make_flags(with_noise=False)
flags.DEFINE_float("target_epsilon", None, "Nats.", flag_values=_FLAGS)
flags.DEFINE_float("target_delta", None, "Probability.", flag_values=_FLAGS)


def _answer() -> tuple[str, dict]:
    probability = command.get_sampling_probability(_FLAGS)
    fields = {
        "target_epsilon": command.get_required(_FLAGS, "target_epsilon"),
        "target_delta": command.get_required(_FLAGS, "target_delta"),
        "sampling_probability": probability,
        "num_steps": command.get_num_steps(_FLAGS, probability),
    }
    noise_multiplier = budget.calibrate_noise_multiplier(**fields)
    shown = statement_text.format_up(noise_multiplier, num_digits=6)
    text = (
        f"noise_multiplier = {shown} meets epsilon = "
        f"{fields['target_epsilon']:g} at delta = {fields['target_delta']:g} "
        f"({fields['num_steps']:g} steps, sampling_probability {probability:g})"
    )
    return text, {"noise_multiplier": noise_multiplier, **fields}


def main(argv: Sequence[str]) -> int:
    """Prints the least noise multiplier that meets the target.

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
