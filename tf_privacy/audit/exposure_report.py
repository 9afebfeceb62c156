# SPDX-License-Identifier: Apache-2.0
"""A table of secrets and how exposed they are."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tf_privacy.audit import tables

_COLUMNS = (
    "secrets",
    "bits",
    "ranks",
    "exposures",
    "lower",
    "upper",
    "methods",
    "p_values",
    "evaluations",
)
_MEANINGS = {
    "exact": "the rank among all secrets, counted",
    "bracketed": "certain limits; the exposure shown is the lower one",
    "importance": "estimate from secrets that the model drew",
    "sampled": "estimate from random secrets",
    "extrapolated": "estimate: a skew-normal curve fitted to random secrets; "
    "its limits are those of sampling",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExposureReport:
    """Exposure of each secret, one row each, in the order they were given.

    Attributes:
        secrets: `[S]` names to show, or None for their numbers.
        bits: `[S]` floats; summed -log2 probability, >= 0.
        ranks: `[S]` whole numbers >= 1; None where the rank is not known.
        exposures: `[S]` floats, bits, >= 0.
        lower, upper: `[S]` floats, bits; limits of the true exposure: certain
            where the method is "exact" or "bracketed", else with probability
            `confidence` for each secret on its own. `upper` may be inf.
        methods: `[S]`; "exact", "bracketed", "importance", "sampled" or
            "extrapolated".
        p_values: `[S]` floats in (0, 1]: the chance that a secret which the
            model has not seen reaches this exposure.
        evaluations: `[S]` sequences given to the model, or scores used; shared
            by secrets that were examined together.
        log2_size: log2 |R|, the largest possible exposure; None if unknown.
        confidence: Of the limits, in (0, 1); None where all are certain.
        ks_statistic: Kolmogorov-Smirnov distance between the references and
            the curve of "extrapolated"; else None.
        ks_p_value: Of that distance, in [0, 1]. It is too large, because the
            curve was fitted to the same references: a small one refutes the
            fit, a large one does not confirm it.

    Raises:
        ValueError: If columns differ in length, or a number is NaN.
    """

    secrets: tuple[str, ...] | None
    bits: tuple[float, ...]
    ranks: tuple[int | None, ...]
    exposures: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    methods: tuple[str, ...]
    p_values: tuple[float, ...]
    evaluations: tuple[int, ...]
    log2_size: float | None
    confidence: float | None
    ks_statistic: float | None = None
    ks_p_value: float | None = None

    def __post_init__(self):
        count = len(self.bits)
        for name in _COLUMNS:
            values = getattr(self, name)
            if name == "secrets" and values is None:
                continue
            if isinstance(values, str) or len(values) != count:
                raise ValueError(
                    f"{name} must hold one value for each of the {count} "
                    f"secrets. Received: {values!r}."
                )
            object.__setattr__(self, name, _to_tuple(values))
        for name in ("bits", "exposures", "lower", "upper", "p_values"):
            if any(math.isnan(value) for value in getattr(self, name)):
                raise ValueError(
                    f"{name} must be numbers. Received: {getattr(self, name)}. "
                    "A NaN has no place in a ranking."
                )

    def columns(self) -> dict[str, Sequence]:
        """Returns the table as a mapping from a column's name to its cells."""
        names = self.secrets or [str(i) for i in range(len(self.bits))]
        return {
            "secret": names,
            "bits": self.bits,
            "rank": self.ranks,
            "exposure": self.exposures,
            "lower": self.lower,
            "upper": self.upper,
            "method": self.methods,
            "p_value": self.p_values,
            "evaluations": self.evaluations,
        }

    def to_scalars(self) -> dict[str, float]:
        """Returns the exposures as `exposure_<row>`, for logs."""
        return {f"exposure_{i}": e for i, e in enumerate(self.exposures)}

    def to_frame(self):
        """Returns the table as a `pandas.DataFrame`, one row a secret."""
        return tables.make_frame(self.columns())

    def to_json(self) -> str:
        """Returns all fields as strict JSON."""
        return tables.to_json(self)

    def __str__(self) -> str:
        most = "|R| unknown"
        if self.log2_size is not None:
            most = f"at most log2 |R| = {_show(self.log2_size, math.ceil)}"
        shown = {
            **self.columns(),
            "rank": [r if r is None else f"{r:,}" for r in self.ranks],
            "lower": [_show(x, math.floor) for x in self.lower],
            "upper": [_show(x, math.ceil) for x in self.upper],
            "p_value": [_show_p_value(p) for p in self.p_values],
            "evaluations": [f"{n:,}" for n in self.evaluations],
        }
        lines = [f"Exposure in bits, {most}:", tables.format_table(shown)]
        used = [m for m in _MEANINGS if m in self.methods]
        lines += [f"{m}: {_MEANINGS[m]}" for m in used]
        if set(used) - {"exact", "bracketed"}:
            lines.append(
                f"limits of estimates: confidence {self.confidence:g}, for "
                "each secret on its own"
            )
        if self.ks_p_value is not None:
            lines.append(
                f"Kolmogorov-Smirnov test of the curve: distance "
                f"{self.ks_statistic:.3g}, p = {self.ks_p_value:.3g} (below "
                "0.05, do not trust it)"
            )
        return "\n".join(lines)


def check_names(
    names: Sequence[str] | None, num_secrets: int
) -> Sequence[str] | None:
    """Returns names once there is one for each secret, or none at all.

    Args:
        names: `[S]` text, or None.
        num_secrets: S.

    Raises:
        ValueError: If there are more or fewer.
    """
    if names is None or (
        len(names) == num_secrets and not isinstance(names, str)
    ):
        return names
    raise ValueError(
        f"names must hold one text for each of the {num_secrets} secrets. "
        f"Received: {names!r}."
    )


def _to_tuple(values) -> tuple:
    """Returns numbers, text and Nones as plain Python objects."""
    cells = np.asarray(values, dtype=object).tolist()
    # No -0.0 where a logarithm was 0.
    return tuple(c + 0.0 if isinstance(c, float) else c for c in cells)


def _show(bits: float, rounding) -> str:
    """Returns bits with two digits after the point, rounded to one side."""
    if math.isinf(bits):
        return "inf"
    # Exact values of short decimals stay as they are.
    return f"{rounding(round(bits * 100, 6)) / 100:.2f}"


def _show_p_value(p_value: float) -> str:
    """Returns a p-value with two digits, rounded up."""
    unit = 10.0 ** (math.floor(math.log10(p_value)) - 1)
    return f"{min(1.0, math.ceil(p_value / unit * (1 - 1e-9)) * unit):.2g}"
