# SPDX-License-Identifier: Apache-2.0
"""Exact samples of the discrete Gaussian, from the operating system's entropy.

The law on the integers, of parameter `scale`:

    P(x) = exp(-x^2 / (2 scale^2)) / sum_{y in Z} exp(-y^2 / (2 scale^2))

A sample is made of three exact choices, with width = 2^m for the m that puts
scale / width into [8, 16), or width = 1 for a smaller scale:

    1. a block j = 0, 1, ... with P(j) ~ exp(-(j width)^2 / (2 scale^2)),
       by inversion of a table;
    2. an offset r in [0, width), uniform: m random bits. x = j width + r is
       kept with probability exp(-r (2 j width + r) / (2 scale^2)), else all
       starts anew; kept are the x >= 0 with P(x) ~ exp(-x^2 / (2 scale^2));
    3. a sign, one random bit; -0 starts anew, or 0 would count twice.

How often it starts anew is independent of what is returned, so that this part
of a draw's time tells nothing of its values.

Every comparison of a random number U in [0, 1) with a real probability p is
one of integers. U is a stream of random bits, of which the first n are drawn,
so that U is in [u, u + 1) / 2^n, and

    low <= 2^n p <= low + 2    for an integer low:
    u < low proves U < p, and u >= low + 2 proves U >= p.

In between, of probability 2 / 2^n, more bits are drawn and p is computed to
more digits, until one of the two holds: no rounding decides.

Source: Canonne, Kamath and Steinke 2020, arXiv:2004.00010 (the law, and why
    it serves privacy); Karney 2016, arXiv:1303.6257 (exact choices by bits
    drawn as needed).
"""

import bisect
import decimal
import fractions
import math
import os
from collections.abc import Callable

import numpy as np

from tf_privacy import _checks

# The offset and 32 bits of U share a word: width <= 2^32.
LARGEST_SCALE = 2.0**36
_SMALLEST_SCALE = 2.0**-10
# 2^3 <= scale / width: a candidate is kept with probability 0.95 or more.
_LOG_BLOCKS = 3
# Bits of U that are drawn at first; a word has one more, for the sign.
_BLOCK_BITS = 63
_KEEP_BITS = 32
_EXTRA_BITS = 64
# Candidates that are made together: their arrays fit in a processor's cache.
_CHUNK = 2**15


def _make_context(bits: int) -> decimal.Context:
    """Returns arithmetic whose relative error is 1e-12 / 2^(bits + 8)."""
    return decimal.Context(prec=math.ceil(0.30103 * (bits + 8)) + 13)


def _divide(ratio: fractions.Fraction) -> decimal.Decimal:
    return decimal.Decimal(ratio.numerator) / ratio.denominator


def _round_below(scaled: decimal.Decimal) -> int:
    """Returns low <= t <= low + 2 for every t within 1/2 of `scaled`."""
    return math.floor(scaled - decimal.Decimal("0.5"))


def bound_exponential(exponent: fractions.Fraction, bits: int) -> int:
    """Returns an integer low <= 2^bits exp(-exponent) <= low + 2.

    Args:
        exponent: Exact; >= 0.
        bits: Whole, >= 1.
    """
    # `decimal` rounds exp correctly; an exponent's own rounding changes exp
    # by its relative error times exponent exp(-exponent) <= 0.37.
    with decimal.localcontext(_make_context(bits)):
        return _round_below(2**bits * (-_divide(exponent)).exp())


def bound_cumulative(decay: fractions.Fraction, bits: int) -> list[int]:
    """Returns integers low[j] <= 2^bits F(j) <= low[j] + 2, non-decreasing.

        F(j) = sum_{i=0}^j exp(-decay i^2) / sum_{i=0}^inf exp(-decay i^2)

    The sums end at an n with exp(-decay n^2) <= 2^-(bits + 8). The rest is
    below that over 2 decay n >= 1.4 (bits + 8) / n, hence, as n <= 2 +
    19 sqrt(bits + 8), below 2^-(bits + 5). The terms of a sum and its additions
    are off by less than (n + 3)^2 1e-12 / 2^(bits + 8) together. All is divided
    by the whole sum, which is >= 1: the error of 2^bits F(j) is below 1/2.

    Args:
        decay: Exact; >= 1/512.
        bits: Whole, in [1, 10000].

    Returns:
        One integer for each j = 0, ..., n.
    """
    # 0.7 > log(2).
    last = math.isqrt(math.ceil(fractions.Fraction(7, 10) * (bits + 8) / decay))
    with decimal.localcontext(_make_context(bits)):
        rate = _divide(decay)
        total, sums = decimal.Decimal(0), []
        for j in range(last + 2):
            total += (-rate * j**2).exp()
            sums.append(total)
        return [_round_below(2**bits * each / total) for each in sums]


