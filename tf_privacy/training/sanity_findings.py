# SPDX-License-Identifier: Apache-2.0
"""What a sanity check found wrong, in words, and which knob to turn."""

import dataclasses

import numpy as np

from tf_privacy.clipping import moving_clips
from tf_privacy.noise import independent_noise
from tf_privacy.training import sanity_arms
from tf_privacy.training import sanity_plan
from tf_privacy.training import sanity_statistics
from tf_privacy.training import signal_text

# Share of ordinary training's lead over guessing that a run must keep.
_KEEPS = 0.8
_PRIVATE_KEEPS = 0.6
# Of the way from chance to 1: fitting that much of random labels is learning
# them. Less is common to many examples, such as the most frequent label.
_LEARNED = 0.1
# Training accuracy above the held-out one, by more than luck and than this.
_GAP = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        rule: Name of the rule that found it.
        problem: What is wrong, with figures.
        knob: What to change.
    """

    rule: str
    problem: str
    knob: str

    def __str__(self) -> str:
        return f"{self.problem} {self.knob}"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What the rules look at.

    Attributes:
        bench: What the runs shared.
        outcomes: Name of a run to its Outcome; those that were made.
        signals: A SignalToNoise, or None.
    """

    bench: sanity_arms.Bench
    outcomes: dict
    signals: object

    @property
    def plan(self) -> sanity_plan.SanityPlan:
        """The SanityPlan."""
        return self.bench.plan

    def result(self, name: str):
        """Returns the result of a run, or None if it was not made.

        Args:
            name: Of the run.
        """
        outcome = self.outcomes.get(name)
        return None if outcome is None else outcome.result

    def lead(self, name: str) -> np.ndarray:
        """Returns for each held-out row, how far a run is above guessing.

        Args:
            name: Of the run.
        """
        return self.outcomes[name].test_hits - self.bench.guess_hits()

    def is_above_zero(self, values: np.ndarray) -> bool:
        """Returns whether a mean over held-out rows is, beyond luck.

        Args:
            values: `[N]`, one for each held-out row.
        """
        return sanity_statistics.is_above_zero(
            values,
            self.bench.test.counted,
            rows_per_user=self.plan.rows_per_block,
            alpha=self.plan.alpha,
        )


def find_problems(evidence: Evidence) -> list[Finding]:
    """Returns what is wrong, what to mend first at the top; may be none.

    Every statistical rule raises a false alarm with probability `plan.alpha`
    at most (by a t-test where it compares accuracies), and only where a
    difference is large enough to matter.

    Args:
        evidence: What the rules look at.
    """
    found = [_check_ordinary(evidence)]
    # Where private training works, its parts do too: noise alone may blow up
    # gradients that a clip would have bounded.
    if not _keeps(evidence, "private", _KEEPS):
        found.append(_check_signal(evidence))
        parts = [_check_clipping(evidence), _check_noise(evidence)]
        found += parts if any(parts) else [_check_private(evidence)]
    found += [
        _check_random(evidence, "private_random_labels", "on your inputs"),
        _check_random(evidence, "private_random_inputs", "on random inputs"),
        _check_gap(evidence),
        _check_unit(evidence),
        _check_one_user(evidence),
        _check_all_users(evidence),
    ]
    return [finding for finding in found if finding is not None]


def find_limits(evidence: Evidence) -> list[str]:
    """Returns where the check could not have failed, in sentences.

    Args:
        evidence: What the rules look at.
    """
    limits = []
    power = evidence.result("ordinary_random_labels")
    if power is not None and not _is_learned(power, evidence.plan.alpha):
        limits.append(
            "Not even ordinary training learns random labels in these "
            f"{power.num_steps} steps ({power.train_accuracy:.1%}, chance "
            f"{power.chance:.1%}): that private training does not, says "
            "little. Run more epochs, or fewer examples."
        )
    crowd = evidence.result("ordinary_all_users")
    if crowd is not None and not _is_found(crowd, evidence.plan.alpha):
        limits.append(
            "Not even ordinary training learns patterns that all users share "
            f"({crowd.train_accuracy:.0%} of {crowd.num_train}): that private "
            "training does not learn those of one user, says little. Run more "
            "epochs, or give more users."
        )
    style = evidence.plan.optimizer.clipping_style
    if isinstance(style, moving_clips.MovingClip):
        limits.append(
            "The clip moves in private training; in the runs with clipping or "
            "noise only it stays where it starts."
        )
    style = evidence.plan.optimizer.noise_style
    if not isinstance(style, independent_noise.IndependentNoise):
        limits.append(
            f"The noise of private training is {type(style).__name__}; the run "
            "with noise only, and the layers' noise, take Gaussian noise that "
            "is independent from step to step, with the noise multiplier "
            f"{style.noise_multiplier:g}."
        )
    return limits


