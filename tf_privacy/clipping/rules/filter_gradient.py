# SPDX-License-Identifier: Apache-2.0
"""The per-example gradients of a kernel that slides over its input.

Measured on two machines of 2 CPU cores, in units of the gradient summed over
the batch. A loop over the examples with the backend's own gradient costs 0.8 to
2.9 on one; on the other each turn takes 0.1 ms more, which makes it 2.4 to 20
on small images. Products of the windows of all examples cost 1.1 to 5 on both,
with strides above one 2 to 4. So the loop is left to what takes long for one
example.

Where the kernel is large and has few positions, writing the examples' gradients
out dominates (5 to 12): taking their norms first and the sum afresh costs 2.5
to 5.9 there, Gram matrices 1.7 to 3. In three dimensions and in groups it is
the backend's gradient that is slow: products on the windows of one example at a
time cost 0.02 to 0.7 there, and 2.3 at worst.
"""

import functools
import math

from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import round_off
from tf_privacy.clipping.backend import backend
from tf_privacy.clipping.backend.execution import execution
from tf_privacy.clipping.rules import rule

# Kernels of more entries (4 MB) do not have one gradient for each example in
# memory; with few positions it is faster not to from 0.5 MB on.
_MAX_KEPT = 2**20
_MAX_KEPT_OF_FEW = 2**17

# An example's gradient of more multiplications is left to the backend: the
# loop over the examples then costs little beside it.
_LONG = 25 * 10**6

# With more positions than few, a Gram sum of unrelated products counts as
# cancelled: its upper bound is above the norm by more than round-off.
_FEW = 64


def filter_term(windows, inputs, cotangent, shape, *, groups: int = 1):
    """Returns the term of a convolution's kernel, as is cheapest for its shape.

    Args:
        windows: Where the kernel lies over `inputs`.
        inputs: `[B, *spatial, C]`.
        cotangent: `[B, *num_outputs, D]` float32.
        shape: The kernel's, `[*kernel_size, C / groups, D]`.
        groups: Output group j sees the j-th group of input channels only.
    """
    shape = tuple(shape)
    padded = windows.pad(inputs)
    if groups == 1 and _prefers_outer_product(windows, shape):
        patches = ops.concatenate(windows.extract(padded), axis=-1)
        return gradient_terms.OuterProduct(
            rule.to_positions(patches), rule.to_positions(cotangent), shape
        )
    if groups > 1 or len(windows.num_outputs) > 2:
        stack = map_rows(
            lambda row, g: _window_products(windows, row, g, shape, groups),
            padded,
            cotangent,
            shape,
        )
        return gradient_terms.Instantiated(stack)
    term = _ConvolvedTerm(windows, padded, cotangent, shape)
    if not _is_kept(windows, shape):
        return term
    return gradient_terms.Instantiated(term.instantiate())


def _prefers_outer_product(windows, shape) -> bool:
    num_positions = math.prod(windows.num_outputs)
    width, filters = math.prod(shape[:-1]), shape[-1]
    if num_positions <= _FEW and gradient_terms.prefers_gram(
        num_positions, width, filters
    ):
        return True
    # A kernel of one place is a matrix product at each position.
    is_point = math.prod(windows.kernel_size) == 1
    return is_point and _is_kept(windows, shape)


def _is_kept(windows, shape) -> bool:
    few = math.prod(windows.num_outputs) <= _FEW
    return math.prod(shape) <= (_MAX_KEPT_OF_FEW if few else _MAX_KEPT)


def map_rows(function, inputs, cotangent, shape):
    """Returns `function(row, row's cotangent)` for each row, in a loop.

    Args:
        function: Takes both without batch axis, returns an array of `shape`.
        inputs: `[B, ...]`.
        cotangent: `[B, ...]`.
        shape: A tuple.
    """
    if inputs.shape[0] == 0:
        return ops.zeros((0, *shape), "float32")
    return ops.map(lambda pair: function(*pair), (inputs, cotangent))


def kernel_gradient(convolve, cotangent, shape):
    """Returns the gradient of a kernel, summed over the rows of a batch.

    Args:
        convolve: Maps a kernel to outputs, linearly.
        cotangent: Of the outputs; float32.
        shape: The kernel's shape.
    """
    if cotangent.shape[0] == 0:
        return ops.zeros(shape, "float32")

    def run(tap):
        # Of a linear function: the same at every kernel.
        outputs = convolve(tap(ops.zeros(shape, "float32")))
        return ops.sum(outputs * cotangent), None

    _, (gradient,) = backend.pull_back(run)
    return gradient


