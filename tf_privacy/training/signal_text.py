# SPDX-License-Identifier: Apache-2.0
"""Signal and noise of the layers as a table, and what to do about them."""

import math
import textwrap

RAW = (
    "Computed from raw gradients, without noise: not covered by the guarantee."
)
# Fewer clipped than this: the clip, and with it the noise, is too large.
_FEW_CLIPPED = 0.05
# The clip is this many times smaller than the median norm: worth a word.
_FAR_BELOW = 10.0
_NAMED_LAYERS = 4
_WIDTH = 79


def describe(signals) -> str:
    """Returns a table of the layers, and the suggestions.

    Args:
        signals: A `SignalToNoise`.
    """
    lines = [make_table(signals), RAW]
    for each in signals.suggest():
        lines += wrap(each, "- ")
    return "\n".join(lines)


def wrap(text: str, lead: str) -> list[str]:
    """Returns lines of text, those after the first one indented.

    Args:
        text: One paragraph.
        lead: What the first line begins with.
    """
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )


def make_table(signals) -> str:
    """Returns a table of the layers.

    Args:
        signals: A `SignalToNoise`.
    """
    lines = [
        f"Signal and noise at the present weights, from {signals.num_units} "
        "units:",
        f"l2_norm_clip {signals.l2_norm_clip:.4g}, noise_multiplier "
        f"{signals.noise_multiplier:.4g}, batches of "
        f"{signals.expected_batch_size:.6g}, {signals.num_steps} steps",
        "",
        f"{'layer':<24}{'weights':>9}{'median norm':>12}{'clipped':>8}"
        f"{'signal':>9}{'noise':>9}{'ratio':>9}",
    ]
    lines += [_line(each) for each in (*signals.layers, signals.total)]
    lines += [
        "",
        "signal: norm of the mean clipped gradient; noise: norm of what is "
        "added to it;",
        "both in one step. ratio: of their sums over all steps, if the signal "
        "stays.",
    ]
    if signals.num_dropped:
        lines.append(
            f"{signals.num_dropped} units gave gradients that are not finite: "
            "they count as zero."
        )
    return "\n".join(lines)


def _line(layer) -> str:
    mark = " drowns" if layer.is_drowned else ""
    mark = " no gradient" if layer.is_idle else mark
    return (
        f"{shorten(layer.layer, 23):<24}{layer.num_weights:>9}"
        f"{layer.norm_quantiles[1]:>12.3g}{layer.clipped_fraction:>8.0%}"
        f"{layer.signal:>9.2g}{layer.noise:>9.2g}{layer.run_ratio:>9.2g}{mark}"
    )


def shorten(name: str, length: int) -> str:
    """Returns a path's end, marked where its beginning is left out.

    Args:
        name: Path of a layer.
        length: Most characters.
    """
    return name if len(name) <= length else "..." + name[3 - length :]


def suggest(signals) -> tuple[str, ...]:
    """Returns what to change, one sentence or two for each; may be none.

    Args:
        signals: A `SignalToNoise`.
    """
    found = []
    drowned = signals.drowned_layers
    if drowned:
        found.append(_suggest_batch(signals, drowned))
        found.append(_suggest_fewer_weights(signals))
    clip, median = signals.l2_norm_clip, signals.median_norm
    share = signals.total.clipped_fraction
    if share < _FEW_CLIPPED and 0.0 < median < clip:
        found.append(
            f"Only {share:.0%} of the gradients reach l2_norm_clip = "
            f"{clip:.4g}, but the noise is made for gradients of that norm. "
            f"Clip at the median norm, {median:.3g}: that takes the noise down "
            f"{clip / median:.3g} times."
        )
    if median > _FAR_BELOW * clip:
        found.append(
            f"l2_norm_clip = {clip:.4g} is {median / clip:.3g} times below the "
            f"median norm, {median:.3g}. With an optimizer that does not "
            "rescale gradients itself (SGD), steps are as much smaller: choose "
            "the learning rate to suit, or clip near the median."
        )
    idle = [each.layer for each in signals.layers if each.is_idle]
    if idle:
        found.append(
            f"No gradient reaches {list_names(idle)}, but noise does. Freeze "
            "(trainable = False) or remove what does not learn."
        )
    return tuple(found)


def list_names(names) -> str:
    """Returns a few names, and how many more there are.

    Args:
        names: A list of strings.
    """
    shown = ", ".join(names[:_NAMED_LAYERS])
    more = len(names) - _NAMED_LAYERS
    return f"{shown} and {more} more" if more > 0 else shown


def _suggest_batch(signals, drowned) -> str:
    names = list_names([each.layer for each in drowned])
    root = math.sqrt(signals.num_steps)
    needed = max(
        each.noise / (max(each.signal, each.signal_upper / 2.0) * root)
        for each in drowned
    )
    size = float(f"{needed * signals.expected_batch_size:.1e}")
    return (
        f"The noise is larger than what all {signals.num_steps} steps teach "
        f"{names}. The ratio grows with the batch, with the root of the number "
        "of steps, and as noise_multiplier falls: it would take batches of "
        f"some {size:,.0f} units at the same noise_multiplier."
    )


def _suggest_fewer_weights(signals) -> str:
    largest = max(signals.layers, key=lambda each: each.num_weights)
    share = largest.num_weights / signals.total.num_weights
    return (
        f"{share:.0%} of the weights are in {largest.layer}. The norm of the "
        "noise grows with the root of the number of trainable weights: make "
        "the model smaller, freeze layers that were trained on public data, or "
        "train low-rank updates of them."
    )
