# SPDX-License-Identifier: Apache-2.0
"""Per-unit gradients scaled by public factors before they are clipped.

    scaled[b] = D * gradient[b],  D > 0, entry by entry
is what is clipped, summed and noised; dividing by D afterwards gives gradients
whose noise follows the size of the entries:

    (sum_b clip(D * gradient[b]) + N(0, stddev^2)) / D

One unit moves the sum of the scaled gradients by at most the clip, whatever D
is, so long as D does not depend on the data of this step: the step is a
Gaussian mechanism of the same noise multiplier as without D. D may depend on
all that was released before, as any choice in adaptive composition may.
Dividing by D is a function of released and public values. So the accounting is
that of the same steps without scaling.

D of a variable is a product of factors that broadcast against its shape, which
says what it costs:
    one number                 any term keeps its form
    one vector for each axis   products and look-ups keep their form
    one number for each entry  look-ups keep their form; of other terms the
                               norm is taken from gradients made piece by piece

Source: Ganesh, McMahan and Thakurta 2025, arXiv:2507.01129, algorithm 8; Li et
al. 2023, arXiv:2212.00309.
"""

import dataclasses
import functools
import itertools
import math
import operator
from typing import Any

from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import merged_terms
from tf_privacy.clipping import round_off
from tf_privacy.clipping.backend.execution import execution

# Entries (1 MB) of a unit's gradient that are made at a time for its norm,
# unless that took more than so many pieces.
_PIECE = 2**18
_MAX_PIECES = 64


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scale:
    """What the entries of one variable's gradients are multiplied by.

    Must not depend on the data of the step that it is used in.

    Attributes:
        shape: The variable's.
        factors: A tuple of float32 tensors, finite and > 0, whose product is
            the scale. Each has as many axes as the variable, of its length or
            of length 1.
    """

    shape: tuple[int, ...]
    factors: tuple[Any, ...]

    def __post_init__(self):
        for factor in self.factors:
            lengths = tuple(factor.shape)
            if len(lengths) != len(self.shape) or any(
                length not in (1, wanted)
                for length, wanted in zip(lengths, self.shape, strict=True)
            ):
                raise ValueError(
                    "factors must have the variable's axes, of its length or "
                    f"of length 1: {tuple(self.shape)}. Received: {lengths}. "
                    "Any other shape would mix entries of different units."
                )

    def multiply(self, array):
        """Returns an array times the scale.

        Args:
            array: `[..., *variable.shape]` float32.
        """
        return functools.reduce(ops.multiply, self.factors, array)

    def divide(self, array):
        """Returns an array over the scale.

        Args:
            array: `[..., *variable.shape]` float32.
        """
        return functools.reduce(ops.divide, self.factors, array)

    def as_ones(self) -> "Scale":
        """Returns a scale of the same form in which all entries are 1."""
        ones = tuple(ops.ones(f.shape, "float32") for f in self.factors)
        return Scale(shape=self.shape, factors=ones)

    @property
    def is_number(self) -> bool:
        """Whether all entries have the same scale."""
        return all(set(f.shape) <= {1} for f in self.factors)

    def as_number(self):
        """Returns the float32 scalar that all entries are multiplied by."""
        return ops.reshape(self.multiply(ops.ones((), "float32")), ())

    def take_rows(self, indices):
        """Returns what rows of a table `[V, D]` are multiplied by.

        Args:
            indices: `[B, T]` integer, in [0, V).

        Returns:
            A tensor that broadcasts against `[B, T, D]`.
        """
        rows = ops.ones((1, 1, 1), "float32")
        for factor in self.factors:
            one_for_all = factor.shape[0] == 1
            rows = rows * (
                factor[None] if one_for_all else ops.take(factor, indices, 0)
            )
        return rows

    def split(self, width: int):
        """Returns vectors whose outer product is the scale, or None.

        Args:
            width: P, rows of the variable as a matrix; what its first axes
                make up.

        Returns:
            `[P]` and `[D]`, or None if the scale is no such product.
        """
        shape = self.shape
        sizes = itertools.accumulate(shape, operator.mul, initial=1)
        num_axes = next((i for i, n in enumerate(sizes) if n == width), None)
        if num_axes is None:
            return None
        rows = ops.ones((*shape[:num_axes], *(1 for _ in shape[num_axes:])))
        columns = ops.ones((*(1 for _ in shape[:num_axes]), *shape[num_axes:]))
        for factor in self.factors:
            if set(factor.shape[num_axes:]) <= {1}:
                rows = rows * factor
            elif set(factor.shape[:num_axes]) <= {1}:
                columns = columns * factor
            else:
                return None
        return ops.reshape(rows, (-1,)), ops.reshape(columns, (-1,))


