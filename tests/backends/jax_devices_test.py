# SPDX-License-Identifier: Apache-2.0
"""Several JAX devices and processes: one batch, one draw of noise, one ledger.

Each layout is a process of its own, or two: devices are made at the start.
Random bounds have a false-alarm probability of at most 1e-6; the noise of N
replicas that each added their own would be sqrt(N) times as large.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests import normality

SCRIPT = pathlib.Path(__file__).parent / "scripts" / "jax_devices.py"
STDDEV = 2.0 * 1.5 / 4  # clip, noise multiplier, expected batch size


def start(layout, output, *arguments):
    root = SCRIPT.parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), layout, str(output), *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def finish(process, output):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.read_text())


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Return what each layout wrote down; two entries for two processes."""
    folder = tmp_path_factory.mktemp("devices")
    found = {}
    for layout in ("one", "data", "model"):
        output = folder / layout
        found[layout] = finish(start(layout, output), output)
    port = free_port()
    outputs = [folder / "first", folder / "second"]
    processes = [
        start("processes", output, str(rank), port)
        for rank, output in enumerate(outputs)
    ]
    for name, process, output in zip(
        ("first", "second"), processes, outputs, strict=True
    ):
        found[name] = finish(process, output)
    return found


@pytest.mark.parametrize("layout", ["data", "model", "first", "second"])
def test_a_step_is_that_of_one_device(reports, layout):
    expected = np.array(reports["one"]["exact"])
    assert np.linalg.norm(expected) > 0.1
    np.testing.assert_allclose(reports[layout]["exact"], expected, atol=1e-4)


@pytest.mark.parametrize("layout", ["one", "data", "model", "first"])
def test_noise_is_drawn_once_with_the_stated_size(reports, layout):
    noise = np.array(reports[layout]["noise"])
    assert noise.shape == (3, 4200)
    normality.check_stddev(noise, STDDEV)
    # No part of a spread array has the noise of another part.
    values = noise.ravel()
    assert len(np.unique(values)) > 0.99 * len(values)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        correlation = np.corrcoef(noise[one], noise[other])[0, 1]
        assert abs(correlation) < 5.0 / np.sqrt(noise.shape[1])


def test_every_copy_of_the_weights_is_the_same(reports):
    copies = reports["data"]["copies"]
    assert len(copies) == 6
    for kernel in copies[1:3]:
        assert kernel == copies[0]
    assert reports["first"]["copies"] == reports["second"]["copies"]
    assert reports["first"]["noise"] == reports["second"]["noise"]
    assert reports["first"]["noise"] != reports["one"]["noise"]


def test_the_ledger_does_not_know_how_many_devices_there_were(reports):
    for report in reports.values():
        assert report["entries"] == [[1.5, 0.1, 3]]


def run_workers(folder, kill_after, name):
    """Return what two processes wrote, of which each may be killed."""
    script = SCRIPT.parent / "jax_workers.py"
    port, outputs = free_port(), [folder / f"{name}{rank}" for rank in (0, 1)]
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                str(script),
                str(rank),
                port,
                str(folder / "run"),
                str(kill_after),
                str(output),
            ],
            env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[3])},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, output in enumerate(outputs)
    ]
    for process, output in zip(processes, outputs, strict=True):
        _, errors = process.communicate(timeout=120)
        assert output.exists(), errors[-3000:]
    return [json.loads(output.read_text()) for output in outputs]


def test_killed_workers_go_on_and_forget_no_step(tmp_path):
    """A checkpoint follows each epoch of four steps; six ran."""
    killed = run_workers(tmp_path, 6, "killed")
    assert len(killed[0]) == 6
    first, second = run_workers(tmp_path, 0, "resumed")
    assert first == second
    assert first["updates"] == 12
    assert 2 <= first["lost"] <= 4
    assert first["steps"] == 12 + first["lost"]
    # The steps after the checkpoint, taken again, have other noise.
    assert len(first["weights"]) == 8
    np.testing.assert_array_equal(killed[0][:6], killed[1][:6])
    for lost, again in zip(killed[0][4:], first["weights"], strict=False):
        assert not np.any(np.isin(lost, again))
