# SPDX-License-Identifier: Apache-2.0
"""The tables of a report, for the reader and for the program."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence

from tf_privacy.accounting import statement_text
from tf_privacy.audit import tables

_MAX_ROWS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table for the reader, its cells formatted.

    Attributes:
        caption: What it shows.
        columns: Name to cells.
        note: A sentence to read with it; may be empty.
    """

    caption: str
    columns: Mapping[str, Sequence]
    note: str = ""


def make_tables(report, *, max_rows: int = _MAX_ROWS) -> list[Table]:
    """Returns the tables of the report.

    Args:
        report: An `AuditReport`.
        max_rows: Rows shown of a long list; >= 1.

    Returns:
        Only tables that have rows.
    """
    found = [_make_figures(report)]
    if report.tpr_at_fpr:
        found.append(_make_rates(report))
    if report.slices:
        found.append(_make_slices(report, max_rows))
    if report.exposures is not None:
        found.append(_make_exposures(report, max_rows))
    return found


def _make_figures(report) -> Table:
    kind = "lower bound" if report.is_bound else "estimate"
    shown = {
        f"epsilon, {kind}": format_lower(report),
        "epsilon, claimed": _format(report.claimed_epsilon),
        "delta": _format(report.delta),
        "confidence": f"{100.0 * report.confidence:.4g}%",
        "members": report.num_members,
        "non-members": report.num_non_members,
        "guesses": report.num_guesses,
        "right guesses": report.num_correct,
        "AUC": _format(report.auc),
    }
    if report.auc_interval is not None:
        shown["AUC"] += f" ({_format_interval(report.auc_interval)})"
    rows = [(k, v) for k, v in shown.items() if v is not None]
    rows += report.figures
    names, values = zip(*rows, strict=True)
    return Table(
        caption="Figures",
        columns={"figure": names, "value": [str(v) for v in values]},
    )


def _format(number: float | None) -> str | None:
    return None if number is None else f"{number:.6g}"


def _format_down(number: float | None) -> str | None:
    """Returns a lower limit in digits."""
    return None if number is None else statement_text.format_down(number)


def _format_up(number: float | str | None) -> str | None:
    """Returns an upper limit in digits; inf may be the text "inf"."""
    return None if number is None else statement_text.format_up(float(number))


def _format_interval(limits) -> str:
    lower, upper = limits
    return f"{_format_down(lower)} to {_format_up(upper)}"


def _make_rates(report) -> Table:
    false_rates, true_rates, lower, upper = zip(*report.tpr_at_fpr, strict=True)
    columns = {
        "false positive rate": false_rates,
        "members found": true_rates,
        "at least": list(map(_format_down, lower)),
        "at most": list(map(_format_up, upper)),
    }
    if report.claimed_epsilon is not None:
        allowed = report.compute_allowed_rates(false_rates)
        columns["claim allows"] = list(map(_format_up, allowed.tolist()))
    percent = f"{100.0 * report.confidence:.4g}%"
    return Table(
        caption="Members found at a few false positive rates",
        columns=columns,
        note=f"At least, at most: limits at {percent}, for each row alone.",
    )


def _make_slices(report, max_rows: int) -> Table:
    names = ("slice", "AUC", "at least", "at most", "examples")
    columns = dict(zip(names, zip(*report.slices, strict=True), strict=True))
    columns, left_out = _choose_rows(columns, "AUC", max_rows)
    columns["at least"] = list(map(_format_down, columns["at least"]))
    columns["at most"] = list(map(_format_up, columns["at most"]))
    note = "The largest of many slices is large by chance alone."
    return Table(
        caption="Slices of the data, the most exposed first",
        columns=columns,
        note=f"{note} {left_out}".strip(),
    )


def _make_exposures(report, max_rows: int) -> Table:
    columns, left_out = _choose_rows(
        tables.get_columns(report.exposures), "exposure", max_rows
    )
    roundings = {
        "lower": _format_down,
        "upper": _format_up,
        "p_value": _format_up,
    }
    for name in set(roundings) & set(columns):
        columns[name] = list(map(roundings[name], columns[name]))
    return Table(
        caption="Secrets, the most exposed first",
        columns=columns,
        note=left_out,
    )


def _choose_rows(columns, key: str, max_rows: int) -> tuple[dict, str]:
    """Returns the rows with the largest values, and what was left out."""
    count = len(next(iter(columns.values()), ()))
    values = columns.get(key, [None] * count)
    values = [-1.0 if value is None else float(value) for value in values]
    order = sorted(range(count), key=lambda i: -values[i])[:max_rows]
    chosen = {name: [c[i] for i in order] for name, c in columns.items()}
    left_out = f"{count - max_rows} more are not shown."
    return chosen, left_out if count > max_rows else ""


def format_lower(report) -> str | None:
    """Returns epsilon_lower in digits; a bound is rounded down."""
    lower = report.epsilon_lower
    if lower is None:
        return None
    if report.is_bound:
        return statement_text.format_down(lower)
    return f"{lower:.4g}"


def list_figures(report) -> list[tuple]:
    """Returns rows (name, value, lower, upper) of every figure, as numbers.

    Args:
        report: An `AuditReport`.

    Returns:
        Names are those of the report's fields; None where there is no value.
        Further figures keep their text.
    """
    names = (
        "epsilon_lower",
        "claimed_epsilon",
        "delta",
        "confidence",
        "num_members",
        "num_non_members",
        "num_guesses",
        "num_correct",
    )
    rows = [("verdict", report.verdict.value, None, None)]
    rows.append(("is_bound", report.is_bound, None, None))
    rows += [(name, getattr(report, name), None, None) for name in names]
    rows.append(("auc", report.auc, *(report.auc_interval or (None, None))))
    rows += [
        (f"tpr_at_fpr={false_rate!r}", *rest)
        for false_rate, *rest in report.tpr_at_fpr
    ]
    rows += [(name, value, None, None) for name, value in report.figures]
    return rows
