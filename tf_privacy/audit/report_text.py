# SPDX-License-Identifier: Apache-2.0
"""A report in plain words, for a reader who knows Keras but not privacy.

"Not rejected" is never "private": an audit finds leaks, it proves no absence.
"""

import textwrap
from collections.abc import Mapping
from collections.abc import Sequence

from tf_privacy.audit import report_tables
from tf_privacy.audit import tables

_WIDTH = 80
_HEADLINES = {
    "claim_rejected": "CLAIM REJECTED",
    "claim_doubted": "CLAIM IN DOUBT",
    "claim_not_rejected": "CLAIM NOT REJECTED",
    "no_claim": "NO CLAIM TESTED",
}
_TESTED = {
    "pipeline": (
        "The training step itself, on artificial gradients (canaries) and no "
        "real data: {members} canaries took part and {others} did not. From "
        "what the step releases, the audit tried to tell which is which."
    ),
    "exposure": (
        "A language model, for {members} secrets: how much likelier each is to "
        "the model than other texts of the same form."
    ),
}
_TESTED_MODEL = (
    "A model, by {members} examples that are said to be in its training data "
    "(members) and {others} that are not (non-members). From one score for "
    "each example, the audit tried to tell which is which."
)
_EPSILON = (
    "With or without any one example, each outcome of the training has the "
    "same probability up to a factor of e^epsilon and a remainder of delta. At "
    "epsilon 0 no example matters; the larger epsilon, the weaker the promise."
)
_AUC = (
    "The chance that a member scores above a non-member: 0.5 is guessing, 1 is "
    "no mistake. It is an average; a few exposed examples hardly change it."
)
_RATES = (
    "The share of members that the attack names (true positive rate) when it "
    "wrongly names that share of the non-members (false positive rate). "
    "Guessing names as many of both."
)
_EXPOSURE = (
    "In bits. At exposure n, one in 2^n texts of the secret's form is at least "
    "as likely to the model as the secret itself: 1 or 2 is chance; at log2 of "
    "the number of such texts, the secret is the likeliest of them."
)


def get_headline(report) -> str:
    """Returns the verdict in two to three words, in capitals."""
    return _HEADLINES[report.verdict.value]


def write_verdict(report) -> str:
    """Returns the verdict in one plain sentence.

    Args:
        report: An `AuditReport`.
    """
    claim = _write_claim(report)
    leak = _write_epsilon(report)
    match report.verdict.value:
        case "claim_rejected" if _is_above(report):
            return f"{claim} is false: the audit shows a leak of {leak}."
        case "claim_rejected" if report.faults:
            return (
                f"{claim} does not hold for what ran. {' '.join(report.faults)}"
            )
        case "claim_rejected":
            return f"{claim} is false: the scores contradict it."
        case "claim_doubted" if _is_above(report):
            return f"{claim} is in doubt: the audit estimates {leak}."
        case "claim_doubted":
            return f"{claim} is in doubt: the scores speak against it."
        case "claim_not_rejected":
            return (
                f"{claim} is not rejected: this audit found no leak above it, "
                "which does not show that there is none."
            )
    if report.claimed_epsilon is not None:
        return f"{claim} was not tested: this audit has no epsilon."
    if report.epsilon_lower is None:
        return "No claim was tested: this audit has no epsilon."
    if report.is_bound and report.epsilon_lower == 0.0:
        return "No claim was tested, and the audit shows no leak."
    verb = "shows a leak of" if report.is_bound else "estimates"
    return f"No claim was tested; the audit {verb} {leak}."


def _is_above(report) -> bool:
    """Returns whether epsilon alone, at this delta, contradicts the claim."""
    lower = report.epsilon_lower
    return lower is not None and lower > report.claimed_epsilon


def _write_claim(report) -> str:
    if report.claimed_epsilon is None:
        return ""
    return (
        f"The claim of epsilon = {report.claimed_epsilon:g} at delta = "
        f"{report.delta:g}"
    )


def _write_epsilon(report) -> str:
    if report.epsilon_lower is None:
        return ""
    relation = ">=" if report.is_bound else "="
    return f"epsilon {relation} {report_tables.format_lower(report)}"


