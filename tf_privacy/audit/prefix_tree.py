# SPDX-License-Identifier: Apache-2.0
"""Exact ranks in huge spaces: count secrets on a pruned tree of prefixes.

Bits only grow along a secret. A prefix with more bits than the secret in
question has no likelier secret below it, and its whole subtree is left out.
The secrets left over are few where it matters: of all secrets and prefixes of
one length, at most 2^c have c bits or fewer, since probabilities sum to at most
1. So the work is at most L 2^c prefixes for a secret of length L and c bits,
whatever the size of the space.

If the budget ends before, the same argument gives limits that are certain: an
open prefix of b bits has probability 2^-b, so that at most 2^(c - b) of the
secrets below it have c bits or fewer.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import secret_space
from tf_privacy.audit import token_model

# Above the round-off of float32 models: some 1e-6 bits for each token.
DEFAULT_TIE_TOLERANCE = 1e-4
# Tokens in memory for prefixes that wait for a larger threshold: 128 MB.
_MAX_WAITING_TOKENS = 2**25
# Children of one batch; fewer prefixes are expanded at once where it is less.
_MAX_CHILDREN = 2**20
# Thresholds this close, in bits, are examined at once.
_BAND = 1.0
_ROUND_UP = 1.0 + 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankResult:
    """How many secrets are at least as likely as one of them.

    Attributes:
        bits: Of the secret itself; >= 0, or inf.
        rank: Their number, the secret itself included; None if the budget
            ended before all were counted.
        rank_lower, rank_upper: Certain limits, both in [1, |R|]; equal to
            `rank` where it is known.
        evaluations: Sequences the model was given until the rank was known;
            shared with the secrets examined at once.
    """

    bits: float
    rank: int | None
    rank_lower: int
    rank_upper: int
    evaluations: int

    def __str__(self) -> str:
        rank = f"between {self.rank_lower:,} and {self.rank_upper:,}"
        if self.rank is not None:
            rank = f"{self.rank:,}"
        return (
            f"rank {rank}, {self.bits:.4g} bits, "
            f"{self.evaluations:,} evaluations"
        )


def compute_exact_ranks(
    model: token_model.TokenModel,
    space: secret_space.SecretSpace,
    *,
    secrets,
    max_evaluations: int,
    batch_size: int = 256,
    tie_tolerance: float = DEFAULT_TIE_TOLERANCE,
    progress: Callable[[int, int], None] | None = None,
) -> list[RankResult]:
    """Returns each secret's rank, or certain limits of it, by one tree walk.

        rank[s] = #{r in R: bits(r) <= bits(s) + tie_tolerance}

    Likelier secrets are finished first, so that an unlikely one costs none of
    them its rank, unless they are within a bit of each other. Memory is
    bounded, whatever the budget.

    The model's round-off may differ from batch to batch. The tolerance counts
    secrets that are equally likely up to it as ties, and ties count: the rank
    is never too low, the exposure never too high, for round-off below it.

    Args:
        model: The model.
        space: All possible secrets.
        secrets: `[S, L]` int; secrets of the space.
        max_evaluations: The most prefixes that the walk gives to the model, in
            all; >= 0. The secrets' own bits take S L more.
        batch_size: The most prefixes in one call; >= 1.
        tie_tolerance: Bits, >= 0; 0 only for a model that rounds alike in
            every batch.
        progress: Called with the prefixes done and `max_evaluations`.

    Returns:
        `[S]` results in the order of the secrets.

    Raises:
        ValueError: If an argument is out of range, a secret is not in the
            space, or the model returns NaN or no probabilities.
    """
    secrets = space.check_secrets(secrets)
    limit = _checks.check_integer(
        "max_evaluations", max_evaluations, at_least=0
    )
    batch_size = _checks.check_integer("batch_size", batch_size, at_least=1)
    tie_tolerance = _checks.check_real(
        "tie_tolerance", tie_tolerance, at_least=0.0
    )
    token_model.check_model(model, space)
    bits = token_model.compute_secret_bits(
        model, space, secrets, batch_size=batch_size
    )
    # What has probability 0 shares the last rank; nothing need be counted.
    possible = np.flatnonzero(np.isfinite(bits))
    order = possible[np.argsort(bits[possible], kind="stable")]
    walk = _Walk(model, space, thresholds=bits[order] + tie_tolerance)
    walk.run(limit=limit, batch_size=batch_size, progress=progress)
    results = [
        RankResult(
            bits=float(b),
            rank=space.size,
            rank_lower=space.size,
            rank_upper=space.size,
            evaluations=secrets.size,
        )
        for b in bits
    ]
    for place, index in enumerate(order):
        lower, upper = walk.compute_limits(place)
        results[index] = RankResult(
            bits=float(bits[index]),
            rank=lower if lower == upper else None,
            rank_lower=lower,
            rank_upper=upper,
            evaluations=secrets.size + walk.spent[place],
        )
    return results


class _Walk:
    """Counts the secrets at or below each of a few rising thresholds.

    Open prefixes are kept by length. Those within the current threshold are
    active; the others wait until it rises, which it does when no active one is
    left. Longest first, as long as they fill a batch: that bounds the active
    ones to about one batch's children at each length.
    """

    def __init__(self, model, space, *, thresholds: np.ndarray):
        self._model = model
        self._space = space
        self._thresholds = thresholds
        self._counts = np.zeros(len(thresholds), dtype=np.int64)
        # At most so many secrets lie below prefixes that found no room.
        self._dropped = np.zeros(len(thresholds))
        # Evaluations until the count at each threshold was complete.
        self.spent = [0] * len(thresholds)
        self._active = [_Prefixes(d) for d in range(space.length)]
        self._waiting = [_Prefixes(d) for d in range(space.length)]
        sizes = [math.log2(len(c)) for c in space.choices]
        self._log2_below = np.cumsum(sizes[::-1])[::-1]

    def run(self, *, limit: int, batch_size: int, progress) -> None:
        """Walks until all is counted or `limit` prefixes are expanded."""
        widest = max(len(c) for c in self._space.choices)
        batch_size = max(1, min(batch_size, _MAX_CHILDREN // widest))
        root = np.zeros((1, 0), dtype=np.int32)
        self._waiting[0].push(root, np.zeros(1))
        evaluations, settled = 0, 0
        while settled < len(self._thresholds):
            band = self._thresholds[settled] + _BAND
            end = int(np.searchsorted(self._thresholds, band, side="right"))
            current = self._thresholds[end - 1]
            self._admit(current)
            while evaluations < limit:
                depth = self._choose_depth(batch_size)
                if depth is None:
                    break
                count = min(batch_size, limit - evaluations)
                tokens, bits = self._active[depth].pop_cheapest(count)
                self._expand(tokens, bits, current)
                evaluations += len(bits)
                if progress is not None:
                    progress(evaluations, limit)
            self.spent[settled:] = [evaluations] * (len(self.spent) - settled)
            if self._choose_depth(batch_size) is not None:
                break
            settled = end
        if progress is not None:
            progress(evaluations, evaluations)

    def _choose_depth(self, batch_size: int) -> int | None:
        sizes = np.array([len(prefixes) for prefixes in self._active])
        full = np.flatnonzero(sizes >= batch_size)
        if full.size:
            return int(full[-1])
        some = np.flatnonzero(sizes)
        return int(some[0]) if some.size else None

    def _admit(self, current: float) -> None:
        """Makes active what waits within the current threshold."""
        for active, waiting in zip(self._active, self._waiting, strict=True):
            active.push(*waiting.pop_within(current))

    def _expand(self, tokens, bits, current: float) -> None:
        """Counts the secrets, or keeps the prefixes, one token longer."""
        depth = tokens.shape[1]
        step = token_model.compute_child_bits(self._model, self._space, tokens)
        child_bits = bits[:, np.newaxis] + step
        parents, places = np.nonzero(child_bits <= self._thresholds[-1])
        child_bits = child_bits[parents, places]
        last = np.array(self._space.choices[depth], dtype=np.int32)[places]
        children = np.concatenate(
            [tokens[parents], last[:, np.newaxis]], axis=1
        )
        if depth + 1 == self._space.length:
            accepted = self._space.find_accepted(children)
            self._counts += np.searchsorted(
                np.sort(child_bits[accepted]), self._thresholds, side="right"
            )
            return
        now = child_bits <= current
        self._active[depth + 1].push(children[now], child_bits[now])
        self._wait(children[~now], child_bits[~now])

    def _wait(self, tokens, bits) -> None:
        depth = tokens.shape[1]
        held = sum(len(p) * (d + 1) for d, p in enumerate(self._waiting))
        if held + len(bits) * (depth + 1) <= _MAX_WAITING_TOKENS:
            self._waiting[depth].push(tokens, bits)
            return
        self._dropped += [
            self._bound_below(depth, bits, t) for t in self._thresholds
        ]

    def _bound_below(self, depth: int, bits, threshold: float) -> float:
        """Returns how many secrets within a threshold prefixes may have."""
        log2_counts = threshold - bits[bits <= threshold]
        log2_counts = np.minimum(log2_counts, self._log2_below[depth])
        # Beyond floats it says no more than the size of the space.
        with np.errstate(over="ignore"):
            return float(np.sum(np.exp2(log2_counts)))

    def compute_limits(self, place: int) -> tuple[int, int]:
        """Returns certain limits of the number of secrets at a threshold."""
        missing = self._dropped[place]
        for prefixes in [*self._active, *self._waiting]:
            missing += self._bound_below(
                prefixes.depth, prefixes.get_bits(), self._thresholds[place]
            )
        counted, size = int(self._counts[place]), self._space.size
        if counted > size:
            raise ValueError(
                "num_accepted must be the number of secrets that accepts lets "
                f"through. Received: {size}, but {counted} are found and pass. "
                "Count them anew."
            )
        upper = size
        if missing * _ROUND_UP < size - counted:
            upper = counted + math.floor(missing * _ROUND_UP)
        # The secret itself is one of them, even where round-off hides it.
        lower = max(counted, 1)
        return lower, max(lower, upper)


class _Prefixes:
    """Prefixes of one length with their bits; the cheapest come out first."""

    def __init__(self, depth: int):
        self.depth = depth
        self._tokens = np.zeros((0, depth), dtype=np.int32)
        self._bits = np.zeros(0)
        self._new = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, tokens: np.ndarray, bits: np.ndarray) -> None:
        """Adds prefixes `[N, depth]` and their bits `[N]`."""
        if len(bits):
            self._new.append((tokens, bits))
            self._size += len(bits)

    def get_bits(self) -> np.ndarray:
        """Returns the bits of all, falling."""
        if self._new:
            tokens, bits = zip(
                (self._tokens, self._bits), *self._new, strict=True
            )
            bits = np.concatenate(bits)
            order = np.argsort(-bits, kind="stable")
            self._bits = bits[order]
            self._tokens = np.concatenate(tokens)[order]
            self._new = []
        return self._bits

    def pop_cheapest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Takes out the `count` prefixes of the fewest bits."""
        keep = max(0, len(self.get_bits()) - count)
        taken = self._tokens[keep:], self._bits[keep:]
        self._tokens, self._bits = self._tokens[:keep], self._bits[:keep]
        self._size = keep
        return taken

    def pop_within(self, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Takes out the prefixes of at most `threshold` bits."""
        return self.pop_cheapest(int(np.sum(self.get_bits() <= threshold)))