def _check_ordinary(evidence):
    result = evidence.result("ordinary")
    if result is None or evidence.is_above_zero(evidence.lead("ordinary")):
        return None
    return Finding(
        rule="ordinary training learns",
        problem=(
            f"Ordinary training reaches {result.test_accuracy:.1%} on held-out "
            "rows, no more than always giving the most frequent class "
            f"({result.chance:.1%}), beyond luck."
        ),
        knob=(
            "Mend this first, without privacy: learning rate, model, loss, "
            "scale of the inputs, number of epochs."
        ),
    )


def _check_signal(evidence):
    signals = evidence.signals
    if signals is None or not signals.drowned_layers:
        return None
    names = signal_text.list_names([e.layer for e in signals.drowned_layers])
    return Finding(
        rule="signal above noise",
        problem=(
            f"In {names} the noise of all {signals.num_steps} steps together "
            "is larger than the gradients' common part."
        ),
        knob=" ".join(signals.suggest()),
    )


def _has_lead(evidence, name) -> bool:
    """Returns whether a run can be compared with ordinary training."""
    return {"ordinary", name} <= set(
        evidence.outcomes
    ) and evidence.is_above_zero(evidence.lead("ordinary"))


def _keeps(evidence, name, share: float) -> bool:
    """Returns whether a run has that share of ordinary training's lead."""
    return _has_lead(evidence, name) and evidence.is_above_zero(
        evidence.lead(name) - share * evidence.lead("ordinary")
    )


def _loses(evidence, name, share: float) -> bool:
    """Returns whether a run has less than that, beyond luck."""
    return _has_lead(evidence, name) and evidence.is_above_zero(
        share * evidence.lead("ordinary") - evidence.lead(name)
    )


def _compare(evidence, name) -> str:
    reached = evidence.result(name).test_accuracy
    possible = evidence.result("ordinary").test_accuracy
    return (
        f"{reached:.1%} on held-out rows, where ordinary training reaches "
        f"{possible:.1%}"
    )


def _describe_norms(evidence) -> str:
    """Returns the clip next to the median norm, as far as it is known."""
    clip = evidence.plan.optimizer.l2_norm_clip
    if evidence.signals is None:
        return f"l2_norm_clip is {clip:.4g}."
    return (
        f"l2_norm_clip is {clip:.4g}, the median gradient norm at the start "
        f"{evidence.signals.median_norm:.3g}."
    )


def _check_clipping(evidence):
    if not _loses(evidence, "clipping_only", _KEEPS):
        return None
    return Finding(
        rule="clipping costs little",
        problem=(
            "Clipping alone, without any noise, reaches only "
            f"{_compare(evidence, 'clipping_only')}."
        ),
        knob=(
            f"{_describe_norms(evidence)} A smaller clip makes smaller steps: "
            "raise the clip towards the median norm, or the learning rate in "
            "proportion."
        ),
    )


def _check_noise(evidence):
    if not _loses(evidence, "noise_only", _KEEPS):
        return None
    return Finding(
        rule="noise costs little",
        problem=(
            "Noise alone, without any clip, reaches only "
            f"{_compare(evidence, 'noise_only')}."
        ),
        knob=(
            "Less noise on the mean gradient: a larger batch (at the same "
            "epsilon, noise_multiplier / batch_size falls), fewer weights, a "
            "smaller l2_norm_clip, or fewer steps or a larger epsilon and with "
            f"them a smaller noise_multiplier. {_describe_norms(evidence)} A "
            "smaller learning rate averages noise over more steps."
        ),
    )


