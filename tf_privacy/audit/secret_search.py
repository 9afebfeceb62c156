# SPDX-License-Identifier: Apache-2.0
"""Extraction: the secrets a model likes best, found without trying them all.

Bits only grow along a secret. So when the cheapest secret found has no more
bits than any prefix left open, no other secret can have fewer.

Source: Carlini et al. 2019, arXiv:1802.08232.
"""

import dataclasses
import heapq
import itertools
import math
from collections.abc import Callable

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import secret_space
from tf_privacy.audit import token_model

# Open prefixes in memory; the worst half is given up where there are more.
_MAX_OPEN = 2**22
# Children of one batch; fewer prefixes are expanded at once where it is less.
_MAX_CHILDREN = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The likeliest secrets that a search found, likeliest first.

    Attributes:
        secrets: `[K]` tuples of L tokens, without the prefix.
        bits: `[K]` floats; summed -log2 probability, rising.
        open_bits: Every secret that is not listed has at least as many bits
            as this, or as the last listed if K was reached; inf once nothing
            is left.
        is_optimal: Whether no secret that is not listed has fewer bits than
            one that is, and none is missing.
        evaluations: Prefixes the model was given.
    """

    secrets: tuple[tuple[int, ...], ...]
    bits: tuple[float, ...]
    open_bits: float
    is_optimal: bool
    evaluations: int

    def __str__(self) -> str:
        proved = "proved to be the likeliest"
        if not self.is_optimal:
            proved = f"not proved: others may have {self.open_bits:.4g} bits"
        if not self.secrets:
            return (
                f"no secret found in {self.evaluations:,} evaluations; all "
                f"have at least {self.open_bits:.4g} bits. Raise "
                "max_evaluations, or use beam_search."
            )
        count = len(self.secrets)
        lines = [
            f"{count} secret{'s' if count > 1 else ''}, {proved} "
            f"({self.evaluations:,} evaluations):"
        ]
        pairs = zip(self.bits, self.secrets, strict=True)
        lines += [f"  {bits:.4g} bits: {list(s)}" for bits, s in pairs]
        return "\n".join(lines)


def search_secrets(
    model: token_model.TokenModel,
    space: secret_space.SecretSpace,
    *,
    max_evaluations: int,
    num_secrets: int = 1,
    max_batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Returns the likeliest secrets by uniform-cost search.

    The open prefixes of the fewest bits are expanded in batches of 1, 2, 4, ...
    up to `max_batch_size`, until enough secrets have no more bits than any
    open prefix. That proves them the likeliest, as far as the model's round-off
    tells them apart. Larger batches find the same, and look at a few more.

    Secrets that `space.accepts` refuses, or of probability 0, are not found.
    Where no secret stands out, a budget may end before any is found;
    `beam_search` gets to the end with few evaluations.

    Args:
        model: The model.
        space: All possible secrets.
        max_evaluations: The most prefixes to give to the model; >= 1. Where it
            ends the search, the best found so far are returned, not proved.
        num_secrets: How many to find; >= 1.
        max_batch_size: The most prefixes in one batch; >= 1.
        progress: Called with the prefixes done and `max_evaluations`.

    Returns:
        At most `num_secrets` secrets; fewer if there are no more, or the
        budget ended.

    Raises:
        ValueError: If an argument is out of range, or the model returns NaN or
            no probabilities.
    """
    limit = _checks.check_integer(
        "max_evaluations", max_evaluations, at_least=1
    )
    largest = _check_batch_size("max_batch_size", max_batch_size, space)
    best = _Best(space, num_secrets)
    token_model.check_model(model, space)
    frontier = _Frontier(space)
    batches = [(np.zeros((1, 0), dtype=np.int32), np.zeros(1))]
    evaluations, batch_size = 0, 1
    while batches:
        for tokens, bits in batches:
            evaluations += len(bits)
            step = token_model.compute_child_bits(model, space, tokens)
            child_bits = bits[:, np.newaxis] + step
            if tokens.shape[1] + 1 == space.length:
                best.offer(tokens, child_bits)
            else:
                frontier.push(tokens, child_bits, below=best.bound)
        if progress is not None:
            progress(evaluations, limit)
        batch_size = min(2 * batch_size, largest)
        count = min(batch_size, limit - evaluations)
        batches = frontier.pop(count, below=best.bound)
    if progress is not None:
        progress(evaluations, evaluations)
    return best.make_result(frontier.least_bits(), evaluations)


