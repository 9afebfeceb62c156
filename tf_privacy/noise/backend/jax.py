# SPDX-License-Identifier: Apache-2.0
"""Counter-based Gaussian noise in JAX."""

import math

import jax
import keras
import numpy as np
from jax import numpy as jnp


class CounterGenerator:
    """Threefry: a 64-bit key, and a 64-bit counter of draws that only grows.

    The same values whatever the devices that an array is spread over. The
    state is a variable of a plain object, which no checkpoint finds; on JAX it
    must be among the state of every compiled step.

    Args:
        words: Three unsigned 64-bit integers.
    """

    def __init__(self, words):
        self._state = keras.Variable(
            _as_state(words), dtype="uint32", trainable=False
        )

    @property
    def state_variables(self) -> list[keras.Variable]:
        """What a compiled step must take in and give back."""
        return [self._state]

    def restart(self, words) -> None:
        """Goes on from another key and counter.

        Args:
            words: As for the class.
        """
        self._state.assign(_as_state(words))

    def normals(self, sizes):
        """Returns float32 standard normals, never repeated.

        Args:
            sizes: How many in each array, a list.

        Returns:
            A list of `[size]` tensors.
        """
        return [self._normal(size) for size in sizes]

    def _normal(self, num_values: int):
        """Returns `[num_values]` normals, by Box and Muller's method.

        From 32-bit integers: a tail up to 6.7 standard deviations, where 23
        random bits end at 5.6.
        """
        half = (num_values + 1) // 2
        first, second = jax.random.bits(self._take_key(), (2, half), "uint32")
        uniform = first.astype("float32") * 2.0**-32 + 2.0**-34
        # Rounded up to 1 and more, the logarithm is not negative.
        radius = jnp.sqrt(jnp.maximum(-2.0 * jnp.log(uniform), 0.0))
        angle = second.astype("float32") * (math.pi * 2.0**-31)
        both = jnp.concatenate(
            [radius * jnp.cos(angle), radius * jnp.sin(angle)]
        )
        return both[:num_values]

    def _take_key(self):
        """Returns the key of the next draw, and counts it."""
        state = self._state.value
        key = jax.random.wrap_key_data(state[:2], impl="threefry2x32")
        for word in (3, 2):
            key = jax.random.fold_in(key, state[word])
        low = state[2] + np.uint32(1)
        high = state[3] + (low == 0).astype("uint32")
        self._state.assign(jnp.stack([*state[:2], low, high]))
        return key


def _as_state(words):
    """Returns the key and where the counter begins, from all 192 bits."""
    low, high, key = words
    parts = [key, low ^ (high * 0x9E3779B97F4A7C15 % 2**64)]
    return np.array(parts, "<u8").view("<u4")


def find_true(mask):
    """Returns the places where a mask is true, `[V]` int32.

    Filled up with V, which is no place, to a length that is always the same.

    Args:
        mask: `[V]` bool.
    """
    length = mask.shape[0]
    (places,) = jnp.nonzero(mask, size=length, fill_value=length)
    return places.astype("int32")


def as_row_gradient(indices, rows, shape):
    """Returns a gradient that is zero but in some rows, for optimizers.

    Args:
        indices: `[K]` int32; those beyond the rows count for nothing.
        rows: `[K, D]`.
        shape: `(V, D)`.
    """
    return jnp.zeros(shape, rows.dtype).at[indices].set(rows, mode="drop")
