# SPDX-License-Identifier: Apache-2.0
"""Steps on several devices in JAX: the program is written for one of them.

Arrays are global, whatever devices hold their parts. A sum over rows is one
over all devices, and there is one draw of noise, in one key.
"""

import contextlib

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils


def current_scope() -> None:
    """Returns None: there are no scopes."""
    return None


def num_replicas() -> int:
    """Returns 1: a step sees the whole batch."""
    return 1


def num_processes(scope) -> int:
    """Returns how many processes train together.

    Without a `keras.distribution` in force each trains a model of its own.

    Args:
        scope: None.
    """
    del scope
    is_shared = keras.distribution.distribution() is not None
    return jax.process_count() if is_shared else 1


def process_index(scope) -> int:
    """Returns which of these processes this is; 0 is the first.

    Args:
        scope: None.
    """
    del scope
    return jax.process_index()


def check_scope(scope, name: str) -> None:
    """Does nothing: there are no scopes.

    Args:
        scope: From `current_scope`.
        name: Of the thing that was made there.
    """


def check_running() -> None:
    """Does nothing: there are no scopes."""


def check_shares(data) -> None:
    """Does nothing: a step sees the whole batch.

    Args:
        data: An array.
    """


def sum_over_replicas(tensors):
    """Returns the tensors.

    Args:
        tensors: A list of arrays.
    """
    return tensors


def agree(predicate):
    """Returns whether a predicate is true on the only replica.

    Args:
        predicate: A bool scalar.
    """
    return predicate


def run_once(function):
    """Returns `function()`.

    Args:
        function: A function without arguments.
    """
    return function()


def updating_all():
    """Returns a context in which nothing changes."""
    return contextlib.nullcontext()


def as_one_replica():
    """Returns a context in which nothing changes."""
    return contextlib.nullcontext()


def share_words(words: list[int], scope) -> list[int]:
    """Returns the first process's words, in all processes.

    All processes must call it.

    Args:
        words: Integers in [0, 2**64).
        scope: None.
    """
    if num_processes(scope) == 1:
        return words
    # Halves: JAX holds no 64 bits unless it is told to.
    halves = np.array(words, np.uint64).view(np.uint32)
    shared = multihost_utils.broadcast_one_to_all(halves)
    return [int(w) for w in np.asarray(shared, np.uint32).view(np.uint64)]
