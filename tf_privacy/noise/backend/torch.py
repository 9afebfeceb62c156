# SPDX-License-Identifier: Apache-2.0
"""Counter-based Gaussian noise in PyTorch."""

import numpy as np
import torch
from keras.src.backend.torch import core


class CounterGenerator:
    """A Philox generator: a key, and a counter that only grows.

    The state is a plain Python object that no checkpoint tracks, so restoring a
    model cannot turn the counter back to noise that was already used.

    On a CPU numpy draws, keyed with all 192 bits: PyTorch's own generator there
    is seeded with 32. On CUDA a generator of its own has a key of 64 bits, and
    starts at one of 2^60 places of the counter.

    Args:
        words: Three unsigned 64-bit integers: counter low, counter high, key.
    """

    def __init__(self, words):
        self._device = torch.device(core.get_device())
        self.restart(words)

    @property
    def state_variables(self) -> list:
        """Nothing: a step changes its state as it runs."""
        return []

    def restart(self, words) -> None:
        """Goes on from another key and counter.

        Args:
            words: As for the class.
        """
        low, high, key = words
        if self._device.type == "cuda":
            self._generator = torch.Generator(self._device)
            self._generator.manual_seed(key)
            # In [0, 2^62), as far from the end as from the start; a multiple
            # of 4.
            self._generator.set_offset(low >> 2 & ~3)
            return
        # The two lowest words of four count the draws from there on.
        counter = np.array([0, 0, low, 0], np.uint64)
        keys = np.array([key, high], np.uint64)
        self._generator = np.random.Generator(
            np.random.Philox(counter=counter, key=keys)
        )

    def normals(self, sizes):
        """Returns float32 standard normals, never repeated.

        Args:
            sizes: How many in each array, a list.

        Returns:
            A list of `[size]` tensors.
        """
        return [self._normal(int(size)) for size in sizes]

    def _normal(self, num_values: int):
        if self._device.type == "cuda":
            values = torch.randn(
                num_values,
                generator=self._generator,
                dtype=torch.float32,
                device=self._device,
            )
        else:
            values = torch.from_numpy(
                self._generator.standard_normal(num_values, np.float32)
            )
        return values.to(core.get_device())


def find_true(mask):
    """Returns the places where a mask is true, `[K]` int32.

    Args:
        mask: `[V]` bool.
    """
    return torch.nonzero(mask)[:, 0].to(torch.int32)


def as_row_gradient(indices, rows, shape):
    """Returns a gradient that is zero but in some rows, for optimizers.

    A dense one: Keras's optimizers take no other in PyTorch.

    Args:
        indices: `[K]` int32; each row once.
        rows: `[K, D]`.
        shape: `(V, D)`.
    """
    return rows.new_zeros(shape).index_copy(0, indices.long(), rows)
