# SPDX-License-Identifier: Apache-2.0
"""Critical samples: examples close to which the predicted class changes.

Many of them in held-out data mean a complicated decision boundary, which is
what fitting noise leaves behind; or a model that has hardly learned and is
sure of nothing. Compare models of like accuracy.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import binomial

# Arpit et al.'s step 0.25 and noise 0.2, over their radius 0.3.
_STEP_OVER_RADIUS = 0.25 / 0.3
_NOISE_OVER_RADIUS = 0.2 / 0.3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CriticalSampleResult:
    """Which examples have another predicted class within the radius.

    Each critical sample was seen to change its class, so that the search finds
    none too many; it may miss some.

    Attributes:
        is_critical: `[N]` bool.
        adversarial_samples: `[N, ...]`, of the type of `x`; where the search
            ended: another predicted class if critical.
        num_iterations: `[N]` int; updates until the class changed, or all.
        ratio: Share of critical samples; in [0, 1].
        ratio_lower, ratio_upper: Clopper-Pearson interval of the share that
            this search finds among all data that x is a random sample of.
        confidence: Of the interval, both sides together; in (0, 1).
        radius: Of the box around each example, in units of x.
        num_without_gradient: Examples not critical at a point of whose search
            the gradient vanished, so that noise alone moved on.
    """

    is_critical: np.ndarray
    adversarial_samples: np.ndarray
    num_iterations: np.ndarray
    ratio: float
    ratio_lower: float
    ratio_upper: float
    confidence: float
    radius: float
    num_without_gradient: int

    def __str__(self) -> str:
        count, total = int(self.is_critical.sum()), len(self.is_critical)
        text = (
            f"{count} of {total} examples ({self.ratio:.1%}) are critical "
            f"within {self.radius:g}; {self.confidence:.0%} interval of the "
            f"share: [{self.ratio_lower:.1%}, {self.ratio_upper:.1%}]"
        )
        if self.num_without_gradient:
            text += (
                f"; {self.num_without_gradient} of the others had no gradient "
                "to follow: more may be critical"
            )
        return text


def search_critical_samples(
    x,
    *,
    predict: Callable[[np.ndarray], np.ndarray],
    input_gradient: Callable[[np.ndarray, np.ndarray], np.ndarray],
    radius: float,
    rng: np.random.Generator,
    num_iterations: int = 10,
    step_size: float | None = None,
    noise_size: float | None = None,
    lower=None,
    upper=None,
    batch_size: int = 256,
    confidence: float = 0.95,
) -> CriticalSampleResult:
    """Searches each example's neighborhood for another predicted class.

    An example is critical if the predicted class (right or wrong) changes
    within an L-infinity ball. Langevin adversarial sample search looks for
    such a point, from point = x:

        point = clip(point - step_size sign(input_gradient(point, class of x))
                     + noise_size N(0, 1), x - radius, x + radius)

    until the class changes. It goes *down* on the score of the class of x: with
    the plus sign that the paper prints it would make the model more certain,
    and find nothing. The gradient is taken at the point, anew each time.

    Only its sign matters. The gradient of a softmax probability that rounds to
    1 is 0 and has none: give that of the log-odds, which has the same sign
    (`compute_input_gradient` of the backend does), or of the logit.

    Rows that are done leave the batch; the result is that of any batch size.

    Args:
        x: `[N, ...]` finite floats; held-out data, N >= 1. In training data the
            ratio first rises and then falls as the model fits them.
        predict: Maps `[B, ...]` to scores or probabilities `[B, C]`, C >= 2.
        input_gradient: Maps `[B, ...]` and classes `[B]` to the gradient
            `[B, ...]` of each row's score of its class.
        radius: Of the box, in units of x; > 0.
        rng: Draws the noise.
        num_iterations: The most updates of an example; >= 1.
        step_size: In units of x; > 0. None is 5/6 of the radius.
        noise_size: Standard deviation in units of x; >= 0. None is 2/3 of the
            radius.
        lower, upper: Least and largest valid entries of x, numbers or arrays
            that broadcast to one example; None for no limit.
        batch_size: The most rows in one call; >= 1.
        confidence: Of the ratio's interval; in (0, 1).

    Raises:
        TypeError: If x are no floats.
        ValueError: If an argument is out of range, x is outside its limits, or
            a function returns another shape or anything not finite.

    Source: Arpit et al. 2017, arXiv:1706.05394.
    """
    x = _check_examples(x)
    radius, step_size, noise_size = _check_sizes(radius, step_size, noise_size)
    limit = _checks.check_integer("num_iterations", num_iterations, at_least=1)
    size = _checks.check_integer("batch_size", batch_size, at_least=1)
    confidence = binomial.check_confidence(confidence)
    box = _make_box(x, radius, lower, upper)

    points, counts, is_critical, is_blind = _search(
        x,
        box,
        classify=lambda points: _classify(predict, points, size),
        differentiate=lambda points, classes: _differentiate(
            input_gradient, points, classes, size
        ),
        step_size=step_size,
        noise_size=noise_size,
        num_iterations=limit,
        rng=rng,
    )
    one_side = 0.5 * (1.0 + confidence)
    found = int(is_critical.sum()), len(x)
    return CriticalSampleResult(
        is_critical=is_critical,
        adversarial_samples=points,
        num_iterations=counts,
        ratio=found[0] / found[1],
        ratio_lower=float(
            binomial.compute_lower_bound(*found, confidence=one_side)
        ),
        ratio_upper=float(
            binomial.compute_upper_bound(*found, confidence=one_side)
        ),
        confidence=confidence,
        radius=radius,
        num_without_gradient=int(np.sum(is_blind & ~is_critical)),
    )


def _search(
    x,
    box,
    *,
    classify,
    differentiate,
    step_size,
    noise_size,
    num_iterations,
    rng,
):
    """Returns where each row ended, after how many updates, and two flags.

    The flags: whether the class changed, and whether a gradient was 0.
    """
    low, high = box
    classes = classify(x)
    points = x.copy()
    counts = np.zeros(len(x), int)
    is_critical = np.zeros(len(x), bool)
    is_blind = np.zeros(len(x), bool)
    rows = np.arange(len(x))
    for _ in range(num_iterations):
        if not len(rows):
            break
        gradient = differentiate(points[rows], classes[rows])
        is_blind[rows] |= ~np.any(gradient.reshape(len(rows), -1), axis=1)
        step = noise_size * rng.standard_normal(gradient.shape)
        step -= step_size * np.sign(gradient)
        points[rows] = np.clip(points[rows] + step, low[rows], high[rows])
        counts[rows] += 1
        changed = classify(points[rows]) != classes[rows]
        is_critical[rows[changed]] = True
        rows = rows[~changed]
    return points, counts, is_critical, is_blind


def _classify(predict, x, size):
    """Returns the class with the largest score, for each row."""
    classes = np.zeros(len(x), int)
    for start in range(0, len(x), size):
        batch = x[start : start + size]
        scores = np.asarray(predict(batch))
        if not (
            scores.ndim == 2
            and scores.shape[0] == len(batch)
            and scores.shape[1] >= 2
            and np.all(np.isfinite(scores))
        ):
            raise ValueError(
                "predict must return finite scores [B, C] of two or more "
                f"classes. Received: shape {scores.shape} for {len(batch)} "
                "rows, or scores that are not finite. For one output p of two "
                "classes return both, 1 - p and p."
            )
        classes[start : start + size] = np.argmax(scores, axis=1)
    return classes


def _differentiate(input_gradient, x, classes, size):
    gradients = np.zeros(x.shape)
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        gradient = np.asarray(input_gradient(x[rows], classes[rows]))
        if gradient.shape != x[rows].shape or not np.all(np.isfinite(gradient)):
            raise ValueError(
                "input_gradient must return finite numbers of the shape of x, "
                f"{x[rows].shape}. Received: shape {gradient.shape}, or "
                "numbers that are not finite. Give the gradient of logits or "
                "log-odds."
            )
        gradients[rows] = gradient
    return gradients


def _check_examples(x):
    x = np.asarray(x)
    if x.dtype.kind != "f":
        raise TypeError(
            "x must be floats, which small steps can move. Received: an array "
            f"of {x.dtype}. Convert it, and scale it as in training."
        )
    if not (x.ndim and len(x) and np.all(np.isfinite(x))):
        raise ValueError(
            "x must be one or more rows of finite numbers. Received: shape "
            f"{x.shape}, or numbers that are not finite."
        )
    return x


def _check_sizes(radius, step_size, noise_size):
    """Returns all three; fractions of the radius where they are None."""
    radius = _checks.check_real("radius", radius, above=0.0)
    step_size = _checks.check_real(
        "step_size",
        _STEP_OVER_RADIUS * radius if step_size is None else step_size,
        above=0.0,
    )
    noise_size = _checks.check_real(
        "noise_size",
        _NOISE_OVER_RADIUS * radius if noise_size is None else noise_size,
        at_least=0.0,
    )
    return radius, step_size, noise_size


def _make_box(x, radius, lower, upper):
    """Returns the least and the largest entries that a search may reach."""
    low, high = x - radius, x + radius
    if lower is not None:
        low = np.maximum(low, lower).astype(x.dtype)
    if upper is not None:
        high = np.minimum(high, upper).astype(x.dtype)
    if low.shape != x.shape or high.shape != x.shape:
        raise ValueError(
            "lower and upper must broadcast to one example, "
            f"{x.shape[1:]}. Received: shapes {np.shape(lower)} and "
            f"{np.shape(upper)}."
        )
    if not np.all((low <= x) & (x <= high)):
        raise ValueError(
            "lower and upper must leave x within them. Received: examples "
            f"from {x.min():g} to {x.max():g}. Give the range of the data that "
            "the model is used on."
        )
    return low, high
