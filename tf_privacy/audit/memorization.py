# SPDX-License-Identifier: Apache-2.0
"""Which examples a model memorizes, and how unevenly they matter to it."""

import dataclasses

import numpy as np
from scipy import stats

from tf_privacy import _checks
from tf_privacy.audit import binomial
from tf_privacy.audit import scores as scores_lib

_NUM_TOP_ROWS = 10


def compute_gini(values) -> float:
    """Returns the Gini coefficient of values that are not negative.

        result = sum_i (2 i - N - 1) x_(i) / (N sum_i x_(i)),
            x_(1) <= ... <= x_(N) the sorted values

    0 if all are equal, 1 - 1 / N if all but one are 0. Of loss sensitivities:
    high on real data, where few examples matter to training; low on noise,
    where each must be learned by itself.

    Args:
        values: `[N]` finite numbers >= 0, one of them > 0.

    Returns:
        Coefficient in [0, 1).

    Raises:
        TypeError: If values are no numbers.
        ValueError: If one is negative or not finite, or all are 0.

    Source: Gini 1912; Arpit et al. 2017, arXiv:1706.05394.
    """
    values = np.sort(scores_lib.check_scores("values", values))
    if not (values[0] >= 0.0 and values[-1] > 0.0):
        raise ValueError(
            "values must be >= 0, and one of them > 0. Received: numbers from "
            f"{values[0]:g} to {values[-1]:g}. Give magnitudes, such as norms."
        )
    shares = values / values[-1]
    count = len(values)
    weights = 2.0 * np.arange(1, count + 1) - count - 1.0
    return max(0.0, float(weights @ shares / (count * shares.sum())))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EasyExampleStatistics:
    """How unequally hard examples are, over models trained from scratch.

    Attributes:
        error_rates: `[N]` in [0, 1]; share of runs that got each one wrong.
        mean_error_rate: Over all of them; in (0, 1).
        num_runs: How many runs.
        observed_counts: `[num_runs + 1]`; how many examples were wrong in 0,
            1, ... runs.
        expected_counts: `[num_runs + 1]`; what Binomial(num_runs,
            mean_error_rate) expects: no example easier than another.
        dispersion: Variance of the examples' numbers of errors over the
            binomial's; 1 if none is easier, up to num_runs if each is always
            right or always wrong.
        p_value: Of so much dispersion or more if none is easier; approximate.
    """

    error_rates: np.ndarray
    mean_error_rate: float
    num_runs: int
    observed_counts: np.ndarray
    expected_counts: np.ndarray
    dispersion: float
    p_value: float

    def __str__(self) -> str:
        observed, expected = self.observed_counts, self.expected_counts
        return (
            f"{len(self.error_rates)} examples in {self.num_runs} runs, "
            f"{self.mean_error_rate:.1%} wrong: {observed[0]} never "
            f"({expected[0]:.3g} if none were easier than another), "
            f"{observed[-1]} always ({expected[-1]:.3g}); dispersion "
            f"{self.dispersion:.3g}, p-value {self.p_value:.2g}"
        )