def write_meaning(report) -> list[str]:
    """Returns what the verdict means and what it does not, as paragraphs.

    Args:
        report: An `AuditReport`.
    """
    percent = f"{100.0 * (1.0 - report.confidence):.3g}%"
    lines = []
    match report.verdict.value:
        case "claim_rejected":
            lines = [
                *_write_place(report),
                "Were the claim true, an audit like this one would reject it "
                f"in at most {percent} of all cases, as long as the "
                "assumptions below hold.",
                "Do not rely on the claim. Look for noise that is too small "
                "or missing, gradients that are not clipped one example at a "
                "time, and steps or sampling other than those accounted for.",
            ]
        case "claim_doubted":
            lines = [
                "An estimate is no proof: it has no stated rate of false "
                "alarms. For a proof, audit again with canaries whose "
                "membership fair coins decided before training, by a method "
                "that gives a bound, such as one_run."
            ]
        case "claim_not_rejected":
            lines = [
                "This does not mean that the model is private. An audit can "
                "only find leaks: a stronger attack, or more canaries, may "
                "find one where this audit did not. What promises privacy is "
                "the proof behind the claim, not this test."
            ]
    if report.verdict.value != "claim_rejected":
        lines += _write_bound_meaning(report, percent)
    return lines


def _write_place(report) -> list[str]:
    """Returns where the claim fails, if not at its epsilon and delta."""
    if report.epsilon_lower is None or _is_above(report) or report.faults:
        return []
    return [
        f"At delta = {report.delta:g} alone, the audit shows "
        f"{_write_epsilon(report)}, which is not above the claim. The scores "
        "contradict what is claimed at another delta."
    ]


def _write_bound_meaning(report, percent: str) -> list[str]:
    lower = report.epsilon_lower
    if lower is None:
        return []
    at_delta = f"at delta = {report.delta:g}"
    shown = report_tables.format_lower(report)
    if not report.is_bound:
        return [
            f"The estimate is epsilon = {shown} {at_delta}. The truth may be "
            "larger or smaller."
        ]
    if lower == 0.0:
        return [
            "The audit shows no leak at all. An attack too weak to find any "
            "would say the same."
        ]
    return [
        f"No epsilon below {shown} {at_delta} can be promised for this "
        f"training; the audit says so wrongly in at most {percent} of all "
        "cases, as long as the assumptions below hold."
    ]


def write_tested(report) -> list[str]:
    """Returns what was tested, as paragraphs.

    Args:
        report: An `AuditReport`.
    """
    text = _TESTED.get(report.kind, _TESTED_MODEL)
    lines = [
        text.format(members=report.num_members, others=report.num_non_members)
    ]
    if report.num_guesses is not None:
        lines.append(
            f"Of {report.num_guesses} guesses, {report.num_correct} were right."
        )
    return lines


def write_terms(report) -> dict[str, str]:
    """Returns the terms that the report uses, each with its meaning.

    Args:
        report: An `AuditReport`.
    """
    used = {
        "epsilon, delta": (_EPSILON, report.delta is not None),
        "AUC": (_AUC, report.auc is not None or report.slices),
        "members found": (_RATES, report.tpr_at_fpr),
        "exposure": (_EXPOSURE, report.exposures is not None),
    }
    return {term: text for term, (text, is_used) in used.items() if is_used}


def list_failures(report, limits: Mapping[str, float]) -> list[str]:
    """Returns why a test that uses the report must fail; empty if it passes.

    Args:
        report: An `AuditReport`.
        limits: Largest values accepted, by field of the report.

    Returns:
        One sentence for each reason.
    """
    reasons = []
    if report.verdict.value in ("claim_rejected", "claim_doubted"):
        reasons.append(write_verdict(report))
    if report.verdict.value == "claim_doubted":
        reasons.append("This is an estimate, not a proof.")
    reasons += report.faults
    for name, limit in limits.items():
        value = getattr(report, name)
        if value > limit:
            reasons.append(
                f"{name} must be at most max_{name} = {limit!r}. Received: "
                f"{value!r}."
            )
    return reasons


def _fill(text: str, **indents) -> str:
    return textwrap.fill(
        tables.format_cell(text), _WIDTH, break_on_hyphens=False, **indents
    )


def _write_list(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    indents = {"initial_indent": "- ", "subsequent_indent": "  "}
    return ["", title, *(_fill(line, **indents) for line in lines)]


def write_report(report) -> str:
    """Returns the whole report as text.

    Args:
        report: An `AuditReport`.

    Returns:
        Lines of at most 80 columns but for tables; bounds are rounded to
        their own side.
    """
    lines = [
        _fill(report.title),
        "",
        get_headline(report),
        _fill(write_verdict(report)),
    ]
    for title, texts in (
        ("What this means", write_meaning(report)),
        ("What was tested", write_tested(report)),
    ):
        if texts:
            lines += ["", title, *map(_fill, texts)]
    lines += _write_list("Faults", report.faults)
    lines += _write_list("Warnings", report.warnings)
    for table in report_tables.make_tables(report):
        columns = tables.format_table(table.columns, width=_WIDTH)
        lines += ["", table.caption, columns]
        lines += [_fill(table.note)] if table.note else []
    lines += _write_list("Assumptions", report.assumptions)
    terms = [f"{k}: {v}" for k, v in write_terms(report).items()]
    return "\n".join(lines + _write_list("Terms", terms))
