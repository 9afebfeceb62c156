# SPDX-License-Identifier: Apache-2.0
"""What an audit found, and what that says about the privacy claimed."""

import dataclasses
import enum
import json
import os
import pathlib
from typing import Any

import numpy as np

from tf_privacy import accounting
from tf_privacy.audit import report_fields
from tf_privacy.audit import report_html
from tf_privacy.audit import report_plots
from tf_privacy.audit import report_tables
from tf_privacy.audit import report_text
from tf_privacy.audit import tables


class Verdict(enum.Enum):
    """What the audit says about the claim.

    CLAIM_REJECTED: a bound contradicts it; false alarms have the stated rate.
    CLAIM_DOUBTED: an estimate, which proves nothing, contradicts it.
    CLAIM_NOT_REJECTED: no contradiction was found. Never a proof of privacy.
    NO_CLAIM: none was tested: there was none, or the audit has no epsilon.
    """

    CLAIM_REJECTED = "claim_rejected"
    CLAIM_DOUBTED = "claim_doubted"
    CLAIM_NOT_REJECTED = "claim_not_rejected"
    NO_CLAIM = "no_claim"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditReport:
    """The figures of one audit; its text explains them to any reader.

    Attributes:
        kind: The method: "one_run", "threshold", "fdp_one_run", "pipeline",
            "membership", "exposure", ...
        title: One line, for the reader.
        epsilon_lower: Nats, >= 0: a lower bound on every true claim if
            `is_bound`, else an estimate; None where the audit has no epsilon.
        claimed_epsilon: Nats, >= 0; None without a claim.
        delta: In [0, 1), of both epsilons; None only without either.
        confidence: Of the bound, and of the intervals; in (0, 1).
        is_bound: Whether `epsilon_lower` exceeds a true claim with probability
            at most 1 - confidence, at this very number of examples.
        num_members: Examples trained on (or secrets put in); >= 0.
        num_non_members: Examples not trained on; >= 0.
        num_guesses: Guesses made, or None.
        num_correct: Those that were right, or None.
        auc: Chance that a member scores above a non-member, in [0, 1], or None.
        auc_interval: Lower and upper limit, or None.
        tpr_at_fpr: Rows (false positive rate, true positive rate, lower and
            upper limit of the latter).
        assumptions: What must hold for the verdict to hold; sentences.
        faults: What was found wrong and must be mended, although it need not
            contradict the claim (more noise than claimed); sentences.
        warnings: What the reader should know or change; sentences.
        figures: Rows (name, value) of further figures, as text.
        slices: Rows (name, AUC, lower, upper, number of examples); the AUC and
            its limits may be None.
        roc: False and true positive rates, rising from (0, 0) to (1, 1), or
            None. Of a longer curve about 1000 of its points are kept.
        claim_curve: The whole claim: epsilons (rising, nats) and the deltas
            claimed with them, or None. It needs `claimed_epsilon` too.
        exposures: Columns of secrets, or an object that has `columns` or
            `to_frame()`, or None.
        is_rejected: Outcome of a test of the whole claim; None means that
            `epsilon_lower` is compared with `claimed_epsilon`.

    Raises:
        TypeError: If a field is of another kind.
        ValueError: If a number is NaN or out of range, or two fields
            contradict each other.
    """

    kind: str
    title: str
    epsilon_lower: float | None
    claimed_epsilon: float | None
    delta: float | None
    confidence: float
    is_bound: bool
    num_members: int
    num_non_members: int
    num_guesses: int | None = None
    num_correct: int | None = None
    auc: float | None = None
    auc_interval: tuple[float, float] | None = None
    tpr_at_fpr: tuple[tuple[float, float, float, float], ...] = ()
    assumptions: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    slices: tuple[tuple, ...] = ()
    roc: tuple[Any, Any] | None = None
    claim_curve: tuple[Any, Any] | None = None
    exposures: Any = None
    is_rejected: bool | None = None

    def __post_init__(self):
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }
        for name, value in report_fields.check_fields(given).items():
            object.__setattr__(self, name, value)

    @property
    def verdict(self) -> Verdict:
        """What the audit says about the claim."""
        contradicted = self.is_rejected
        if contradicted is None:
            if self.claimed_epsilon is None or self.epsilon_lower is None:
                return Verdict.NO_CLAIM
            contradicted = self.epsilon_lower > self.claimed_epsilon
        if not contradicted:
            return Verdict.CLAIM_NOT_REJECTED
        return (
            Verdict.CLAIM_REJECTED if self.is_bound else Verdict.CLAIM_DOUBTED
        )

    def __str__(self) -> str:
        return report_text.write_report(self)

    def compute_allowed_rates(self, false_positive_rates) -> np.ndarray:
        """Returns the largest true positive rates that the claim allows.

        Args:
            false_positive_rates: `[F]` or a number; each in [0, 1].

        Returns:
            `[F]` float64 in [0, 1]; rounded up.

        Raises:
            ValueError: If there is no claim, or a rate is out of range.
        """
        if self.claimed_epsilon is None:
            raise ValueError(
                "claimed_epsilon must be given. Received: None. Without a "
                "claim every rate is allowed."
            )
        epsilons, deltas = self.claim_curve or (
            [self.claimed_epsilon],
            [self.delta],
        )
        return accounting.compute_max_true_positive_rate(
            false_positive_rates, epsilons=epsilons, deltas=deltas
        )

    def to_scalars(self) -> dict[str, float]:
        """Returns `epsilon_lower` and `auc` where there are, for logs."""
        found = {"epsilon_lower": self.epsilon_lower, "auc": self.auc}
        return {k: value for k, value in found.items() if value is not None}

    def to_frame(self):
        """Returns the figures as a `pandas.DataFrame`, one a row.

        Columns: figure (its name), value, lower and upper (limits at the
        report's confidence; missing where there are none). The tables of
        slices and secrets are `slices` and `exposures`.

        Raises:
            ImportError: If pandas is not installed.
        """
        rows = report_tables.list_figures(self)
        names = ("figure", "value", "lower", "upper")
        return tables.make_frame(
            dict(zip(names, zip(*rows, strict=True), strict=True))
        )

    def to_json(self) -> str:
        """Returns the report as strict JSON, with its verdict.

        inf is written as the text "inf". `from_json` reads it back.

        Raises:
            ValueError: If a column of `exposures` holds a NaN.
        """
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }
        if self.exposures is not None:
            fields["exposures"] = tables.get_columns(self.exposures)
        return tables.to_json({"verdict": self.verdict, **fields})

    @classmethod
    def from_json(cls, text: str) -> "AuditReport":
        """Returns the report that `to_json` wrote, checked once more.

        Args:
            text: What `to_json` returned.

        Returns:
            An equal report; `exposures` is a mapping of columns.

        Raises:
            ValueError: If the text is no report, or its verdict does not
                follow from its numbers.
        """
        fields = json.loads(text)
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or set(fields) != names | {"verdict"}:
            raise ValueError(
                "text must be a report as to_json writes it. Received: "
                f"{text[:40]!r}... Write it anew with this version."
            )
        verdict = fields.pop("verdict")
        report = cls(**fields)
        if report.verdict.value != verdict:
            raise ValueError(
                f"verdict must follow from the numbers: {report.verdict.value}."
                f" Received: {verdict!r}. The text was changed by hand."
            )
        return report

    def plot(self, path: str | os.PathLike | None = None):
        """Draws the attack against what the claim allows, and the exposures.

        The ROC has logarithmic axes, because an attack that finds a few
        members without a mistake matters, and is invisible on others.

        Args:
            path: File to write too (.png, .svg, .pdf), or None.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If the report has nothing to draw, or the file's ending
                is another one.
        """
        return report_plots.plot_report(self, path)

    def to_html(self, path: str | os.PathLike | None = None) -> str:
        """Returns the report as one HTML page that needs no network.

        Args:
            path: File to write too, in UTF-8, or None.

        Returns:
            The page: text, tables, and the plot where there is one to draw.

        Raises:
            ImportError: If there is a plot to draw and no matplotlib.
        """
        page = report_html.write_page(self)
        if path is not None:
            pathlib.Path(path).write_text(page, encoding="utf-8")
        return page

    def assert_ok(
        self,
        *,
        max_epsilon_lower: float | None = None,
        max_auc: float | None = None,
    ) -> None:
        """Raises if the claim is rejected or doubted, or something is wrong.

        Wrong is a fault that was found, or a limit that is exceeded.

        For continuous integration. That nothing is raised does not mean that
        the model is private.

        Args:
            max_epsilon_lower: Largest `epsilon_lower` accepted, nats; None for
                any.
            max_auc: Largest `auc` accepted, in [0, 1]; None for any.

        Raises:
            AssertionError: If so; with the reasons and the whole report.
            ValueError: If a limit is no number or the report has no such
                figure, or if no claim was tested and there is no limit, so
                that nothing could ever be raised.
        """
        limits = {"epsilon_lower": max_epsilon_lower, "auc": max_auc}
        limits = {
            name: report_fields.check_limit(self, name, limit)
            for name, limit in limits.items()
            if limit is not None
        }
        if not limits and self.verdict is Verdict.NO_CLAIM:
            raise ValueError(
                "assert_ok must have something to check. Received: a report "
                "that tests no claim, and no limit. Give the audit a claim and "
                "a method with an epsilon, or max_auc here."
            )
        reasons = report_text.list_failures(self, limits)
        if reasons:
            raise AssertionError("\n".join([*reasons, "", str(self)]))
