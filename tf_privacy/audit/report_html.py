# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML page: no network, no script, light, dark and print."""

import base64
import html
import io
from collections.abc import Sequence

from tf_privacy.audit import report_plots
from tf_privacy.audit import report_tables
from tf_privacy.audit import report_text
from tf_privacy.audit import tables

_MAX_ROWS = 200
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 48rem;
  margin: 2rem auto; padding: 0 1rem; background: Canvas; color: CanvasText; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.verdict { border: 1px solid var(--line); border-left: .5rem solid #777;
  padding: .5rem 1rem; }
.verdict p { margin: .25rem 0; } .headline { font-weight: bold; }
.claim_rejected { border-left-color: #c62828; }
.claim_doubted { border-left-color: #e69100; }
.claim_not_rejected { border-left-color: #1565c0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  margin-top: 1.25rem; }
caption { text-align: left; font-weight: bold; padding: .25rem 0; }
th, td { text-align: left; padding: .2rem 1rem .2rem .25rem;
  border-bottom: 1px solid var(--line); }
thead th { border-bottom-width: 2px; }
tbody th { font-weight: normal; }
tbody tr:nth-child(even) { background: var(--soft); }
img { max-width: 100%; height: auto; background: white; }
figure { margin: 1rem 0; } figcaption, .note { font-size: .9rem; }
dt { font-weight: bold; }
@media print { body { max-width: none; margin: 0; }
  tr, figure, .verdict { break-inside: avoid; }
  h2, caption, thead { break-after: avoid; } .scroll { overflow: visible; } }
"""


def write_page(report) -> str:
    """Returns the page; all text of the report is escaped.

    The plot is an image inside the page, described in words beside it. The
    verdict is said in words, not by color alone.

    Args:
        report: An `AuditReport`.

    Returns:
        An HTML document, to be stored in UTF-8.

    Raises:
        ImportError: If there is a plot to draw and matplotlib is missing.
    """
    title = _escape(report.title)
    parts = [
        f'<header><h1>{title}</h1><div class="verdict {report.verdict.value}">'
        f'<p class="headline">{report_text.get_headline(report)}</p>'
        f"<p>{_escape(report_text.write_verdict(report))}</p></div></header>",
        _write_section("What this means", report_text.write_meaning(report)),
        _write_section("What was tested", report_text.write_tested(report)),
        _write_list("Faults", report.faults),
        _write_list("Warnings", report.warnings),
        _write_plot(report),
        _write_tables(report),
        _write_list("Assumptions", report.assumptions),
        _write_terms(report),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _escape(text) -> str:
    return html.escape(tables.format_cell(text))


def _wrap(title: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>"


def _write_section(title: str, paragraphs: Sequence[str]) -> str:
    if not paragraphs:
        return ""
    return _wrap(title, "\n".join(f"<p>{_escape(p)}</p>" for p in paragraphs))


def _write_list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "\n".join(f"<li>{_escape(line)}</li>" for line in lines)
    return _wrap(title, f"<ul>\n{items}\n</ul>")


def _write_terms(report) -> str:
    items = "\n".join(
        f"<dt>{_escape(term)}</dt><dd>{_escape(text)}</dd>"
        for term, text in report_text.write_terms(report).items()
    )
    return _wrap("Terms", f"<dl>\n{items}\n</dl>") if items else ""


def _write_tables(report) -> str:
    found = report_tables.make_tables(report, max_rows=_MAX_ROWS)
    return _wrap("Results", "\n".join(map(_write_table, found)))


def _write_table(table) -> str:
    columns = tables.check_columns(table.columns)
    head = "".join(f'<th scope="col">{_escape(name)}</th>' for name in columns)
    rows = []
    for first, *rest in zip(*columns.values(), strict=True):
        cells = "".join(f"<td>{_escape(cell)}</td>" for cell in rest)
        rows.append(f'<tr><th scope="row">{_escape(first)}</th>{cells}</tr>')
    body = "\n".join(rows)
    note = f'<p class="note">{_escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll">\n<table>\n<caption>{_escape(table.caption)}'
        f"</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n"
        f"</tbody>\n</table>\n</div>\n{note}"
    )


def _write_plot(report) -> str:
    if not report_plots.has_plot(report):
        return ""
    image = io.BytesIO()
    report_plots.plot_report(report).savefig(image, format="png", dpi=150)
    data = base64.b64encode(image.getvalue()).decode("ascii")
    text = " ".join(report_plots.describe_plot(report))
    return _wrap(
        "Plot",
        f'<figure>\n<img alt="Plot, described below" src="data:image/png;'
        f'base64,{data}">\n'
        f"<figcaption>{_escape(text)}</figcaption>\n</figure>",
    )
