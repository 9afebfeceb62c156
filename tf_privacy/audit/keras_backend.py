# SPDX-License-Identifier: Apache-2.0
"""The module of the Keras backend in use."""

import importlib

import keras


def load(name: str):
    """Returns a module of the Keras backend in use.

    Args:
        name: What it does, the end of the module's name; may be empty.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise NotImplementedError(
            "KERAS_BACKEND must be 'tensorflow' to audit a model. Received: "
            f"{backend!r}. Set KERAS_BACKEND=tensorflow before Keras is "
            "imported."
        )
    return importlib.import_module(f"{__package__}.backend.{backend}{name}")
