# SPDX-License-Identifier: Apache-2.0
"""What all lower bounds on epsilon share: the result, the search, the text."""

import dataclasses
import decimal
import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from tf_privacy import _checks

# Of the number searched for, absolute and relative.
_TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpsilonResult:
    """A lower bound on epsilon found from data, and what it rests on.

    Attributes:
        epsilon_lower: Nats, >= 0; the mechanism is not (e, delta)-DP for any
            e < epsilon_lower, at this confidence. 0 says nothing.
        delta: Probability in [0, 1).
        confidence: In (0, 1); one minus the chance of a false claim.
        is_bound: True if the confidence holds at any sample size and for any
            mechanism, given the assumptions; else this is an estimate.
        assumptions: What must be true for that, one sentence each.
        warnings: What the caller can mend, one sentence each.
    """

    epsilon_lower: float
    delta: float
    confidence: float
    is_bound: bool
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def describe(self) -> tuple[str, ...]:
        """Returns lines of text on how the bound was found."""
        return ()

    def __str__(self) -> str:
        kind = "lower bound" if self.is_bound else "ESTIMATE, not a bound"
        lines = [
            f"epsilon >= {show_down(self.epsilon_lower)} at delta "
            f"{self.delta:g}, confidence {self.confidence:g} ({kind})",
            *(f"  {line}" for line in self.describe()),
            "  Holds if:",
            *(f"    - {text}" for text in self.assumptions),
            *(f"  Warning: {text}" for text in self.warnings),
        ]
        return "\n".join(lines)


def show_down(number: float) -> str:
    """Returns a number >= 0 with four decimals, rounded down."""
    return f"{math.floor(number * 1e4) / 1e4:.4f}"


def show_up(probability: float) -> str:
    """Returns a number in (0, 1] with two digits, rounded up."""
    context = decimal.Context(prec=2, rounding=decimal.ROUND_UP)
    # The factor keeps the float nearest to 0.05 from becoming 0.051.
    shown = context.create_decimal_from_float(probability * (1.0 - 1e-12))
    return f"{float(shown):.2g}"


def check_delta(value, *, positive: bool = False) -> float:
    """Returns a delta in [0, 1), or in (0, 1) where zero has no meaning.

    Args:
        value: What the caller passed.
        positive: Whether to refuse 0, which means pure DP.
    """
    if positive:
        return _checks.check_delta(value)
    return _checks.check_real(
        "delta",
        value,
        at_least=0.0,
        below=1.0,
        hint="Use the delta of the claim under audit; 0 means pure DP.",
    )


def find_largest_rejected(
    is_rejected: Callable[[float], bool], *, start: float
) -> float:
    """Returns the largest x that is rejected, rounded down.

    Doubles the step up to a number that is not rejected, then bisects. The
    result was rejected itself.

    Args:
        is_rejected: True up to some finite x >= `start`, False above it.
        start: A number that is rejected; >= 0.
    """
    low, step = start, 1.0
    while is_rejected(low + step):
        low, step = low + step, 2.0 * step
    high = low + step
    while high - low > _TOLERANCE * max(1.0, low):
        middle = 0.5 * (low + high)
        if is_rejected(middle):
            low = middle
        else:
            high = middle
    return low


def find_best_test(
    tests: Sequence[Any], is_rejected: Callable[[Any, float], bool]
) -> tuple[float, int | None]:
    """Returns the largest x that some test rejects, and that test's index.

    Most tests are asked only once, whether they reject the best so far.

    Args:
        tests: `[K]` of anything.
        is_rejected: Called with a test and x >= 0; for each test true up to
            some finite x, then false.

    Returns:
        The x, rounded down, and the index; 0 and None if no test rejects 0.
    """
    best, best_index = 0.0, None
    for index, test in enumerate(tests):

        def rejects(x, test=test):
            return is_rejected(test, x)

        if rejects(best):
            best = find_largest_rejected(rejects, start=best)
            best_index = index
    return best, best_index
