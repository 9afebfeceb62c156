# SPDX-License-Identifier: Apache-2.0
"""Runs a Keras model on batches of many shapes, compiled by JAX."""

from collections.abc import Callable

import numpy as np

from tf_privacy.audit.backend import jax as rows_backend


def compile_call(model) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs `model` on tokens in inference mode.

    Compiled once for each length and each power of two of rows. Lengths are
    not filled up: that a model is causal does not say that tokens at the end
    change nothing.

    Args:
        model: A Keras model of tokens, `[B, L]` int32; acts on each row alone.
    """
    run = rows_backend.compile_on_rows(
        model, lambda tokens: model(tokens, training=False)
    )
    return lambda tokens: run(np.asarray(tokens, np.int32))
