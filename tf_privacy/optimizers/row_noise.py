# SPDX-License-Identifier: Apache-2.0
"""Gaussian noise on selected rows of a table, and on no other."""

import dataclasses
from typing import Any

from keras import ops

from tf_privacy.noise import gaussian
from tf_privacy.noise.backend import backend


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RowGradient:
    """A noised gradient that is zero but in some rows.

    Attributes:
        indices: `[K]` int32; the rows.
        rows: `[K, D]` float32.
        shape: `(V, D)`.
    """

    indices: Any
    rows: Any
    shape: tuple[int, int]

    def __mul__(self, factor):
        return dataclasses.replace(self, rows=self.rows * factor)

    def __truediv__(self, divisor):
        return dataclasses.replace(self, rows=self.rows / divisor)

    def as_sparse(self, dtype: str):
        """Returns it in the framework's own form for optimizers.

        Args:
            dtype: Of the variable.
        """
        rows = ops.cast(self.rows, dtype)
        return backend.as_row_gradient(self.indices, rows, self.shape)

    def as_dense(self):
        """Returns `[V, D]` float32."""
        return ops.scatter(self.indices[:, None], self.rows, self.shape)


def add_noise_to_rows(
    gradient,
    counts,
    *,
    threshold: float,
    count_stddev,
    stddev,
    source: gaussian.NoiseSource,
) -> RowGradient:
    """Returns the rows whose noised count passes a threshold, noised.

    Args:
        gradient: `[V, D]` float32; a clipped sum.
        counts: `[V]` float32; of the units that looked each row up.
        threshold: What a noised count must reach.
        count_stddev: Standard deviation of the noise on each count.
        stddev: Of the noise on each entry of a selected row.
        source: Where the noise comes from.
    """
    (noise,) = source.normal([tuple(counts.shape)])
    selected = counts + count_stddev * noise >= threshold
    indices = backend.find_true(selected)
    rows = ops.take(gradient, indices, axis=0)
    noise = source.normal_rows(ops.shape(indices)[0], gradient.shape[1])
    return RowGradient(
        indices=indices,
        rows=rows + stddev * noise,
        shape=tuple(gradient.shape),
    )


def make_means(noised: gaussian.NoisedSum, addends, *, divisor: float) -> list:
    """Returns the noised means, in the dtypes of the variables.

    Args:
        noised: Of tensors and RowGradients.
        addends: Gradients that depend on no data, or None each; None for none.
        divisor: The expected batch size.
    """
    means = []
    for noisy, addend, variable in zip(
        noised.gradients,
        addends or [None] * len(noised.gradients),
        noised.variables,
        strict=True,
    ):
        mean = noisy / divisor
        if isinstance(mean, RowGradient):
            if addend is None:
                means.append(mean.as_sparse(variable.dtype))
                continue
            mean = mean.as_dense()
        if addend is not None:
            mean = mean + ops.cast(addend, "float32")
        means.append(ops.cast(mean, variable.dtype))
    return means
