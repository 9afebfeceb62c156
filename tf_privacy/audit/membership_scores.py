# SPDX-License-Identifier: Apache-2.0
"""Scores from a classifier's outputs: higher means more likely a member.

Predictions are `[N, C]`, C >= 2, one column for each class; or `[N]` or
`[N, 1]`, the one output of a binary classifier, of its class 1. They are
"logits" or "probabilities". Prefer logits: a probability that was rounded to 0
or 1 no longer tells its example from others that were.

A probability of 0 counts as the smallest number > 0 of its dtype, and a binary
output of 1 as the least number that rounds to 1. So pass probabilities in the
dtype they were computed in: a 0 or 1 of float32, converted to float64, would
count as far more extreme than the model can have meant.
"""

import numpy as np
from scipy import special

from tf_privacy import _checks
from tf_privacy.audit import scores as scores_lib

_SUM_TOLERANCE = 1e-3
# Differences of two such logits are still finite.
_LARGEST_LOGIT = 1e300
# float32 resolves no smaller loss next to 1, whatever type it is passed in.
_LEAST_LOSS = 2.0**-25


def compute_loss_scores(losses) -> np.ndarray:
    """Returns minus the loss: training makes it small on members.

    Args:
        losses: `[N]` finite real numbers, any loss.

    Returns:
        `[N]` float64.

    Raises:
        TypeError: If `losses` are not real numbers.
        ValueError: If they are not a vector, none, or not finite.

    Source: Yeom et al. 2018, arXiv:1709.01604.
    """
    return -scores_lib.check_scores("losses", losses)


def compute_logit_scores_of_losses(losses) -> np.ndarray:
    """Returns log(p / (1 - p)) of the label, from its cross-entropy.

        result[n] = -log(exp(losses[n]) - 1)

    A loss below 2^-25, the least that float32 tells from 0, counts as that:
    such examples tie. `compute_logit_scores` of logits tells them apart.

    Args:
        losses: `[N]` cross-entropies in nats, each of one label; >= 0.

    Returns:
        `[N]` float64, at most 17.4; ranked as the losses, and near to normal,
        as LiRA needs.

    Raises:
        TypeError: If `losses` are not real numbers.
        ValueError: If they are not a vector, none, not finite or negative.
    """
    losses = scores_lib.check_scores("losses", losses)
    if not np.all(losses >= 0.0):
        index = int(np.argmin(losses))
        raise ValueError(
            "losses must be cross-entropies, >= 0. Received: "
            f"{losses[index]} at index {index}. Leave out penalties and label "
            "smoothing, or use compute_loss_scores."
        )
    losses = np.maximum(losses, _LEAST_LOSS)
    return -(losses + np.log(-np.expm1(-losses)))


def compute_confidence_scores(
    predictions, *, labels, outputs: str
) -> np.ndarray:
    """Returns the probability of each example's label.

    Far-out logits round to 1 and tie; `compute_logit_scores` ranks the same
    way without ties.

    Args:
        predictions: `[N, C]`, `[N]` or `[N, 1]`; see the module.
        labels: `[N]` or `[N, 1]` integers in [0, C).
        outputs: "logits" or "probabilities".

    Returns:
        `[N]` float64 in [0, 1].

    Raises:
        TypeError: If an argument is not of numbers, labels not of integers.
        ValueError: If shapes differ, a value is NaN or infinite, or rows of
            probabilities do not sum to 1.
    """
    logits = _make_logits(predictions, outputs)
    return np.exp(_take(_log_softmax(logits), _check_labels(labels, logits)))


def compute_max_confidence_scores(predictions, *, outputs: str) -> np.ndarray:
    """Returns the probability of the likeliest class; needs no labels.

    Args:
        predictions: `[N, C]`, `[N]` or `[N, 1]`; see the module.
        outputs: "logits" or "probabilities".

    Returns:
        `[N]` float64 in [1 / C, 1].

    Raises:
        TypeError: If the predictions are not numbers.
        ValueError: If a value is NaN or infinite, or rows of probabilities do
            not sum to 1.
    """
    return np.exp(_log_softmax(_make_logits(predictions, outputs)).max(axis=1))


