# SPDX-License-Identifier: Apache-2.0
"""Guesses of who was a member, made without a look at who was one.

An attacker who abstains on most canaries guesses "in" for those with the
highest scores, "out" for those with the lowest. How many it guesses is chosen
from the number of canaries alone: a choice that looked at the memberships, such
as the best threshold or the corners of the ROC curve, would have to be paid
for.
"""

import dataclasses
import math

import numpy as np
from scipy import special

from tf_privacy import _checks
from tf_privacy.audit import lower_bounds
from tf_privacy.audit import roc

# Fewer guesses prove little even if all are right: with 15 tests at confidence
# 0.95, 16 right ones prove epsilon 0.8.
_MIN_GUESSES = 16
# A false alarm of the check itself, in an audit whose coins are fair.
_MIN_SPLIT_PROBABILITY = 1e-9
ASSUMPTIONS = (
    "each canary was in or out by its own fair coin, drawn before training",
    "no score was computed with a coin's help, and all canaries are scored",
    "the claim is for adding or removing one canary with all its copies",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuessCounts:
    """How many canaries are guessed in and out, and how often rightly.

    Attributes:
        num_canaries: In and out together, guessed or not.
        num_guesses_in: Highest scores, guessed in; >= 0.
        num_guesses_out: Lowest scores, guessed out; >= 0.
        num_correct: Right guesses among both; ties count as wrong.
        num_lost_to_ties: Right guesses that another order of equal scores
            could add, at most.
    """

    num_canaries: int
    num_guesses_in: int
    num_guesses_out: int
    num_correct: int
    num_lost_to_ties: int

    @property
    def num_guesses(self) -> int:
        """Guesses in and out together."""
        return self.num_guesses_in + self.num_guesses_out

    @property
    def excess(self) -> float:
        """Right guesses above the half that chance gives, in deviations."""
        above = 2.0 * self.num_correct - self.num_guesses
        return above / math.sqrt(max(self.num_guesses, 1))

    def __str__(self) -> str:
        return (
            f"{self.num_correct} of {self.num_guesses} guesses right "
            f"({self.num_guesses_in} in, {self.num_guesses_out} out), "
            f"{self.num_canaries} canaries"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuessingResult(lower_bounds.EpsilonResult):
    """A lower bound on epsilon from the best of several numbers of guesses.

    Attributes:
        guesses: The best test; if none says anything, the one that has most
            right guesses above chance.
        num_tests: Pairs of guess counts tried, all paid for.
    """

    guesses: GuessCounts
    num_tests: int

    @property
    def num_guesses_in(self) -> int:
        """Highest scores, guessed in, in the best test."""
        return self.guesses.num_guesses_in

    @property
    def num_guesses_out(self) -> int:
        """Lowest scores, guessed out, in the best test."""
        return self.guesses.num_guesses_out

    @property
    def num_correct(self) -> int:
        """Right guesses among both."""
        return self.guesses.num_correct

    def describe(self) -> tuple[str, ...]:
        """Returns lines of text on how the bound was found."""
        return (str(self.guesses), f"best of {self.num_tests} tests")


def make_guess_grid(num_canaries: int) -> tuple[tuple[int, int], ...]:
    """Returns pairs (guesses in, guesses out) that depend on the count only.

    With k = num_canaries // 2 and its halves, quarters, ... down to 16, the
    pairs are (k, k), (k, 0) and (0, k): at most 3 log2(num_canaries) tests,
    among which is one within a factor 2 of the best k.

    Args:
        num_canaries: In and out together; >= 2.
    """
    sizes = [num_canaries // 2]
    while sizes[-1] // 2 >= _MIN_GUESSES:
        sizes.append(sizes[-1] // 2)
    return tuple(pair for k in sizes for pair in ((k, k), (k, 0), (0, k)))


def check_counts(
    num_canaries: int, num_guesses: int, num_correct: int
) -> tuple[int, int, int]:
    """Returns the three counts once each is whole and within the one before.

    Args:
        num_canaries: >= 1.
        num_guesses: In [0, num_canaries].
        num_correct: In [0, num_guesses].
    """
    canaries = _checks.check_integer("num_canaries", num_canaries, at_least=1)
    guesses = _checks.check_integer(
        "num_guesses",
        num_guesses,
        at_least=0,
        at_most=canaries,
        hint="Each canary is guessed once, or not.",
    )
    correct = _checks.check_integer(
        "num_correct",
        num_correct,
        at_least=0,
        at_most=guesses,
        hint="It counts the right ones among num_guesses.",
    )
    return canaries, guesses, correct


def make_tests(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    num_guesses_in: int | None = None,
    num_guesses_out: int | None = None,
) -> tuple[GuessCounts, ...]:
    """Returns the counts of right guesses, once the scores are checked.

    Args:
        member_scores: `[M]`, all canaries that were in.
        non_member_scores: `[N]`, all canaries that were out.
        num_guesses_in: For one test instead of the grid; in [0, M + N].
        num_guesses_out: As above; None stands for 0 if the other is given.

    Raises:
        TypeError: If scores are not real numbers.
        ValueError: If they are empty, not vectors or not finite, if fair coins
            do not give M members of M + N, or a number is out of range.
    """
    members, others = roc.check_both(member_scores, non_member_scores)
    check_fair_split(members.size, others.size)
    num_canaries = members.size + others.size
    if num_guesses_in is None and num_guesses_out is None:
        pairs = make_guess_grid(num_canaries)
    else:
        size_in = _checks.check_integer(
            "num_guesses_in",
            0 if num_guesses_in is None else num_guesses_in,
            at_least=0,
            at_most=num_canaries,
            hint="Each canary is guessed once, or not.",
        )
        size_out = _checks.check_integer(
            "num_guesses_out",
            0 if num_guesses_out is None else num_guesses_out,
            at_least=0,
            at_most=num_canaries - size_in,
            hint="No canary is guessed both in and out.",
        )
        pairs = ((size_in, size_out),)
    return count_correct_guesses(members, others, pairs=pairs)


def make_warnings(
    member_scores: np.ndarray, non_member_scores: np.ndarray, test: GuessCounts
) -> tuple[str, ...]:
    """Returns warnings on the scores' sign, and on ties in one test.

    Args:
        member_scores: `[M]` finite.
        non_member_scores: `[N]` finite.
        test: The one that is shown.
    """
    ties = ()
    if test.num_lost_to_ties:
        ties = (
            f"up to {test.num_lost_to_ties} right guesses were lost to equal "
            "scores. Use a score with more digits.",
        )
    return (*roc.make_sign_warnings(member_scores, non_member_scores), *ties)


def check_fair_split(num_members: int, num_non_members: int) -> None:
    """Raises if fair coins practically never split the canaries like this.

    Args:
        num_members: Canaries in; >= 0.
        num_non_members: Canaries out; >= 0.

    Raises:
        ValueError: If fair coins do so with probability below 1e-9. Guessing
            the commoner answer would then look like a leak.
    """
    fewer = min(num_members, num_non_members)
    more = max(num_members, num_non_members)
    tail = special.betainc(more, fewer + 1, 0.5)
    if not 2.0 * tail >= _MIN_SPLIT_PROBABILITY:
        raise ValueError(
            "member_scores and non_member_scores must be of canaries that a "
            f"fair coin put in or out. Received: {num_members} members and "
            f"{num_non_members} non-members, which fair coins do not give. "
            "Draw the canaries anew, or use estimate_held_out_epsilon."
        )


def count_correct_guesses(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    pairs: tuple[tuple[int, int], ...],
) -> tuple[GuessCounts, ...]:
    """Returns how many guesses are right, equal scores to the attack's harm.

    Where equal scores straddle the last guess, the wrong ones are taken first:
    no order of the ties, so no random one either, gives fewer right guesses.
    The order of the inputs does not matter.

    Args:
        member_scores: `[M]` finite; higher means more likely a member.
        non_member_scores: `[N]` finite.
        pairs: `[K]` of (guesses in, guesses out), each >= 0, sum <= M + N.

    Returns:
        One for each pair, in the same order.
    """
    sizes_in, sizes_out = np.array(pairs).reshape(-1, 2).T
    members, others = np.sort(member_scores), np.sort(non_member_scores)
    right_in, lost_in = _count_top(members, others, sizes_in)
    right_out, lost_out = _count_top(-others[::-1], -members[::-1], sizes_out)
    return tuple(
        GuessCounts(
            num_canaries=members.size + others.size,
            num_guesses_in=int(size_in),
            num_guesses_out=int(size_out),
            num_correct=int(right),
            num_lost_to_ties=int(lost),
        )
        for size_in, size_out, right, lost in zip(
            sizes_in,
            sizes_out,
            right_in + right_out,
            lost_in + lost_out,
            strict=True,
        )
    )


def _count_top(wanted, others, sizes):
    """Returns how many of the top `sizes` are wanted, at least, and the slack.

    Args:
        wanted: `[M]` scores, rising.
        others: `[N]` scores, rising.
        sizes: `[K]` whole numbers in [0, M + N].
    """
    pooled = np.sort(np.concatenate([wanted, others]), kind="stable")
    last = pooled[pooled.size - np.maximum(sizes, 1)]
    wanted_above = wanted.size - np.searchsorted(wanted, last, side="right")
    others_above = others.size - np.searchsorted(others, last, side="right")
    wanted_from = wanted.size - np.searchsorted(wanted, last, side="left")
    others_from = others.size - np.searchsorted(others, last, side="left")
    fewest = np.maximum(wanted_above, sizes - others_from)
    most = np.minimum(wanted_from, sizes - others_above)
    fewest, most = (np.where(sizes > 0, n, 0) for n in (fewest, most))
    return fewest, most - fewest
