# SPDX-License-Identifier: Apache-2.0
"""Float64 values as int32, bit for bit, for variables of any Keras backend.

JAX has no float64 unless its user asks for it, and float32 would round a noise
multiplier, a delta and the number of a run. Integers pass unchanged.
"""

import numpy as np
from keras import ops

NUM_WORDS = 2  # int32 to a float64.


def to_words(values) -> np.ndarray:
    """Returns float64 values as the int32 words of their bits.

    Equal values have equal words, and only 0 has all words 0: a negative zero
    is taken for 0.

    Args:
        values: `[..., N]`, any values.

    Returns:
        `[..., NUM_WORDS * N]` int32, the words of one value side by side, the
        lower one first on any machine.
    """
    values = np.asarray(values, "<f8") + 0.0
    words = np.ascontiguousarray(values, "<f8").view("<i4")
    return words.astype(np.int32)


def from_words(words) -> np.ndarray:
    """Returns the float64 values that `to_words` was given.

    Args:
        words: `[..., NUM_WORDS * N]` int32.
    """
    return np.ascontiguousarray(words, "<i4").view("<f8").astype(np.float64)


def is_nonzero(words):
    """Returns whether each value is not 0, as a bool tensor `[...]`.

    Args:
        words: `[..., NUM_WORDS]` int32, of one value each; a tensor.
    """
    return ops.any(ops.not_equal(words, 0), axis=-1)
