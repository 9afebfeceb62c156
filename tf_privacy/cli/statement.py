# SPDX-License-Identifier: Apache-2.0
"""tf-privacy-statement: the privacy statement of a training run."""

import sys
from collections.abc import Sequence

from absl import flags

from tf_privacy.accounting import statement
from tf_privacy.cli import command

_FLAGS = command.make_flags(with_noise=True)
flags.DEFINE_float("delta", None, "Probability.", flag_values=_FLAGS)
flags.DEFINE_float("l2_norm_clip", 1.0, "L2 clip.", flag_values=_FLAGS)
flags.DEFINE_bool(
    "poisson",
    True,
    "Whether batches are Poisson-sampled; --nopoisson for batches made in any "
    "other way, which are not amplified.",
    flag_values=_FLAGS,
)


def _answer() -> tuple[str, dict]:
    size = command.get_required(_FLAGS, "num_examples")
    batch = command.get_required(_FLAGS, "expected_batch_size")
    probability = command.get_sampling_probability(_FLAGS)
    phase = statement.Phase(
        noise_multiplier=command.get_required(_FLAGS, "noise_multiplier"),
        sampling_probability=probability if _FLAGS["poisson"].value else None,
        num_steps=command.get_num_steps(_FLAGS, probability),
        l2_norm_clip=_FLAGS["l2_norm_clip"].value,
        expected_batch_size=batch,
        num_examples=size,
    )
    result = statement.make_privacy_statement(
        [phase], delta=command.get_required(_FLAGS, "delta")
    )
    return str(result), result.to_dict()


def main(argv: Sequence[str]) -> int:
    """Prints the statement of the run that the flags describe.

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