def _check_private(evidence):
    if not _loses(evidence, "private", _PRIVATE_KEEPS):
        return None
    return Finding(
        rule="privacy costs little",
        problem=(
            "Neither the clip nor the noise does it alone, but private "
            f"training reaches only {_compare(evidence, 'private')}."
        ),
        knob=(
            "Clipped gradients are smaller, so that noise weighs more: a "
            "larger batch, a smaller l2_norm_clip with a larger learning rate, "
            f"or a larger epsilon. {_describe_norms(evidence)}"
        ),
    )


def _is_learned(result, alpha: float) -> bool:
    """Returns whether random labels are learned: beyond luck and a trifle."""
    lower = sanity_statistics.compute_lower_limit(
        round(result.train_accuracy * result.num_train),
        result.num_train,
        alpha=alpha,
    )
    return lower - result.chance > _LEARNED * (1.0 - result.chance)


def _check_random(evidence, name, where):
    result = evidence.result(name)
    if result is None or not _is_learned(result, evidence.plan.alpha):
        return None
    return Finding(
        rule="random labels are not learned",
        problem=(
            f"Private training gets {result.train_accuracy:.1%} of random "
            f"labels right {where}, where a model that has learned nothing by "
            f"heart gets {result.chance:.1%} (p = {result.p_value:.1g})."
        ),
        knob=(
            "The privacy parameters are too weak: it memorizes single "
            "examples. A larger noise_multiplier, fewer steps, or more "
            "training examples: a smaller epsilon."
        ),
    )


def _check_gap(evidence):
    result = evidence.result("private")
    if result is None:
        return None
    gap = result.train_accuracy - result.test_accuracy
    stderr = np.hypot(result.train_stderr, result.test_stderr)
    deviations = sanity_statistics.compute_deviations(
        evidence.plan.alpha,
        len(evidence.bench.test.classes) // evidence.plan.rows_per_block,
    )
    if not gap - deviations * stderr > _GAP:
        return None
    return Finding(
        rule="private training generalizes",
        problem=(
            f"Private training is right on {result.train_accuracy:.1%} of the "
            f"rows that it saw and {result.test_accuracy:.1%} of others."
        ),
        knob=(
            "Either the held-out rows are of another kind, or the privacy "
            "parameters are too weak: a larger noise_multiplier, fewer steps, "
            "or more training examples."
        ),
    )


def _check_unit(evidence):
    rows, unit = evidence.plan.rows_per_user, evidence.plan.optimizer
    if rows <= unit.examples_per_unit:
        return None
    return Finding(
        rule="the unit is the user",
        problem=(
            f"A user has {rows} rows, but the optimizer protects units of "
            f"{unit.examples_per_unit}: the guarantee is not for a user."
        ),
        knob=_name_unit(rows),
    )


def _name_unit(rows: int) -> str:
    return (
        f"Give examples_per_unit={rows} to the optimizer; batch_size then "
        "counts users."
    )


def _is_found(result, alpha: float) -> bool:
    return result.p_value <= alpha


def _check_one_user(evidence):
    result = evidence.result("private_one_user")
    if result is None or not _is_found(result, evidence.plan.alpha):
        return None
    rows = evidence.plan.rows_per_user
    wrong_unit = rows > evidence.plan.optimizer.examples_per_unit
    return Finding(
        rule="patterns of one user are not learned",
        problem=(
            f"Private training learns {result.train_accuracy:.0%} of "
            f"{result.num_train} patterns that one user each has, chance "
            f"{result.chance:.0%} (p = {result.p_value:.1g})."
        ),
        knob=(
            f"The unit is not the user. {_name_unit(rows)}"
            if wrong_unit
            else "The privacy parameters are too weak for a user: a larger "
            "noise_multiplier, fewer steps, or more users."
        ),
    )


def _check_all_users(evidence):
    result = evidence.result("private_all_users")
    possible = evidence.result("ordinary_all_users")
    alpha = evidence.plan.alpha
    if result is None or possible is None:
        return None
    if _is_found(result, alpha) or not _is_found(possible, alpha):
        return None
    return Finding(
        rule="patterns of all users are learned",
        problem=(
            "Private training does not learn patterns that all users share "
            f"({result.train_accuracy:.0%} of {result.num_train}, chance "
            f"{result.chance:.0%}); ordinary training does "
            f"({possible.train_accuracy:.0%})."
        ),
        knob=(
            "The noise drowns what is common: a larger batch, more users, more "
            "steps, or a larger epsilon."
        ),
    )
