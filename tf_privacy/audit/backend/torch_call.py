# SPDX-License-Identifier: Apache-2.0
"""Runs a Keras model on batches of many shapes, in PyTorch."""

from collections.abc import Callable

import numpy as np

from tf_privacy.audit.backend import torch as rows_backend


def compile_call(model) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs `model` on tokens in inference mode.

    PyTorch runs it as it is, whatever the shape.

    Args:
        model: A Keras model of tokens, `[B, L]` int32.
    """
    run = rows_backend.compile_on_rows(
        model, lambda tokens: model(tokens, training=False)
    )
    return lambda tokens: run(np.asarray(tokens, np.int32))
