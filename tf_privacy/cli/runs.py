# SPDX-License-Identifier: Apache-2.0
"""From flags to the description of a run, for every way to make batches."""

from absl import flags

from tf_privacy import accounting
from tf_privacy.cli import command

_SAMPLINGS = ("poisson", "fixed_size", "shuffled", "none")


def define_sampling(values: flags.FlagValues) -> None:
    """Adds the flag that says how batches were made.

    Args:
        values: The command's flags.
    """
    flags.DEFINE_enum(
        "sampling",
        "poisson",
        _SAMPLINGS,
        "How batches are made. poisson: each example joins by its own coin. "
        "fixed_size: drawn anew for each step, without replacement. shuffled: "
        "cut from a shuffled list, each example once an epoch (needs "
        "--num_epochs). none: in any way, an example may be in every batch.",
        flag_values=values,
    )


def make_run(values: flags.FlagValues) -> tuple[accounting.Mechanism, dict]:
    """Returns what ran, and the numbers that describe it.

    Args:
        values: Parsed flags.

    Returns:
        A Mechanism, and a dict of the inputs for the command's output.

    Raises:
        ValueError: If a number is missing, given twice, or out of range.
    """
    noise = command.get_required(values, "noise_multiplier")
    sampling = values["sampling"].value
    fields = {"noise_multiplier": noise, "sampling": sampling}
    gaussian = accounting.Gaussian(noise)
    if sampling == "shuffled":
        epochs = command.get_required(values, "num_epochs")
        fields["num_epochs"] = epochs
        return accounting.ShuffledEpochs(gaussian, epochs), fields
    if sampling == "none":
        steps = command.get_required(values, "num_steps")
        fields["num_steps"] = steps
        return accounting.SelfComposed(gaussian, steps), fields
    probability = command.get_sampling_probability(values)
    steps = command.get_num_steps(values, probability)
    fields |= {"sampling_probability": probability, "num_steps": steps}
    if sampling == "fixed_size":
        once = accounting.SampledWithoutReplacement(
            gaussian,
            command.get_required(values, "expected_batch_size"),
            command.get_required(values, "num_examples"),
        )
        return accounting.SelfComposed(once, steps), fields
    run = accounting.SampledGaussianSteps(
        noise_multiplier=noise,
        sampling_probability=probability,
        num_steps=steps,
    )
    return run, fields


def describe(fields: dict) -> str:
    """Returns the run in brackets, for one line of output.

    Args:
        fields: From `make_run`.
    """
    if "num_epochs" in fields:
        return f"({fields['num_epochs']:g} shuffled epochs)"
    text = f"{fields['num_steps']:g} steps"
    if "sampling_probability" in fields:
        text += f", sampling_probability {fields['sampling_probability']:g}"
    if fields["sampling"] == "fixed_size":
        text += ", samples of fixed size"
    return f"({text})"
