# SPDX-License-Identifier: Apache-2.0
"""Squared norms in float32 that are never below the true ones."""

import functools
import math

from keras import ops

from tf_privacy.clipping.backend import backend
from tf_privacy.clipping.backend.execution import execution

# Smallest normal float32. A square that falls below it is flushed to zero;
# adding it once for each entry keeps every norm an upper bound, so that a unit
# with tiny inputs and huge cotangents cannot hide its gradient in an underflow.
FLUSHED_SQUARE = 1.1754944e-38

# Unit round-off of float32. A Gram-matrix norm is a sum of terms of both signs
# whose round-off is relative to the sum of their sizes, not to the result:
# adding that much keeps a norm that cancelled an upper bound.
_ROUND_OFF = 2.0**-24

# Most terms of a running sum within an inner product.
_BLOCK = 512

# Below this fraction of the sum of sizes a Gram sum counts as cancelled.
_CANCELLED = 2.0**-6


def row_squared_norms(array):
    """Returns `[B]` upper bounds on each row's squared L2 norm."""
    entries = math.prod(d or 1 for d in array.shape[1:])
    axes = tuple(range(1, len(array.shape)))
    return backend.squared_norms(array, axes) + entries * FLUSHED_SQUARE


def position_norms(array):
    """Returns `[B, T]` upper bounds on the norm at each position."""
    flushed = (array.shape[-1] or 1) * FLUSHED_SQUARE
    return ops.sqrt(backend.squared_norms(array, (-1,)) + flushed)


def row_products(one, other):
    """Returns `[B]` inner products of two arrays `[B, T, S]`, row by row."""
    return ops.sum(ops.sum(one * other, axis=2), axis=1)


def with_round_off(total, summed, largest, length: int):
    """Returns a Gram sum raised by what its cancellation may have lost.

    Args:
        total: `[B]`; a sum of signed products.
        summed: `[B]`; at least the sum of their sizes.
        largest: `[B]`; what `summed` would be if all factors were parallel.
        length: Terms in the inner products that the products were made of.
    """
    total = ops.maximum(total, 0.0)
    # A processor sums in several lanes and in blocks: what that loses of each
    # product when all its terms are equal.
    blocked = _ROUND_OFF * min(length / 4, 256.0) * summed
    # What a single running sum of equal terms loses at worst.
    running = _ROUND_OFF * (8.0 + length) * largest
    cancelled = total < _CANCELLED * largest
    raised = total + _ROUND_OFF * largest + blocked
    return raised + ops.where(cancelled, running, 0.0)


def gram_squared_norms(inputs, cotangents):
    """Returns `[B]`: sum_{t,s} (a[t] . a[s]) (g[t] . g[s]), rounded up."""
    # The size of an input goes over to the cotangent at its position, so that
    # no position can be flushed to zero behind a larger one.
    inputs, sizes = _scaled(inputs, axis=-1)
    cotangents, scale = _scaled(cotangents * sizes, axis=(1, 2))
    gram_a, length_a = _gram(inputs)
    gram_g, length_g = _gram(cotangents)
    total = row_products(gram_a, gram_g)
    # By Cauchy and Schwarz: without another pass over the products.
    summed = ops.sqrt(row_squared_norms(gram_a) * row_squared_norms(gram_g))
    sizes = position_norms(inputs) * position_norms(cotangents)
    largest = ops.square(ops.sum(sizes, axis=1))
    length = max(length_a, length_g)
    scaled = with_round_off(total, summed, largest, length)
    scale = scale[:, 0, 0]
    return scaled * scale * scale + FLUSHED_SQUARE


def _gram(array):
    """Returns `[B, T, T]` inner products, and how long their sums are.

    A long one is a sum of sums of `_BLOCK` terms each, taken one after the
    other: what a running sum of equal terms loses grows with its length.

    Args:
        array: `[B, T, P]` float32.
    """
    length = array.shape[-1]
    blocks = [
        functools.partial(backend.grams_of_rows, array[:, :, i : i + _BLOCK])
        for i in range(0, length, _BLOCK)
    ]
    products = execution.in_sequence(blocks)
    return sum(products[1:], products[0]), min(length, _BLOCK) + len(blocks)


def _scaled(array, axis):
    """Returns an array over its largest entries along `axis`, and these."""
    largest = ops.max(ops.abs(array), axis=axis, keepdims=True, initial=0.0)
    scale = ops.where(largest > 0.0, largest, ops.ones_like(largest))
    return array / scale, scale
