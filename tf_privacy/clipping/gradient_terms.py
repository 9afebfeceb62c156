# SPDX-License-Identifier: Apache-2.0
"""Per-unit gradients of one variable, in the form that is cheapest to hold.

A rule answers with terms. Each term stands for a stack of per-unit gradients
`[B, *variable.shape]` that need not exist in memory, and can give their
squared norms, their weighted sum and, if it must, the stack itself. Terms of
one variable that is used twice (shared layers, tied weights) are merged before
the norm is taken, since the norm of a sum is not the sum of the norms.
"""

import abc
import dataclasses
import math

from keras import ops

from tf_privacy.clipping import round_off

# A per-unit gradient of more entries than this (16 MB) is never instantiated
# where its norm can be had from Gram matrices.
_MAX_INSTANTIATED = 2**22
# From this many on (1 MB), what is multiplied decides and not memory traffic.
_LARGE = 2**18


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
    if width * depth > _LARGE and num_positions * (width + depth) < (
        width * depth
    ):
        return True
    return num_positions**2 * (width + depth) < 4 * width * depth


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a term takes for each unit.

    Attributes:
        form: How the norm is found, in a few words.
        multiplications: To find the norm.
        stored: float32 entries that are held for each unit.
    """

    form: str
    multiplications: int
    stored: int


def _join(array, count: int):
    """Returns `[B / count, count * T, ...]` for `[B, T, ...]`."""
    positions = array.shape[1]
    if positions is None:
        positions = ops.shape(array)[1]
    return ops.reshape(array, (-1, count * positions, *array.shape[2:]))


class Term(abc.ABC):
    """A stack of per-unit gradients `[B, *variable.shape]` of one variable.

    No value of one unit may meet a value of another: not even in a product
    with zero, which is NaN where the value is infinite.
    """

    @abc.abstractmethod
    def squared_norms(self):
        """Returns `[B]` float32, never below the true squared norms."""

    @abc.abstractmethod
    def weighted_sum(self, factors, keep=None):
        """Returns `sum_b factors[b] * gradients[b]`, of the variable's shape.

        Args:
            factors: `[B]` float32.
            keep: `[B]` bool; rows where it is false do not take part, even
                if they are not finite. None keeps all.
        """

    @abc.abstractmethod
    def instantiate(self):
        """Returns the gradients, `[B, *shape]` float32."""

    @abc.abstractmethod
    def joined(self, count: int) -> "Term":
        """Returns the sums of each `count` consecutive gradients, as a term.

        Args:
            count: Rows that make up one unit; divides B.
        """

    @abc.abstractmethod
    def cost(self) -> Cost:
        """Returns what the term takes for each unit."""


class Instantiated(Term):
    """Per-unit gradients that exist in memory.

    Args:
        gradients: `[B, *shape]` float32.
    """

    def __init__(self, gradients):
        self._gradients = gradients

    def squared_norms(self):
        """Returns `[B]` float32 squared norms."""
        return round_off.row_squared_norms(self._gradients)

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

    def joined(self, count: int) -> "Instantiated":
        """Returns the sums of each `count` consecutive gradients."""
        if count == 1:
            return self
        shape = tuple(self._gradients.shape[1:])
        stack = ops.reshape(self._gradients, (-1, count, *shape))
        return Instantiated(ops.sum(stack, axis=1))

    def cost(self) -> Cost:
        """Returns the size of one gradient."""
        size = math.prod(self._gradients.shape[1:])
        return Cost(form="instantiated", multiplications=size, stored=size)


class Rearranged(Term):
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

    def joined(self, count: int) -> "Rearranged":
        """Returns the sums of each `count` consecutive gradients."""
        return Rearranged(self._term.joined(count), self._arrange)

    def cost(self) -> Cost:
        """Returns the other term's cost."""
        return self._term.cost()


