# SPDX-License-Identifier: Apache-2.0
"""Privacy of a search that trains a random number of times, and keeps the best.

The search draws a number K, trains K times on the same data, each time with
settings drawn anew from one list of candidates, and publishes the run with the
highest score, and nothing else. The bounds hold if

*   K is drawn from one of the distributions below, independently of the data,
    and stays secret, as do all other runs and their scores;
*   each run has the given RDP whatever its settings, and draws them
    independently of the data and of the other runs, with replacement: going
    through a list once, or steering by earlier scores, is not covered;
*   the score depends on the run's output and on public data only, or its own
    privacy loss is part of the given RDP.

A fixed K is not covered: it can cost K times as much as one run.

Source: Papernot and Steinke 2022, arXiv:2110.03620.
"""

import dataclasses
import math

import numpy as np
from scipy import special

from tf_privacy import _checks
from tf_privacy.accounting import conversion

# Both are far above the error of double precision in what they raise.
_ROUND_UP = 1.0 + 1e-9
_ROUNDING = 1e-14
_MIN_GAMMA = 1e-300


@dataclasses.dataclass(frozen=True, kw_only=True)
class NegativeBinomialRuns:
    """A number of runs K >= 1 from the truncated negative binomial.

        P(K = k) ~ (1 - gamma)^k prod_{i < k} (i + eta) / (i + 1),   k >= 1

    eta = 1 is the geometric distribution, and eta = 0, taken as the limit, the
    logarithmic one. A smaller eta costs less privacy for the same mean, but
    more often draws very few runs.

    Attributes:
        eta: Shape, no unit; in (-1, 1000].
        gamma: Chance to stop in the geometric case, no unit; in [1e-300, 1).
            Smaller means more runs.
    """

    eta: float
    gamma: float

    def __post_init__(self):
        eta = _check_eta(self.eta)
        gamma = _checks.check_real(
            "gamma",
            self.gamma,
            at_least=_MIN_GAMMA,
            below=1.0,
            hint="NegativeBinomialRuns.from_mean finds it for a mean.",
        )
        object.__setattr__(self, "eta", eta)
        object.__setattr__(self, "gamma", gamma)

    @classmethod
    def from_mean(cls, mean: float, eta: float) -> "NegativeBinomialRuns":
        """Returns the distribution of a given shape and expected K.

        Args:
            mean: Runs expected; > 1.
            eta: Shape, no unit; in (-1, 1000].

        Returns:
            The distribution whose mean is the nearest that is not above `mean`.

        Raises:
            ValueError: If an argument is out of range, or no gamma in
                [1e-300, 1) has this mean.
        """
        eta = _check_eta(eta)
        mean = _checks.check_real(
            "mean",
            mean,
            above=1.0,
            hint="One run needs no search: publish it as it is.",
        )
        low, high = _MIN_GAMMA, math.nextafter(1.0, 0.0)
        if not (_expect(eta, high) <= mean <= _expect(eta, low)):
            raise ValueError(
                "mean must be within reach of gamma in [1e-300, 1). Received: "
                f"{mean!r}, with eta {eta!r}. Use another mean, or a larger "
                "eta."
            )
        # Halves the logarithm's range, 691, down to the spacing of floats.
        for _ in range(64):
            middle = math.sqrt(low) * math.sqrt(high)
            if _expect(eta, middle) <= mean:
                high = middle
            else:
                low = middle
        return cls(eta=eta, gamma=high)

    @property
    def expected_num_runs(self) -> float:
        """Returns E[K] = eta (1 - gamma) / (gamma (1 - gamma^eta))."""
        return _expect(self.eta, self.gamma)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoissonRuns:
    """A number of runs K >= 0 from the Poisson distribution.

    K = 0 publishes that there was no run, which happens with probability
    e^-mean.

    Attributes:
        mean: Runs expected; in (0, 1e9].
    """

    mean: float

    def __post_init__(self):
        mean = _checks.check_real("mean", self.mean, above=0.0, at_most=1e9)
        object.__setattr__(self, "mean", mean)

    @property
    def expected_num_runs(self) -> float:
        """Returns E[K]."""
        return self.mean


