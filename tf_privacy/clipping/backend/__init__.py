# SPDX-License-Identifier: Apache-2.0
"""Gradients at taps and weights, for the Keras backend in use."""

import importlib

import keras


def load(package: str):
    """Returns the module of `package` for the Keras backend in use.

    Args:
        package: Name of a package with a module for each backend.

    Raises:
        NotImplementedError: If there is none for it.
    """
    name = keras.backend.backend()
    if name not in ("tensorflow", "jax", "torch"):
        raise NotImplementedError(
            "KERAS_BACKEND must be 'tensorflow', 'jax' or 'torch' to train "
            f"with tf_privacy. Received: {name!r}. Set KERAS_BACKEND=tensorflow "
            "before Keras is imported."
        )
    return importlib.import_module(f"{package}.{name}")


backend = load(__name__)
