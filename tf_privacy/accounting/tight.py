# SPDX-License-Identifier: Apache-2.0
"""The tight accountant: epsilon and delta between two certified bounds.

Every result is an inequality proved for the composition of dominating pairs,
in real arithmetic and with explicit terms for quadrature and round-off. Where
no proof is found `NotCertifiedError` is raised: a looser accountant must serve.
"""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Sequence

from tf_privacy.accounting import contour
from tf_privacy.accounting import privacy_loss
from tf_privacy.accounting import search

# Width of one bound in epsilon, relative to epsilon.
DEFAULT_TOLERANCE = 2.5e-4
# Mass left out of all cuts together, relative to delta and the tolerance.
_LOST_SHARE = 0.4
# The contour is placed anew until epsilon moves by less than this, relatively.
_SETTLED = 0.01
_MAX_ROUNDS = 8
# Least scale of epsilon, relative to the spread of the losses: tried in turn.
_FLOORS = (0.1, 1e-2, 1e-3, 1e-4)
# log delta may be this far from its guess before the cut is made anew.
_GUESS_NATS = 3.0
_SMALLEST_LOG_DELTA = -680.0
_ROOT_TOLERANCE = 1e-10
_MAX_ROOT_STEPS = 60
# Bounds of delta this close to each other are not refined further.
_CLOSE = 0.01
# Stands for the excess of a bound that is not positive; nats.
_LARGE_EXCESS = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """A number between two certified bounds.

    Attributes:
        lower: At most the true value.
        upper: At least the true value.
    """

    lower: float
    upper: float


@dataclasses.dataclass(frozen=True)
class Direction:
    """What one of two neighbors releases, as seen from the other.

    Attributes:
        parts: Pairs (function from the log of the mass that may be cut off to a
            `PrivacyLoss`, number of releases).
    """

    parts: Sequence[tuple[Callable[[float], privacy_loss.PrivacyLoss], int]]

    def cut(self, log_delta: float, tolerance: float) -> contour.ComposedLoss:
        """Returns the sum of all losses without what delta does not need.

        Args:
            log_delta: About the log of the delta in question.
            tolerance: What may be left out, about, relative to delta.
        """
        total = sum(count for _, count in self.parts)
        log_lost = log_delta + math.log(_LOST_SHARE * tolerance / total)
        return contour.ComposedLoss(
            [(make(log_lost), count) for make, count in self.parts]
        )


def _find_root(function, log_target: float, start: float, slope: float):
    """Returns the point where log(function) falls to the target, or None.

    Steps by `slope` until the target lies between two points, then secants
    between them.
    """

    def compute_excess(x):
        value = function(x)
        if not value > 0.0:
            return -_LARGE_EXCESS
        return min(math.log(value) - log_target, _LARGE_EXCESS)

    x, excess = start, compute_excess(start)
    stride = max(abs(excess), _ROOT_TOLERANCE) / -slope
    for _ in range(_MAX_ROOT_STEPS):
        if excess == 0.0:
            return x
        next_x = x + math.copysign(stride, excess)
        next_excess = compute_excess(next_x)
        if next_excess * excess <= 0.0:
            return search.find_zero(
                compute_excess, x, next_x, tolerance=_ROOT_TOLERANCE / -slope
            )
        x, excess, stride = next_x, next_excess, 2.0 * stride
    return None


def _round_up(function, log_target: float, root: float, slope: float) -> float:
    """Returns a point just above a root, where function is <= the target."""
    target = math.exp(log_target)
    step = 2.0 * _ROOT_TOLERANCE / -slope
    for _ in range(_MAX_ROOT_STEPS):
        if function(root) <= target:
            return root
        root += max(step, 2.0 * privacy_loss.ROUND_OFF * abs(root))
        step *= 2.0
    raise privacy_loss.NotCertifiedError("the bound does not fall below delta")


def _make_bounds(composed, order, epsilon, log_delta, tolerance, floor):
    """Returns bounds of delta near an epsilon, and the scale of epsilon."""
    scale = max(epsilon, floor * composed.compute_spread(order))
    bounds = contour.DeltaBounds(
        composed,
        order=order,
        epsilon=epsilon,
        log_delta=log_delta,
        width=tolerance * scale,
    )
    return bounds, scale


def _solve_at_scale(composed, log_delta, tolerance, floor, epsilon=None):
    """Returns epsilon's bound, the bounds used, whether a finer scale helps."""
    if epsilon is None:
        order = composed.find_order(log_delta=log_delta)
        epsilon, _ = composed.estimate_at(order)
    else:
        order = composed.find_order(epsilon=epsilon)
    for _ in range(_MAX_ROUNDS):
        bounds, scale = _make_bounds(
            composed, order, epsilon, log_delta, tolerance, floor
        )
        root = _find_root(bounds.compute_upper, log_delta, epsilon, -order)
        if root is None:
            raise privacy_loss.NotCertifiedError("no epsilon was found")
        if abs(root - epsilon) <= _SETTLED * scale:
            break
        epsilon = root
        order = composed.find_order(epsilon=epsilon)
    upper = _round_up(bounds.compute_upper, log_delta, root, -order)
    return upper, bounds, upper > 0.0 and scale > epsilon


def _solve_epsilon(direction: Direction, log_delta: float, tolerance: float):
    """Returns epsilon's upper bound in one direction, and the bounds used.

    Where epsilon is far below the spread of the losses, an accuracy relative to
    it costs more and more; the accuracy is refined as far as that is possible.
    """
    composed = direction.cut(log_delta, tolerance)
    best, epsilon = None, None
    for floor in _FLOORS:
        try:
            upper, bounds, is_coarse = _solve_at_scale(
                composed, log_delta, tolerance, floor, epsilon
            )
        except privacy_loss.NotCertifiedError:
            if best is None:
                raise
            break
        if best is None or upper < best[0]:
            best = (upper, bounds)
        if not is_coarse:
            break
        epsilon = upper
    return best


