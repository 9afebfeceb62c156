# SPDX-License-Identifier: Apache-2.0
"""tf-privacy-delta: the delta of a training run at one epsilon.

  tf-privacy-delta --num_examples=60000 --expected_batch_size=256 \\
    --num_epochs=60 --noise_multiplier=1.1 --epsilon=3 --plot=profile.png
"""

from absl import flags

from tf_privacy import accounting
from tf_privacy.accounting import statement_text
from tf_privacy.cli import command
from tf_privacy.cli import plots
from tf_privacy.cli import runs

_FLAGS = command.make_flags()
flags.DEFINE_float("epsilon", None, "Nats.", flag_values=_FLAGS)
runs.define_sampling(_FLAGS)
command.define_plot(_FLAGS, "delta against epsilon")


def _answer() -> tuple[str, dict]:
    run, fields = runs.make_run(_FLAGS)
    epsilon = command.get_required(_FLAGS, "epsilon")
    relation = command.get_relation(_FLAGS)
    delta = accounting.compute_delta_of(
        [run], epsilon=epsilon, neighboring_relation=relation
    )
    text = (
        f"delta = {statement_text.format_up(delta)} at epsilon = "
        f"{epsilon:g} {runs.describe(fields)}"
    )
    if _FLAGS["plot"].value:
        plots.plot_delta(
            _FLAGS["plot"].value, run, epsilon=epsilon, relation=relation
        )
    found = {
        "delta": delta,
        "epsilon": epsilon,
        "neighboring_relation": relation.value,
    }
    return text, found | fields


_COMMAND = command.Command(usage=__doc__, values=_FLAGS, answer=_answer)
main = _COMMAND.main
run = _COMMAND.run

if __name__ == "__main__":
    run()
