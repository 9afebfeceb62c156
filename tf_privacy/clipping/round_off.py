# SPDX-License-Identifier: Apache-2.0
"""Squared norms in float32 that are never below the true ones."""

import math

from keras import ops

# Smallest normal float32. A square that falls below it is flushed to zero;
# adding it once for each entry keeps every norm an upper bound, so that a unit
# with tiny inputs and huge cotangents cannot hide its gradient in an underflow.
FLUSHED_SQUARE = 1.1754944e-38

# Unit round-off of float32. A Gram-matrix norm is a sum of terms of both signs
# whose round-off is relative to the sum of their sizes, not to the result:
# adding that much keeps a norm that cancelled an upper bound.
_ROUND_OFF = 2.0**-24

# Below this fraction of the sum of sizes a Gram sum counts as cancelled.
_CANCELLED = 2.0**-6

# Longest running sum in one product.
_LONGEST_SUM = 1024


def row_squared_norms(array):
    """Returns `[B]` upper bounds on each row's squared L2 norm."""
    entries = math.prod(d or 1 for d in array.shape[1:])
    flushed = entries * FLUSHED_SQUARE
    chunk = _largest_divisor(entries, _LONGEST_SUM)
    if None in array.shape[1:] or entries > _LONGEST_SUM * chunk:
        axes = tuple(range(1, len(array.shape)))
        return ops.sum(ops.square(array), axis=axes) + flushed
    # A product of matrices reads the rows once; squaring them first would
    # write them out again, at four times the time on a CPU. In chunks, since
    # a long running sum loses what is small beside it.
    rows = ops.reshape(array, (-1, entries // chunk, chunk))
    return ops.sum(ops.einsum("bnc,bnc->bn", rows, rows), axis=1) + flushed


def _largest_divisor(number: int, bound: int) -> int:
    """Returns the largest divisor of `number` that is at most `bound`."""
    if number <= bound:
        return max(number, 1)
    return next(d for d in range(bound, 0, -1) if number % d == 0)


def position_norms(array):
    """Returns `[B, T]` upper bounds on the norm at each position."""
    flushed = (array.shape[-1] or 1) * FLUSHED_SQUARE
    return ops.sqrt(ops.einsum("btc,btc->bt", array, array) + flushed)


def with_round_off(total, largest, length: int):
    """Returns a Gram sum raised by what its cancellation may have lost.

    Args:
        total: `[B]`; a sum of signed products.
        largest: `[B]`; the sum of their sizes.
        length: Terms in the inner products that the products were made of.
    """
    total = ops.maximum(total, 0.0)
    # What a running sum of equal terms loses at worst.
    lost = _ROUND_OFF * (8.0 + length) * largest
    cancelled = total < _CANCELLED * largest
    return total + _ROUND_OFF * largest + ops.where(cancelled, lost, 0.0)


def gram_squared_norms(inputs, cotangents):
    """Returns `[B]`: sum_{t,s} (a[t] . a[s]) (g[t] . g[s]), rounded up."""
    # The size of an input goes over to the cotangent at its position, so that
    # no position can be flushed to zero behind a larger one.
    inputs, sizes = _scaled(inputs, axis=-1)
    cotangents, scale = _scaled(cotangents * sizes, axis=(1, 2))
    gram_a = ops.matmul(inputs, ops.swapaxes(inputs, 1, 2))
    gram_g = ops.matmul(cotangents, ops.swapaxes(cotangents, 1, 2))
    total = ops.sum(ops.einsum("bts,bts->bt", gram_a, gram_g), axis=1)
    sizes = position_norms(inputs) * position_norms(cotangents)
    largest = ops.square(ops.sum(sizes, axis=1))
    length = max(inputs.shape[-1], cotangents.shape[-1])
    scaled = with_round_off(total, largest, length)
    scale = scale[:, 0, 0]
    return scaled * scale * scale + FLUSHED_SQUARE


def _scaled(array, axis):
    """Returns an array over its largest entries along `axis`, and these."""
    largest = ops.max(ops.abs(array), axis=axis, keepdims=True, initial=0.0)
    scale = ops.where(largest > 0.0, largest, ops.ones_like(largest))
    return array / scale, scale