class DiscreteGaussianSampler:
    """Draws independent samples of one discrete Gaussian, exactly.

    Its standard deviation is at most `scale`, and equal to it but for 1e-6
    where scale >= 1.

    Args:
        scale: Parameter of the law, taken as the exact rational that the float
            is; in [2^-10, 2^36).
        draw_bytes: From a number to as many secret, uniform, fresh bytes.
            Anything but the default is for tests.

    Raises:
        ValueError: If `scale` is out of range.
    """

    def __init__(
        self, scale: float, *, draw_bytes: Callable[[int], bytes] = os.urandom
    ):
        scale = _checks.check_real(
            "scale", scale, at_least=_SMALLEST_SCALE, below=LARGEST_SCALE
        )
        self._draw_bytes = draw_bytes
        # 2^(exponent - 1) <= scale < 2^exponent.
        exponent = math.frexp(scale)[1]
        self._width = 2 ** max(0, exponent - 1 - _LOG_BLOCKS)
        self._rate = 1 / (2 * fractions.Fraction(scale) ** 2)
        self._decay = self._rate * self._width**2
        low = bound_cumulative(self._decay, _BLOCK_BITS)
        self._below = np.array(low, np.uint64)
        # The least u that proves U >= F(j - 1); none does past the table.
        proofs = [0, *(value + 2 for value in low[:-1]), 2**64 - 1]
        self._proved = np.array(proofs, np.uint64)

    def sample(self, size: int) -> np.ndarray:
        """Returns independent samples.

        Args:
            size: How many; whole, >= 0.

        Returns:
            `[size]` int64.
        """
        samples, filled = np.empty(size, np.int64), 0
        while filled < size:
            missing = size - filled
            count = min(_CHUNK, missing + missing // 8 + 8)
            found = self._draw_candidates(count)[:missing]
            samples[filled : filled + found.size] = found
            filled += found.size
        return samples

    def _draw_candidates(self, count: int) -> np.ndarray:
        """Returns what is kept of so many candidates, in their order."""
        words = np.frombuffer(self._draw_bytes(16 * count), "<u8")
        first, second = words[:count], words[count:]
        block = self._choose_blocks(first >> np.uint64(1))
        offset = (second >> np.uint64(_KEEP_BITS)).astype(np.int64)
        offset &= self._width - 1
        value = (second & np.uint64(2**_KEEP_BITS - 1)).astype(np.int64)
        size = self._width * block + offset
        kept = self._choose_kept(block, offset, value)
        negative = (first & np.uint64(1)).astype(bool)
        kept &= ~(negative & (size == 0))
        return np.where(negative, -size, size)[kept]

    def _choose_blocks(self, value: np.ndarray) -> np.ndarray:
        """Returns the j of which F(j - 1) <= U < F(j)."""
        block = np.searchsorted(self._below, value, side="right")
        for i in np.flatnonzero(value < self._proved[block]):
            block[i] = self._find_block(int(value[i]), _BLOCK_BITS)
        return block

    def _choose_kept(self, block, offset, value) -> np.ndarray:
        """Returns whether U is below the probability to keep a candidate."""
        if self._width == 1:
            return np.ones(block.shape, bool)
        # Products of whole numbers below 2^53, in double precision: `scaled`
        # is off by less than 2^-45 of itself, 2^-13, where 1/2 is allowed for.
        exponent = float(self._rate) * offset
        exponent *= (2 * self._width) * block + offset
        scaled = np.exp(-exponent) * 2.0**_KEEP_BITS
        low = np.floor(scaled - 0.5).astype(np.int64)
        kept = value < low
        for i in np.flatnonzero(~kept & (value < low + 2)):
            kept[i] = self._decide(
                int(block[i]), int(offset[i]), int(value[i]), _KEEP_BITS
            )
        return kept

    def _extend(self, value: int, bits: int) -> tuple[int, int]:
        """Returns more bits of U, and how many."""
        more = int.from_bytes(self._draw_bytes(_EXTRA_BITS // 8), "little")
        return (value << _EXTRA_BITS) + more, bits + _EXTRA_BITS

    def _find_block(self, value: int, bits: int) -> int:
        """Returns the block of a U whose first bits are given."""
        while True:
            low = bound_cumulative(self._decay, bits)
            block = bisect.bisect_right(low, value)
            if block == 0:
                return block
            if block < len(low) and value >= low[block - 1] + 2:
                return block
            value, bits = self._extend(value, bits)

    def _decide(self, block: int, offset: int, value: int, bits: int) -> bool:
        """Returns whether U, of given first bits, keeps a candidate."""
        exponent = self._rate * (offset * (2 * self._width * block + offset))
        while True:
            low = bound_exponential(exponent, bits)
            if value < low:
                return True
            if value >= low + 2:
                return False
            value, bits = self._extend(value, bits)
