# SPDX-License-Identifier: Apache-2.0
"""Per-unit gradients of one variable, in the form that is cheapest to hold.

A rule answers with terms. Each term stands for a stack of per-unit gradients
`[B, *variable.shape]` that need not exist in memory, and can give their
squared norms, their weighted sum and, if it must, the stack itself. Terms of
one variable that is used twice (shared layers, tied weights) are merged before
the norm is taken, since the norm of a sum is not the sum of the norms.
"""

import math

from keras import ops

# Smallest normal float32. A square that falls below it is flushed to zero;
# adding it once for each entry keeps every norm an upper bound, so that a unit
# with tiny inputs and huge cotangents cannot hide its gradient in an underflow.
_FLUSHED_SQUARE = 1.1754944e-38

# Unit round-off of float32. A Gram-matrix norm is a sum of terms of both signs
# whose round-off is relative to the sum of their sizes, not to the result:
# adding that much keeps a norm that cancelled an upper bound.
_ROUND_OFF = 2.0**-24

# Below this fraction of the sum of sizes a Gram sum counts as cancelled.
_CANCELLED = 2.0**-6

# Longest running sum in one product.
_LONGEST_SUM = 1024

# A per-unit gradient of more entries than this (16 MB) is never instantiated
# where its norm can be had from Gram matrices.
_MAX_INSTANTIATED = 2**22


def _row_squared_norms(array):
    """Returns `[B]` upper bounds on each row's squared L2 norm."""
    entries = math.prod(d or 1 for d in array.shape[1:])
    flushed = entries * _FLUSHED_SQUARE
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


def _keep_rows(array, keep):
    """Returns `array` with the rows where `keep` is false set to zero."""
    if keep is None:
        return array
    mask = ops.reshape(keep, (-1,) + (1,) * (len(array.shape) - 1))
    return ops.where(mask, array, ops.zeros_like(array))


def _scale_rows(array, factors):
    return array * ops.reshape(factors, (-1,) + (1,) * (len(array.shape) - 1))


def prefers_gram(num_positions: int | None, width: int, depth: int) -> bool:
    """Returns whether a norm is cheaper from Gram matrices than from gradients.

    Multiplications for each unit: T * T * (P + D) against T * P * D; the
    gradients, once formed, save T * P * D in the sum but cost memory traffic
    of P * D.

    Args:
        num_positions: T; None where unknown.
        width: P, length of an input at one position.
        depth: D, length of a cotangent at one position.
    """
    if width * depth > _MAX_INSTANTIATED:
        return True
    if num_positions is None:
        return False
    return num_positions**2 * (width + depth) < 4 * width * depth


class Instantiated:
    """Per-unit gradients that exist in memory.

    Args:
        gradients: `[B, *shape]` float32.
    """

    def __init__(self, gradients):
        self._gradients = gradients

    def squared_norms(self):
        """Returns `[B]` float32 squared norms."""
        return _row_squared_norms(self._gradients)

    def weighted_sum(self, factors, keep=None):
        """Returns `sum_b factors[b] * gradients[b]`, of the variable's shape.

        Args:
            factors: `[B]` float32.
            keep: `[B]` bool; rows where it is false do not take part, even
                if they are not finite. None keeps all.
        """
        rows = _keep_rows(self._gradients, keep)
        shape = tuple(rows.shape[1:])
        flat = ops.reshape(rows, (-1, math.prod(shape)))
        return ops.reshape(ops.matmul(factors[None, :], flat), shape)

    def instantiate(self):
        """Returns the gradients, `[B, *shape]`."""
        return self._gradients


