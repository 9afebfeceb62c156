# SPDX-License-Identifier: Apache-2.0
"""tf-privacy-statement: the privacy statement of a training run.

  tf-privacy-statement --num_examples=60000 --expected_batch_size=256 \\
    --num_epochs=60 --noise_multiplier=1.1 --delta=1e-5 --plot=attack.png

Batches that were not Poisson-sampled are not amplified:
  tf-privacy-statement --num_examples=60000 --expected_batch_size=256 \\
    --num_steps=100 --noise_multiplier=20 --delta=1e-5 --nopoisson
"""

from absl import flags

from tf_privacy import accounting
from tf_privacy.cli import command
from tf_privacy.cli import plots

_FLAGS = command.make_flags()
flags.DEFINE_float("delta", None, "Probability.", flag_values=_FLAGS)
flags.DEFINE_float("l2_norm_clip", 1.0, "L2 clip.", flag_values=_FLAGS)
flags.DEFINE_string("unit", "example", "What is protected.", flag_values=_FLAGS)
flags.DEFINE_bool(
    "poisson",
    True,
    "Whether batches are Poisson-sampled; --nopoisson for batches made in any "
    "other way, which are not amplified.",
    flag_values=_FLAGS,
)
command.define_plot(_FLAGS, "what an attacker can achieve")


def _answer() -> tuple[str, dict]:
    size = command.get_required(_FLAGS, "num_examples")
    batch = command.get_required(_FLAGS, "expected_batch_size")
    probability = command.get_sampling_probability(_FLAGS)
    phase = accounting.Phase(
        noise_multiplier=command.get_required(_FLAGS, "noise_multiplier"),
        sampling_probability=probability if _FLAGS["poisson"].value else None,
        num_steps=command.get_num_steps(_FLAGS, probability),
        l2_norm_clip=_FLAGS["l2_norm_clip"].value,
        expected_batch_size=batch,
        num_examples=size,
    )
    relation = command.get_relation(_FLAGS)
    result = accounting.make_privacy_statement(
        [phase],
        delta=command.get_required(_FLAGS, "delta"),
        unit=_FLAGS["unit"].value,
        neighboring_relation=relation,
    )
    if _FLAGS["plot"].value:
        plots.plot_attack(
            _FLAGS["plot"].value, phase.make_mechanism(), relation=relation
        )
    return str(result), result.to_dict()


_COMMAND = command.Command(usage=__doc__, values=_FLAGS, answer=_answer)
main = _COMMAND.main
run = _COMMAND.run

if __name__ == "__main__":
    run()
