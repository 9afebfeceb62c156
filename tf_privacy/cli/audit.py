# SPDX-License-Identifier: Apache-2.0
"""tf-privacy-audit: whether an attack's scores contradict a claim of privacy.

  tf-privacy-audit --scores=scores.npz --membership=fair_coins \\
    --delta=1e-5 --claimed_epsilon=3 --html=report.html

The scores come from any attack on the trained model, one for each example, and
are higher for examples that look like members (trained on), such as the
negative loss. Files: .npz with the arrays member_scores and non_member_scores,
or scores and is_member; .csv with the columns score and is_member.

Exit code: 0; 1 with --fail_if_rejected if the claim is rejected, or in doubt;
2 after an error. Exit code 0 does not mean that the model is private.
"""

import json
import sys
from collections.abc import Sequence

from absl import flags

from tf_privacy.audit import report as report_lib
from tf_privacy.audit import report_plots
from tf_privacy.audit import verdict
from tf_privacy.cli import command
from tf_privacy.cli import score_files

_FAILED = 1
_METHODS = ("one_run", "held_out", "fdp_one_run", "membership")
_MEMBERSHIPS = ("fair_coins", "given")


def _make_flags() -> flags.FlagValues:
    values = flags.FlagValues()
    for name, text in {
        "scores": "File of scores (.npz, .csv), see above.",
        "html": "File to write a report to, one page without network.",
    }.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    for name, default, text in (
        ("delta", None, "Of the claim and of the bound; in [0, 1)."),
        ("claimed_epsilon", None, "Nats; leave it out to test no claim."),
        ("confidence", 0.95, "Of the verdict; in (0, 1)."),
    ):
        flags.DEFINE_float(name, default, text, flag_values=values)
    flags.DEFINE_enum(
        "method",
        "one_run",
        _METHODS,
        "one_run: guesses, any mechanism. held_out: a threshold chosen on one "
        "half. fdp_one_run: guesses, within the Gaussian family of curves. "
        "membership: how well the attack works, no bound.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "membership",
        "given",
        _MEMBERSHIPS,
        "fair_coins: a fair coin for each example decided before training "
        "whether it is a member; needed for a bound. given: in any other way, "
        "such as training against test set; the result is an estimate.",
        flag_values=values,
    )
    command.define_plot(values, "the ROC against the claim")
    flags.DEFINE_bool(
        "fail_if_rejected",
        False,
        "Exit code 1 if the claim is rejected, or in doubt by an estimate.",
        flag_values=values,
    )
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=values)
    flags.DEFINE_bool("help", False, "Print this text.", flag_values=values)
    return values


_FLAGS = _make_flags()


def _audit() -> report_lib.AuditReport:
    """Returns the report, after it is written to the files asked for."""
    path = command.get_required(_FLAGS, "scores")
    delta = command.get_required(_FLAGS, "delta")
    if _FLAGS["fail_if_rejected"].value:
        command.get_required(_FLAGS, "claimed_epsilon")
    if _FLAGS["plot"].value:
        report_plots.check_path(_FLAGS["plot"].value)
    members, non_members = score_files.read_scores(path)
    report = verdict.audit(
        members,
        non_members,
        delta=delta,
        claimed_epsilon=_FLAGS["claimed_epsilon"].value,
        method=_FLAGS["method"].value,
        membership=_FLAGS["membership"].value,
        confidence=_FLAGS["confidence"].value,
    )
    if _FLAGS["plot"].value:
        report.plot(_FLAGS["plot"].value)
    if _FLAGS["html"].value:
        report.to_html(_FLAGS["html"].value)
    return report


def _get_exit_code(report: report_lib.AuditReport) -> int:
    if _FLAGS["fail_if_rejected"].value:
        try:
            report.assert_ok()
        except AssertionError:
            return _FAILED
    return 0


def main(argv: Sequence[str]) -> int:
    """Prints the report, or an error in one line.

    Args:
        argv: The program's name and its arguments.

    Returns:
        The exit code: 0; 1 if the claim failed and that was asked for; 2 after
        an error.
    """
    codes = [0]

    def answer() -> tuple[str, dict]:
        report = _audit()
        codes.append(_get_exit_code(report))
        return str(report), json.loads(report.to_json())

    made = command.Command(usage=__doc__, values=_FLAGS, answer=answer)
    return made.main(argv) or codes[-1]


def run() -> None:
    """Runs the command on the process's arguments, then exits."""
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
