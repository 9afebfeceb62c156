# SPDX-License-Identifier: Apache-2.0
"""The plot of a sanity check; matplotlib is loaded on use."""

import importlib
import os
import pathlib

import numpy as np

from tf_privacy.training import signal_text

_FORMATS = (".png", ".svg", ".pdf")
_MOST_LAYERS = 16
_NAME_LENGTH = 24
_BARS = 0.38


def plot_report(report, path: str | os.PathLike | None = None):
    """Returns a figure of the runs and of the layers' signal and noise.

    Args:
        report: A `SanityReport`.
        path: File to write too (.png, .svg, .pdf), or None.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the ending is another one.
    """
    if path is not None and pathlib.Path(path).suffix not in _FORMATS:
        raise ValueError(
            f"path must end in one of {', '.join(_FORMATS)}. Received: "
            f"{os.fspath(path)!r}. Choose one of these formats."
        )
    try:
        module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError(
            "plot needs matplotlib. Received: no such package. Run pip install "
            '"tf-privacy[report]".'
        ) from error
    figure = module.Figure(figsize=(12.0, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    title = f"Sanity check: {report.headline}. From raw data: not covered by "
    title += "any guarantee."
    if report.findings:
        rules = dict.fromkeys(finding.rule for finding in report.findings)
        title += f"\nDoes not hold: {'; '.join(rules)}"
    figure.suptitle(title, fontsize="medium", wrap=True)
    _draw_arms(left, report.arms)
    _draw_layers(right, report.signal_to_noise)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _draw_arms(axes, arms) -> None:
    """Draws each run's accuracy in training and held out, and chance."""
    places = np.arange(len(arms))
    axes.vlines(
        [arm.chance for arm in arms],
        places - _BARS,
        places + _BARS,
        color="black",
        linestyle=":",
        label="chance",
    )
    tested = [p for p, arm in enumerate(arms) if arm.test_accuracy is not None]
    for label, marker, shift, chosen, values in (
        (
            "on training rows (or patterns)",
            "o",
            -0.12,
            list(places),
            [(arm.train_accuracy, arm.train_stderr) for arm in arms],
        ),
        (
            "held out",
            "s",
            0.12,
            tested,
            [(arms[p].test_accuracy, arms[p].test_stderr) for p in tested],
        ),
    ):
        if chosen:
            means, stderrs = np.array(values).T
            axes.errorbar(
                means,
                np.array(chosen) + shift,
                xerr=2.0 * stderrs,
                fmt=marker,
                markersize=5.0,
                capsize=3.0,
                label=label,
            )
    axes.set_yticks(places, [arm.title for arm in arms])
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.04)
    axes.set_xlabel("accuracy, with 2 standard errors")
    axes.grid(alpha=0.3, axis="x")
    _add_legend(axes)


def _add_legend(axes) -> None:
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        fontsize="small",
        frameon=False,
    )


def _draw_layers(axes, signals) -> None:
    """Draws signal and noise of each layer, summed over all steps."""
    if signals is None:
        axes.set_axis_off()
        return
    layers = sorted(signals.layers, key=lambda each: each.run_ratio)
    layers = [*layers[:_MOST_LAYERS], signals.total]
    places = np.arange(len(layers))
    signal = np.array([each.signal for each in layers]) * signals.num_steps
    noise = np.array([each.noise for each in layers])
    noise = noise * np.sqrt(signals.num_steps)
    axes.barh(
        places - _BARS / 2.0,
        signal,
        _BARS,
        color="tab:blue",
        label="signal, if it stays the same",
    )
    axes.barh(
        places + _BARS / 2.0, noise, _BARS, color="tab:red", label="noise"
    )
    axes.set_xscale("log")
    smallest = min([noise.min(), *signal[signal > 0.0]])
    axes.set_xlim(left=smallest / 3.0)
    names = [signal_text.shorten(each.layer, _NAME_LENGTH) for each in layers]
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    left_out = len(signals.layers) + 1 - len(layers)
    more = f"; {left_out} better layers left out" if left_out else ""
    axes.set_xlabel(
        f"norm, summed over {signals.num_steps} steps (gradient units){more}"
    )
    axes.grid(alpha=0.3, axis="x")
    _add_legend(axes)
