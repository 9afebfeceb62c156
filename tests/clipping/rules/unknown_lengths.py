# SPDX-License-Identifier: Apache-2.0
"""Models traced for sequences of any length, and for any number of them."""

import numpy as np
import tensorflow as tf

from tests import oracles
from tests.clipping import exactness


def assert_exact(model, x, y):
    """Check a step traced for any length against the loop over examples.

    Args:
        model: A compiled model.
        x: `[B, T, ...]`, an array.
        y: `[B, ...]`.
    """
    rows = oracles.loop_gradients(model, x, y)
    signature = (
        tf.TensorSpec((None, None, *x.shape[2:]), x.dtype),
        tf.TensorSpec((None, *y.shape[1:]), y.dtype),
    )
    clip = exactness.make_clip(
        model, x, y, l2_norm_clip=1e6, input_signature=signature
    )
    total, norms = clip(x, y)
    expected = [sum(of_rows) for of_rows in zip(*rows, strict=True)]
    assert oracles.relative_error(total, expected) <= 1e-5
    expected_norms = [oracles.global_norm(row) for row in rows]
    np.testing.assert_allclose(norms, expected_norms, 1e-5)
    # Shorter sequences need no other trace.
    assert np.all(np.isfinite(clip(x[:, 1:], y)[1]))