def beam_search(
    model: token_model.TokenModel,
    space: secret_space.SecretSpace,
    *,
    beam_width: int,
    num_secrets: int = 1,
    batch_size: int = 256,
) -> SearchResult:
    """Returns likely secrets by beam search, and whether they are the best.

    At each position the `beam_width` prefixes of the fewest bits are kept. The
    cheapest prefix ever given up tells whether something better may have been
    lost: the result is optimal if and only if no listed secret has more bits.

    Args:
        model: The model.
        space: All possible secrets.
        beam_width: Prefixes kept at each position; >= 1. Evaluations are at
            most L times that.
        num_secrets: How many to find; in [1, beam_width].
        batch_size: The most prefixes in one call; >= 1.

    Returns:
        At most `num_secrets` secrets.

    Raises:
        ValueError: If an argument is out of range, or the model returns NaN or
            no probabilities.
    """
    width = _checks.check_integer("beam_width", beam_width, at_least=1)
    batch_size = _check_batch_size("batch_size", batch_size, space)
    best = _Best(space, num_secrets, most=width)
    token_model.check_model(model, space)
    beam = np.zeros((1, 0), dtype=np.int32), np.zeros(1)
    evaluations, given_up = 0, math.inf
    for depth, choices in enumerate(space.choices):
        kept = np.zeros((0, depth + 1), dtype=np.int32), np.zeros(0)
        for start in range(0, len(beam[0]), batch_size):
            tokens, bits = (a[start : start + batch_size] for a in beam)
            evaluations += len(bits)
            step = token_model.compute_child_bits(model, space, tokens)
            child_bits = bits[:, np.newaxis] + step
            if depth + 1 == space.length:
                best.offer(tokens, child_bits)
                continue
            parents, places = np.nonzero(np.isfinite(child_bits))
            children = _extend(tokens[parents], np.array(choices)[places])
            found = np.concatenate([kept[1], child_bits[parents, places]])
            order = np.argsort(found, kind="stable")
            given_up = min([given_up, *found[order[width : width + 1]]])
            order = order[:width]
            kept = np.concatenate([kept[0], children])[order], found[order]
        beam = kept
    return best.make_result(float(given_up), evaluations)


class _Best:
    """The likeliest secrets so far."""

    def __init__(self, space, num_secrets, *, most: int | None = None):
        self._space = space
        self._count = _checks.check_integer(
            "num_secrets", num_secrets, at_least=1, at_most=most
        )
        self._found = []

    @property
    def bound(self) -> float:
        """Returns the bits below which a secret would be among the best."""
        if len(self._found) < self._count:
            return math.inf
        return self._found[-1][0]

    def offer(self, tokens: np.ndarray, child_bits: np.ndarray) -> None:
        """Takes the best of the secrets that end prefixes `[B, L - 1]`."""
        parents, places = np.nonzero(child_bits < self.bound)
        bits = child_bits[parents, places]
        last = np.array(self._space.choices[-1])[places]
        secrets = _extend(tokens[parents], last)
        accepted = self._space.find_accepted(secrets)
        secrets, bits = secrets[accepted], bits[accepted]
        order = np.argsort(bits, kind="stable")[: self._count]
        new = zip(bits[order].tolist(), secrets[order].tolist(), strict=True)
        self._found = sorted([*self._found, *new])[: self._count]

    def make_result(self, open_bits: float, evaluations: int) -> SearchResult:
        """Returns the result, given the fewest bits among prefixes left."""
        return SearchResult(
            secrets=tuple(tuple(secret) for _, secret in self._found),
            bits=tuple(bits for bits, _ in self._found),
            open_bits=open_bits,
            is_optimal=self.bound <= open_bits,
            evaluations=evaluations,
        )


