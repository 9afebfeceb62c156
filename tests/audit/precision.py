# SPDX-License-Identifier: Apache-2.0
"""float64 in the Keras backend in use."""

import contextlib
import importlib

import keras


@contextlib.contextmanager
def wide_floats():
    """Lets layers of float64 compute in float64.

    Keras rounds some of their operations to `floatx`, and JAX takes float64
    for float32, unless they are told otherwise.
    """
    if keras.backend.backend() == "jax":
        in_jax = importlib.import_module("jax").enable_x64(True)
    else:
        in_jax = contextlib.nullcontext()
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        with in_jax:
            yield
    finally:
        keras.config.set_floatx(before)
