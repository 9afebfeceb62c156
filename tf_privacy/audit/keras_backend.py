# SPDX-License-Identifier: Apache-2.0
"""The module of the Keras backend in use."""

import importlib

import keras

_BACKENDS = ("tensorflow", "jax", "torch")


def load(name: str):
    """Returns a module of the Keras backend in use.

    Args:
        name: What it does, the end of the module's name; may be empty.

    Raises:
        NotImplementedError: If there is none for it.
    """
    backend = keras.backend.backend()
    if backend not in _BACKENDS:
        raise NotImplementedError(
            f"KERAS_BACKEND must be one of {_BACKENDS} to audit a model. "
            f"Received: {backend!r}. Set it before Keras is imported."
        )
    return importlib.import_module(f"{__package__}.backend.{backend}{name}")
