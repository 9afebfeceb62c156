# SPDX-License-Identifier: Apache-2.0
"""Membership inference on given members and non-members: an estimate.

How well one attack tells them apart is measured, not bounded: another attack
may do better, and where members and non-members were not chosen by coins they
may differ for other reasons than that the model was trained on the ones.
"""

import dataclasses
from collections.abc import Sequence

from tf_privacy import _checks
from tf_privacy.audit import binomial
from tf_privacy.audit import roc
from tf_privacy.audit import slices as slices_lib
from tf_privacy.audit import tables

_NOT_RANDOMIZED = (
    "This is an estimate, not a bound: no coins of this audit decided who is a "
    "member, and another attack may do better."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruePositiveRate:
    """How many members are found at one false positive rate.

    Attributes:
        false_positive_rate: Asked for; in [0, 1].
        interval: The true positive rate.
    """

    false_positive_rate: float
    interval: roc.Interval

    def __str__(self) -> str:
        return f"TPR at FPR {self.false_positive_rate:g}: {self.interval}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MembershipResult:
    """How well one attack tells members from non-members.

    Attributes:
        attack: Its name.
        auc: Chance that a member scores above a non-member.
        true_positive_rates: At each false positive rate asked for; each
            interval holds by itself.
        advantage: Largest true minus false positive rate; in [0, 1], biased
            upward.
        num_members: Members scored.
        num_non_members: Non-members scored.
        confidence: Of each interval; in (0, 1).
        slices: The attack on parts of the data, or None.
        warnings: What the reader should know or change; sentences.
        is_bound: False: nothing here bounds another attack, or epsilon.
    """

    attack: str
    auc: roc.Interval
    true_positive_rates: tuple[TruePositiveRate, ...]
    advantage: float
    num_members: int
    num_non_members: int
    confidence: float
    slices: slices_lib.SliceEstimates | None
    warnings: tuple[str, ...]
    is_bound: bool = dataclasses.field(default=False, init=False)

    @property
    def columns(self) -> dict[str, list]:
        """One row for each figure: its name, value, lower, upper limit."""
        rows = [("auc", self.auc.value, self.auc.lower, self.auc.upper)]
        for each in self.true_positive_rates:
            found = each.interval
            name = f"tpr at fpr {each.false_positive_rate:g}"
            rows.append((name, found.value, found.lower, found.upper))
        rows.append(("advantage", self.advantage, None, None))
        rows.append(("members", self.num_members, None, None))
        rows.append(("non-members", self.num_non_members, None, None))
        names = ("figure", "value", "lower", "upper")
        cells = map(list, zip(*rows, strict=True))
        return dict(zip(names, cells, strict=True))

    def to_scalars(self) -> dict[str, float]:
        """Returns `auc` and `advantage`, for logs."""
        return {"auc": self.auc.value, "advantage": self.advantage}

    def to_frame(self):
        """Returns `columns` as a `pandas.DataFrame`; see `slices` for more."""
        return tables.make_frame(self.columns)

    def to_json(self) -> str:
        """Returns the result, slices and warnings too, as strict JSON."""
        return tables.to_json(self)

    def __str__(self) -> str:
        lines = [
            f"Membership inference by {self.attack}: an estimate, intervals at "
            f"confidence {self.confidence:g}",
            tables.format_table(self.columns),
        ]
        if self.slices is not None:
            lines.append(str(self.slices))
        lines += [f"Warning: {each}" for each in self.warnings]
        return "\n".join(lines)


def estimate_membership(
    member_scores,
    non_member_scores,
    *,
    attack: str,
    confidence: float,
    false_positive_rates: Sequence[float] = (1e-3, 1e-2, 1e-1),
    slices: slices_lib.SliceEstimates | None = None,
) -> MembershipResult:
    """Returns how well an attack's scores tell members from non-members.

    Args:
        member_scores: `[M]` finite; higher means more likely a member.
        non_member_scores: `[N]` finite.
        attack: Name of what made the scores, for the reader.
        confidence: Of each interval; in (0, 1).
        false_positive_rates: At which true positive rates are given; each in
            [0, 1].
        slices: What `slices.estimate_slices` found on the same scores.

    Returns:
        The figures, with warnings where they mean less than they seem to.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If scores are empty, not vectors or not finite, a number is
            out of range, or the slices are of other scores.
    """
    confidence = binomial.check_confidence(confidence)
    if not isinstance(attack, str) or not attack.strip():
        raise TypeError(
            "attack must be the attack's name, for the reader. Received: "
            f"{attack!r}."
        )
    rates = [
        _checks.check_real(
            "false_positive_rates", rate, at_least=0.0, at_most=1.0
        )
        for rate in false_positive_rates
    ]
    curve = roc.compute_roc(member_scores, non_member_scores)
    _check_slices(slices, curve)
    scores = (member_scores, non_member_scores)
    return MembershipResult(
        attack=attack,
        auc=roc.estimate_auc(*scores, confidence=confidence),
        true_positive_rates=tuple(
            TruePositiveRate(
                false_positive_rate=rate,
                interval=roc.estimate_true_positive_rate(
                    *scores, false_positive_rate=rate, confidence=confidence
                ),
            )
            for rate in rates
        ),
        advantage=curve.advantage,
        num_members=curve.num_members,
        num_non_members=curve.num_non_members,
        confidence=confidence,
        slices=slices,
        warnings=(
            _NOT_RANDOMIZED,
            *roc.make_sign_warnings(*scores),
            *_list_rate_warnings(rates, curve.num_non_members),
        ),
    )


def _list_rate_warnings(rates, num_non_members: int):
    for rate in rates:
        if 0.0 < rate < 1.0 / num_non_members:
            yield (
                f"A false positive rate of {rate:g} is below 1 / "
                f"{num_non_members}, one non-member: its true positive rate is "
                "that without any false positive seen. Use more non-members."
            )


def _check_slices(slices, curve: roc.RocCurve) -> None:
    if slices is None:
        return
    if not isinstance(slices, slices_lib.SliceEstimates):
        raise TypeError(
            "slices must be what estimate_slices returned, or None. Received: "
            f"{type(slices).__name__}."
        )
    totals = {}
    for each in slices.slices:
        members, others = totals.get(each.grouping, (0, 0))
        totals[each.grouping] = (
            members + each.num_members,
            others + each.num_non_members,
        )
    wanted = (curve.num_members, curve.num_non_members)
    for grouping, found in totals.items():
        if found != wanted:
            raise ValueError(
                "slices must be of the scores given. Received: members and "
                f"non-members {found} by {grouping}, not {wanted}. Estimate "
                "them on the same scores."
            )
