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


def finish(process, output):
    _, errors = process.communicate(timeout=400)
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
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