def compute_entropy_scores(predictions, *, outputs: str) -> np.ndarray:
    """Returns minus the entropy of each prediction; needs no labels.

        result[n] = sum_c p[n, c] log(p[n, c])

    Args:
        predictions: `[N, C]`, `[N]` or `[N, 1]`; see the module.
        outputs: "logits" or "probabilities".

    Returns:
        `[N]` float64 in [-log(C), 0], nats.

    Raises:
        TypeError: If the predictions are not numbers.
        ValueError: If a value is NaN or infinite, or rows of probabilities do
            not sum to 1.

    Source: Shokri et al. 2017, arXiv:1610.05820.
    """
    log_p = _log_softmax(_make_logits(predictions, outputs))
    return np.minimum(np.sum(np.exp(log_p) * log_p, axis=1), 0.0)


def compute_modified_entropy_scores(
    predictions, *, labels, outputs: str
) -> np.ndarray:
    """Returns minus an entropy that is large for a confident wrong answer.

        result[n] = (1 - p[n, y]) log(p[n, y])
            + sum over c != y of p[n, c] log(1 - p[n, c]),  y = labels[n]

    Args:
        predictions: `[N, C]`, `[N]` or `[N, 1]`; see the module.
        labels: `[N]` or `[N, 1]` integers in [0, C).
        outputs: "logits" or "probabilities".

    Returns:
        `[N]` float64, at most 0.

    Raises:
        TypeError: If an argument is not of numbers, labels not of integers.
        ValueError: If shapes differ, a value is NaN or infinite, or rows of
            probabilities do not sum to 1.

    Source: Song and Mittal 2021, arXiv:2003.10595, Section 4.1.
    """
    logits = _make_logits(predictions, outputs)
    labels = _check_labels(labels, logits)
    log_p = _log_softmax(logits)
    # Only the likeliest class can be so near 1 that 1 - p loses its digits.
    rows, likeliest = np.arange(len(logits)), np.argmax(logits, axis=1)
    p = np.exp(log_p)
    p_rest = p.copy()
    p_rest[rows, likeliest] = 0.0
    log_rest = np.log1p(-p_rest)
    log_rest[rows, likeliest] = _log_sum_of_others(log_p, likeliest)
    terms = p * log_rest
    terms[rows, labels] = np.exp(_take(log_rest, labels)) * _take(log_p, labels)
    return np.minimum(terms.sum(axis=1), 0.0)


def compute_logit_scores(predictions, *, labels, outputs: str) -> np.ndarray:
    """Returns log(p / (1 - p)) of each label: the score that LiRA fits.

        result[n] = logits[n, y] - log(sum over c != y of exp(logits[n, c]))

    It is finite for all logits, and ranks as the cross-entropy does.

    Args:
        predictions: `[N, C]`, `[N]` or `[N, 1]`; see the module.
        labels: `[N]` or `[N, 1]` integers in [0, C).
        outputs: "logits" or "probabilities".

    Returns:
        `[N]` float64, nats.

    Raises:
        TypeError: If an argument is not of numbers, labels not of integers.
        ValueError: If shapes differ, a value is NaN or infinite, or rows of
            probabilities do not sum to 1.

    Source: Carlini et al. 2022, arXiv:2112.03570, Section IV.
    """
    logits = _make_logits(predictions, outputs)
    labels = _check_labels(labels, logits)
    return _take(logits, labels) - _log_sum_of_others(logits, labels)


