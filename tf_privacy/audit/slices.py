# SPDX-License-Identifier: Apache-2.0
"""Which part of the data an attack does best on, with luck taken into account.

Of many slices one always looks worst. The intervals here hold for all slices
together (Bonferroni: with K slices each is at confidence 1 - (1 - confidence) /
K), once for the AUCs, once for the true positive rates and once for the
differences. A slice stands out only if its interval does.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import binomial
from tf_privacy.audit import roc
from tf_privacy.audit import scores as scores_lib
from tf_privacy.audit import tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slice:
    """The attack on one part of the data.

    Attributes:
        grouping: What the data was divided by.
        label: Which part it is.
        num_members: Members in it; >= 0.
        num_non_members: Non-members in it; >= 0.
        auc: Of the part alone; None if it is too small.
        true_positive_rate: Of the part alone, at a threshold of its own; None
            if it is too small.
        auc_excess: Its AUC minus the mean AUC of the grouping's other parts;
            None if it, or each of them, is too small. Only examples of one
            part are compared, so that a part whose scores are all high, of
            members or not, is not worse for that.
    """

    grouping: str
    label: str
    num_members: int
    num_non_members: int
    auc: roc.Interval | None
    true_positive_rate: roc.Interval | None
    auc_excess: roc.Interval | None

    @property
    def is_too_small(self) -> bool:
        """Whether it has too few members or non-members to be judged."""
        return self.auc is None

    @property
    def is_exposed(self) -> bool:
        """Whether the attack works on it, beyond chance."""
        return self.auc is not None and self.auc.lower > 0.5

    @property
    def is_worse(self) -> bool:
        """Whether the attack works better on it than on the others."""
        return self.auc_excess is not None and self.auc_excess.lower > 0.0

    def __str__(self) -> str:
        found = "too small" if self.auc is None else f"AUC {self.auc}"
        return (
            f"{self.grouping} = {self.label}: {found}, {self.num_members} "
            f"members, {self.num_non_members} non-members"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceEstimates:
    """The attack on each part of the data.

    Attributes:
        slices: In the order of the groupings, then of the labels.
        confidence: Of all intervals of one kind together; in (0, 1).
        false_positive_rate: At which true positive rates are given; in [0, 1].
        min_size: Members, and non-members, that a slice needs to be judged.
    """

    slices: tuple[Slice, ...]
    confidence: float
    false_positive_rate: float
    min_size: int

    @property
    def worst(self) -> Slice | None:
        """The slice whose AUC is at least the most; None if all are small."""
        judged = [each for each in self.slices if not each.is_too_small]
        return max(judged, key=lambda each: each.auc.lower, default=None)

    @property
    def too_small(self) -> tuple[Slice, ...]:
        """The slices that were not judged."""
        return tuple(each for each in self.slices if each.is_too_small)

    @property
    def columns(self) -> dict[str, list]:
        """One row for each slice, most exposed first, small ones last."""
        rows = sorted(
            self.slices,
            key=lambda each: math.inf if each.is_too_small else -each.auc.lower,
        )
        columns = {
            "grouping": [each.grouping for each in rows],
            "label": [each.label for each in rows],
            "members": [each.num_members for each in rows],
            "non_members": [each.num_non_members for each in rows],
        }
        for name, field in (
            ("auc", "auc"),
            ("tpr", "true_positive_rate"),
            ("excess", "auc_excess"),
        ):
            found = [getattr(each, field) for each in rows]
            for suffix, part in (("", "value"), ("_lower", "lower")):
                columns[name + suffix] = [
                    None if each is None else getattr(each, part)
                    for each in found
                ]
        columns["worse_than_others"] = [
            None if each.auc_excess is None else each.is_worse for each in rows
        ]
        return columns

    def to_frame(self):
        """Returns `columns` as a `pandas.DataFrame`."""
        return tables.make_frame(self.columns)

    def __str__(self) -> str:
        worst = self.worst
        if worst is None:
            return (
                f"No slice has {self.min_size} members and as many "
                "non-members: none was judged."
            )
        verdict = (
            "it is worse than the others."
            if worst.is_worse
            else "that it is worse than the others may be chance."
        )
        lines = [f"Worst slice: {worst}; {verdict}"]
        lines.append(tables.format_table(self.columns))
        if self.too_small:
            lines.append(
                f"{len(self.too_small)} slices have fewer than "
                f"{self.min_size} members or non-members: not judged."
            )
        return "\n".join(lines)


def estimate_slices(
    member_scores,
    non_member_scores,
    *,
    member_groups: Mapping,
    non_member_groups: Mapping,
    confidence: float,
    false_positive_rate: float,
    min_size: int = 50,
) -> SliceEstimates:
    """Returns how well the attack does on each part of the data.

    Args:
        member_scores: `[M]` finite; higher means more likely a member.
        non_member_scores: `[N]` finite.
        member_groups: Name of a grouping to the members' labels in it, `[M]`
            integers, bools or text.
        non_member_groups: The same names to the non-members' labels, `[N]`.
        confidence: Of all intervals of one kind together; in (0, 1).
        false_positive_rate: At which true positive rates are given; in [0, 1].
        min_size: Members, and non-members, that a slice needs; >= 2. The
            intervals of AUCs are for large slices.

    Returns:
        One entry for each label of each grouping, also for the small ones.

    Raises:
        TypeError: If scores or labels are of another kind.
        ValueError: If a number is out of range, shapes or names differ, or
            there is no grouping.
    """
    scores = (
        scores_lib.check_scores("member_scores", member_scores),
        scores_lib.check_scores("non_member_scores", non_member_scores),
    )
    confidence = binomial.check_confidence(confidence)
    false_positive_rate = _checks.check_real(
        "false_positive_rate", false_positive_rate, at_least=0.0, at_most=1.0
    )
    min_size = _checks.check_integer("min_size", min_size, at_least=2)
    parts = list(_list_parts(scores, member_groups, non_member_groups))
    num_judged = sum(
        min(members.size, others.size) >= min_size
        for _, _, members, others in parts
    )
    found = [
        _estimate_slice(
            *part,
            confidence=1.0 - (1.0 - confidence) / max(num_judged, 1),
            false_positive_rate=false_positive_rate,
            min_size=min_size,
        )
        for part in parts
    ]
    return SliceEstimates(
        slices=tuple(_compare(each, found) for each in found),
        confidence=confidence,
        false_positive_rate=false_positive_rate,
        min_size=min_size,
    )


def _list_parts(scores, member_groups, non_member_groups):
    """Yields each slice's names and its members' and others' scores."""
    for name, groups in (
        ("member_groups", member_groups),
        ("non_member_groups", non_member_groups),
    ):
        if not isinstance(groups, Mapping) or not groups:
            raise TypeError(
                f"{name} must map names of groupings to labels. Received: "
                f"{groups!r}. For instance {{'class': y}}."
            )
    if set(member_groups) != set(non_member_groups):
        raise ValueError(
            "non_member_groups must have the names of member_groups. "
            f"Received: {list(non_member_groups)}, not {list(member_groups)}."
        )
    for name in member_groups:
        labels = [
            _check_labels(f"{argument}[{name!r}]", groups[name], each.size)
            for argument, groups, each in (
                ("member_groups", member_groups, scores[0]),
                ("non_member_groups", non_member_groups, scores[1]),
            )
        ]
        if (labels[0].dtype.kind == "U") != (labels[1].dtype.kind == "U"):
            raise TypeError(
                f"non_member_groups[{name!r}] must be of the kind of "
                f"member_groups[{name!r}]. Received: {labels[1].dtype}, not "
                f"{labels[0].dtype}."
            )
        for label in np.unique(np.concatenate(labels)):
            yield (
                str(name),
                str(label),
                scores[0][labels[0] == label],
                scores[1][labels[1] == label],
            )


