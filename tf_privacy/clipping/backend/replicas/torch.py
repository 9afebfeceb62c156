# SPDX-License-Identifier: Apache-2.0
"""Steps in PyTorch: on one device, in one process."""

import contextlib

import torch


def current_scope() -> None:
    """Returns None: there are no scopes."""
    return None


def num_replicas() -> int:
    """Returns 1: a step sees the whole batch."""
    return 1


def num_processes(scope) -> int:
    """Returns how many processes train together.

    Args:
        scope: None.
    """
    del scope
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def process_index(scope) -> int:
    """Returns 0: there is one process.

    Args:
        scope: None.
    """
    del scope
    return 0


def check_scope(scope, name: str) -> None:
    """Raises if several processes train together.

    Args:
        scope: From `current_scope`.
        name: Of the thing that was made there.

    Raises:
        NotImplementedError: If they do: each would add noise of its own.
    """
    count = num_processes(scope)
    if count > 1:
        raise NotImplementedError(
            f"{name} must be used by one process. Received: a step in one of "
            f"{count} processes of torch.distributed. Train in one, or on the "
            "TensorFlow backend under MultiWorkerMirroredStrategy."
        )


def check_running() -> None:
    """Does nothing: there are no scopes."""


def check_shares(data) -> None:
    """Does nothing: a step sees the whole batch.

    Args:
        data: A tensor.
    """


def sum_over_replicas(tensors):
    """Returns the tensors.

    Args:
        tensors: A list of tensors.
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
    """Returns the words, in one process.

    Args:
        words: Integers in [0, 2**64).
        scope: None.

    Raises:
        NotImplementedError: If several processes train together.
    """
    check_scope(None, "words")
    return words
