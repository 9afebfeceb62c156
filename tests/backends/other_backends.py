# SPDX-License-Identifier: Apache-2.0
"""Runs tests on another Keras backend, which is chosen once for a process."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Of the contract, a case for each family of layers and way through the engine;
# without -k the whole of it runs.
CASES = (
    "dense_mlp",
    "timestep_weights",
    "conv2d_same_strides",
    "embedding_masked_mean",
    "masked_lstm_last",
    "gru_reset_before",
    "masked_causal_transformer",
    "tied_weights",
    "two_outputs_weighted",
    "custom_gate",
    "depthwise_conv2d and not channels",
    "model_weights",
    "lora_einsum_dense",
)


def run(backend: str, *arguments: str) -> str:
    """Returns what pytest printed on a backend; fails if a test did.

    Args:
        backend: "jax" or "torch".
        *arguments: For pytest.
    """
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", *arguments],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    printed = finished.stdout[-8000:] + finished.stderr[-2000:]
    assert finished.returncode == 0, printed
    return finished.stdout


def check_backend(backend: str) -> None:
    """Fails if the engine, or the way of a private model, does on a backend."""
    engine = (
        f"tests/clipping/backend/{backend}_test.py",
        f"tests/clipping/backend/{backend}_graphs_test.py",
        f"tests/noise/backend/{backend}_test.py",
        "tests/noise/backend/generator_test.py",
        f"tests/training/backend/{backend}_test.py",
        "tests/backends/api_test.py",
    )
    files = [name for name in engine if (ROOT / name).exists()]
    run(backend, *files)


def check_contract(backend: str) -> None:
    """Fails if some cases of the contract do on a backend."""
    run(backend, "tests/contracts/clipping_test.py", "-k", " or ".join(CASES))


def check_audit(backend: str) -> None:
    """Fails if the audit of a model does on a backend."""
    files = (ROOT / "tests" / "audit" / "backend").glob(f"{backend}_*test.py")
    run(backend, *sorted(str(f.relative_to(ROOT)) for f in files))