class Rearranged:
    """Gradients that another term gives in another arrangement.

    Args:
        term: The term; its norms are those of the gradients.
        arrange: Maps `[N, *shape of the term]` to `[N, *variable.shape]`
            without changing any entry.
    """

    def __init__(self, term, arrange):
        self._term = term
        self._arrange = arrange

    def squared_norms(self):
        """Returns `[B]` float32 squared norms."""
        return self._term.squared_norms()

    def weighted_sum(self, factors, keep=None):
        """Returns `sum_b factors[b] * gradients[b]`, of the variable's shape.

        Args:
            factors: `[B]` float32.
            keep: `[B]` bool or None, as for the other terms.
        """
        return self._arrange(self._term.weighted_sum(factors, keep)[None])[0]

    def instantiate(self):
        """Returns the gradients, `[B, *shape]`."""
        return self._arrange(self._term.instantiate())


class OuterProduct:
    """Gradients `sum_t a[b, t] (x) g[b, t]` of a matrix, as its factors.

    Args:
        inputs: `[B, T, P]` float32; what multiplied the matrix.
        cotangents: `[B, T, D]` float32; derivative of the loss with respect
            to the product.
        shape: The variable's shape; its size is P * D.
    """

    def __init__(self, inputs, cotangents, shape):
        self._inputs = inputs
        self._cotangents = cotangents
        self._shape = tuple(shape)
        self._stack = None

    def _prefers_gram(self) -> bool:
        num_positions, width = self._inputs.shape[1:]
        return prefers_gram(num_positions, width, self._cotangents.shape[-1])

    def squared_norms(self):
        """Returns `[B]` float32, never below the true squared norms."""
        if self._inputs.shape[1] == 1:
            a = _row_squared_norms(self._inputs)
            return a * _row_squared_norms(self._cotangents)
        if self._prefers_gram():
            return _gram_squared_norms(self._inputs, self._cotangents)
        return _row_squared_norms(self.instantiate())

    def weighted_sum(self, factors, keep=None):
        """Returns `sum_b factors[b] * gradients[b]`, of the variable's shape.

        Args:
            factors: `[B]` float32.
            keep: `[B]` bool; rows where it is false do not take part, even
                if they are not finite. None keeps all.
        """
        if self._stack is not None:
            return Instantiated(self._stack).weighted_sum(factors, keep)
        width, depth = self._inputs.shape[-1], self._cotangents.shape[-1]
        inputs = _keep_rows(self._inputs, keep)
        cotangents = _scale_rows(_keep_rows(self._cotangents, keep), factors)
        total = ops.matmul(
            ops.transpose(ops.reshape(inputs, (-1, width))),
            ops.reshape(cotangents, (-1, depth)),
        )
        return ops.reshape(total, self._shape)

    def instantiate(self):
        """Returns the gradients, `[B, *shape]`; kept for the sum."""
        if self._stack is None:
            product = ops.matmul(
                ops.swapaxes(self._inputs, 1, 2), self._cotangents
            )
            self._stack = ops.reshape(product, (-1,) + self._shape)
        return self._stack

    def merged(self, other: "OuterProduct") -> "OuterProduct":
        """Returns the sum of two terms as one with a longer position axis."""
        return OuterProduct(
            ops.concatenate([self._inputs, other._inputs], axis=1),
            ops.concatenate([self._cotangents, other._cotangents], axis=1),
            self._shape,
        )


