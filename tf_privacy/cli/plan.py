# SPDX-License-Identifier: Apache-2.0
"""tf-privacy-plan: batch, noise and steps that meet a target epsilon.

What does a larger batch buy, over 30 epochs of 60,000 examples?
  tf-privacy-plan --num_examples=60000 --num_epochs=30 --target_epsilon=3 \\
    --target_delta=1e-5 --plot=plan.png

The same number of steps for chosen batch sizes:
  tf-privacy-plan --num_examples=60000 --num_steps=2000 --target_epsilon=3 \\
    --target_delta=1e-5 --expected_batch_sizes=256,1024,4096
"""

from absl import flags

from tf_privacy import accounting
from tf_privacy.cli import command
from tf_privacy.cli import plots

_FLAGS = command.make_flags(
    without=["noise_multiplier", "sampling_probability", "expected_batch_size"]
)
flags.DEFINE_float("target_epsilon", None, "Nats.", flag_values=_FLAGS)
flags.DEFINE_float("target_delta", None, "Probability.", flag_values=_FLAGS)
flags.DEFINE_list(
    "expected_batch_sizes",
    None,
    "Sizes to compare; the eight largest powers of two unless given.",
    flag_values=_FLAGS,
)
command.define_plot(_FLAGS, "noise and signal against the batch size")


def _get_sizes() -> list[float] | None:
    given = _FLAGS["expected_batch_sizes"].value
    if given is None:
        return None
    try:
        return [float(size) for size in given]
    except ValueError as error:
        raise ValueError(
            "expected_batch_sizes must be whole numbers with commas between. "
            f"Received: {','.join(given)!r}."
        ) from error


def _answer() -> tuple[str, dict]:
    made = accounting.plan(
        num_examples=command.get_required(_FLAGS, "num_examples"),
        target_epsilon=command.get_required(_FLAGS, "target_epsilon"),
        target_delta=command.get_required(_FLAGS, "target_delta"),
        num_epochs=_FLAGS["num_epochs"].value,
        num_steps=_FLAGS["num_steps"].value,
        expected_batch_sizes=_get_sizes(),
        neighboring_relation=command.get_relation(_FLAGS),
    )
    if _FLAGS["plot"].value:
        plots.plot_plan(_FLAGS["plot"].value, made)
    return str(made), made.to_dict()


_COMMAND = command.Command(usage=__doc__, values=_FLAGS, answer=_answer)
main = _COMMAND.main
run = _COMMAND.run

if __name__ == "__main__":
    run()