def _take(array: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return array[np.arange(len(array)), columns]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    log_p = logits - special.logsumexp(logits, axis=1, keepdims=True)
    # Where p is near 1 its logarithm is smaller than the logits' rounding.
    likeliest = np.argmax(logits, axis=1)
    gaps = _log_sum_of_others(logits, likeliest) - _take(logits, likeliest)
    log_p[np.arange(len(logits)), likeliest] = -np.log1p(np.exp(gaps))
    return log_p


def _log_sum_of_others(logits: np.ndarray, columns: np.ndarray) -> np.ndarray:
    others = logits.copy()
    others[np.arange(len(logits)), columns] = -np.inf
    return special.logsumexp(others, axis=1)


def _make_logits(predictions, outputs: str) -> np.ndarray:
    """Returns `[N, C]` float64 logits with the same softmax, all finite."""
    _checks.check_choice("outputs", outputs, ("logits", "probabilities"))
    array = np.asarray(predictions)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            "predictions must be real numbers. Received: an array of "
            f"{array.dtype}. Convert bfloat16 to float32."
        )
    is_binary = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(
            "predictions must be [N, C], or [N] of a binary classifier, N >= "
            f"1. Received: shape {array.shape}."
        )
    array = array.reshape(-1, 1) if is_binary else array
    bad = ~(np.abs(array.astype(np.float64)) <= _LARGEST_LOGIT)
    if np.any(bad):
        row = int(np.argmax(bad.any(axis=1)))
        raise ValueError(
            "predictions must be finite. Received: "
            f"{array[row].tolist()} at index {row}. An example without a "
            "prediction has no rank: find out why it has none."
        )
    if outputs == "probabilities":
        return _make_logits_of_probabilities(array, is_binary)
    array = array.astype(np.float64)
    sums = array.sum(axis=1)
    if not is_binary and np.all(array >= 0) and np.all(abs(sums - 1) < 1e-3):
        raise ValueError(
            'outputs must be "probabilities" where all rows are >= 0 and sum '
            'to 1. Received: "logits".'
        )
    return np.hstack([np.zeros_like(array), array]) if is_binary else array


def _make_logits_of_probabilities(array, is_binary: bool) -> np.ndarray:
    is_float = array.dtype.kind == "f"
    limits = np.finfo(array.dtype if is_float else np.float64)
    array = array.astype(np.float64)
    if not np.all((array >= 0.0) & (array <= 1.0)):
        row = int(np.argmax(((array < 0.0) | (array > 1.0)).any(axis=1)))
        raise ValueError(
            "predictions must be probabilities in [0, 1]. Received: "
            f'{array[row].tolist()} at index {row}. Pass outputs="logits" if '
            "the model has no softmax or sigmoid."
        )
    if is_binary:
        # Half of the gap below 1: what is nearer rounds to 1.
        rest = np.maximum(1.0 - array, limits.epsneg / 2.0)
        array = np.hstack([rest, array])
    sums = array.sum(axis=1)
    far = np.abs(sums - 1.0) > _SUM_TOLERANCE
    if np.any(far):
        row = int(np.argmax(far))
        raise ValueError(
            "predictions must be probabilities that sum to 1 in each row. "
            f"Received: a sum of {sums[row]} at index {row}. Score the outputs "
            "of a multi-label model one by one."
        )
    return np.log(np.maximum(array, float(limits.smallest_subnormal)))


def _check_labels(labels, logits: np.ndarray) -> np.ndarray:
    array = np.asarray(labels)
    if array.dtype.kind not in "iub":
        raise TypeError(
            "labels must be integers. Received: an array of "
            f"{array.dtype}. Use argmax on one-hot labels."
        )
    num_examples, num_classes = logits.shape
    if array.shape not in ((num_examples,), (num_examples, 1)):
        raise ValueError(
            f"labels must be one for each of {num_examples} predictions. "
            f"Received: shape {array.shape}."
        )
    array = array.reshape(-1).astype(np.int64)
    bad = (array < 0) | (array >= num_classes)
    if np.any(bad):
        index = int(np.argmax(bad))
        raise ValueError(
            f"labels must be in [0, {num_classes}). Received: {array[index]} "
            f"at index {index}."
        )
    return array