def scale_terms(terms, scales):
    """Returns terms of the scaled gradients of many variables.

    Args:
        terms: A dict: id of a variable -> its term.
        scales: A dict: id of a variable -> its Scale; what is not in it is
            not scaled.
    """
    return {
        key: scale_term(term, scales[key]) if key in scales else term
        for key, term in terms.items()
    }


def scale_term(term: gradient_terms.Term, scale: Scale) -> gradient_terms.Term:
    """Returns a term of the scaled gradients, in the cheapest form.

    Its norms are those of the scaled gradients, never below.

    Args:
        term: The term of all uses of one variable.
        scale: Of the same variable.
    """
    if isinstance(term, merged_terms.LookupSum):
        return merged_terms.LookupSum(
            scale_term(term._lookup, scale), scale_term(term._other, scale)
        )
    if isinstance(term, gradient_terms.Gather):
        rows = scale.take_rows(term._indices)
        return gradient_terms.Gather(
            term._indices, term._cotangents * rows, term._num_rows
        )
    if isinstance(term, gradient_terms.Instantiated):
        return gradient_terms.Instantiated(scale.multiply(term.instantiate()))
    if isinstance(term, gradient_terms.OuterProduct):
        return _scale_product(term, scale)
    return _Scaled(term, scale)


def _scale_product(term, scale):
    inputs, cotangents, shape = term._inputs, term._cotangents, term._shape
    vectors = scale.split(inputs.shape[-1])
    if vectors is None:
        return _ScaledProduct(inputs, cotangents, shape, scale)
    rows, columns = vectors
    return gradient_terms.OuterProduct(
        inputs * rows, cotangents * columns, shape
    )


class _Scaled(gradient_terms.Term):
    """Scaled gradients of a term that cannot take the scale in.

    Args:
        term: Any term.
        scale: Of the same variable.
    """

    def __init__(self, term, scale):
        self._term = term
        self._scale = scale

    def squared_norms(self):
        """Returns `[B]` float32, never below the true squared norms."""
        if self._scale.is_number:
            number = ops.square(self._scale.as_number())
            return number * self._term.squared_norms()
        return round_off.row_squared_norms(self.instantiate())

    def weighted_sum(self, factors, keep=None):
        """Returns `sum_b factors[b] * gradients[b]`, of the variable's shape.

        Args:
            factors: `[B]` float32.
            keep: `[B]` bool or None, as for the other terms.
        """
        return self._scale.multiply(self._term.weighted_sum(factors, keep))

    def instantiate(self):
        """Returns the gradients, `[B, *shape]`."""
        return self._scale.multiply(self._term.instantiate())

    def joined(self, count: int) -> "_Scaled":
        """Returns the sums of each `count` consecutive gradients."""
        return _Scaled(self._term.joined(count), self._scale)

    def cost(self) -> gradient_terms.Cost:
        """Returns the term's cost, or that of the gradients themselves."""
        cost = self._term.cost()
        if self._scale.is_number:
            return cost
        size = math.prod(self._scale.shape)
        return gradient_terms.Cost(
            form=f"instantiated, from {cost.form}",
            multiplications=cost.multiplications + size,
            stored=cost.stored + size,
        )


