# SPDX-License-Identifier: Apache-2.0
"""Plots of a report: the attack against the claim, and the exposures."""

import os
import pathlib

import numpy as np

from tf_privacy.audit import report_text
from tf_privacy.audit import tables

_FORMATS = (".png", ".svg", ".pdf")
_NUM_POINTS = 200
_MAX_TICKS = 8
_SIZE = (4.8, 4.4)


def has_plot(report) -> bool:
    """Returns whether the report holds anything to draw.

    Args:
        report: An `AuditReport`.
    """
    return report.roc is not None or _get_repetitions(report) is not None


def plot_report(report, path: str | os.PathLike | None = None):
    """Returns a figure with one panel for each curve in the report.

    Args:
        report: An `AuditReport`.
        path: File to write too (.png, .svg, .pdf), or None.

    Returns:
        A `matplotlib.figure.Figure`, without any state in `pyplot`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is nothing to draw, or the ending is another one.
    """
    if path is not None:
        check_path(path)
    if not has_plot(report):
        raise ValueError(
            "plot needs a ROC, or exposures with repetitions. Received: a "
            "report without them. Read its text, or its frame."
        )
    draws = []
    if report.roc is not None:
        draws.append(_draw_roc)
    if _get_repetitions(report) is not None:
        draws.append(_draw_exposures)
    module = tables.load_extra("matplotlib.figure", needed_for="plot")
    figure = module.Figure(
        figsize=(_SIZE[0] * len(draws), _SIZE[1]), layout="constrained"
    )
    headline = report_text.get_headline(report)
    figure.suptitle(
        f"{tables.format_cell(report.title)}\n{headline}",
        parse_math=False,
        wrap=True,
        fontsize="medium",
    )
    panels = figure.subplots(1, len(draws), squeeze=False)[0]
    for draw, axes in zip(draws, panels, strict=True):
        draw(axes, report)
        axes.grid(alpha=0.3, which="major")
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def describe_plot(report) -> list[str]:
    """Returns what the plot shows, in sentences, for who cannot see it.

    Args:
        report: An `AuditReport`.
    """
    lines = []
    if report.roc is not None:
        lines.append(
            "Members found (blue line) against non-members wrongly named, on "
            "logarithmic axes: on the left, attacks that make few mistakes. "
            "The dotted line is guessing."
        )
        lines += [
            f"At a false positive rate of {false_rate:.4g}, the attack finds "
            f"{true_rate:.4g} of the members."
            for false_rate, true_rate, _, _ in report.tpr_at_fpr
        ]
        if report.claimed_epsilon is not None:
            lines.append(
                "The claim allows attacks in the green area; single points "
                "may leave it by chance."
            )
    if _get_repetitions(report) is not None:
        lines.append(
            "Exposure of each secret against the number of times that it was "
            "in the training data."
        )
    return lines


def check_path(path: str | os.PathLike) -> None:
    """Raises unless a plot can be written in the format of the path's ending.

    Args:
        path: File to write.

    Raises:
        ValueError: If the ending is not one of .png, .svg and .pdf.
    """
    if pathlib.Path(path).suffix not in _FORMATS:
        raise ValueError(
            f"plot must end in one of {', '.join(_FORMATS)}. Received: "
            f"{os.fspath(path)!r}."
        )


def _draw_roc(axes, report) -> None:
    """Draws the ROC on logarithmic axes, over what the claim allows."""
    false_rates, true_rates = map(np.asarray, report.roc)
    floor = _find_floor(report)
    grid = np.geomspace(floor, 1.0, _NUM_POINTS)
    if report.claimed_epsilon is not None:
        allowed = report.compute_allowed_rates(grid)
        label = (
            f"allowed by the claim\n(epsilon {report.claimed_epsilon:.3g} at "
            f"delta {report.delta:g})"
        )
        axes.fill_between(
            grid, floor, allowed, color="tab:green", alpha=0.15, label=label
        )
        axes.plot(grid, allowed, color="tab:green", linewidth=1.0)
    axes.plot(grid, grid, "k:", label="guessing")
    # A rate of zero has no place on a logarithmic axis: it lies on its edge.
    axes.plot(
        np.maximum(false_rates, floor),
        np.maximum(true_rates, floor),
        drawstyle="steps-post",
        color="tab:blue",
        label="attack",
    )
    if report.tpr_at_fpr:
        rates = np.maximum(np.array(report.tpr_at_fpr), floor)
        x, y, lower, upper = rates.T
        axes.errorbar(
            x,
            y,
            yerr=[y - lower, upper - y],
            fmt="o",
            markersize=4.0,
            capsize=3.0,
            color="tab:blue",
            label=f"{100.0 * report.confidence:.4g}% limits",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(floor, 1.0)
    axes.set_ylim(floor, 1.1)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate (members found)")
    axes.legend(loc="lower right", fontsize="small")


def _find_floor(report) -> float:
    """Returns the smallest rate drawn: half of what one example makes."""
    count = max(report.num_members, report.num_non_members, 10)
    return max(0.5 / count, 1e-6)


def _get_repetitions(report):
    """Returns columns of exposures that have a number of repetitions each."""
    if report.exposures is None:
        return None
    columns = tables.get_columns(report.exposures)
    if not {"repetitions", "exposure"} <= set(columns):
        return None
    rows = [
        index
        for index, pair in enumerate(
            zip(columns["repetitions"], columns["exposure"], strict=True)
        )
        if None not in pair
    ]
    return (
        {k: [c[i] for i in rows] for k, c in columns.items()} if rows else None
    )


def _draw_exposures(axes, report) -> None:
    """Draws each secret, and the mean at each number of repetitions."""
    columns = _get_repetitions(report)
    repetitions = np.array(columns["repetitions"], dtype=np.float64)
    exposures = np.array(columns["exposure"], dtype=np.float64)
    counts = np.unique(repetitions)
    means = [exposures[repetitions == count].mean() for count in counts]
    if {"lower", "upper"} <= set(columns):
        limits = np.array([columns["lower"], columns["upper"]], dtype=float)
        top = 1.1 * max(exposures.max(), 1.0)
        axes.vlines(
            repetitions, *np.minimum(limits, top), alpha=0.5, label="limits"
        )
    axes.plot(repetitions, exposures, "o", alpha=0.5, label="one secret")
    axes.plot(counts, means, "-", color="tab:blue", label="mean")
    if counts[0] < 1.0:
        axes.set_xscale("symlog", linthresh=1.0)
    else:
        axes.set_xscale("log")
    if counts.size <= _MAX_TICKS:
        axes.set_xticks(counts, [f"{count:g}" for count in counts])
        axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("times that the secret was in the training data")
    axes.set_ylabel("exposure (bits)")
    axes.legend(loc="upper left", fontsize="small")
