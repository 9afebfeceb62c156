# SPDX-License-Identifier: Apache-2.0
"""Whether training fits noise: data without a pattern, and how well it did.

A sanity check before any private data are touched: labels drawn at random can
be learned only by memorizing examples one by one, up to a few percent that are
common to many, such as which label is the most frequent. Training that learns
them has privacy parameters that are too loose, or none.
"""

import dataclasses

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import binomial
from tf_privacy.audit import scores as scores_lib

# Of the way from chance to 1: what counts as learned.
_FITTED = 0.9


def randomize_labels(
    y, *, fraction: float, num_classes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels of which a part is drawn anew, and which rows were.

    A new label is uniform over all classes: about one in num_classes stays
    what it was, and counts as drawn all the same.

    Args:
        y: `[N]` integers in [0, num_classes).
        fraction: Share of rows to draw anew, rounded to whole rows; in [0, 1].
        num_classes: >= 2.
        rng: Chooses rows and labels.

    Returns:
        A copy of `y`, and `[N]` bool.

    Raises:
        ValueError: If a label or an argument is out of range.

    Source: Zhang et al. 2017, arXiv:1611.03530.
    """
    y = np.array(y)
    num_classes = _checks.check_integer("num_classes", num_classes, at_least=2)
    if not (
        y.ndim == 1
        and y.dtype.kind in "iu"
        and np.all((y >= 0) & (y < num_classes))
    ):
        raise ValueError(
            f"y must be a vector of integers in [0, {num_classes}). Received: "
            f"shape {y.shape} of {y.dtype}. Give class indices, not one-hot "
            "rows."
        )
    is_changed = _choose_rows(len(y), fraction, rng)
    y[is_changed] = rng.integers(num_classes, size=int(is_changed.sum()))
    return y, is_changed


def randomize_inputs(
    x, *, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs of which a part is noise, and which rows are.

    Noise is Gaussian, independent from entry to entry, with the mean and the
    variance of all entries of `x`.

    Args:
        x: `[N, ...]` finite floats.
        fraction: Share of rows to replace, rounded to whole rows; in [0, 1].
        rng: Chooses rows and noise.

    Returns:
        A copy of `x`, and `[N]` bool.

    Raises:
        TypeError: If `x` are no floats.
        ValueError: If they are not finite, or fraction is out of range.

    Source: Arpit et al. 2017, arXiv:1706.05394.
    """
    x = np.array(x)
    if x.dtype.kind != "f":
        raise TypeError(
            f"x must be floats. Received: an array of {x.dtype}. Convert it, "
            "and scale it as in training."
        )
    if not (x.ndim and x.size and np.all(np.isfinite(x))):
        raise ValueError(
            "x must be one or more rows of finite numbers. Received: shape "
            f"{x.shape}, or numbers that are not finite."
        )
    is_changed = _choose_rows(len(x), fraction, rng)
    mean, stddev = x.mean(dtype=np.float64), x.std(dtype=np.float64)
    x[is_changed] = rng.normal(mean, stddev, size=x[is_changed].shape)
    return x, is_changed


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomFit:
    """How well training fits labels without a pattern, and with one.

    Attributes:
        real_accuracy: On real training data, at the end; in [0, 1].
        random_accuracy: On examples with random labels, at the end; in [0, 1].
        chance: What guessing reaches on random labels, 1 / num_classes.
        excess: random_accuracy - chance; 0 where nothing was memorized.
        excess_lower, excess_upper: Its Clopper-Pearson interval.
        relative_fit: excess / (1 - chance): 1 where all was memorized.
        confidence: Of the interval, both sides together; in (0, 1).
        real_fit_epoch, random_fit_epoch: First entry of each history, from 1,
            that is 90% of the way from chance to 1; None if none is.
    """

    real_accuracy: float
    random_accuracy: float
    chance: float
    excess: float
    excess_lower: float
    excess_upper: float
    relative_fit: float
    confidence: float
    real_fit_epoch: int | None
    random_fit_epoch: int | None

    @property
    def fits_noise(self) -> bool:
        """Whether random labels were fitted more than luck explains."""
        return self.excess_lower > 0.0

    def __str__(self) -> str:
        verdict = "more" if self.fits_noise else "no more"
        return (
            f"accuracy {self.random_accuracy:.1%} on random labels, "
            f"{self.relative_fit:.0%} of the way from chance to all, and "
            f"{self.real_accuracy:.1%} on real ones; {self.confidence:.0%} "
            f"interval of the excess over chance [{self.excess_lower:+.1%}, "
            f"{self.excess_upper:+.1%}]: random labels are fitted {verdict} "
            "than luck explains"
        )


def estimate_random_fit(
    *,
    real_accuracies,
    random_accuracies,
    num_random_examples: int,
    num_classes: int,
    confidence: float = 0.95,
) -> RandomFit:
    """Returns how far a training procedure fits labels without a pattern.

    Train twice in the same way, on real data and on data with random labels
    (or noise inputs), and measure the training accuracy after each epoch, in
    inference mode. If the model at the end had learned nothing of its labels,
    it would be right on a Binomial(num_random_examples, 1 / num_classes) number
    of them: excess_lower > 0 then happens with probability at most (1 -
    confidence) / 2. The opposite proves nothing: a model may memorize a few
    examples that this does not see.

    Args:
        real_accuracies: `[E]` in [0, 1]; on real training data.
        random_accuracies: `[F]` in [0, 1]; on the training examples with random
            labels, and on those only.
        num_random_examples: How many these are; >= 1.
        num_classes: Random labels are uniform over them; >= 2.
        confidence: Of the interval; in (0, 1).

    Raises:
        TypeError: If accuracies are no numbers.
        ValueError: If an argument is out of range.

    Source: van der Veen et al. 2018, Three Tools for Practical Differential
    Privacy, arXiv:1812.02890.
    """
    real = _check_accuracies("real_accuracies", real_accuracies)
    random = _check_accuracies("random_accuracies", random_accuracies)
    count = _checks.check_integer(
        "num_random_examples", num_random_examples, at_least=1
    )
    chance = 1.0 / _checks.check_integer("num_classes", num_classes, at_least=2)
    confidence = binomial.check_confidence(confidence)
    one_side = 0.5 * (1.0 + confidence)
    num_right = round(random[-1] * count)
    lower, upper = (
        float(bound(num_right, count, confidence=one_side))
        for bound in (
            binomial.compute_lower_bound,
            binomial.compute_upper_bound,
        )
    )
    return RandomFit(
        real_accuracy=float(real[-1]),
        random_accuracy=num_right / count,
        chance=chance,
        excess=num_right / count - chance,
        excess_lower=lower - chance,
        excess_upper=upper - chance,
        relative_fit=(num_right / count - chance) / (1.0 - chance),
        confidence=confidence,
        real_fit_epoch=_find_fit(real, chance),
        random_fit_epoch=_find_fit(random, chance),
    )


def _find_fit(accuracies, chance):
    """Returns the first entry, from 1, that has learned; None if none has."""
    fitted = np.flatnonzero(accuracies >= chance + _FITTED * (1.0 - chance))
    return int(fitted[0]) + 1 if fitted.size else None


def _check_accuracies(name, accuracies):
    accuracies = scores_lib.check_scores(name, accuracies)
    if not np.all((accuracies >= 0.0) & (accuracies <= 1.0)):
        raise ValueError(
            f"{name} must be in [0, 1]. Received: numbers from "
            f"{accuracies.min():g} to {accuracies.max():g}. Divide percents by "
            "100."
        )
    return accuracies


def _choose_rows(count, fraction, rng):
    """Returns `[count]` bool, true for a share of the rows."""
    fraction = _checks.check_real(
        "fraction", fraction, at_least=0.0, at_most=1.0
    )
    is_chosen = np.zeros(count, bool)
    chosen = rng.choice(count, size=round(fraction * count), replace=False)
    is_chosen[chosen] = True
    return is_chosen