class _ConvolvedTerm(gradient_terms.Term):
    """Gradients that the backend's convolution computes when asked for.

    Args:
        windows: Where the kernel lies over the input.
        padded: `[B * R, *spatial, C]` float32, from `windows.pad`.
        cotangent: `[B * R, *num_outputs, D]` float32.
        shape: The kernel's shape.
        num_rows: R, consecutive rows that make up one unit.
    """

    def __init__(self, windows, padded, cotangent, shape, num_rows: int = 1):
        self._windows = windows
        self._padded = padded
        self._cotangent = cotangent
        self._shape = shape
        self._num_rows = num_rows

    def squared_norms(self):
        """Returns `[B]` float32 squared norms."""

        def squared_norm(padded, cotangent):
            gradient = self._gradient(padded, cotangent)
            return round_off.row_squared_norms(gradient[None])[0]

        if self._takes_long():
            return self._map_units(squared_norm, ())

        def norms(place, product):
            own = self._windows.cut_folded(product(), place)
            return round_off.row_squared_norms(own)

        return sum(
            execution.in_sequence(
                [
                    functools.partial(norms, place, product)
                    for place, product in enumerate(self._products())
                ]
            )
        )

    def weighted_sum(self, factors, keep=None):
        """Returns `sum_b factors[b] * gradients[b]`, of the kernel's shape.

        Args:
            factors: `[B]` float32.
            keep: `[B]` bool; rows where it is false do not take part, even
                if they are not finite. None keeps all.
        """
        padded, cotangent = self._padded, self._cotangent
        if keep is not None:
            padded = ops.where(self._along_rows(keep, padded), padded, 0.0)
            kept = self._along_rows(keep, cotangent)
            cotangent = ops.where(kept, cotangent, 0.0)
        factors = self._along_rows(factors, cotangent)
        return self._gradient(padded, cotangent * factors)

    def instantiate(self):
        """Returns the gradients, `[B, *shape]`."""
        if self._takes_long():
            return self._map_units(self._gradient, self._shape)
        return self._windows.unfold(execution.in_sequence(self._products()))

    def joined(self, count: int) -> "_ConvolvedTerm":
        """Returns the sums of each `count` consecutive gradients.

        Args:
            count: Units that make up one; divides B.
        """
        return _ConvolvedTerm(
            self._windows,
            self._padded,
            self._cotangent,
            self._shape,
            self._num_rows * count,
        )

    def cost(self) -> gradient_terms.Cost:
        """Returns the cost of the norm; the sum costs as much once more."""
        num_outputs = math.prod(self._windows.num_outputs)
        size = math.prod(self._shape)
        return gradient_terms.Cost(
            form="convolution",
            multiplications=(self._num_rows * num_outputs + 1) * size,
            stored=0,
        )

    def _takes_long(self) -> bool:
        return self.cost().multiplications > _LONG

    def _products(self):
        """Returns a function without arguments for each folded place.

        Their results are `[U, prod(strides) * C, D]`, the units' gradients at
        that place: see `Windows.fold`.
        """
        places = self._windows.folded()
        positions = self._num_rows * math.prod(places.num_outputs)
        filters = self._shape[-1]
        cotangent = ops.reshape(self._cotangent, (-1, positions, filters))
        folded = self._windows.fold(self._padded)

        def product(cut):
            rows = ops.reshape(cut(), (-1, positions, folded.shape[-1]))
            return backend.products_of_rows(rows, cotangent)

        return [functools.partial(product, cut) for cut in places.cuts(folded)]

    def _map_units(self, function, shape):
        units = [
            ops.reshape(array, (-1, self._num_rows, *array.shape[1:]))
            for array in (self._padded, self._cotangent)
        ]
        return map_rows(function, *units, shape)

    def _along_rows(self, of_units, array):
        of_rows = ops.repeat(of_units, self._num_rows, axis=0)
        return ops.reshape(of_rows, (-1,) + (1,) * (len(array.shape) - 1))

    def _gradient(self, padded, cotangent):
        """Returns the gradient summed over the rows."""
        return kernel_gradient(
            lambda kernel: convolve(self._windows, padded, kernel),
            cotangent,
            self._shape,
        )


def convolve(windows, padded, kernel):
    """Returns the convolution of a padded input with a kernel.

    Args:
        windows: Where the kernel lies.
        padded: `[B, *spatial, C]` float32, from `windows.pad`.
        kernel: `[*kernel_size, C, D]` float32.
    """
    return ops.conv(
        padded,
        kernel,
        strides=list(windows.strides),
        padding="valid",
        dilation_rate=windows.dilation_rate,
        data_format="channels_last",
    )


def _window_products(windows, row, cotangent, shape, groups: int):
    """Returns one example's gradient from a product for each window.

    Args:
        windows: Where the kernel lies over the input.
        row: `[*spatial, C]` float32, padded.
        cotangent: `[*num_outputs, D]` float32.
        shape: The kernel's shape.
        groups: As for `filter_term`.
    """
    cotangent = rule.to_positions(_groups_first(cotangent, groups))
    products = [
        ops.einsum("gti,gto->gio", rule.to_positions(window), cotangent)
        for window in windows.extract(_groups_first(row, groups))
    ]
    stack = ops.stack(products)
    return ops.reshape(ops.transpose(stack, (0, 2, 1, 3)), shape)


def _groups_first(array, groups: int):
    """Returns `[groups, ..., C / groups]` of `[..., C]`."""
    *spatial, channels = array.shape
    split = ops.reshape(array, (*spatial, groups, channels // groups))
    return ops.moveaxis(split, -2, 0)
