# SPDX-License-Identifier: Apache-2.0
"""Ranks of secrets, estimated from secrets that the model itself draws.

Uniform draws almost never meet a secret as likely as a memorised one. The
model's own draws do, and how likely they were to be drawn is known.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import binomial
from tf_privacy.audit import secret_space
from tf_privacy.audit import token_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankEstimates:
    """Ranks estimated from secrets that the model drew.

    Attributes:
        log2_ranks: `[S]` float64; log2 of the estimates, >= 0.
        log2_lower, log2_upper: `[S]` float64; log2 of limits, which hold with
            probability `confidence` for each secret on its own; >= 0.
        relative_errors: `[S]` float64; standard errors / estimates; inf where
            no draw was a hit.
        confidence: Of both limits together; in (0, 1).
    """

    log2_ranks: np.ndarray
    log2_lower: np.ndarray
    log2_upper: np.ndarray
    relative_errors: np.ndarray
    confidence: float

    def __str__(self) -> str:
        lines = [f"log2 of ranks, estimates (confidence {self.confidence:g}):"]
        lines += [
            f"  {x:.2f} in [{low:.2f}, {high:.2f}], relative error {error:.2g}"
            for x, low, high, error in zip(
                self.log2_ranks,
                self.log2_lower,
                self.log2_upper,
                self.relative_errors,
                strict=True,
            )
        ]
        return "\n".join(lines)


def estimate_ranks_by_importance(
    model: token_model.TokenModel,
    space: secret_space.SecretSpace,
    *,
    thresholds,
    num_samples: int,
    rng: np.random.Generator,
    confidence: float = 0.95,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> RankEstimates:
    """Returns how many secrets have at most so many bits, by importance.

    Secrets are drawn from the model itself, restricted to the format: token i
    with probability p_i / Z_i, where Z_i sums p over the choices there.

        weight = 1{bits <= threshold, accepted} prod_i Z_i / p_i
        rank = E[weight],  0 <= weight <= 2^threshold

    The mean weight is unbiased. The limits hold in finite samples: each
    weight / 2^threshold is rounded to 0 or 1 by a coin that keeps its mean,
    which makes the number of ones binomial, and Clopper-Pearson applies.

    Args:
        model: The model.
        space: All possible secrets.
        thresholds: `[S]` bits, finite and >= 0.
        num_samples: N secrets to draw, of L evaluations each; >= 2.
        rng: Source of the draws.
        confidence: Of both limits together, for each threshold; in (0, 1).
        batch_size: The most sequences in one call; >= 1.
        progress: Called with the secrets drawn and N.

    Returns:
        The estimates. Without a hit the estimate is 2^threshold / (N + 1).

    Raises:
        ValueError: If an argument is out of range, or the model returns NaN.
    """
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if not np.all((thresholds >= 0.0) & np.isfinite(thresholds)):
        raise ValueError(
            "thresholds must be finite numbers >= 0. Received: "
            f"{thresholds!r}. A secret of infinite bits has the last rank."
        )
    confidence = binomial.check_confidence(confidence)
    count = _checks.check_integer("num_samples", num_samples, at_least=2)
    batch_size = _checks.check_integer("batch_size", batch_size, at_least=1)
    token_model.check_model(model, space)
    bits, log2_weights = [], []
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        drawn = _draw_from_model(model, space, size, rng)
        bits.append(drawn[0])
        log2_weights.append(drawn[1])
        if progress is not None:
            progress(start + size, count)
    bits, log2_weights = np.concatenate(bits), np.concatenate(log2_weights)
    columns = []
    for threshold in thresholds:
        logs = np.minimum(log2_weights - threshold, 0.0)
        shares = np.where(bits <= threshold, np.exp2(logs), 0.0)
        columns.append(_summarize(shares, threshold, confidence, rng))
    ranks, lower, upper, errors = np.reshape(columns, (-1, 4)).T
    return RankEstimates(
        log2_ranks=ranks,
        log2_lower=lower,
        log2_upper=upper,
        relative_errors=errors,
        confidence=confidence,
    )


def _draw_from_model(model, space, count, rng):
    """Returns the bits and the log2 weights `[N]` of secrets it draws."""
    secrets = np.zeros((count, 0), dtype=np.int32)
    bits, log2_weights = np.zeros(count), np.zeros(count)
    rows = np.arange(count)
    for choices in space.choices:
        step = token_model.compute_child_bits(model, space, secrets)
        least = np.min(step, axis=1)
        alive = np.isfinite(least)
        base = np.where(alive, least, 0.0)[:, np.newaxis]
        total = np.cumsum(np.exp2(base - step), axis=1)
        # A dead end, where no choice can come, is infinite bits from here on.
        total[~alive] = 1.0
        aims = rng.random((count, 1)) * total[:, -1:]
        places = np.minimum(np.sum(total <= aims, axis=1), len(choices) - 1)
        chosen = step[rows, places]
        bits += chosen
        # log2 of Z / p.
        log2_weights += chosen + np.log2(total[:, -1]) - base[:, 0]
        tokens = np.array(choices, dtype=np.int32)[places]
        secrets = np.concatenate([secrets, tokens[:, np.newaxis]], axis=1)
    bits[~space.find_accepted(secrets)] = np.inf
    return bits, log2_weights


def _summarize(shares, threshold, confidence, rng):
    """Returns log2 rank and limits, and the error, of one threshold."""
    count = shares.size
    mean = max(float(np.mean(shares)), 0.0)
    error = math.inf
    if mean > 0.0:
        error = float(np.std(shares, ddof=1)) / mean / math.sqrt(count)
    rank = mean or 1.0 / (count + 1)
    ones = np.sum(rng.random(count) < shares)
    side = 0.5 * (1.0 + confidence)
    lower = binomial.compute_lower_bound(ones, count, confidence=side)
    upper = binomial.compute_upper_bound(ones, count, confidence=side)
    # The coins may put the limits to one side of the estimate.
    limits = [min(lower, rank), max(upper, rank)]
    with np.errstate(divide="ignore"):
        logs = np.log2([rank, *limits])
    return [*np.maximum(threshold + logs, 0.0), error]
