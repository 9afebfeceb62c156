# SPDX-License-Identifier: Apache-2.0
"""The README's two commands stand in it once, and CI runs one of them."""

import importlib
import os
import pathlib
import re
import subprocess

import keras
import numpy as np
import pytest

import tf_privacy

ROOT = pathlib.Path(__file__).resolve().parents[1]
CI_RUN = ROOT / ".ci" / "run"


def read_command(marker):
    """Returns the only line of the block below `<!-- marker -->`."""
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(
        rf"^<!-- {marker} -->\n```\w*\n(.*?)\n```$", text, re.M | re.S
    )
    assert len(blocks) == 1, f"README.md: one block below <!-- {marker} -->"
    assert "\n" not in blocks[0], f"README.md: {marker} is one command"
    return blocks[0]


@pytest.mark.parametrize(
    "marker, extra, last",
    [
        ("ci:train", "tutorials", "tutorials/mnist_dpsgd.py"),
        ("ci:test", "test", "-m pytest"),
    ],
)
def test_command_needs_only_python(marker, extra, last):
    """A fresh clone has no environment: the command makes its own."""
    command = read_command(marker)
    assert "python3 -m venv " in command
    assert f'pip install -q ".[{extra}]"' in command
    assert command.endswith(last)
    assert f'"{extra}": [' in (ROOT / "setup.py").read_text("utf-8")


def test_ci_runs_the_test_command():
    assert os.access(CI_RUN, os.X_OK)
    assert "<!-- ci:test -->" in CI_RUN.read_text("utf-8")
    result = subprocess.run(
        [CI_RUN, "--show"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip("\n") == read_command("ci:test")


def read_blocks(language):
    text = (ROOT / "README.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_accounting_examples_run(capsys):
    names = {}
    blocks = [b for b in read_blocks("python") if "accounting." in b]
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert "epsilon between" in capsys.readouterr().out
    assert 1.0 < names["epsilon"] < 10.0


def test_calculator_commands_answer(capsys):
    commands = [
        line.split()
        for block in read_blocks("sh")
        for line in block.splitlines()
        if line.startswith("tf-privacy-")
    ]
    assert len(commands) == 3
    for name, *arguments in commands:
        module = importlib.import_module(
            "tf_privacy.cli." + name.removeprefix("tf-privacy-")
        )
        assert module.main([name, *arguments]) == 0
        assert "epsilon" in capsys.readouterr().out


def test_audit_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = [b for b in read_blocks("python") if "audit." in b]
    assert len(blocks) == 4
    rng = np.random.default_rng(0)
    layers = keras.layers
    model = keras.Sequential([keras.Input((4,)), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    names = {
        "tf_privacy": tf_privacy,
        "model": model,
        "x": rng.normal(size=(1500, 4)).astype(np.float32),
        "y": rng.integers(0, 10, 1500),
    }
    exec(blocks[0], names)
    exec(blocks[1], names)
    assert "CLAIM NOT REJECTED" in capsys.readouterr().out
    assert (tmp_path / "report.html").exists()
    names["documents"] = ["one text", "another"]
    exec(blocks[2], names)
    assert len(names["documents"]) == 2 + 1 + 4 + 16
    alphabet = " abcdefghijklmnopqrstuvwxyz0123456789"
    names["encode"] = lambda text: [alphabet.index(c) for c in text]
    names["model"] = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(len(alphabet), 4),
            layers.GRU(8, return_sequences=True),
            layers.Dense(len(alphabet)),
        ]
    )
    exec(blocks[3].replace("100_000", "100"), names)
    assert "Exposure in bits" in capsys.readouterr().out
