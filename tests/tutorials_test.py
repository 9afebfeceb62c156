# SPDX-License-Identifier: Apache-2.0
"""Every tutorial runs, offline and in seconds."""

import os
import pathlib
import subprocess
import sys

import pytest

import tf_privacy

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The other files in tutorials/ hold no flags: they are imported by scripts.
SCRIPTS = [
    path
    for path in sorted((ROOT / "tutorials").glob("*.py"))
    if '__name__ == "__main__"' in path.read_text("utf-8")
]


def run_tutorial(script, folder, *arguments):
    """Runs a script in `folder`, far from the source tree."""
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_there_are_tutorials():
    assert [path.name for path in SCRIPTS].count("mnist_dpsgd.py") == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_smoke(script, tmp_path):
    result = run_tutorial(script, tmp_path, "--smoke")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "epsilon" in result.stdout


def test_mnist_dpsgd_says_what_it_did(tmp_path):
    result = run_tutorial(
        ROOT / "tutorials" / "mnist_dpsgd.py",
        tmp_path,
        "--smoke",
        "--dataset=digits",
        "--target_epsilon=2.5",
        "--model_path=here/model.keras",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "digits: 512 examples to train on, 256 to test on" in result.stdout
    assert "accuracy on the test set: 0." in result.stdout
    epsilon = result.stdout.split("epsilon: ")[1].split(" at delta 1e-05")[0]
    assert 2.4 < float(epsilon) <= 2.5
    assert "model saved in here/model.keras" in result.stdout
    model = tf_privacy.load_model(tmp_path / "here" / "model.keras")
    assert model.output_shape == (None, 10)


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--delta=0.01", "delta must be"),
        ("--batch_size=100000", "batch_size must be"),
        ("--optimizer=adagrad", "flag --optimizer"),
    ],
)
def test_mnist_dpsgd_refuses(argument, message, tmp_path):
    script = ROOT / "tutorials" / "mnist_dpsgd.py"
    result = run_tutorial(script, tmp_path, "--dataset=digits", argument)
    assert result.returncode != 0
    assert message in result.stdout + result.stderr