def _check_labels(name: str, labels, size: int) -> np.ndarray:
    array = np.asarray(labels)
    if array.dtype.kind not in "iubU":
        raise TypeError(
            f"{name} must be integers, bools or text. Received: an array of "
            f"{array.dtype}. Make groups of numbers with np.digitize."
        )
    if array.shape != (size,):
        raise ValueError(
            f"{name} must be one label for each of {size} scores. Received: "
            f"shape {array.shape}."
        )
    return array


def _estimate_slice(
    grouping,
    label,
    members,
    others,
    *,
    confidence,
    false_positive_rate,
    min_size,
) -> Slice:
    auc, rate = None, None
    if min(members.size, others.size) >= min_size:
        auc = roc.estimate_auc(members, others, confidence=confidence)
        rate = roc.estimate_true_positive_rate(
            members,
            others,
            false_positive_rate=false_positive_rate,
            confidence=confidence,
        )
    return Slice(
        grouping=grouping,
        label=label,
        num_members=members.size,
        num_non_members=others.size,
        auc=auc,
        true_positive_rate=rate,
        auc_excess=None,
    )


def _compare(part: Slice, parts: list[Slice]) -> Slice:
    """Returns the slice with its excess over its grouping's other slices.

    Source: Newcombe 1998, "Interval estimation for the difference between
    independent proportions", method 10, for any intervals: the distances from
    the estimates to their limits add as squares.
    """
    rest = [
        each.auc
        for each in parts
        if each.grouping == part.grouping
        and each is not part
        and not each.is_too_small
    ]
    if part.is_too_small or not rest:
        return part
    auc = part.auc
    excess = auc.value - sum(each.value for each in rest) / len(rest)
    ups = [(each.upper - each.value) / len(rest) for each in rest]
    downs = [(each.value - each.lower) / len(rest) for each in rest]
    return dataclasses.replace(
        part,
        auc_excess=roc.Interval(
            value=excess,
            lower=excess - math.hypot(auc.value - auc.lower, *ups),
            upper=excess + math.hypot(auc.upper - auc.value, *downs),
            confidence=auc.confidence,
        ),
    )