@dataclasses.dataclass(frozen=True)
class _Children:
    """One prefix `[D]` and its next tokens `[C]`, cheapest first."""

    prefix: np.ndarray
    tokens: np.ndarray
    bits: np.ndarray


class _Frontier:
    """Open prefixes in the order of their bits, the longest first in a tie.

    An entry is a parent and its cheapest child that is still open, so that a
    large alphabet costs no entry for each child.
    """

    def __init__(self, space):
        self._space = space
        self._heap = []
        self._ticks = itertools.count()
        self._num_open = 0
        self._given_up = math.inf

    def least_bits(self) -> float:
        """Returns the fewest bits of any prefix that was not expanded."""
        return min([self._given_up, *(entry[0] for entry in self._heap[:1])])

    def push(self, tokens, child_bits, *, below: float) -> None:
        """Adds the children `[B, C]` of prefixes `[B, D]`, if below a bound."""
        choices = np.array(self._space.choices[tokens.shape[1]])
        orders = np.argsort(child_bits, axis=1, kind="stable")
        for prefix, bits, order in zip(tokens, child_bits, orders, strict=True):
            end = int(np.sum(bits < below))
            order = order[:end]
            self._add(_Children(prefix, choices[order], bits[order]), 0)
        if self._num_open > _MAX_OPEN:
            self._give_up_half()

    def pop(self, count: int, *, below: float) -> list:
        """Takes out up to `count` cheapest prefixes, grouped by length."""
        groups = {}
        for _ in range(count):
            if not self._heap or not self._heap[0][0] < below:
                break
            bits, _, _, place, children = heapq.heappop(self._heap)
            self._num_open -= len(children.bits) - place
            group = groups.setdefault(children.prefix.size, ([], [], []))
            group[0].append(children.prefix)
            group[1].append(children.tokens[place])
            group[2].append(bits)
            self._add(children, place + 1)
        return [
            (_extend(np.stack(prefixes), np.array(last)), np.array(bits))
            for prefixes, last, bits in groups.values()
        ]

    def _add(self, children: _Children, place: int) -> None:
        left = len(children.bits) - place
        if not left:
            return
        self._num_open += left
        bits = float(children.bits[place])
        order = -children.prefix.size, next(self._ticks)
        heapq.heappush(self._heap, (bits, *order, place, children))

    def _give_up_half(self) -> None:
        """Drops the prefixes of the most bits, and remembers the cheapest."""
        entries, self._heap, self._num_open = self._heap, [], 0
        bits = np.concatenate([c.bits[place:] for *_, place, c in entries])
        middle = bits.size // 2
        cut = float(np.partition(bits, middle)[middle])
        self._given_up = min(self._given_up, cut)
        for *_, place, children in entries:
            end = int(np.searchsorted(children.bits, cut))
            kept = slice(place, end)
            # Copies, so that what is dropped is freed.
            shorter = _Children(
                children.prefix,
                children.tokens[kept].copy(),
                children.bits[kept].copy(),
            )
            self._add(shorter, 0)


def _extend(prefixes: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Returns prefixes `[B, D]` with one more token `[B]` each."""
    column = last.astype(np.int32)[:, np.newaxis]
    return np.concatenate([prefixes, column], axis=1)


def _check_batch_size(name: str, value, space) -> int:
    """Returns a batch size whose children fit in memory."""
    size = _checks.check_integer(name, value, at_least=1)
    return max(1, min(size, _MAX_CHILDREN // max(map(len, space.choices))))
