# SPDX-License-Identifier: Apache-2.0
"""Checks of a report's fields: each by itself, then against one another."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_privacy import _checks
from tf_privacy import accounting
from tf_privacy.audit import binomial
from tf_privacy.audit import tables

_MAX_POINTS = 1000


def check_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a report's fields as plain Python values, once they are valid.

    Args:
        given: Field name to value, all fields of an `AuditReport`.

    Returns:
        The same fields; sequences as tuples, a long ROC thinned.

    Raises:
        TypeError: If a field is of another kind.
        ValueError: If a number is NaN or out of range, or two fields
            contradict each other.
    """
    fields = dict(given)
    for name in ("kind", "title"):
        _check_text(name, fields[name])
    for name in ("epsilon_lower", "claimed_epsilon"):
        fields[name] = _check_optional(name, fields[name], hint=_FINITE)
    fields["delta"] = _check_optional("delta", fields["delta"], below=1.0)
    fields["confidence"] = binomial.check_confidence(fields["confidence"])
    fields["is_bound"] = _check_bool("is_bound", fields["is_bound"])
    if fields["is_rejected"] is not None:
        fields["is_rejected"] = _check_bool(
            "is_rejected", fields["is_rejected"]
        )
    _check_counts(fields)
    _check_attack(fields)
    for name in ("assumptions", "faults", "warnings"):
        fields[name] = _check_texts(name, fields[name])
    fields["figures"] = tuple(
        _check_row("figures", _check_texts("figures", row), 2)
        for row in _check_sequence("figures", fields["figures"])
    )
    fields["slices"] = tuple(
        _check_slice(row) for row in _check_sequence("slices", fields["slices"])
    )
    _check_claim(fields)
    if fields["exposures"] is not None:
        tables.get_columns(fields["exposures"])
    return fields


_FINITE = "Pass None where there is none."


def _check_text(name: str, value) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError(
            f"{name} must be text that is not empty. Received: {value!r}."
        )
    return value


def _check_bool(name: str, value) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False. Received: {value!r}.")
    return bool(value)


def _check_sequence(name: str, value) -> tuple:
    if not isinstance(value, list | tuple | np.ndarray):
        raise TypeError(
            f"{name} must be a tuple. Received: {type(value).__name__}."
        )
    return tuple(value)


def _check_texts(name: str, values) -> tuple[str, ...]:
    return tuple(_check_text(name, v) for v in _check_sequence(name, values))


def _check_row(name: str, row, length: int) -> tuple:
    row = _check_sequence(name, row)
    if len(row) != length:
        raise ValueError(
            f"{name} must have rows of {length} values. Received: {row!r}."
        )
    return row


def _check_optional(name: str, value, **limits) -> float | None:
    if value is None:
        return None
    return _checks.check_real(name, value, at_least=0.0, **limits)


def _check_rate(name: str, value) -> float:
    return _checks.check_real(name, value, at_least=0.0, at_most=1.0)


def _check_within(name: str, value: float, limits) -> tuple[float, float]:
    """Returns limits in [0, 1] that enclose the value."""
    lower, upper = (
        _check_rate(name, limit) for limit in _check_row(name, limits, 2)
    )
    if not lower <= value <= upper:
        raise ValueError(
            f"{name} must hold limits around the value {value}. Received: "
            f"{lower} to {upper}."
        )
    return lower, upper


def _check_counts(fields: dict[str, Any]) -> None:
    """Checks the numbers of examples and of guesses."""
    for name in ("num_members", "num_non_members"):
        fields[name] = _checks.check_integer(name, fields[name], at_least=0)
    guesses, correct = fields["num_guesses"], fields["num_correct"]
    if (guesses is None) != (correct is None):
        raise ValueError(
            "num_correct must be given with num_guesses, and only then. "
            f"Received: {correct!r} of {guesses!r}."
        )
    if guesses is not None:
        guesses = _checks.check_integer("num_guesses", guesses, at_least=0)
        fields["num_guesses"] = guesses
        fields["num_correct"] = _checks.check_integer(
            "num_correct", correct, at_least=0, at_most=guesses
        )


def _check_attack(fields: dict[str, Any]) -> None:
    """Checks the AUC, the rates at low false positive rates and the ROC."""
    if fields["auc"] is not None:
        fields["auc"] = _check_rate("auc", fields["auc"])
    if fields["auc_interval"] is not None:
        if fields["auc"] is None:
            raise ValueError(
                "auc must be given with auc_interval. Received: None."
            )
        fields["auc_interval"] = _check_within(
            "auc_interval", fields["auc"], fields["auc_interval"]
        )
    rows = _check_sequence("tpr_at_fpr", fields["tpr_at_fpr"])
    rows = [_check_row("tpr_at_fpr", row, 4) for row in rows]
    fields["tpr_at_fpr"] = tuple(
        (
            _check_rate("tpr_at_fpr", false_rate),
            _check_rate("tpr_at_fpr", true_rate),
            *_check_within("tpr_at_fpr", true_rate, limits),
        )
        for false_rate, true_rate, *limits in rows
    )
    if fields["roc"] is not None:
        fields["roc"] = _check_roc(fields["roc"])


