# SPDX-License-Identifier: Apache-2.0
"""Plots of the commands, each to one file; matplotlib is loaded on use."""

import dataclasses
import importlib
import pathlib

import numpy as np

from tf_privacy import accounting
from tf_privacy.accounting import statement_text

_NUM_POINTS = 25
_FORMATS = (".png", ".svg", ".pdf")
_SIZE = (7.0, 4.5)


def _make_figure(path: str, *, columns: int = 1):
    """Returns a figure and its axes, before any work is done."""
    if pathlib.Path(path).suffix not in _FORMATS:
        raise ValueError(
            f"plot must end in one of {', '.join(_FORMATS)}. Received: "
            f"{path!r}."
        )
    try:
        module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError(
            "plot needs matplotlib. Received: no such package. Run pip install "
            '"tf-privacy[report]".'
        ) from error
    figure = module.Figure(
        figsize=(_SIZE[0] * columns**0.5, _SIZE[1]), layout="constrained"
    )
    return figure, figure.subplots(1, columns)


def _finish(figure, path: str, *axes) -> None:
    for each in axes:
        each.grid(alpha=0.3, which="both")
        if each.get_legend_handles_labels()[0]:
            each.legend()
    figure.savefig(path, dpi=120)


def plot_epsilon(path: str, run, *, delta: float, relation) -> None:
    """Draws epsilon against the number of steps, up to what ran.

    Args:
        path: File to write.
        run: A Mechanism.
        delta: Probability in (0, 1).
        relation: Which data sets are compared.
    """
    figure, axes = _make_figure(path)
    parts, count = _split(run)
    steps = np.unique(
        np.geomspace(1, max(count, 2), _NUM_POINTS).round().astype(int)
    )
    bounds = [
        accounting.compute_epsilon_bounds_of(
            [parts(int(n))], delta=delta, neighboring_relation=relation
        )
        for n in steps
    ]
    axes.plot(steps, [b.epsilon for b in bounds], label="epsilon")
    rdp = np.array([b.rdp_epsilon for b in bounds])
    if np.all(np.isfinite(rdp)):
        axes.plot(steps, rdp, "--", label="by Renyi DP")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("steps")
    axes.set_ylabel(f"epsilon at delta = {delta:g}")
    _finish(figure, path, axes)


def _split(run):
    """Returns a function from a number of steps to a run, and the number."""
    if isinstance(run, accounting.GroupRun):
        inner, count = _split(run.mechanism)
        return lambda n: accounting.GroupRun(inner(n), run.group_size), count
    counts = ("num_steps", "count", "num_epochs")
    name = next(name for name in counts if hasattr(run, name))
    return lambda n: dataclasses.replace(run, **{name: n}), getattr(run, name)


def plot_delta(path: str, run, *, epsilon: float, relation) -> None:
    """Draws the privacy profile around one epsilon.

    Args:
        path: File to write.
        run: A Mechanism.
        epsilon: Nats; marked.
        relation: Which data sets are compared.
    """
    figure, axes = _make_figure(path)
    epsilons = np.linspace(0.0, 2.0 * epsilon or 1.0, _NUM_POINTS)
    deltas = accounting.compute_profile_of(
        [run], epsilons=epsilons, neighboring_relation=relation
    )
    axes.plot(epsilons, deltas)
    axes.axvline(epsilon, color="gray", linestyle=":")
    axes.set_yscale("log")
    axes.set_xlabel("epsilon")
    axes.set_ylabel("delta")
    _finish(figure, path, axes)


def plot_plan(path: str, made: accounting.PrivacyPlan) -> None:
    """Draws noise and signal against the batch size.

    Args:
        path: File to write.
        made: The plan.
    """
    figure, (left, right) = _make_figure(path, columns=2)
    sizes = [each.expected_batch_size for each in made.choices]
    left.plot(sizes, [each.noise_multiplier for each in made.choices], "o-")
    left.set_ylabel("noise_multiplier")
    right.plot(
        sizes,
        [each.noise_of_mean for each in made.choices],
        "o-",
        label="noise on the mean gradient (clips)",
    )
    right.plot(
        sizes,
        [each.signal_to_noise for each in made.choices],
        "s-",
        label="signal to noise of the run",
    )
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("expected batch size")
    left.set_title(
        f"epsilon = {made.target_epsilon:g}, delta = {made.target_delta:g}"
    )
    _finish(figure, path, left, right)


def plot_attack(path: str, run, *, relation) -> None:
    """Draws the best true positive rate of any membership attack.

    Args:
        path: File to write.
        run: A Mechanism.
        relation: Which data sets are compared.
    """
    figure, axes = _make_figure(path)
    rates = np.geomspace(1e-4, 1.0, 60)
    bounds = accounting.compute_attack_bounds_of(
        [run],
        false_positive_rates=tuple(rates.tolist()),
        neighboring_relation=relation,
    )
    axes.plot(rates, bounds.true_positive_rates, label="no attack is above")
    axes.plot(rates, rates, "k:", label="guessing")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    percent = statement_text.format_up(100.0 * bounds.max_accuracy)
    axes.set_title(f"right at even odds: at most {percent}%")
    _finish(figure, path, axes)
