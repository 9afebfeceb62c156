# SPDX-License-Identifier: Apache-2.0
"""tf-privacy-epsilon: the epsilon of a training run.

60 epochs of 60,000 examples in Poisson batches of 256:
  tf-privacy-epsilon --num_examples=60000 --expected_batch_size=256 \\
    --num_epochs=60 --noise_multiplier=1.1 --delta=1e-5

The same batches cut from a shuffled list, for an example blanked out:
  tf-privacy-epsilon --num_epochs=60 --noise_multiplier=1.1 --delta=1e-5 \\
    --sampling=shuffled --neighboring_relation=zero_out_one

For up to 3 examples of one person, drawn one by one:
  tf-privacy-epsilon --sampling_probability=0.001 --num_steps=10000 \\
    --noise_multiplier=1.1 --delta=1e-5 --group_size=3
"""

import math

from absl import flags

from tf_privacy import accounting
from tf_privacy.accounting import statement_text
from tf_privacy.cli import command
from tf_privacy.cli import plots
from tf_privacy.cli import runs

_FLAGS = command.make_flags()
flags.DEFINE_float("delta", None, "Probability.", flag_values=_FLAGS)
flags.DEFINE_integer(
    "group_size",
    1,
    "Examples that join or leave together, such as one person's.",
    lower_bound=1,
    flag_values=_FLAGS,
)
runs.define_sampling(_FLAGS)
command.define_plot(_FLAGS, "epsilon against the number of steps")


def _answer() -> tuple[str, dict]:
    run, fields = runs.make_run(_FLAGS)
    delta = command.get_required(_FLAGS, "delta")
    size = _FLAGS["group_size"].value
    if size > 1:
        run = accounting.GroupRun(run, size)
        fields["group_size"] = size
    relation = command.get_relation(_FLAGS)
    bounds = accounting.compute_epsilon_bounds_of(
        [run], delta=delta, neighboring_relation=relation
    )
    rdp = bounds.rdp_epsilon if math.isfinite(bounds.rdp_epsilon) else None
    found = {
        "epsilon": bounds.epsilon,
        "epsilon_lower": bounds.lower,
        "epsilon_rdp": rdp,
        "accountant": bounds.accountant,
        "delta": delta,
        "neighboring_relation": relation.value,
    }
    text = (
        f"epsilon = {statement_text.format_up(bounds.epsilon)} at delta = "
        f"{delta:g} {runs.describe(fields)}"
    )
    text += (
        "\nno epsilon below "
        f"{statement_text.format_down(bounds.lower)} holds for all data"
        if bounds.lower > 0.0
        else "\nno lower bound is proved"
    )
    if rdp is not None:
        text += f"; by Renyi DP: {statement_text.format_up(rdp)}"
    if _FLAGS["plot"].value:
        plots.plot_epsilon(
            _FLAGS["plot"].value, run, delta=delta, relation=relation
        )
    return text, found | fields


_COMMAND = command.Command(usage=__doc__, values=_FLAGS, answer=_answer)
main = _COMMAND.main
run = _COMMAND.run

if __name__ == "__main__":
    run()
