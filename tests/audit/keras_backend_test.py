# SPDX-License-Identifier: Apache-2.0
"""Tests of which module serves a Keras backend."""

import importlib.util
import os
import subprocess
import sys

import keras
import pytest

from tests import source_checks
from tf_privacy.audit import keras_backend

AUDIT = """
import sys
import keras
import numpy as np
from tf_privacy.audit import keras_language
from tf_privacy.audit import keras_model

layers = keras.layers
model = keras.Sequential(
    [keras.Input((4,)), layers.Dense(3, activation="softmax")]
)
x = np.ones((5, 4), np.float32)
y = np.array([0, 1, 2, 0, 1])
loss = keras.losses.SparseCategoricalCrossentropy()
keras_model.compute_losses(model, x, y, loss=loss)
keras_model.compute_loss_slopes(model, x, y, loss=loss)
keras_model.find_critical_samples(
    model, x, outputs="probabilities", radius=0.1, num_iterations=2
)
keras_model.compute_loss_sensitivities(
    model, x, y, loss=loss, learning_rate=0.1, num_steps=1, batch_size=5
)
tokens = keras.Sequential(
    [
        keras.Input((None,), dtype="int32"),
        layers.Embedding(6, 4),
        layers.Dense(6),
    ]
)
keras_language.make_language_model(tokens, outputs="logits").compute_bits(
    np.ones((3, 4), int), num_given=1
)
sys.exit("tensorflow" if "tensorflow" in sys.modules else None)
"""


@pytest.mark.parametrize("name", ["", "_call", "_unrolled"])
def test_module_is_that_of_the_backend_in_use(name):
    found = keras_backend.load(name).__name__
    assert found.endswith(f"audit.backend.{keras.backend.backend()}{name}")


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(NotImplementedError, match="^KERAS_BACKEND must be"):
        keras_backend.load("")


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_audit_of_a_model_imports_no_tensorflow(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    result = subprocess.run(
        [sys.executable, "-c", AUDIT],
        cwd=source_checks.ROOT,
        env=os.environ | {"KERAS_BACKEND": name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
