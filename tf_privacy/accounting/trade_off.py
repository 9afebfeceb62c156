# SPDX-License-Identifier: Apache-2.0
"""What (epsilon, delta) mean for an attacker who looks for one unit's data.

The attacker sees the mechanism's output, may know all other data, and tests
whether the unit was in the data (member) or not (non-member). The false
positive rate is how often the test takes a non-member for a member, the true
positive rate how often it finds a member, and the false negative rate the rest.
No test gets past the bounds here, as long as the unit's membership does not
depend on the other data: copies that come and go together are one unit.

The bounds take a privacy profile: arrays `epsilons` (`[E]`, nats, >= 0, rising)
and `deltas` (`[E]`, in [0, 1]) such that the mechanism is (epsilons[i],
deltas[i])-DP for every i, for both orders of the neighbors. More pairs sharpen
the answer; at a false positive rate f, epsilons up to log(1 / f) matter.

Source: Dong, Roth and Su 2022, arXiv:1905.02383, Section 2; Wasserman and Zhou
2010, arXiv:0811.2501, Theorem 2.4 (pure DP).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from tf_privacy import _checks

# Far above the rounding errors of the few operations between input and output.
_ROUND_UP = 1.0 + 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackBounds:
    """The most that any membership inference attack can reach.

    Attributes:
        false_positive_rates: Rates in [0, 1] that were asked for.
        true_positive_rates: Upper bound at each of them, in [0, 1].
        max_accuracy: Upper bound of the share of right answers, with as many
            members as non-members; in [0.5, 1].
        max_advantage: Upper bound of true minus false positive rate; in [0, 1].
    """

    false_positive_rates: tuple[float, ...]
    true_positive_rates: tuple[float, ...]
    max_accuracy: float
    max_advantage: float

    def __str__(self) -> str:
        lines = [
            "No attack on one unit's membership does better than this:",
            "  false positive rate    true positive rate",
        ]
        pairs = zip(
            self.false_positive_rates, self.true_positive_rates, strict=True
        )
        lines += [f"  {f:>19.4g}    {_show_up(t):>18}" for f, t in pairs]
        accuracy, advantage = map(
            _show_up, (self.max_accuracy, self.max_advantage)
        )
        lines.append(f"  accuracy on a balanced test: {accuracy}")
        lines.append(f"  true minus false positive rate: {advantage}")
        return "\n".join(lines)


def compute_trade_off(
    false_positive_rates: np.ndarray,
    *,
    epsilons: np.ndarray,
    deltas: np.ndarray,
) -> np.ndarray:
    """Returns the least false negative rate of any test, at each rate.

        result[f] = max(0,
            max_i 1 - deltas[i] - e^epsilons[i] rates[f],
            max_i e^-epsilons[i] (1 - deltas[i] - rates[f]))

    Args:
        false_positive_rates: `[F]` or a number; each in [0, 1].
        epsilons, deltas: `[E]` float64; the profile.

    Returns:
        `[F]` float64 in [0, 1]; a lower bound (rounded down).

    Raises:
        ValueError: If an argument is out of range or the shapes differ.
    """
    rates = compute_max_true_positive_rate(
        false_positive_rates, epsilons=epsilons, deltas=deltas
    )
    return np.where(rates > 0.0, np.nextafter(1.0 - rates, 0.0), 1.0)


def compute_max_true_positive_rate(
    false_positive_rates: np.ndarray,
    *,
    epsilons: np.ndarray,
    deltas: np.ndarray,
) -> np.ndarray:
    """Returns the largest true positive rate of any test, at each rate.

    One minus `compute_trade_off`, in a form that stays precise where small:

        result[f] = min(1,
            min_i deltas[i] + e^epsilons[i] rates[f],
            min_i 1 - e^-epsilons[i] + e^-epsilons[i] (deltas[i] + rates[f]))

    Args:
        false_positive_rates: `[F]` or a number; each in [0, 1].
        epsilons, deltas: `[E]` float64; the profile.

    Returns:
        `[F]` float64 in [0, 1]; an upper bound (rounded up).

    Raises:
        ValueError: If an argument is out of range or the shapes differ.
    """
    rates = _check_probabilities("false_positive_rates", false_positive_rates)
    epsilons, deltas = _check_profile(epsilons, deltas)
    with np.errstate(divide="ignore"):
        log_rates = np.log(rates)[:, np.newaxis]
    # Any exponent above 0 says no more than the rate 1 that closes the list.
    steep = deltas + np.exp(np.minimum(epsilons + log_rates, 1.0))
    flat = np.exp(-epsilons) * (deltas + rates[:, np.newaxis])
    flat -= np.expm1(-epsilons)
    least = np.minimum(np.min(steep, axis=1), np.min(flat, axis=1))
    return np.minimum(1.0, least * _ROUND_UP)


def compute_max_advantage(*, epsilons: np.ndarray, deltas: np.ndarray) -> float:
    """Returns the largest true minus false positive rate of any test.

        result = min_i tanh(epsilons[i] / 2) + 2 deltas[i] / (1 + e^epsilons[i])

    This is the trade-off curve at the point where both error rates are equal;
    the curve is symmetric and convex, so that no other point gives more.

    Args:
        epsilons, deltas: `[E]` float64; the profile.

    Returns:
        Advantage in [0, 1]; an upper bound (rounded up).

    Raises:
        ValueError: If an argument is out of range or the shapes differ.

    Source: Humphries et al. 2020, arXiv:2010.12112.
    """
    epsilons, deltas = _check_profile(epsilons, deltas)
    advantages = np.tanh(0.5 * epsilons)
    advantages += 2.0 * deltas * special.expit(-epsilons)
    return min(1.0, float(np.min(advantages)) * _ROUND_UP)


def compute_max_accuracy(*, epsilons: np.ndarray, deltas: np.ndarray) -> float:
    """Returns the largest accuracy on a balanced test: (1 + advantage) / 2."""
    advantage = compute_max_advantage(epsilons=epsilons, deltas=deltas)
    return min(1.0, (0.5 + 0.5 * advantage) * _ROUND_UP)


def compute_max_posterior(
    priors: np.ndarray,
    *,
    false_positive_rate: float,
    epsilons: np.ndarray,
    deltas: np.ndarray,
) -> np.ndarray:
    """Returns the largest share of members among those a test calls members.

    With f the test's false positive rate and t its largest true positive rate:

        result[p] = priors[p] t / (priors[p] t + (1 - priors[p]) f)

    This is the positive predictive value: the posterior averaged over all
    outputs that the test takes for a member. It holds for every test whose
    false positive rate is f or more. With delta > 0 no bound holds for each
    single output: as f nears 0, the result nears 1.

    Args:
        priors: `[P]` or a number; share of members beforehand; in [0, 1].
        false_positive_rate: Least rate of the tests meant; in (0, 1].
        epsilons, deltas: `[E]` float64; the profile.

    Returns:
        `[P]` float64 in [0, 1]; an upper bound (rounded up).

    Raises:
        ValueError: If an argument is out of range or the shapes differ.
    """
    priors = _check_probabilities("priors", priors)
    false_rate = _checks.check_real(
        "false_positive_rate",
        false_positive_rate,
        above=0.0,
        at_most=1.0,
        hint="A test without false positives has no bound below 1.",
    )
    true_rate = compute_max_true_positive_rate(
        false_rate, epsilons=epsilons, deltas=deltas
    )
    hits = priors * true_rate
    posteriors = hits / (hits + (1.0 - priors) * false_rate)
    return np.minimum(1.0, posteriors * _ROUND_UP)


def compute_posterior_bound(prior: float, *, epsilon: float) -> float:
    """Returns the largest membership posterior after one output of pure DP.

        result = prior e^epsilon / (1 - prior + prior e^epsilon)

    With delta = 0 it holds for every output. With (epsilon, delta)-DP it may
    fail, and not only with probability delta: an output of a member's data has
    a posterior above the bound for epsilon + t with probability at most
    delta / (1 - e^-t), for every t > 0.

    Args:
        prior: Probability of membership beforehand; in [0, 1].
        epsilon: Nats; >= 0.

    Returns:
        Posterior in [0, 1]; an upper bound (rounded up).

    Raises:
        ValueError: If an argument is out of range.

    Source: Bayes' rule; for delta > 0, Markov's inequality.
    """
    prior = _checks.check_real("prior", prior, at_least=0.0, at_most=1.0)
    epsilon = _checks.check_real("epsilon", epsilon, at_least=0.0)
    if prior == 0.0:
        return 0.0
    odds = (1.0 - prior) * math.exp(-epsilon) / max(prior, 1e-300)
    return min(1.0, _ROUND_UP / (1.0 + odds))


def compute_attack_bounds(
    *,
    epsilons: np.ndarray,
    deltas: np.ndarray,
    false_positive_rates: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1),
) -> AttackBounds:
    """Returns bounds of membership inference, to show or to report.

    Args:
        epsilons, deltas: `[E]` float64; the profile.
        false_positive_rates: `[F]`; each in [0, 1].

    Returns:
        All upper bounds (rounded up).

    Raises:
        ValueError: If an argument is out of range or the shapes differ.
    """
    true_rates = compute_max_true_positive_rate(
        false_positive_rates, epsilons=epsilons, deltas=deltas
    )
    return AttackBounds(
        false_positive_rates=tuple(
            np.atleast_1d(false_positive_rates).tolist()
        ),
        true_positive_rates=tuple(true_rates.tolist()),
        max_accuracy=compute_max_accuracy(epsilons=epsilons, deltas=deltas),
        max_advantage=compute_max_advantage(epsilons=epsilons, deltas=deltas),
    )


def _show_up(rate: float) -> str:
    """Returns a rate in [0, 1] with four digits, rounded up."""
    if rate == 0.0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(max(rate, 1e-300))) - 3)
    return f"{min(1.0, math.ceil(rate / unit * (1.0 - 1e-9)) * unit):.4g}"


def _check_probabilities(name: str, values) -> np.ndarray:
    array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if not (array.ndim == 1 and np.all((array >= 0.0) & (array <= 1.0))):
        raise ValueError(
            f"{name} must be a list of numbers in [0, 1]. Received: {values!r}."
        )
    return array


def _check_profile(epsilons, deltas) -> tuple[np.ndarray, np.ndarray]:
    epsilons = np.atleast_1d(np.asarray(epsilons, dtype=np.float64))
    valid = np.all((epsilons >= 0.0) & np.isfinite(epsilons))
    rises = epsilons.ndim == 1 and np.all(np.diff(epsilons) > 0.0)
    if not (valid and rises and epsilons.size):
        raise ValueError(
            "epsilons must be a list of rising finite numbers >= 0. Received: "
            f"{epsilons!r}. Sort them, and their deltas alike."
        )
    deltas = _check_probabilities("deltas", deltas)
    if deltas.shape != epsilons.shape:
        raise ValueError(
            f"deltas must have the shape of epsilons, {epsilons.shape}. "
            f"Received shape: {deltas.shape}. Pass one for each epsilon."
        )
    return epsilons, deltas
