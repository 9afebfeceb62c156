# SPDX-License-Identifier: Apache-2.0
"""The tutorial on memorization says and draws what it did."""

import pytest

from tests import tutorials_test

SCRIPT = tutorials_test.ROOT / "tutorials" / "memorization.py"


def test_table_and_plot(tmp_path):
    result = tutorials_test.run_tutorial(
        SCRIPT,
        tmp_path,
        "--smoke",
        "--target_epsilon=2.5",
        "--plot_path=here/plot.png",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    rows = [line for line in lines if line.startswith(("real", "random"))]
    trainings = ["SGD", "SGD, dropout", "DP-SGD"]
    assert [row[22:34].strip() for row in rows] == 2 * trainings
    assert all(row.endswith("  -") for row in rows[:3])
    assert all(row.endswith("%]") for row in rows[3:])
    epsilon = result.stdout.split("DP-SGD: ")[1].split(" at delta 1e-05")[0]
    assert 2.4 < float(epsilon) <= 2.5
    assert "plot drawn in here/plot.png" in result.stdout
    image = (tmp_path / "here" / "plot.png").read_bytes()
    assert image.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "argument, message",
    [("--delta=0.01", "delta must be"), ("digits", "arguments must be")],
)
def test_refuses(argument, message, tmp_path):
    result = tutorials_test.run_tutorial(SCRIPT, tmp_path, argument)
    assert result.returncode != 0
    assert message in result.stdout + result.stderr