def compute_search_rdp(
    orders: np.ndarray,
    rdp: np.ndarray,
    *,
    num_runs: NegativeBinomialRuns | PoissonRuns,
) -> np.ndarray:
    """Returns the RDP of publishing the best of a random number of runs.

    Truncated negative binomial, with the least value over the orders b >= 1
    (at b = 1 the RDP is not needed):

        result[a] = rdp[a] + log(E[K]) / (a - 1)
            + (1 + eta) min_b((1 - 1 / b) rdp[b] + log(1 / gamma) / b)

    Poisson, with d[a] the delta of one run at epsilon log(1 + 1 / (a - 1)):

        result[a] = log(e^-mean + mean e^((a - 1) (rdp[a] + mean d[a])))
            / (a - 1)

    The second is Theorem 6 of the source with the term e^-mean, for no run at
    all, kept; so it holds for means below 1 too. As Renyi divergences rise with
    the order, no order's result is left above that of a higher one. Runs that
    depend on no data (RDP zero at every order) give zero.

    Args:
        orders: `[A]` float64; Renyi orders a > 1, in any sequence.
        rdp: `[A]` float64, nats; >= 0; of one run, for both orders of the
            neighbors.
        num_runs: Distribution of the number of runs.

    Returns:
        `[A]` float64, nats; an upper bound (rounded up).

    Raises:
        TypeError: If `num_runs` is neither distribution.
        ValueError: If an array is out of range, or a result is not finite.

    Source: Papernot and Steinke 2022, arXiv:2110.03620, Theorems 2 and 6.
    """
    orders, rdp = _check_curve(orders, rdp)
    if isinstance(num_runs, NegativeBinomialRuns):
        bound = _bound_negative_binomial(orders, rdp, num_runs)
    elif isinstance(num_runs, PoissonRuns):
        with np.errstate(over="ignore"):
            bound = _bound_poisson(orders, rdp, num_runs)
    else:
        raise TypeError(
            "num_runs must be a NegativeBinomialRuns or a PoissonRuns. "
            f"Received: {num_runs!r}. A fixed number of runs is not covered; "
            "compose the runs instead."
        )
    if not np.any(rdp):
        return np.zeros_like(rdp)
    if not np.all(np.isfinite(bound)):
        raise ValueError(
            "rdp must leave finite results. Received a largest value of "
            f"{float(np.max(rdp))!r}. Use more noise or fewer steps."
        )
    falling = np.argsort(orders)[::-1]
    bound[falling] = np.minimum.accumulate(bound[falling])
    return bound * _ROUND_UP


def compute_search_epsilon(
    orders: np.ndarray,
    rdp: np.ndarray,
    *,
    num_runs: NegativeBinomialRuns | PoissonRuns,
    delta: float,
) -> float:
    """Returns the epsilon of publishing the best of a random number of runs.

    Args:
        orders: `[A]` float64; Renyi orders a > 1.
        rdp: `[A]` float64, nats; >= 0; of one run.
        num_runs: Distribution of the number of runs.
        delta: Probability in (0, 1).

    Returns:
        epsilon in nats, >= 0; an upper bound (rounded up).

    Raises:
        TypeError: If `num_runs` is neither distribution.
        ValueError: If an argument is out of range, or a result is not finite.

    Source: Papernot and Steinke 2022, arXiv:2110.03620, Theorems 2 and 6.
    """
    delta = _checks.check_delta(delta)
    total = compute_search_rdp(orders, rdp, num_runs=num_runs)
    orders = np.asarray(orders, dtype=np.float64)
    cost = conversion.compute_conversion_cost(orders, delta=delta)
    epsilon, _ = conversion.convert_to_epsilon(orders, total, cost=cost)
    return epsilon


def _check_eta(eta) -> float:
    return _checks.check_real(
        "eta",
        eta,
        above=-1.0,
        at_most=1000.0,
        hint="1 is the geometric distribution, 0 the logarithmic.",
    )


def _check_curve(orders, rdp) -> tuple[np.ndarray, np.ndarray]:
    orders = np.asarray(orders, dtype=np.float64)
    rdp = np.asarray(rdp, dtype=np.float64)
    finite = np.all((orders > 1.0) & np.isfinite(orders))
    if not (orders.ndim == 1 and orders.size and finite):
        raise ValueError(
            "orders must be a list of finite numbers > 1. Received: "
            f"{orders!r}. renyi.DEFAULT_ORDERS will do."
        )
    if not (
        rdp.shape == orders.shape and np.all((rdp >= 0.0) & np.isfinite(rdp))
    ):
        raise ValueError(
            f"rdp must be finite numbers >= 0 of shape {orders.shape}. "
            f"Received: {rdp!r}. Leave out the orders that have none."
        )
    return orders, rdp


def _expect(eta: float, gamma: float) -> float:
    """Returns E[K] in a form that has no gap at eta = 0."""
    log_gamma = math.log(gamma)
    below = -gamma * log_gamma * float(special.exprel(eta * log_gamma))
    return max(1.0, (1.0 - gamma) / below)


def _bound_negative_binomial(
    orders: np.ndarray, rdp: np.ndarray, num_runs: NegativeBinomialRuns
) -> np.ndarray:
    log_inverse = -math.log(num_runs.gamma)
    per_order = (1.0 - 1.0 / orders) * rdp + log_inverse / orders
    least = min(log_inverse, float(np.min(per_order)))
    log_mean = math.log(num_runs.expected_num_runs) + _ROUNDING
    return rdp + (1.0 + num_runs.eta) * least + log_mean / (orders - 1.0)


def _bound_poisson(
    orders: np.ndarray, rdp: np.ndarray, num_runs: PoissonRuns
) -> np.ndarray:
    # A smaller epsilon than the theorem allows has a larger delta.
    epsilons = np.log1p(1.0 / (orders - 1.0)) * (1.0 - _ROUNDING)
    deltas = np.array(
        [conversion.convert_to_delta(orders, rdp, epsilon=e) for e in epsilons]
    )
    mean = num_runs.mean
    log_some = (orders - 1.0) * (rdp + mean * deltas * _ROUND_UP)
    log_some += math.log(mean)
    log_moment = np.logaddexp(-mean, log_some)
    log_moment += _ROUNDING * (1.0 + np.abs(log_some))
    return log_moment / (orders - 1.0)
