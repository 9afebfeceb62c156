# SPDX-License-Identifier: Apache-2.0
"""Exposure: how far a secret's rank among all possible secrets gives it away.

With Px(r) the bits of the secret r (summed -log2 probability, lower = more
likely) and R all the secrets that could have stood in its place:

    rank(r) = #{r' in R: Px(r') <= Px(r)}
    exposure(r) = log2 |R| - log2 rank(r)

A secret that the model has not seen has any rank with the same chance, so that
P[exposure >= k] <= 2^-k; log2 |R| means that the model likes it best of all.

Source: Carlini et al. 2019, arXiv:1802.08232.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from tf_privacy import _checks
from tf_privacy.audit import binomial
from tf_privacy.audit import exposure_report
from tf_privacy.audit import scores as scores_lib

# Fewer references tell nothing about the tail that a fit extrapolates.
_MIN_FITTED = 100
_MAX_FITTED = 100_000


def compute_exact_exposure(
    canary_bits, all_bits, *, names: Sequence[str] | None = None
) -> exposure_report.ExposureReport:
    """Returns the exposure from the bits of every secret in R.

        rank[s] = #{b in all_bits: b <= canary_bits[s]}

    Args:
        canary_bits: `[S]` bits of the canaries, each >= 0.
        all_bits: `[R]` bits of all possible secrets, those of the canaries
            among them.
        names: `[S]` names to show, or None.

    Returns:
        The report; its p-values are rank / |R|.

    Raises:
        ValueError: If bits are not finite and >= 0, or a canary's bits are
            below all of R, so that it is not in R.
    """
    canaries = _check_bits("canary_bits", canary_bits)
    everything = np.sort(_check_bits("all_bits", all_bits))
    ranks = np.searchsorted(everything, canaries, side="right")
    if not np.all(ranks >= 1):
        raise ValueError(
            "all_bits must hold the bits of the canaries too. Received: a "
            f"canary at {canaries[np.argmin(ranks)]} below all of them, "
            f"{everything[0]}. For a sample of R, use "
            "estimate_exposure_by_sampling."
        )
    p_values = ranks / everything.size
    exposures = _to_exposure(p_values)
    return exposure_report.ExposureReport(
        secrets=exposure_report.check_names(names, canaries.size),
        bits=canaries,
        ranks=ranks,
        exposures=exposures,
        lower=exposures,
        upper=exposures,
        methods=("exact",) * canaries.size,
        p_values=p_values,
        evaluations=(everything.size,) * canaries.size,
        log2_size=math.log2(everything.size),
        confidence=None,
    )


def estimate_exposure_by_sampling(
    canary_bits,
    reference_bits,
    *,
    confidence: float = 0.95,
    log2_size: float | None = None,
    names: Sequence[str] | None = None,
) -> exposure_report.ExposureReport:
    """Returns the exposure estimated from random secrets' bits.

        p_value[s] = (1 + #{b in reference_bits: b <= canary_bits[s]}) / (1 + N)
        exposure[s] = -log2 p_value[s]

    The references are drawn uniformly from R, and not trained on. Then a canary
    that the model has not seen has P[exposure >= k] <= 2^-k, and the
    Clopper-Pearson limits hold in finite samples. No exposure above
    log2(N + 1) can be seen.

    Args:
        canary_bits: `[S]` bits of the canaries, each >= 0.
        reference_bits: `[N]` bits of the references, each >= 0.
        confidence: Of both limits together, for each canary; in (0, 1).
        log2_size: log2 |R|, >= 0; None if unknown.
        names: `[S]` names to show, or None.

    Returns:
        The report; an estimate, with limits.

    Raises:
        ValueError: If bits are not finite and >= 0. A NaN would count as the
            least exposed.
    """
    canaries = _check_bits("canary_bits", canary_bits)
    references = _check_bits("reference_bits", reference_bits)
    confidence = binomial.check_confidence(confidence)
    log2_size = _check_log2_size(log2_size)
    counts = np.searchsorted(np.sort(references), canaries, side="right")
    p_values = (counts + 1) / (references.size + 1)
    lower, upper = compute_sampling_limits(
        counts, references.size, confidence=confidence, log2_size=log2_size
    )
    return exposure_report.ExposureReport(
        secrets=exposure_report.check_names(names, canaries.size),
        bits=canaries,
        ranks=(None,) * canaries.size,
        exposures=_to_exposure(p_values, log2_size),
        lower=lower,
        upper=upper,
        methods=("sampled",) * canaries.size,
        p_values=p_values,
        evaluations=(references.size,) * canaries.size,
        log2_size=log2_size,
        confidence=confidence,
    )


def estimate_exposure_by_extrapolation(
    canary_bits,
    reference_bits,
    *,
    log2_size: float,
    confidence: float = 0.95,
    names: Sequence[str] | None = None,
) -> exposure_report.ExposureReport:
    """Returns the exposure extrapolated with a curve fitted to the references.

        exposure[s] = min(log2_size, -log2 F(canary_bits[s]))

    F is the distribution function of the skew-normal curve of the largest
    likelihood, fitted to 100,000 to 200,000 of the references if there are
    more. Beyond the references nothing checks it: an estimate by assumption,
    which may err by many bits to either side. Limits and p-values are those of
    `estimate_exposure_by_sampling`, which need no curve.

    Args:
        canary_bits: `[S]` bits of the canaries, each >= 0.
        reference_bits: `[N]` bits of random secrets; 100 or more, not all
            equal.
        log2_size: log2 |R|, >= 0.
        confidence: Of both limits together, for each canary; in (0, 1).
        names: `[S]` names to show, or None.

    Returns:
        The report, with the Kolmogorov-Smirnov test of the fit.

    Raises:
        ValueError: If bits are not finite and >= 0, or no curve fits.

    Source: Carlini et al. 2019, arXiv:1802.08232.
    """
    references = _check_bits("reference_bits", reference_bits)
    if references.size < _MIN_FITTED or np.ptp(references) == 0.0:
        raise ValueError(
            f"reference_bits must hold {_MIN_FITTED} or more bits that are not "
            f"all equal, to fit a curve. Received: {references.size}, from "
            f"{references.min()} to {references.max()}. Use "
            "estimate_exposure_by_sampling."
        )
    sampled = estimate_exposure_by_sampling(
        canary_bits,
        references,
        confidence=confidence,
        log2_size=_check_log2_size(log2_size, required=True),
        names=names,
    )
    # Every k-th: more do not sharpen the fit, and cost seconds.
    fitted = references[:: max(1, len(references) // _MAX_FITTED)]
    try:
        curve = stats.skewnorm(*stats.skewnorm.fit(fitted))
    except stats.FitError as error:
        raise ValueError(
            "reference_bits must look like a skew-normal curve. Received: bits "
            f"from {references.min()} to {references.max()} that none fits. "
            "Use estimate_exposure_by_sampling."
        ) from error
    fit = stats.kstest(fitted, curve.cdf)
    return dataclasses.replace(
        sampled,
        exposures=_to_exposure(curve.cdf(sampled.bits), sampled.log2_size),
        methods=("extrapolated",) * len(sampled.bits),
        ks_statistic=float(fit.statistic),
        ks_p_value=float(fit.pvalue),
    )


def compute_exposure_floor(canary_bits, *, log2_size: float) -> np.ndarray:
    """Returns what the exposure is at least, from one pass of the model.

        floor[s] = max(0, log2_size - canary_bits[s])

    The secrets at most as many bits long as this one have a probability of at
    least 2^-canary_bits[s] each, and all probabilities sum to at most 1: there
    are at most 2^canary_bits[s] of them. It holds only for bits that are the
    full sum of -log2 P(token | tokens before), of a model whose probabilities
    sum to 1: not for a mean, not for nats, not for another score.

    Args:
        canary_bits: `[S]` bits, each >= 0.
        log2_size: log2 |R|, >= 0.

    Returns:
        `[S]` float64, bits, in [0, log2_size]; a lower bound, up to the
        round-off of the bits.

    Raises:
        ValueError: If an argument is not finite or out of range.
    """
    canaries = _check_bits("canary_bits", canary_bits)
    log2_size = _check_log2_size(log2_size, required=True)
    return np.maximum(0.0, log2_size - canaries)


def compute_sampling_limits(
    counts: np.ndarray,
    num_references: int,
    *,
    confidence: float,
    log2_size: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns Clopper-Pearson limits of exposures.

    Args:
        counts: `[S]` references at or below each secret's bits.
        num_references: N, references drawn uniformly from R; >= 0.
        confidence: Of both limits together; in (0, 1).
        log2_size: Caps both; None if unknown.

    Returns:
        `[S]` lower and `[S]` upper limits, bits; inf where nothing limits.
    """
    side = 0.5 * (1.0 + confidence)
    most = binomial.compute_upper_bound(counts, num_references, confidence=side)
    least = binomial.compute_lower_bound(
        counts, num_references, confidence=side
    )
    return _to_exposure(most, log2_size), _to_exposure(least, log2_size)


def _to_exposure(shares, log2_size: float | None = None) -> np.ndarray:
    """Returns -log2 of shares of R, in [0, log2_size]."""
    with np.errstate(divide="ignore"):
        exposures = np.maximum(0.0, -np.log2(shares))
    return exposures if log2_size is None else np.minimum(exposures, log2_size)


def _check_bits(name: str, bits) -> np.ndarray:
    array = scores_lib.check_scores(
        name,
        bits,
        hint="Bits are summed -log2 probabilities; give a large number, such "
        "as 1e6, to what the model says cannot be.",
    )
    if not np.all(array >= 0.0):
        raise ValueError(
            f"{name} must be bits >= 0. Received: {array.min()}. Bits are "
            "-log2 of a probability, so that lower is more likely."
        )
    return array


def _check_log2_size(value, *, required: bool = False) -> float | None:
    if value is None and not required:
        return None
    return _checks.check_real(
        "log2_size",
        value,
        at_least=0.0,
        hint="It is log2 of the number of possible secrets.",
    )