def _check_slice(row) -> tuple:
    name, auc, lower, upper, count = _check_row("slices", row, 5)
    count = _checks.check_integer("slices", count, at_least=0)
    _check_text("slices", name)
    if auc is None and lower is None and upper is None:
        return name, None, None, None, count
    auc = _check_rate("slices", auc)
    return name, auc, *_check_within("slices", auc, (lower, upper)), count


def _check_vectors(name: str, pair) -> list[np.ndarray]:
    vectors = [
        np.asarray(each, dtype=np.float64) for each in _check_row(name, pair, 2)
    ]
    if vectors[0].ndim != 1 or vectors[0].shape != vectors[1].shape:
        shapes = [each.shape for each in vectors]
        raise ValueError(
            f"{name} must be two vectors of one length. Received shapes: "
            f"{shapes}."
        )
    return vectors


def _check_roc(roc) -> tuple[tuple[float, ...], tuple[float, ...]]:
    vectors = _check_vectors("roc", roc)
    for each in vectors:
        valid = each.size >= 2 and each[0] == 0.0 and each[-1] == 1.0
        if not (valid and np.all(np.diff(each) >= 0.0)):
            raise ValueError(
                "roc must be rates that rise from (0, 0) to (1, 1). Received: "
                f"{each!r}. Begin with the threshold that no score passes."
            )
    kept = choose_points(vectors[0])
    return tuple(tuple(each[kept].tolist()) for each in vectors)


def choose_points(false_positive_rates: np.ndarray) -> np.ndarray:
    """Returns which points of a long ROC show its shape on both scales.

    Args:
        false_positive_rates: `[P]` float64, from 0 to 1, not falling.

    Returns:
        Rising indices into it: all if P <= 1000, else at most about 1000. The
        smallest and largest rates are kept, then the points nearest to even
        steps of the rate and of its logarithm.
    """
    rates = false_positive_rates
    if rates.size <= _MAX_POINTS:
        return np.arange(rates.size)
    num_steps = _MAX_POINTS // 3
    least = rates[rates > 0.0][0]
    wanted = np.concatenate(
        [np.linspace(0.0, 1.0, num_steps), np.geomspace(least, 1.0, num_steps)]
    )
    # Where the rate stays, the curve rises: the last point is its top.
    tops = np.searchsorted(rates, wanted, side="right") - 1
    ends = [0, rates.size - 1]
    return np.unique(np.clip(np.concatenate([tops, ends]), 0, rates.size - 1))


def _check_claim(fields: dict[str, Any]) -> None:
    """Checks that the parts of the claim belong together."""
    claimed, lower = fields["claimed_epsilon"], fields["epsilon_lower"]
    if fields["delta"] is None and not (claimed is None and lower is None):
        raise ValueError(
            "delta must be given with an epsilon. Received: None. An epsilon "
            "means nothing without its delta."
        )
    if fields["claim_curve"] is not None:
        fields["claim_curve"] = _check_curve(fields["claim_curve"])
    if claimed is None:
        for name in ("claim_curve", "is_rejected"):
            if fields[name] is not None:
                raise ValueError(
                    f"claimed_epsilon must be given with {name}. Received: "
                    "None. Pass the claim's epsilon at delta."
                )
    elif fields["is_rejected"] is False and lower is not None:
        _checks.check_real(
            "epsilon_lower",
            lower,
            at_most=claimed,
            hint="Above the claim, is_rejected cannot be False.",
        )


def _check_curve(curve) -> tuple[tuple[float, ...], tuple[float, ...]]:
    epsilons, deltas = _check_vectors("claim_curve", curve)
    try:
        accounting.compute_trade_off(0.5, epsilons=epsilons, deltas=deltas)
    except ValueError as error:
        raise ValueError(
            "claim_curve must be rising epsilons >= 0 and their deltas. "
            f"Received: {curve!r}. {error}"
        ) from error
    return tuple(epsilons.tolist()), tuple(deltas.tolist())


def check_limit(report, name: str, limit) -> float:
    """Returns a limit on a figure that the report has.

    Args:
        report: An `AuditReport`.
        name: The figure's field, "epsilon_lower" or "auc".
        limit: What the caller passed; a finite number >= 0.

    Returns:
        The limit.

    Raises:
        ValueError: If the report has no such figure, or the limit is NaN or
            out of range.
    """
    if getattr(report, name) is None:
        raise ValueError(
            f"max_{name} must be of a figure in the report. Received: "
            f"{limit!r}, but this {report.kind} audit has no {name}."
        )
    return _checks.check_real(f"max_{name}", limit, at_least=0.0)