class OuterProduct(Term):
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
            a = round_off.row_squared_norms(self._inputs)
            return a * round_off.row_squared_norms(self._cotangents)
        if self._prefers_gram():
            return round_off.gram_squared_norms(self._inputs, self._cotangents)
        return round_off.row_squared_norms(self.instantiate())

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

    def rows_of_matrix(self, indices):
        """Returns rows of the gradients, `[B, N, D]`, without the rest.

        Args:
            indices: `[B, N]` integer, rows of the `[P, D]` matrix.
        """
        picked = ops.take_along_axis(self._inputs, indices[:, None, :], axis=2)
        return ops.matmul(ops.swapaxes(picked, 1, 2), self._cotangents)

    def joined(self, count: int) -> "OuterProduct":
        """Returns the sums of each `count` consecutive gradients."""
        if count == 1:
            return self
        return OuterProduct(
            _join(self._inputs, count),
            _join(self._cotangents, count),
            self._shape,
        )

    def cost(self) -> Cost:
        """Returns the cost of the form that `squared_norms` takes."""
        positions, width = self._inputs.shape[1:]
        depth = self._cotangents.shape[-1]
        positions = positions or 0
        if positions == 1:
            return Cost(
                form="rank one", multiplications=width + depth, stored=0
            )
        if self._prefers_gram():
            return Cost(
                form="Gram matrices",
                multiplications=positions**2 * (width + depth),
                stored=2 * positions**2,
            )
        return Cost(
            form="instantiated",
            multiplications=(positions + 1) * width * depth,
            stored=width * depth,
        )

    def merged(self, other: "OuterProduct") -> "OuterProduct":
        """Returns the sum of two terms as one with a longer position axis."""
        return OuterProduct(
            ops.concatenate([self._inputs, other._inputs], axis=1),
            ops.concatenate([self._cotangents, other._cotangents], axis=1),
            self._shape,
        )


class Gather(Term):
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

    @property
    def indices(self):
        """`[B, T]` integer; the rows that were looked up."""
        return self._indices

    @property
    def num_products(self) -> int:
        """How many products an inner product with a row sums up."""
        return (self._indices.shape[1] or 1) * self._cotangents.shape[-1]

    def squared_norms(self):
        """Returns `[B]` float32, never below the true squared norms.

        sum over t, s with indices[t] == indices[s] of g[t] . g[s]
        """
        if self._indices.shape[1] == 1:
            return round_off.row_squared_norms(self._cotangents)
        same = ops.equal(self._indices[:, :, None], self._indices[:, None, :])
        same = ops.cast(same, "float32")
        cotangents = self._cotangents
        sizes = round_off.position_norms(cotangents)
        gram = ops.matmul(cotangents, ops.swapaxes(cotangents, 1, 2))
        total = round_off.row_products(gram, same)
        summed = round_off.row_products(ops.abs(gram), same)
        # Only products of equal indices take part, and so in the sizes.
        others = ops.einsum("bts,bs->bt", same, sizes)
        largest = ops.sum(sizes * others, axis=1)
        return round_off.with_round_off(
            total, summed, largest, cotangents.shape[-1]
        )

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

    def inner_products(self, other: Term):
        """Returns `[B]` inner products with another term of the table.

        The other term is asked only for its rows that were looked up.

        Args:
            other: An OuterProduct over `[V, D]`, or any term.
        """
        if isinstance(other, OuterProduct):
            picked = other.rows_of_matrix(self._indices)
        else:
            picked = ops.take_along_axis(
                other.instantiate(), self._indices[:, :, None], axis=1
            )
        return round_off.row_products(self._cotangents, picked)

    def joined(self, count: int) -> "Gather":
        """Returns the sums of each `count` consecutive gradients."""
        if count == 1:
            return self
        return Gather(
            _join(self._indices, count),
            _join(self._cotangents, count),
            self._num_rows,
        )

    def cost(self) -> Cost:
        """Returns the cost of the products among the looked-up rows."""
        positions, depth = self._cotangents.shape[1:]
        positions = positions or 0
        if positions == 1:
            return Cost(form="rows", multiplications=depth, stored=0)
        return Cost(
            form="rows",
            multiplications=positions**2 * (depth + 1),
            stored=2 * positions**2,
        )

    def merged(self, other: "Gather") -> "Gather":
        """Returns the sum of two terms as one with a longer position axis."""
        return Gather(
            ops.concatenate([self._indices, other._indices], axis=1),
            ops.concatenate([self._cotangents, other._cotangents], axis=1),
            self._num_rows,
        )