class Gather:
    """Gradients of a table whose rows `indices[b, t]` were looked up.

    Args:
        indices: `[B, T]` integer, in [0, V).
        cotangents: `[B, T, D]` float32.
        num_rows: V, rows of the table.
    """

    def __init__(self, indices, cotangents, num_rows: int):
        self._indices = indices
        self._cotangents = cotangents
        self._num_rows = num_rows

    def squared_norms(self):
        """Returns `[B]` float32, never below the true squared norms.

        sum over t, s with indices[t] == indices[s] of g[t] . g[s]
        """
        if self._indices.shape[1] == 1:
            return _row_squared_norms(self._cotangents)
        same = ops.equal(self._indices[:, :, None], self._indices[:, None, :])
        same = ops.cast(same, "float32")
        cotangents = self._cotangents
        sizes = _position_norms(cotangents)
        gram = ops.matmul(cotangents, ops.swapaxes(cotangents, 1, 2))
        total = ops.sum(ops.einsum("bts,bts->bt", gram, same), axis=1)
        # Only products of equal indices take part, and so in the sizes.
        others = ops.einsum("bts,bs->bt", same, sizes)
        largest = ops.sum(sizes * others, axis=1)
        return _with_round_off(total, largest, cotangents.shape[-1])

    def weighted_sum(self, factors, keep=None):
        """Returns `sum_b factors[b] * gradients[b]`, `[V, D]`.

        Args:
            factors: `[B]` float32.
            keep: `[B]` bool; rows where it is false do not take part, even
                if they are not finite. None keeps all.
        """
        cotangents = _scale_rows(_keep_rows(self._cotangents, keep), factors)
        return ops.segment_sum(
            ops.reshape(cotangents, (-1, cotangents.shape[-1])),
            ops.reshape(self._indices, (-1,)),
            num_segments=self._num_rows,
        )

    def instantiate(self):
        """Returns the gradients, `[B, V, D]`: large, for tied weights only."""
        batch = ops.shape(self._indices)[0]
        depth = self._cotangents.shape[-1]
        rows = ops.arange(batch, dtype="int32")[:, None] * self._num_rows
        flat = ops.segment_sum(
            ops.reshape(self._cotangents, (-1, depth)),
            ops.reshape(ops.cast(self._indices, "int32") + rows, (-1,)),
            num_segments=batch * self._num_rows,
        )
        return ops.reshape(flat, (-1, self._num_rows, depth))

    def merged(self, other: "Gather") -> "Gather":
        """Returns the sum of two terms as one with a longer position axis."""
        return Gather(
            ops.concatenate([self._indices, other._indices], axis=1),
            ops.concatenate([self._cotangents, other._cotangents], axis=1),
            self._num_rows,
        )


def _position_norms(array):
    """Returns `[B, T]` upper bounds on the norm at each position."""
    flushed = (array.shape[-1] or 1) * _FLUSHED_SQUARE
    return ops.sqrt(ops.einsum("btc,btc->bt", array, array) + flushed)


def _with_round_off(total, largest, length: int):
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


def _gram_squared_norms(inputs, cotangents):
    """Returns `[B]`: sum_{t,s} (a[t] . a[s]) (g[t] . g[s]), rounded up."""
    # The size of an input goes over to the cotangent at its position, so that
    # no position can be flushed to zero behind a larger one.
    inputs, sizes = _scaled(inputs, axis=-1)
    cotangents, scale = _scaled(cotangents * sizes, axis=(1, 2))
    gram_a = ops.matmul(inputs, ops.swapaxes(inputs, 1, 2))
    gram_g = ops.matmul(cotangents, ops.swapaxes(cotangents, 1, 2))
    total = ops.sum(ops.einsum("bts,bts->bt", gram_a, gram_g), axis=1)
    sizes = _position_norms(inputs) * _position_norms(cotangents)
    largest = ops.square(ops.sum(sizes, axis=1))
    length = max(inputs.shape[-1], cotangents.shape[-1])
    scaled = _with_round_off(total, largest, length)
    scale = scale[:, 0, 0]
    return scaled * scale * scale + _FLUSHED_SQUARE


def _scaled(array, axis):
    """Returns an array over its largest entries along `axis`, and these."""
    largest = ops.max(ops.abs(array), axis=axis, keepdims=True, initial=0.0)
    scale = ops.where(largest > 0.0, largest, ops.ones_like(largest))
    return array / scale, scale


def merge_terms(terms):
    """Returns one term for the sum of all `terms` of one variable."""
    merged = terms[0]
    for term in terms[1:]:
        if type(term) is type(merged) and hasattr(merged, "merged"):
            merged = merged.merged(term)
        else:
            merged = Instantiated(merged.instantiate() + term.instantiate())
    return merged
