# SPDX-License-Identifier: Apache-2.0
"""Where a step sees the whole batch, replicas are a matter of no change."""

import importlib

import keras
import pytest

from tf_privacy.clipping.backend.replicas import tensorflow as replicas

WORDS = [0, 5, 2**32 + 1, 2**63, 2**64 - 1]


@pytest.fixture(params=["jax", "torch", "tensorflow"])
def sibling(request):
    pytest.importorskip(request.param)
    return importlib.import_module(
        f"tf_privacy.clipping.backend.replicas.{request.param}"
    )


def test_all_backends_have_the_same_functions(sibling):
    for name, function in vars(replicas).items():
        if getattr(function, "__module__", None) != replicas.__name__:
            continue
        if not name.startswith("_"):
            assert callable(getattr(sibling, name))


def test_one_process_changes_nothing(sibling):
    marker = object()
    assert sibling.current_scope() is None
    assert sibling.num_replicas() == 1
    assert sibling.num_processes(None) == 1
    assert sibling.process_index(None) == 0
    assert sibling.sum_over_replicas([marker]) == [marker]
    assert sibling.agree(marker) is marker
    assert sibling.run_once(lambda: marker) is marker
    assert sibling.share_words(WORDS, None) == WORDS
    sibling.check_scope(None, "optimizer")
    sibling.check_running()
    sibling.check_shares(marker)
    with sibling.updating_all(), sibling.as_one_replica():
        pass


def test_jax_sends_all_bits_of_a_word(monkeypatch):
    jax = pytest.importorskip("jax")
    sibling = importlib.import_module(
        "tf_privacy.clipping.backend.replicas.jax"
    )
    sent = []

    def send(array):
        sent.append(array)
        return jax.numpy.asarray(array)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(sibling.multihost_utils, "broadcast_one_to_all", send)
    # Without a distribution each process trains a model of its own.
    assert sibling.share_words(WORDS, None) == WORDS
    assert not sent
    layout = keras.distribution
    monkeypatch.setattr(layout, "distribution", lambda: object())
    assert sibling.share_words(WORDS, None) == WORDS
    assert len(sent) == 1


def test_several_processes_of_torch_are_refused(monkeypatch):
    """Each would add noise of its own."""
    torch = pytest.importorskip("torch")
    sibling = importlib.import_module(
        "tf_privacy.clipping.backend.replicas.torch"
    )
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    with pytest.raises(NotImplementedError, match="^optimizer must be used"):
        sibling.check_scope(None, "optimizer")
    with pytest.raises(NotImplementedError, match="^words must be used"):
        sibling.share_words(WORDS, None)
