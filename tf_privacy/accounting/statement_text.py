# SPDX-License-Identifier: Apache-2.0
"""A privacy statement in plain words, at most 80 columns wide."""

import decimal
import textwrap

_WIDTH = 80
_RELATIONS = {
    "add_or_remove_one": "with and without any one {unit}",
    "zero_out_one": "with any one {unit} and with it blanked out",
    "replace_one": "with any one {unit} and with another in its place",
}


def format_up(value: float, *, num_digits: int = 4) -> str:
    """Returns a number in decimals, rounded up so that a bound stays one.

    Args:
        value: >= 0, no unit; may be inf.
        num_digits: Significant digits; >= 1.

    Returns:
        The decimal text, such as "2.601" or "1.3e-06"; never below `value`.
    """
    context = decimal.Context(prec=num_digits, rounding=decimal.ROUND_CEILING)
    rounded = context.create_decimal(decimal.Decimal(value))
    return f"{float(rounded):.{num_digits}g}"


def format_down(value: float, *, num_digits: int = 4) -> str:
    """Returns a number in decimals, rounded down so that a bound stays one.

    Args:
        value: >= 0, no unit; finite.
        num_digits: Significant digits; >= 1.

    Returns:
        The decimal text; never above `value`.
    """
    context = decimal.Context(prec=num_digits, rounding=decimal.ROUND_FLOOR)
    rounded = context.create_decimal(decimal.Decimal(value))
    return f"{float(rounded):.{num_digits}g}"


def _fill(text: str, *, indent: str = "", hanging: str | None = None) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        break_long_words=False,
    )


def _list(title: str, lines) -> list[str]:
    if not lines:
        return []
    bullets = [_fill(each, indent="  - ", hanging="    ") for each in lines]
    return ["", title, *bullets]


def _write_phase(phase, unit: str) -> str:
    sampling = phase.sampling
    if phase.sampling_probability is not None:
        sampling += f" with sampling_probability {phase.sampling_probability:g}"
    noise = f", noise: {phase.noise}" if phase.noise else ""
    clip = "l2_norm_clip at first" if phase.moving_clip else "l2_norm_clip"
    noun, _, rest = unit.partition(" ")
    units = f"{noun}s {rest}".strip()
    examples = (
        f"an unstated number of {units}"
        if phase.num_examples is None
        else f"{phase.num_examples} {units}"
    )
    return (
        f"{phase.num_steps} steps on {examples}: noise_multiplier "
        f"{phase.noise_multiplier:g}, {clip} {phase.l2_norm_clip:g}, "
        f"expected_batch_size {phase.expected_batch_size:g}, sampling: "
        f"{sampling}{noise}."
    )


def _write_command(statement) -> list[str]:
    """Returns the command that computes the same epsilon, if one does."""
    if len(statement.phases) != 1 or not statement.phases[0].is_plain:
        return []
    if statement.neighboring_relation.value == "replace_one":
        return []
    phase = statement.phases[0].make_mechanism()
    return [
        "To compute it again:",
        f"  tf-privacy-epsilon --noise_multiplier={phase.noise_multiplier!r} "
        "\\",
        f"    --sampling_probability={phase.sampling_probability!r} \\",
        f"    --num_steps={phase.num_steps} --delta={statement.delta!r}",
    ]


def write_statement(statement) -> str:
    """Returns the statement as text for a reader who is no expert.

    Args:
        statement: A `tf_privacy.accounting.PrivacyStatement`.

    Returns:
        Lines of at most 80 columns; epsilons are rounded up.
    """
    unit, delta = statement.unit, f"{statement.delta:g}"
    compared = _RELATIONS[statement.neighboring_relation.value]
    compared = compared.format(unit=unit)
    if statement.is_private:
        headline = (
            f"epsilon = {format_up(statement.epsilon)} at delta = {delta}, "
            f"for each {unit}."
        )
        meaning = (
            "Whatever is done with the trained model and its checkpoints, its "
            f"probability differs between training {compared} by at most a "
            "factor of e^epsilon, up to a remainder of delta."
        )
    else:
        headline = f"NOT PRIVATE (delta = {delta}, for each {unit})."
        meaning = "No guarantee can be given for this run; see the notes."
    lines = [
        "Privacy statement",
        _fill(headline, indent="  "),
        "",
        _fill(meaning),
    ]
    if statement.is_private:
        lines += _write_worst_cases(statement)
    lines += _list("Notes:", statement.notes)
    lines += _list(
        f"What ran ({statement.num_steps} steps):",
        [_write_phase(phase, unit) for phase in statement.phases],
    )
    lines += _list("It holds if:", statement.assumptions)
    lines += _list("It does not cover:", statement.not_covered)
    lines += ["", _fill(f"Released: {statement.released}")]
    lines += [_fill(f"Accountant: {statement.accountant}.")]
    if statement.is_private:
        lines += _write_accounting(statement)
    return "\n".join(lines)


def _write_worst_cases(statement) -> list[str]:
    unit = statement.unit
    worst = format_up(statement.epsilon_without_amplification)
    percent = format_up(100.0 * statement.max_attack_accuracy)
    return [
        "",
        _fill(
            f"Who guesses whether a given {unit} was used, at even odds, is "
            f"right in at most {percent}% of all cases."
        ),
        "",
        _fill(
            f"Worst case, if one {unit} may be in every batch (no trust in the "
            f"sampling): epsilon = {worst}."
        ),
    ]


def _write_accounting(statement) -> list[str]:
    lower = format_down(statement.epsilon_lower)
    text = f"By Renyi DP epsilon is {format_up(statement.epsilon_rdp)}."
    if statement.epsilon_lower > 0.0:
        text = f"No epsilon below {lower} holds for all data. {text}"
    return [_fill(text), *_write_command(statement)]
