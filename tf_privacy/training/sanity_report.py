# SPDX-License-Identifier: Apache-2.0
"""The report of a sanity check: text, JSON, plot."""

import dataclasses
import json
import os

from tf_privacy.training import sanity_arms
from tf_privacy.training import sanity_findings
from tf_privacy.training import sanity_plots
from tf_privacy.training import signal_text
from tf_privacy.training import signal_to_noise

RAW = (
    "Not covered by any guarantee: these figures come from raw data, except "
    "those of runs marked +, which saw only the shapes of the data, their "
    "labels' number and the mean and variance (integers: the range) of each "
    "input. Take public or synthetic data of the same shape, or do not "
    "publish them."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SanityReport:
    """What a sanity check found; `print` it.

    The figures are raw: no privacy guarantee covers them. Those of the private
    runs neither, for they look at accuracies on raw data.

    Attributes:
        findings: What is wrong, what to mend first at the top; may be empty.
        limits: Where the check could not have failed, in sentences.
        arms: One `ArmResult` for each run that ended, in their order.
        signal_to_noise: Before the first step; None if interrupted before.
        num_train: Rows that were trained on.
        num_test: Rows that were held out.
        l2_norm_clip: Of the optimizer; gradient units.
        noise_multiplier: Of the optimizer.
        batch_size: Expected number of units in a batch.
        examples_per_unit: Rows of one unit.
        examples_per_user: Rows of one user.
        epochs: Of each run.
        alpha: Chance of a false alarm of each statistical rule.
        interrupted: Whether it was stopped before all runs were made.
    """

    findings: tuple[sanity_findings.Finding, ...]
    limits: tuple[str, ...]
    arms: tuple[sanity_arms.ArmResult, ...]
    signal_to_noise: signal_to_noise.SignalToNoise | None
    num_train: int
    num_test: int
    l2_norm_clip: float
    noise_multiplier: float
    batch_size: int
    examples_per_unit: int
    examples_per_user: int
    epochs: int
    alpha: float
    interrupted: bool

    @property
    def passed(self) -> bool:
        """Whether all runs were made and nothing is wrong."""
        return not self.findings and not self.interrupted

    @property
    def headline(self) -> str:
        """The outcome in a few words."""
        if self.interrupted:
            return f"Interrupted after {len(self.arms)} runs"
        if not self.findings:
            return "Nothing found wrong"
        count = len(self.findings)
        return f"{count} thing{'s' if count > 1 else ''} to mend"

    def to_dict(self) -> dict:
        """Returns plain values for JSON."""
        values = dataclasses.asdict(self)
        values["findings"] = [dataclasses.asdict(f) for f in self.findings]
        values["limits"] = list(self.limits)
        values["arms"] = [dataclasses.asdict(arm) for arm in self.arms]
        signals = self.signal_to_noise
        values["signal_to_noise"] = (
            None if signals is None else signals.to_dict()
        )
        values["passed"] = self.passed
        values["covered_by_guarantee"] = False
        return values

    def to_json(self) -> str:
        """Returns `to_dict()` as a JSON object."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def plot(self, path: str | os.PathLike | None = None):
        """Returns a figure of the runs and of the layers' signal and noise.

        Args:
            path: File to write too (.png, .svg, .pdf), or None.

        Returns:
            A `matplotlib.figure.Figure`, without any state in `pyplot`.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If the ending is another one.
        """
        return sanity_plots.plot_report(self, path)

    def __str__(self) -> str:
        lines = [
            f"Sanity check: {self.headline}",
            f"{self.num_train} rows to train on, {self.num_test} held out; "
            f"{self.epochs} epochs, batches of {self.batch_size}",
            f"l2_norm_clip {self.l2_norm_clip:.4g}, noise_multiplier "
            f"{self.noise_multiplier:.4g}, examples_per_unit "
            f"{self.examples_per_unit}",
            "",
        ]
        if self.findings:
            for number, finding in enumerate(self.findings, start=1):
                lines += signal_text.wrap(finding.problem, f"{number}. ")
                lines += [*signal_text.wrap(finding.knob, "   -> "), ""]
        if self.arms:
            lines += [
                f"{'run':<32}{'train':>15}{'held-out':>15}{'chance':>8}"
                f"{'seconds':>9}",
                *map(_line, self.arms),
                "  train: of patterns, the share that was learned",
                "",
            ]
        for limit in self.limits:
            lines += [*signal_text.wrap(limit, "Note: "), ""]
        if self.signal_to_noise is not None:
            lines += [signal_text.make_table(self.signal_to_noise), ""]
            if not self.signal_to_noise.drowned_layers:  # Else a finding.
                for advice in self.signal_to_noise.suggest():
                    lines += [*signal_text.wrap(advice, "Note: "), ""]
        return "\n".join([*lines, *signal_text.wrap(RAW, "")])


def _line(arm) -> str:
    mark = " " if arm.sees_data else "+"
    held_out = "-"
    if arm.test_accuracy is not None:
        held_out = _rate(arm.test_accuracy, arm.test_stderr)
    train = _rate(arm.train_accuracy, arm.train_stderr)
    return (
        f"{mark} {arm.title:<30}{train:>15}{held_out:>15}{arm.chance:>8.1%}"
        f"{arm.seconds:>9.1f}"
    )


def _rate(accuracy: float, stderr: float) -> str:
    return f"{accuracy:.1%} +-{stderr:.1%}"
