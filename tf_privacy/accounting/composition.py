# SPDX-License-Identifier: Apache-2.0
"""Epsilon and delta of several mechanisms that ran on the same data."""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable
from collections.abc import Sequence

from tf_privacy import _checks
from tf_privacy.accounting import closed_form
from tf_privacy.accounting import concentrated
from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import neighboring_relation as relation_lib
from tf_privacy.accounting import privacy_loss
from tf_privacy.accounting import rdp_accountant
from tf_privacy.accounting import releases
from tf_privacy.accounting import tight

_ADD_OR_REMOVE_ONE = relation_lib.NeighboringRelation.ADD_OR_REMOVE_ONE
# The closed forms are this exact; their lower ends are placed below by it.
_CLOSED_FORM_WIDTH = 1e-8

CLOSED_FORM = "closed form"
CONTOUR = "privacy loss distribution, certified contour integral"
UNSAMPLED = "closed form, as if all units were in every batch"
SUMMED = "closed form of each step, epsilons and deltas added up"
RENYI = "RDP, Canonne-Kamath-Steinke conversion"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpsilonBounds:
    """What a run spent, between two certified bounds.

    Attributes:
        epsilon: Nats; never below the truth: the number to state.
        lower: Nats; no smaller epsilon holds for all data, models and losses.
            0 where that is not proved.
        rdp_epsilon: Nats; the looser bound of the Renyi accountant; inf if
            there is none.
        delta: Probability in (0, 1).
        accountant: How `epsilon` was found.
    """

    epsilon: float
    lower: float
    rdp_epsilon: float
    delta: float
    accountant: str

    def __str__(self) -> str:
        return (
            f"epsilon between {self.lower:.6g} and {self.epsilon:.6g} at "
            f"delta = {self.delta:g} ({self.accountant}; RDP: "
            f"{self.rdp_epsilon:.4g})"
        )