def _exceeds(direction, epsilon, log_delta, tolerance, floor) -> bool:
    """Returns whether one direction's delta at epsilon may exceed delta."""
    composed = direction.cut(log_delta, tolerance)
    room = math.exp(log_delta) - composed.lost_mass
    if not room > 0.0:
        return True
    if composed.max_loss <= epsilon:
        return False
    order = composed.find_order(epsilon=epsilon)
    # Chernoff's bound settles many cases at once; it needs no contour.
    log_bound = composed.bound_log_moment(order) - order * epsilon
    if log_bound < math.log(room):
        return False
    bounds, _ = _make_bounds(
        composed, order, epsilon, log_delta, tolerance, floor
    )
    return not bounds.compute_upper(epsilon) <= math.exp(log_delta)


def compute_epsilon_bounds(
    directions: Sequence[Direction],
    *,
    delta: float,
    tolerance: float = DEFAULT_TOLERANCE,
    with_lower: bool = True,
) -> Bounds:
    """Returns bounds of epsilon, the largest over all directions.

    Args:
        directions: One or two; the first should be the worse one.
        delta: Probability in (0, 1).
        tolerance: About how far each bound may be off, relative to epsilon.
        with_lower: Whether the lower bound is wanted; else it is 0.

    Returns:
        Bounds in nats, >= 0.

    Raises:
        NotCertifiedError: If no bound could be proved.
    """
    log_delta = math.log(delta)
    upper, bounds = _solve_epsilon(directions[0], log_delta, tolerance)
    upper = max(0.0, upper)
    lower = 0.0
    if with_lower:
        lower = _find_lower(bounds, log_delta, upper)
    for other in directions[1:]:
        if _exceeds(other, upper, log_delta, tolerance, _FLOORS[0]):
            found, bounds = _solve_epsilon(other, log_delta, tolerance)
            if with_lower:
                lower = max(lower, _find_lower(bounds, log_delta, found))
            upper = max(upper, found)
    return Bounds(lower=min(lower, upper), upper=upper)


def _find_lower(bounds, log_delta, upper) -> float:
    """Returns an epsilon at which delta is proved to be at least the target."""
    root = _find_root(bounds.compute_lower, log_delta, upper, -bounds.order)
    target = math.exp(log_delta)
    step = 2.0 * _ROOT_TOLERANCE / bounds.order
    for _ in range(_MAX_ROOT_STEPS):
        if root is None or not root > 0.0:
            break
        if bounds.compute_lower(root) >= target:
            return root
        root -= step
        step *= 2.0
    return 0.0


def _guess_log_delta(direction, epsilon, tolerance):
    """Returns a first estimate of log delta, or None if delta is nothing."""
    log_delta = math.log(1e-10)
    for _ in range(_MAX_ROUNDS):
        composed = direction.cut(log_delta, tolerance)
        if composed.max_loss > epsilon:
            order = composed.find_order(epsilon=epsilon)
            return max(
                min(composed.estimate_at(order)[1], 0.0), _SMALLEST_LOG_DELTA
            )
        if log_delta == _SMALLEST_LOG_DELTA:
            break
        log_delta = max(3.0 * log_delta, _SMALLEST_LOG_DELTA)
    return None


def _bound_at_scales(composed, epsilon, log_delta, tolerance):
    """Returns bounds of delta, finer until they are close or cost too much."""
    order = composed.find_order(epsilon=epsilon)
    best = None
    for floor in _FLOORS:
        try:
            bounds, scale = _make_bounds(
                composed, order, epsilon, log_delta, tolerance, floor
            )
        except privacy_loss.NotCertifiedError:
            if best is None:
                raise
            break
        best = (
            bounds.compute_upper(epsilon),
            max(0.0, bounds.compute_lower(epsilon)),
        )
        if scale <= epsilon or best[0] - best[1] <= _CLOSE * best[0]:
            break
    return best


def _bound_delta(direction, epsilon, tolerance) -> Bounds:
    """Returns bounds of one direction's delta."""
    log_delta = _guess_log_delta(direction, epsilon, tolerance)
    if log_delta is None:
        lost = direction.cut(_SMALLEST_LOG_DELTA, tolerance).lost_mass
        return Bounds(lower=0.0, upper=lost)
    best = None
    for _ in range(_MAX_ROUNDS):
        composed = direction.cut(log_delta, tolerance)
        if composed.max_loss <= epsilon:
            upper, lower = composed.lost_mass, 0.0
        else:
            upper, lower = _bound_at_scales(
                composed, epsilon, log_delta, tolerance
            )
        if best is None or upper < best.upper:
            best = Bounds(lower=lower, upper=upper)
        found = max(math.log(upper), _SMALLEST_LOG_DELTA)
        if abs(found - log_delta) <= _GUESS_NATS:
            break
        log_delta = found
    return Bounds(lower=best.lower, upper=min(1.0, best.upper))


def compute_delta_bounds(
    directions: Sequence[Direction],
    *,
    epsilon: float,
    tolerance: float = DEFAULT_TOLERANCE,
) -> Bounds:
    """Returns bounds of delta, the largest over all directions.

    Args:
        directions: One or two.
        epsilon: Nats; >= 0.
        tolerance: About how far each bound may be off, measured in epsilon and
            relative to it.

    Returns:
        Bounds in [0, 1].

    Raises:
        NotCertifiedError: If no bound could be proved.
    """
    found = [_bound_delta(each, epsilon, tolerance) for each in directions]
    return Bounds(
        lower=max(each.lower for each in found),
        upper=max(each.upper for each in found),
    )