class _ScaledProduct(gradient_terms.OuterProduct):
    """An outer product with a number for each entry.

    Args:
        inputs: `[B, T, P]` float32.
        cotangents: `[B, T, D]` float32.
        shape: The variable's shape; its size is P * D.
        scale: Of the same variable.
    """

    def __init__(self, inputs, cotangents, shape, scale):
        super().__init__(inputs, cotangents, shape)
        self._scale = scale

    def _matrix(self):
        """Returns the scale, `[P, D]`."""
        shape = (self._inputs.shape[-1], self._cotangents.shape[-1])
        whole = self._scale.multiply(ops.ones(self._shape, "float32"))
        return ops.reshape(whole, shape)

    def _rows_at_a_time(self) -> int:
        width, depth = self._inputs.shape[-1], self._cotangents.shape[-1]
        return max(1, _PIECE // depth, math.ceil(width / _MAX_PIECES))

    def squared_norms(self):
        """Returns `[B]` float32, never below the true squared norms.

        With one position, sum_{p,d} scale[p,d]^2 a[p]^2 g[d]^2.
        """
        if self._inputs.shape[1] == 1:
            # Each square is raised by what it may have lost in an underflow.
            a, g = (
                ops.square(array[:, 0]) + round_off.FLUSHED_SQUARE
                for array in (self._inputs, self._cotangents)
            )
            return ops.sum(ops.matmul(a, ops.square(self._matrix())) * g, 1)
        if not self._prefers_gram():
            return round_off.row_squared_norms(self.instantiate())
        matrix = self._matrix()
        step = self._rows_at_a_time()

        def norms(start):
            rows = slice(start, start + step)
            product = ops.matmul(
                ops.swapaxes(self._inputs[:, :, rows], 1, 2), self._cotangents
            )
            return round_off.row_squared_norms(product * matrix[rows])

        starts = range(0, self._inputs.shape[-1], step)
        return sum(
            execution.in_sequence([functools.partial(norms, s) for s in starts])
        )

    def weighted_sum(self, factors, keep=None):
        """Returns `sum_b factors[b] * gradients[b]`, of the variable's shape.

        Args:
            factors: `[B]` float32.
            keep: `[B]` bool or None, as for the other terms.
        """
        return self._scale.multiply(super().weighted_sum(factors, keep))

    def instantiate(self):
        """Returns the gradients, `[B, *shape]`."""
        return self._scale.multiply(super().instantiate())

    def rows_of_matrix(self, indices):
        """Returns rows of the gradients, `[B, N, D]`, without the rest.

        Args:
            indices: `[B, N]` integer, rows of the `[P, D]` matrix.
        """
        scale = ops.take(self._matrix(), indices, axis=0)
        return super().rows_of_matrix(indices) * scale

    def joined(self, count: int) -> "_ScaledProduct":
        """Returns the sums of each `count` consecutive gradients."""
        return scale_term(self._unscaled().joined(count), self._scale)

    def merged(self, other: "_ScaledProduct") -> "_ScaledProduct":
        """Returns the sum of two terms as one with a longer position axis."""
        return scale_term(self._unscaled().merged(other), self._scale)

    def _unscaled(self):
        return gradient_terms.OuterProduct(
            self._inputs, self._cotangents, self._shape
        )

    def cost(self) -> gradient_terms.Cost:
        """Returns the cost of the form that `squared_norms` takes."""
        positions, width = self._inputs.shape[1:]
        positions = positions or 0
        size = width * self._cotangents.shape[-1]
        if positions == 1:
            return gradient_terms.Cost(
                form="squares", multiplications=size, stored=0
            )
        if not self._prefers_gram():
            return gradient_terms.Cost(
                form="instantiated",
                multiplications=(positions + 2) * size,
                stored=2 * size,
            )
        piece = self._rows_at_a_time() * self._cotangents.shape[-1]
        return gradient_terms.Cost(
            form="instantiated in pieces",
            multiplications=(positions + 2) * size,
            stored=2 * min(size, piece),
        )