def collect_releases(
    mechanisms: Sequence[mechanism_lib.Mechanism],
    relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> tuple[tuple[releases.Release, int], ...]:
    """Returns the different releases and their counts, in a fixed order.

    Gaussian releases become one: noise multipliers add up like
    sum(count / noise_multiplier^2).

    Args:
        mechanisms: What ran, in any order.
        relation: Which data sets are compared.

    Returns:
        Pairs without zero counts; equal runs give equal results.
    """
    relation_lib.check_neighboring_relation(relation)
    counts = collections.Counter()
    for mechanism in mechanisms:
        mechanism_lib.check_mechanism("mechanisms", mechanism)
        for release, count in mechanism.list_releases(relation):
            counts[release] += count
    precisions, rest = [], []
    for release, count in sorted(counts.items(), key=repr):
        if count and isinstance(release, releases.GaussianRelease):
            precisions.append(count / release.noise_multiplier**2)
        elif count:
            rest.append((release, count))
    if precisions:
        noise = 1.0 / math.sqrt(math.fsum(precisions))
        rest.append((releases.GaussianRelease(noise), 1))
    return tuple(rest)


def _make_directions(collected):
    """Returns what the tight accountant needs: removing, then adding."""
    return [
        tight.Direction(
            [
                (functools.partial(release.make_loss, removes=removes), count)
                for release, count in collected
            ]
        )
        for removes in (True, False)
    ]


@dataclasses.dataclass(frozen=True)
class _ClosedForm:
    """What has a closed form, as functions.

    Attributes:
        epsilon: From delta to an upper bound of epsilon.
        lower: From delta to a lower bound of epsilon.
        delta: From epsilon to an upper bound of delta.
    """

    epsilon: Callable[[float], float]
    lower: Callable[[float], float]
    delta: Callable[[float], float]


def _get_closed_form(collected) -> _ClosedForm | None:
    """Returns the closed form of what ran, or None."""
    if len(collected) != 1 or collected[0][1] != 1:
        return None
    release = collected[0][0]
    if isinstance(release, releases.GaussianRelease):
        mu = 1.0 / release.noise_multiplier
        solve = functools.partial(concentrated.compute_gdp_epsilon, mu)
        # Its delta is above the truth by less than half of the width.
        return _ClosedForm(
            epsilon=lambda delta: solve(delta=delta),
            lower=lambda delta: (
                solve(
                    delta=min(delta * (1.0 + _CLOSED_FORM_WIDTH), 1.0 - 1e-16)
                )
                * (1.0 - _CLOSED_FORM_WIDTH)
            ),
            delta=lambda epsilon: concentrated.compute_gdp_delta(
                mu, epsilon=epsilon
            ),
        )
    if isinstance(release, releases.SampledGaussianRelease):
        shifts = release.make_shifts()
        solve = functools.partial(closed_form.compute_release_epsilon, shifts)
        return _ClosedForm(
            epsilon=lambda delta: solve(delta=delta),
            lower=lambda delta: solve(delta=delta, rounding=-1.0),
            delta=lambda epsilon: max(
                closed_form.compute_release_delta(
                    shifts, epsilon=epsilon, removes=removes
                )
                for removes in (True, False)
            ),
        )
    return None


def _bound_unsampled(collected, delta, epsilon: float) -> float:
    """Returns epsilon as if every unit were in every sample, or inf.

    Also inf where that is above the given epsilon.
    """
    precision = 0.0
    for release, count in collected:
        size = 1.0
        if isinstance(release, releases.GroupGaussianRelease):
            size = release.group_size
        elif not isinstance(
            release,
            releases.GaussianRelease | releases.SampledGaussianRelease,
        ):
            return math.inf
        precision += count * (size / release.noise_multiplier) ** 2
    mu = math.sqrt(precision)
    if epsilon < math.inf:
        found = concentrated.compute_gdp_delta(mu, epsilon=epsilon)
        if found > delta:
            return math.inf
    return concentrated.compute_gdp_epsilon(mu, delta=delta)


def _bound_by_sum(collected, delta) -> float:
    """Returns the sum of single epsilons, each at its share of delta, or inf.

    Where a unit hardly ever takes part this beats the moments: they are ruled
    by the rare step in which it does.
    """
    total = sum(count for _, count in collected)
    epsilon = 0.0
    for release, count in collected:
        exact = _get_closed_form(((release, 1),))
        if exact is None:
            return math.inf
        epsilon += count * exact.epsilon(delta / total)
    return epsilon


def _bound_tightly(collected, delta, with_lower) -> tight.Bounds:
    """Returns the tight accountant's bounds, infinite without a proof."""
    nothing = tight.Bounds(lower=0.0, upper=math.inf)
    if not all(release.has_loss for release, _ in collected):
        return nothing
    attained = all(release.is_attained for release, _ in collected)
    try:
        return tight.compute_epsilon_bounds(
            _make_directions(collected),
            delta=delta,
            with_lower=with_lower and attained,
        )
    except privacy_loss.NotCertifiedError:
        return nothing


@functools.lru_cache(maxsize=1024)
def _bound_epsilon(collected, delta, with_lower) -> tuple[float, float, str]:
    """Returns upper and lower bound and the method; inf without a proof."""
    if not collected:
        return 0.0, 0.0, CLOSED_FORM
    exact = _get_closed_form(collected)
    if exact is not None:
        upper = exact.epsilon(delta) * (1.0 + 0.5 * _CLOSED_FORM_WIDTH)
        return upper, exact.lower(delta) if with_lower else 0.0, CLOSED_FORM
    bounds = _bound_tightly(collected, delta, with_lower)
    candidates = [
        (bounds.upper, CONTOUR),
        (_bound_unsampled(collected, delta, bounds.upper), UNSAMPLED),
    ]
    if not bounds.upper < math.inf:
        candidates.append((_bound_by_sum(collected, delta), SUMMED))
    upper, accountant = min(candidates)
    return upper, bounds.lower, accountant


def _compute_rdp_epsilon(mechanisms, delta, relation) -> float:
    try:
        return rdp_accountant.compute_rdp_epsilon_of(
            mechanisms, delta=delta, neighboring_relation=relation
        )[0]
    except ValueError:
        return math.inf


def compute_epsilon_bounds_of(
    mechanisms: Sequence[mechanism_lib.Mechanism],
    *,
    delta: float,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> EpsilonBounds:
    """Returns certified bounds of the epsilon of all mechanisms together.

    Args:
        mechanisms: What ran on the same data, in any order; may be empty.
        delta: Probability in (0, 1).
        neighboring_relation: Which data sets are compared.

    Returns:
        `EpsilonBounds`; the smallest upper bound that was proved. Where the
        tight accountant finds no proof, the Renyi accountant's bound.

    Raises:
        ValueError: If an argument is out of range, a mechanism has no analysis
            for the relation, or no finite epsilon is found.
    """
    delta = _checks.check_delta(delta)
    collected = collect_releases(mechanisms, neighboring_relation)
    rdp_epsilon = _compute_rdp_epsilon(mechanisms, delta, neighboring_relation)
    epsilon, lower, accountant = _bound_epsilon(collected, delta, True)
    if not all(mechanism.is_attained for mechanism in mechanisms):
        lower = 0.0
    if rdp_epsilon < epsilon:
        epsilon, accountant = rdp_epsilon, RENYI
    if not epsilon < math.inf:
        raise ValueError(
            f"epsilon must be a finite number. Received: {epsilon!r}. Use more "
            "noise, fewer steps, or a larger delta."
        )
    return EpsilonBounds(
        epsilon=epsilon,
        lower=min(lower, epsilon),
        rdp_epsilon=rdp_epsilon,
        delta=delta,
        accountant=accountant,
    )


def compute_epsilon_of(
    mechanisms: Sequence[mechanism_lib.Mechanism],
    *,
    delta: float,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> float:
    """Returns the epsilon of all mechanisms together at `delta`.

    No mechanism, or none with a step, gives 0.

    Args:
        mechanisms: What ran on the same data, in any order.
        delta: Probability in (0, 1).
        neighboring_relation: Which data sets are compared.

    Returns:
        epsilon in nats, >= 0; an upper bound.

    Raises:
        ValueError: If `delta` is out of range, or no finite epsilon is found.
    """
    delta = _checks.check_delta(delta)
    collected = collect_releases(mechanisms, neighboring_relation)
    epsilon, _, accountant = _bound_epsilon(collected, delta, False)
    if accountant in (CLOSED_FORM, CONTOUR):
        return epsilon
    return compute_epsilon_bounds_of(
        mechanisms, delta=delta, neighboring_relation=neighboring_relation
    ).epsilon


def compute_delta_of(
    mechanisms: Sequence[mechanism_lib.Mechanism],
    *,
    epsilon: float,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> float:
    """Returns the delta of all mechanisms together at `epsilon`.

    Args:
        mechanisms: What ran on the same data, in any order.
        epsilon: Nats; finite, >= 0.
        neighboring_relation: Which data sets are compared.

    Returns:
        delta in [0, 1]; an upper bound, 0 only if there was no step.

    Raises:
        ValueError: If `epsilon` is out of range.
    """
    epsilon = _checks.check_real("epsilon", epsilon, at_least=0.0)
    collected = collect_releases(mechanisms, neighboring_relation)
    if not collected:
        return 0.0
    found = rdp_accountant.compute_rdp_delta_of(
        mechanisms, epsilon=epsilon, neighboring_relation=neighboring_relation
    )
    exact = _get_closed_form(collected)
    if exact is not None:
        return max(min(found, exact.delta(epsilon)), 2.3e-308)
    try:
        if all(release.has_loss for release, _ in collected):
            bounds = tight.compute_delta_bounds(
                _make_directions(collected), epsilon=epsilon
            )
            found = min(found, bounds.upper)
    except privacy_loss.NotCertifiedError:
        pass
    return max(found, 2.3e-308)