def compute_easy_example_statistics(is_correct) -> EasyExampleStatistics:
    """Returns whether some examples are easier than others, over many runs.

    On real data some examples are always learned and some never; on noise the
    numbers of errors look binomial. Cochran's test compares, with e[r, n] = 1
    for an error and N examples,

        Q = (N - 1) (sum_n (column_n - mean column)^2)
            / (sum_r row_r (1 - row_r / N)),
            column_n = sum_r e[r, n],  row_r = sum_n e[r, n]

    with chi-square of N - 1 degrees of freedom. Good and bad runs are allowed
    for: it asks that within a run every example be wrong with equal
    probability, independently. Copies of one example break this.

    Args:
        is_correct: `[num_runs, N]` bool; whether each run (from its own first
            weights, briefly trained) got each example right. At least 2 x 2,
            and one run that got some right and some wrong.

    Raises:
        TypeError: If `is_correct` is not bool.
        ValueError: If the shape does not fit, or no run tells examples apart.

    Source: Arpit et al. 2017, arXiv:1706.05394; Cochran 1950,
    doi:10.1093/biomet/37.3-4.256.
    """
    errors = ~_check_flags("is_correct", is_correct)
    num_runs, count = errors.shape
    by_run = errors.sum(axis=1)
    spread = float(np.sum(by_run * (1.0 - by_run / count)))
    if not (num_runs >= 2 and count >= 2 and spread > 0.0):
        raise ValueError(
            "is_correct must have two runs and two examples, and a run with "
            f"both right and wrong ones. Received: shape {errors.shape}, "
            f"{errors.mean():.1%} wrong. Train less, or use harder examples."
        )
    by_example = errors.sum(axis=0)
    rate = float(errors.mean())
    squares = float(np.sum((by_example - num_runs * rate) ** 2))
    statistic = (count - 1) * squares / spread
    return EasyExampleStatistics(
        error_rates=by_example / num_runs,
        mean_error_rate=rate,
        num_runs=num_runs,
        observed_counts=np.bincount(by_example, minlength=num_runs + 1),
        expected_counts=count
        * stats.binom.pmf(np.arange(num_runs + 1), num_runs, rate),
        dispersion=squares / (count * num_runs * rate * (1.0 - rate)),
        p_value=float(stats.chi2.sf(statistic, count - 1)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MemorizationEstimate:
    """How much each example's presence in training changes its own prediction.

    Attributes:
        memorization: `[N]` in [-1, 1]; accuracy_in - accuracy_out.
        lower, upper: `[N]`; each example's interval, which holds by itself. Of
            the largest estimates some are large by luck.
        accuracy_in, accuracy_out: `[N]` in [0, 1]; share of the models trained
            with, and without, the example that are right on it.
        num_in, num_out: `[N]`; how many such models, >= 1.
        confidence: Of each interval; in (0, 1).
        top_rows: `[min(N, 10)]`; the examples with the largest estimates, the
            largest first.
    """

    memorization: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    accuracy_in: np.ndarray
    accuracy_out: np.ndarray
    num_in: np.ndarray
    num_out: np.ndarray
    confidence: float
    top_rows: np.ndarray

    def __str__(self) -> str:
        lines = [
            f"mean memorization of {len(self.memorization)} examples: "
            f"{self.memorization.mean():.3f}",
            f"  row    with  without  memorization  "
            f"{self.confidence:.0%} interval, each by itself",
        ]
        lines += [
            f"  {n:<5}  {self.accuracy_in[n]:.2f}  {self.accuracy_out[n]:>7.2f}"
            f"  {self.memorization[n]:>12.2f}  [{self.lower[n]:.2f}, "
            f"{self.upper[n]:.2f}]"
            for n in self.top_rows
        ]
        return "\n".join(lines)


def estimate_memorization(
    is_correct, *, is_member, confidence: float = 0.95
) -> MemorizationEstimate:
    """Returns each example's memorization, from models on random subsets.

        memorization[n] = mean of is_correct[s, n] over the models with n
            - mean of is_correct[s, n] over the models without n

    The interval takes Clopper-Pearson bounds of both means, each of the four
    missing with probability at most (1 - confidence) / 4: it holds for any
    number of models, as long as each model's subset and training are drawn
    independently of the others'.

    Args:
        is_correct: `[S, N]` bool; whether model s is right on example n.
        is_member: `[S, N]` bool; whether model s was trained with example n;
            for each example once at least yes and no.
        confidence: Of each example's interval; in (0, 1).

    Raises:
        TypeError: If an array is not bool.
        ValueError: If the shapes differ, or all models, or none, were trained
            with an example.

    Source: Feldman and Zhang 2020, arXiv:2008.03703.
    """
    correct = _check_flags("is_correct", is_correct)
    member = _check_flags("is_member", is_member)
    confidence = binomial.check_confidence(confidence)
    one_side = 1.0 - 0.25 * (1.0 - confidence)
    if member.shape != correct.shape:
        raise ValueError(
            f"is_member must have the shape of is_correct, {correct.shape}. "
            f"Received: shape {member.shape}."
        )
    num_in, num_out = member.sum(axis=0), (~member).sum(axis=0)
    bad = np.flatnonzero((num_in == 0) | (num_out == 0))
    if bad.size:
        raise ValueError(
            "is_member must hold, for each example, a model with it and one "
            f"without. Received: example {bad[0]} in {num_in[bad[0]]} of "
            f"{len(member)} models, {bad.size} such examples in all. Train "
            "more models, each on its own random half."
        )
    right_in = (correct & member).sum(axis=0)
    right_out = (correct & ~member).sum(axis=0)
    (low_in, high_in), (low_out, high_out) = (
        (
            binomial.compute_lower_bound(right, total, confidence=one_side),
            binomial.compute_upper_bound(right, total, confidence=one_side),
        )
        for right, total in ((right_in, num_in), (right_out, num_out))
    )
    difference = right_in / num_in - right_out / num_out
    return MemorizationEstimate(
        memorization=difference,
        lower=low_in - high_out,
        upper=high_in - low_out,
        accuracy_in=right_in / num_in,
        accuracy_out=right_out / num_out,
        num_in=num_in,
        num_out=num_out,
        confidence=confidence,
        top_rows=np.argsort(-difference, kind="stable")[:_NUM_TOP_ROWS],
    )


def make_class_loss_weights(labels, *, num_classes: int) -> np.ndarray:
    """Returns weights that make of examples' losses each class's mean loss.

        result[i, n] = 1 / (number of examples of class i)
            if labels[n] = i, else 0

    Args:
        labels: `[N]` integers in [0, num_classes), each at least once.
        num_classes: C; >= 1.

    Returns:
        `[C, N]` float64, the `loss_weights` of `compute_loss_sensitivities`.

    Raises:
        ValueError: If a label is out of range or a class has no example.
    """
    is_class = _check_labels(labels, num_classes)
    return is_class / is_class.sum(axis=1, keepdims=True)


def compute_class_sensitivities(sensitivities, *, labels) -> np.ndarray:
    """Returns how much each class's examples move each class's loss.

        result[i, j] = mean of sensitivities[i, n] over labels[n] = j

    On noise the diagonal alone is large; on real data classes share features.

    Args:
        sensitivities: `[C, N]` finite; the mean over training of the L1 norm
            of the gradient of class i's loss by example n, from
            `compute_loss_sensitivities` with `make_class_loss_weights`.
        labels: `[N]` integers in [0, C), each at least once.

    Returns:
        `[C, C]` float64.

    Raises:
        ValueError: If shapes do not fit, a number is not finite, a label is
            out of range or a class has no example.

    Source: Arpit et al. 2017, arXiv:1706.05394.
    """
    values = np.asarray(sensitivities, np.float64)
    if not (values.ndim == 2 and np.all(np.isfinite(values))):
        raise ValueError(
            "sensitivities must be finite, a row for each class. Received: "
            f"shape {values.shape}, or numbers that are not finite."
        )
    weights = make_class_loss_weights(labels, num_classes=len(values))
    if weights.shape != values.shape:
        raise ValueError(
            f"labels must have one entry for each of {values.shape[1]} "
            f"examples. Received: {weights.shape[1]}."
        )
    return values @ weights.T


def _check_labels(labels, num_classes):
    """Returns `[C, N]`, whether each class is each example's."""
    labels = np.asarray(labels)
    classes = np.arange(
        _checks.check_integer("num_classes", num_classes, at_least=1)
    )
    if not (
        labels.ndim == 1
        and labels.dtype.kind in "iu"
        and np.array_equal(np.unique(labels), classes)
    ):
        raise ValueError(
            f"labels must be a vector of integers in [0, {num_classes}), each "
            f"at least once. Received: shape {labels.shape} of {labels.dtype}, "
            f"{len(np.unique(labels))} different ones."
        )
    return labels == classes[:, np.newaxis]


def _check_flags(name, flags):
    """Returns a bool matrix with at least one entry."""
    flags = np.asarray(flags)
    if flags.dtype != bool:
        raise TypeError(
            f"{name} must be an array of bool. Received: {flags.dtype}. "
            "Compare predicted classes with labels."
        )
    if flags.ndim != 2 or not flags.size:
        raise ValueError(
            f"{name} must have a row for each model and a column for each "
            f"example. Received: shape {flags.shape}."
        )
    return flags
