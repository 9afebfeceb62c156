# SPDX-License-Identifier: Apache-2.0
"""float64 in the Keras backend in use."""

import contextlib
import importlib
from unittest import mock

import keras
from keras.src.backend.common import dtypes


@contextlib.contextmanager
def wide_floats():
    """Lets layers of float64 compute in float64, and Keras add up losses.

    In JAX and PyTorch, Keras rounds what some operations return to float32,
    and JAX takes float64 for it everywhere, unless they are told otherwise.
    """
    if keras.backend.backend() == "jax":
        in_jax = importlib.import_module("jax").enable_x64(True)
    else:
        in_jax = contextlib.nullcontext()
    as_it_is = mock.patch.dict(
        dtypes.BIT64_TO_BIT32_DTYPE, {"float64": "float64"}
    )
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        with in_jax, as_it_is:
            yield
    finally:
        keras.config.set_floatx(before)
