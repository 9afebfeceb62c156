# SPDX-License-Identifier: Apache-2.0
"""tf-privacy-noise: the noise multiplier that meets a target epsilon.

  tf-privacy-noise --num_examples=60000 --expected_batch_size=256 \\
    --num_epochs=15 --target_epsilon=3 --target_delta=1e-5
"""

from absl import flags

from tf_privacy import accounting
from tf_privacy.accounting import statement_text
from tf_privacy.cli import command

_FLAGS = command.make_flags(without=["noise_multiplier"])
flags.DEFINE_float("target_epsilon", None, "Nats.", flag_values=_FLAGS)
flags.DEFINE_float("target_delta", None, "Probability.", flag_values=_FLAGS)


def _answer() -> tuple[str, dict]:
    probability = command.get_sampling_probability(_FLAGS)
    relation = command.get_relation(_FLAGS)
    fields = {
        "target_epsilon": command.get_required(_FLAGS, "target_epsilon"),
        "target_delta": command.get_required(_FLAGS, "target_delta"),
        "sampling_probability": probability,
        "num_steps": command.get_num_steps(_FLAGS, probability),
    }
    noise_multiplier = accounting.calibrate_noise_multiplier(
        **fields, neighboring_relation=relation
    )
    fields["neighboring_relation"] = relation.value
    shown = statement_text.format_up(noise_multiplier, num_digits=6)
    text = (
        f"noise_multiplier = {shown} meets epsilon = "
        f"{fields['target_epsilon']:g} at delta = {fields['target_delta']:g} "
        f"({fields['num_steps']:g} steps, sampling_probability {probability:g})"
    )
    return text, {"noise_multiplier": noise_multiplier, **fields}


_COMMAND = command.Command(usage=__doc__, values=_FLAGS, answer=_answer)
main = _COMMAND.main
run = _COMMAND.run

if __name__ == "__main__":
    run()