def make_loss_groups(
    member_losses, non_member_losses, *, num_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels of groups of about the same size by the example's loss.

    Members and non-members share the limits, and equal losses a group, so that
    ties may leave fewer groups. Losses of a model that was not trained on the
    examples tell hard ones from easy ones; those of the attacked model itself
    also tell members from non-members.

    Args:
        member_losses: `[M]` finite.
        non_member_losses: `[N]` finite.
        num_groups: >= 2.

    Returns:
        `[M]` and `[N]` integers from 1, the group of the lowest losses.

    Raises:
        TypeError: If losses are not real numbers.
        ValueError: If they are empty, not vectors or not finite, or
            `num_groups` is out of range.
    """
    num_groups = _checks.check_integer("num_groups", num_groups, at_least=2)
    members = scores_lib.check_scores("member_losses", member_losses)
    others = scores_lib.check_scores("non_member_losses", non_member_losses)
    limits = np.quantile(
        np.concatenate([members, others]),
        np.arange(1, num_groups) / num_groups,
        method="inverted_cdf",
    )
    limits = np.unique(limits)
    return tuple(
        1 + np.searchsorted(limits, each, side="left")
        for each in (members, others)
    )


def make_correctness_groups(predicted_labels, labels) -> np.ndarray:
    """Returns "right" or "wrong" for each prediction of a class.

    Args:
        predicted_labels: `[N]` integers.
        labels: `[N]` integers; the truth.

    Returns:
        `[N]` text.

    Raises:
        TypeError: If labels are of another kind.
        ValueError: If shapes differ.
    """
    truth = np.asarray(labels)
    truth = _check_labels("labels", truth, truth.size)
    found = _check_labels("predicted_labels", predicted_labels, truth.size)
    return np.where(found == truth, "right", "wrong")
