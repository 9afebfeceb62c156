# SPDX-License-Identifier: Apache-2.0
"""Zero-concentrated DP (zCDP) and Gaussian DP (GDP) of the Gaussian mechanism.

Bounds, which a privacy claim may rest on:

*   `compute_gaussian_rho` and `bound_gdp_mu_of_gaussians`: exact.
*   `compute_gdp_delta` and `compute_gdp_epsilon`: exact for the Gaussian
    without sampling, and bounds for every mechanism that is mu-GDP.
*   `compute_zcdp_epsilon`: a bound for every mechanism that is rho-zCDP. For
    the Gaussian itself the GDP functions give less.

An approximation, which no privacy claim may rest on:

*   `estimate_clt_mu`: what the central limit theorem says of the sampled
    Gaussian. The truth may be far above it.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from tf_privacy import _checks
from tf_privacy.accounting import ranges

# Far above the relative error of the few operations that each covers.
_ROUNDING = 1e-14
_ROUND_UP = 1.0 + 1e-12
_NUM_BISECTIONS = 100
_MIN_DELTA = 1e-300
_SMALLEST_DELTA = float(np.finfo(np.float64).tiny)
# The normal tail beyond it is below `_SMALLEST_DELTA`.
_FARTHEST_TAIL = 38.0


def compute_gaussian_rho(noise_multiplier: float) -> float:
    """Returns the zCDP of one Gaussian release of L2 sensitivity 1.

        rho = 1 / (2 noise_multiplier^2)

    Args:
        noise_multiplier: Noise stddev over the sensitivity, no unit; in
            [0.01, 1000].

    Returns:
        rho in nats; exact (rounded up). Releases add up.

    Raises:
        ValueError: If `noise_multiplier` is out of range.

    Source: Bun and Steinke 2016, arXiv:1605.02065, Proposition 1.6.
    """
    noise_multiplier = ranges.check_noise_multiplier(noise_multiplier)
    return 0.5 / noise_multiplier**2 * _ROUND_UP


def compute_zcdp_epsilon(rho: float, *, delta: float) -> float:
    """Returns the epsilon of a rho-zCDP mechanism, least over all orders.

    The RDP at order a is a rho, so that every a > 1 proves

        epsilon = a rho + log(1 - 1 / a) - log(delta a) / (a - 1)

    It falls in a while rho (a - 1)^2 < log(1 / (delta a)), and rises after
    that. A search that stopped elsewhere would still return a bound. rho 0
    gives 0.

    Args:
        rho: Concentrated privacy loss, nats; in [0, 1e300].
        delta: Probability in (0, 1).

    Returns:
        epsilon in nats, >= 0; an upper bound (rounded up), never above the
        usual rho + 2 sqrt(rho log(1 / delta)).

    Raises:
        ValueError: If an argument is out of range.

    Source: Canonne, Kamath and Steinke 2020, arXiv:2004.00010, Proposition 12;
        the usual formula: Bun and Steinke 2016, arXiv:1605.02065,
        Proposition 1.3.
    """
    rho = _checks.check_real("rho", rho, at_least=0.0, at_most=1e300)
    log_inverse = -math.log(_checks.check_delta(delta))
    if rho == 0.0:
        return 0.0
    # t = a - 1. Above each of the two ends one term alone outweighs the rest.
    low = 0.0
    high = min(math.sqrt(log_inverse) / math.sqrt(rho), 1.0 / delta)
    for _ in range(_NUM_BISECTIONS):
        t = 0.5 * (low + high)
        if rho * t * t + math.log1p(t) < log_inverse:
            low = t
        else:
            high = t
    terms = [
        rho,
        high * rho,
        -math.log1p(1.0 / high),
        (log_inverse - math.log1p(high)) / high,
    ]
    epsilon = math.fsum(terms) + _ROUNDING * sum(map(abs, terms))
    usual = rho + 2.0 * math.sqrt(rho) * math.sqrt(log_inverse)
    return max(0.0, min(epsilon, usual * (1.0 + _ROUNDING)))


def compute_gdp_delta(mu: float, *, epsilon: float) -> float:
    """Returns the delta of mu-GDP at one epsilon.

    With x = epsilon / mu - mu / 2, Phi and phi the normal distribution and
    density, and R(x) = Phi(-x) / phi(x):

        delta = Phi(-x) - e^epsilon Phi(-x - mu) = phi(x) (R(x) - R(x + mu))

    Where mu is too small for the difference, the trapezoid of -R' stands in for
    it: a bound, as -R' is convex. mu 0 gives 0, and a tail too thin for floats
    the smallest normal one.

    Args:
        mu: Of the Gaussian: sensitivity / stddev, no unit; in [0, 1e100].
        epsilon: Nats; >= 0.

    Returns:
        delta in [0, 1]; an upper bound (rounded up).

    Raises:
        ValueError: If an argument is out of range.

    Source: Balle and Wang 2018, arXiv:1805.06530, Theorem 8; Dong, Roth and Su
        2022, arXiv:1905.02383, Corollary 2.13.
    """
    mu = _check_mu(mu)
    epsilon = _checks.check_real("epsilon", epsilon, at_least=0.0)
    if mu == 0.0:
        return 0.0
    return _bound_delta(mu, epsilon)


def compute_gdp_epsilon(mu: float, *, delta: float) -> float:
    """Returns the least epsilon at which mu-GDP has at most this delta.

    Inverts `compute_gdp_delta` by bisection, and returns the end at which that
    bound was evaluated and found to be at most `delta`. mu 0 gives 0.

    Args:
        mu: Of the Gaussian: sensitivity / stddev, no unit; in [0, 1e100].
        delta: Probability in [1e-300, 1).

    Returns:
        epsilon in nats, >= 0; an upper bound (rounded up).

    Raises:
        ValueError: If an argument is out of range.

    Source: Balle and Wang 2018, arXiv:1805.06530, Theorem 8.
    """
    mu = _check_mu(mu)
    delta = _checks.check_real("delta", delta, at_least=_MIN_DELTA, below=1.0)
    if mu == 0.0 or _bound_delta(mu, 0.0) <= delta:
        return 0.0
    # There x = sqrt(2 log(1 / delta)), and Phi(-x) <= e^(-x^2 / 2) / 2.
    tail = math.sqrt(-2.0 * math.log(delta))
    low, high = 0.0, mu * (0.5 * mu + tail) * (1.0 + 1e-9)
    if not _bound_delta(mu, high) <= delta:
        raise ValueError(
            f"mu must leave an epsilon that can be verified. Received: {mu!r}. "
            "Please report this as a defect."
        )
    for _ in range(_NUM_BISECTIONS):
        middle = 0.5 * (low + high)
        if _bound_delta(mu, middle) <= delta:
            high = middle
        else:
            low = middle
    return high


def bound_gdp_mu_of_gaussians(
    noise_multipliers: Sequence[float], counts: Sequence[int]
) -> float:
    """Returns the GDP of Gaussian releases of the whole data, together.

        mu = sqrt(sum_m counts[m] / noise_multipliers[m]^2)

    Holds too where a release depends on the results of earlier ones, as long as
    its noise does not. Sampling is not accounted for: no amplification. Nothing
    released gives 0.

    Args:
        noise_multipliers: `[M]`; noise stddev over the L2 sensitivity, no unit;
            each in [0.01, 1000].
        counts: `[M]`; releases of each; whole, in [0, 1e8].

    Returns:
        mu, no unit; exact (rounded up).

    Raises:
        ValueError: If the lengths differ or an argument is out of range.

    Source: Dong, Roth and Su 2022, arXiv:1905.02383, Corollary 3.3.
    """
    if len(noise_multipliers) != len(counts):
        raise ValueError(
            f"counts must have one entry for each of {len(noise_multipliers)} "
            f"noise_multipliers. Received: {len(counts)} entries."
        )
    parts = []
    for noise_multiplier, count in zip(noise_multipliers, counts, strict=True):
        checked = ranges.check_noise_multiplier(noise_multiplier)
        count = _checks.check_integer(
            "counts", count, at_least=0, at_most=ranges.MAX_NUM_STEPS
        )
        parts.append(count / checked**2)
    return math.sqrt(math.fsum(parts)) * _ROUND_UP


def estimate_clt_mu(
    *, noise_multiplier: float, sampling_probability: float, num_steps: int
) -> float:
    """Returns an APPROXIMATION AND NO BOUND of the sampled Gaussian's mu.

        mu = sampling_probability sqrt(num_steps (e^(noise_multiplier^-2) - 1))

    It is the limit of many steps whose sampling_probability falls like
    1 / sqrt(num_steps). For a given run the truth may be far above it: with
    sampling_probability 1e-6, noise_multiplier 0.5 and 1000 steps it promises
    epsilon 0.00095 at delta 1e-9, and the true one is 0.058. It serves to
    compare with publications that used it, never to state privacy. Zero steps
    give 0.

    Args:
        noise_multiplier: Noise stddev over the L2 clip, no unit; in
            [0.01, 1000].
        sampling_probability: Chance that a unit joins a batch; in [1e-8, 1].
        num_steps: Number of releases; whole, in [0, 1e8].

    Returns:
        mu, no unit; neither an upper nor a lower bound.

    Raises:
        ValueError: If an argument is out of range, or mu overflows.

    Source: Bu, Dong, Long and Su 2020, arXiv:1911.11607, Section 3.
    """
    noise_multiplier = ranges.check_noise_multiplier(noise_multiplier)
    probability = ranges.check_sampling_probability(sampling_probability)
    num_steps = ranges.check_num_steps(num_steps)
    if num_steps == 0:
        return 0.0
    spread = float(special.expm1(noise_multiplier**-2))
    mu = probability * math.sqrt(num_steps * spread)
    if not mu < math.inf:
        raise ValueError(
            "noise_multiplier must leave a finite mu. Received: "
            f"{noise_multiplier!r}. Use an accountant that bounds the truth."
        )
    return mu


def _check_mu(mu) -> float:
    return _checks.check_real("mu", mu, at_least=0.0, at_most=1e100)


def _compute_mills_ratio(x: float) -> float:
    """Returns R(x) = Phi(-x) / phi(x)."""
    return math.sqrt(0.5 * math.pi) * float(special.erfcx(x / math.sqrt(2.0)))


def _bound_delta(mu: float, epsilon: float) -> float:
    """Returns delta, or a little more; mu > 0."""
    # A shift down by the error of the difference is a smaller epsilon.
    x = epsilon / mu * (1.0 - 1e-15) - 0.5 * mu * (1.0 + 1e-15)
    if x > _FARTHEST_TAIL:
        return _SMALLEST_DELTA
    density = math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    far = _compute_mills_ratio(x + mu)
    if x < -1.0:
        tail = float(special.ndtr(-x))
        return min(1.0, tail * (1.0 + _ROUNDING) - density * far)
    near = _compute_mills_ratio(x)
    difference = near - far + _ROUNDING * near
    slopes = [1.0 - x * near, 1.0 - (x + mu) * far]
    slack = 2.0 * _ROUNDING * (1.0 + abs(x) * near)
    trapezoid = 0.5 * mu * (sum(slopes) + slack)
    delta = density * min(difference, trapezoid) * _ROUND_UP
    return max(_SMALLEST_DELTA, min(1.0, delta))
