# SPDX-License-Identifier: Apache-2.0
"""How exposed secrets are in a language model, by the best way affordable.

The secret's own bits already give a certain floor; a tree walk within a budget
gives the rank, or certain limits of it; two kinds of random secrets estimate
what is left open. Those that the model draws reach ranks far below any that
uniform ones can see; the uniform ones serve where the secret is not special.
"""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import binomial
from tf_privacy.audit import exposure
from tf_privacy.audit import exposure_report
from tf_privacy.audit import importance_sampling
from tf_privacy.audit import prefix_tree
from tf_privacy.audit import secret_space
from tf_privacy.audit import token_model

_METHODS = ("auto", "exact", "importance", "sampled", "extrapolated")
# Positive, so that the logarithm of a p-value exists.
_LEAST = np.finfo(np.float64).tiny


def estimate_exposure(
    model: token_model.TokenModel,
    space: secret_space.SecretSpace,
    *,
    secrets,
    method: str = "auto",
    max_evaluations: int = 100_000,
    num_samples: int = 5_000,
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
    names: Sequence[str] | None = None,
    batch_size: int = 256,
    tie_tolerance: float = prefix_tree.DEFAULT_TIE_TOLERANCE,
    progress: Callable[[int, int], None] | None = None,
) -> exposure_report.ExposureReport:
    """Returns how exposed secrets are in a model that was trained on them.

    "auto" walks the tree within the budget: a row is "exact", or the limits
    left are certain ("bracketed"). For rows left open it draws secrets, from
    the model ("importance") and uniformly ("sampled"), and takes what gives
    the narrowest limits. All limits hold at once with the stated confidence;
    the certain ones, with the floor log2 |R| - bits among them, cap the rest.

    "exact" stops after the walk; "importance" and "sampled" do that alone;
    "extrapolated" fits a curve to uniform secrets, which nothing vouches for.

    Args:
        model: The model, true probabilities of the next token.
        space: All secrets that could have stood in the place of these.
        secrets: `[S, L]` int; secrets of the space.
        method: "auto", "exact", "importance", "sampled" or "extrapolated".
        max_evaluations: The most prefixes of the tree walk; >= 0.
        num_samples: Secrets to draw in each of the two ways, if needed; >= 2.
        confidence: Of both limits together, for each secret; in (0, 1).
        rng: Source of the draws; None takes fresh entropy.
        names: `[S]` names to show, or None.
        batch_size: The most sequences in one call; >= 1.
        tie_tolerance: Bits, >= 0, up to which two secrets are equally likely;
            see `compute_exact_ranks`.
        progress: Called with the number done and the number in all, of each
            stage in turn.

    Returns:
        One row for each secret, in their order. The p-value of an exact row is
        rank / |R|; with uniform secrets it is that of sampling; else it is the
        certain one.

    Raises:
        ValueError: If an argument is out of range, a secret is not in the
            space, or the model returns NaN or no probabilities.
    """
    secrets = space.check_secrets(secrets)
    names = exposure_report.check_names(names, len(secrets))
    draws = _Draws(
        method=_checks.check_choice("method", method, _METHODS),
        model=model,
        space=space,
        num_samples=_checks.check_integer(
            "num_samples", num_samples, at_least=2
        ),
        confidence=binomial.check_confidence(confidence),
        rng=np.random.default_rng() if rng is None else rng,
        batch_size=batch_size,
        progress=progress,
    )
    walks = method in ("auto", "exact")
    ranks = prefix_tree.compute_exact_ranks(
        model,
        space,
        secrets=secrets,
        max_evaluations=max_evaluations if walks else 0,
        batch_size=batch_size,
        tie_tolerance=tie_tolerance,
        progress=progress if walks else None,
    )
    thresholds = np.array([rank.bits for rank in ranks]) + tie_tolerance
    return _make_report(draws, names, ranks, thresholds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    """What one way says about one secret's exposure."""

    exposure: float
    lower: float
    upper: float
    method: str
    p_value: float | None
    evaluations: int

    @property
    def width(self) -> float:
        return self.upper - self.lower


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Draws:
    """How to estimate what the walk leaves open."""

    method: str
    model: token_model.TokenModel
    space: secret_space.SecretSpace
    num_samples: int
    confidence: float
    rng: np.random.Generator
    batch_size: int
    progress: Callable[[int, int], None] | None


def _make_report(
    draws: _Draws, names, ranks: list, thresholds: np.ndarray
) -> exposure_report.ExposureReport:
    rows = [_make_certain_row(rank, draws.space) for rank in ranks]
    left = [i for i, rank in enumerate(ranks) if rank.rank is None]
    fit = {}
    if left and draws.method != "exact":
        estimates, fit = _estimate(draws, thresholds[left])
        for i, found in zip(left, estimates, strict=True):
            rows[i] = _combine(rows[i], found, keeps=draws.method == "auto")
    return exposure_report.ExposureReport(
        secrets=names,
        bits=[rank.bits for rank in ranks],
        ranks=[rank.rank for rank in ranks],
        exposures=[row.exposure for row in rows],
        lower=[row.lower for row in rows],
        upper=[row.upper for row in rows],
        methods=[row.method for row in rows],
        p_values=[row.p_value for row in rows],
        evaluations=[row.evaluations for row in rows],
        log2_size=draws.space.log2_size,
        confidence=draws.confidence,
        **fit,
    )


def _make_certain_row(
    rank: prefix_tree.RankResult, space: secret_space.SecretSpace
) -> _Row:
    lower = space.log2_size - math.log2(rank.rank_upper)
    return _Row(
        exposure=lower,
        lower=lower,
        upper=space.log2_size - math.log2(rank.rank_lower),
        method="bracketed" if rank.rank is None else "exact",
        p_value=max(rank.rank_upper / space.size, _LEAST),
        evaluations=rank.evaluations,
    )


def _estimate(draws: _Draws, thresholds) -> tuple[list, dict]:
    """Returns each secret's estimates, and a report's fields about the fit."""
    columns, fit = [], {}
    if draws.method == "auto":
        # Limits that hold at once share what may go wrong.
        both = (1.0 + draws.confidence) / 2.0
        draws = dataclasses.replace(draws, confidence=both)
    if draws.method in ("auto", "importance"):
        columns.append(_estimate_from_model(draws, thresholds))
    if draws.method != "importance":
        rows, fit = _estimate_uniformly(draws, thresholds)
        columns.append(rows)
    return list(zip(*columns, strict=True)), fit


def _estimate_from_model(draws: _Draws, thresholds) -> list[_Row]:
    found = importance_sampling.estimate_ranks_by_importance(
        draws.model,
        draws.space,
        thresholds=thresholds,
        num_samples=draws.num_samples,
        rng=draws.rng,
        confidence=draws.confidence,
        batch_size=draws.batch_size,
        progress=draws.progress,
    )
    most = draws.space.log2_size
    columns = (found.log2_ranks, found.log2_upper, found.log2_lower)
    return [
        _Row(
            exposure=most - rank,
            lower=most - upper,
            upper=most - lower,
            method="importance",
            p_value=None,
            evaluations=draws.num_samples * draws.space.length,
        )
        for rank, upper, lower in np.transpose(columns).tolist()
    ]


def _estimate_uniformly(draws: _Draws, thresholds) -> tuple[list, dict]:
    """Returns the rows, and the fields of a report that tell of the fit."""
    references = draws.space.sample(draws.num_samples, rng=draws.rng)
    bits = token_model.compute_bits_in_batches(
        draws.model,
        draws.space,
        references,
        batch_size=draws.batch_size,
        progress=draws.progress,
    )
    estimate = exposure.estimate_exposure_by_sampling
    if draws.method == "extrapolated":
        estimate = exposure.estimate_exposure_by_extrapolation
    else:
        # What the model says cannot be is less likely than any secret here.
        bits = np.minimum(bits, np.finfo(np.float64).max)
    report = estimate(
        thresholds,
        bits,
        confidence=draws.confidence,
        log2_size=draws.space.log2_size,
    )
    columns = (report.exposures, report.lower, report.upper, report.p_values)
    rows = [
        _Row(
            exposure=value,
            lower=lower,
            upper=upper,
            method=report.methods[0],
            p_value=p_value,
            evaluations=draws.num_samples,
        )
        for value, lower, upper, p_value in zip(*columns, strict=True)
    ]
    fit = {
        "ks_statistic": report.ks_statistic,
        "ks_p_value": report.ks_p_value,
    }
    return rows, fit


def _combine(certain: _Row, estimates: Sequence[_Row], *, keeps: bool) -> _Row:
    """Returns the narrowest estimate, within the limits of all.

    Args:
        certain: The limits from the tree walk.
        estimates: Of the same secret, one or more.
        keeps: Whether the certain row stays where it is no wider.
    """
    spent = sum(row.evaluations for row in [certain, *estimates])
    certain = dataclasses.replace(certain, evaluations=spent)
    within = [
        dataclasses.replace(
            row,
            lower=max(row.lower, certain.lower),
            upper=min(row.upper, certain.upper),
        )
        for row in estimates
    ]
    best = min(within, key=lambda row: row.width)
    lower = max(row.lower for row in within)
    upper = min(row.upper for row in within)
    # Limits that contradict each other: an estimate's failed, as it may.
    if lower > upper or (keeps and certain.width <= best.width):
        return certain
    p_values = [row.p_value for row in estimates if row.p_value is not None]
    return _Row(
        exposure=min(max(best.exposure, lower), upper),
        lower=lower,
        upper=upper,
        method=best.method,
        p_value=p_values[0] if p_values else certain.p_value,
        evaluations=spent,
    )
