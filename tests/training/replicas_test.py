# SPDX-License-Identifier: Apache-2.0
"""Several replicas take the same private step as one device, with one noise.

Each process of TensorFlow has one set of devices, so the trainings run in
processes of their own: see `scripts/`.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = pathlib.Path(__file__).parent / "scripts"
FALSE_ALARM = 1e-6


def start(script, *arguments, **variables):
    """Starts a script on a machine without accelerators."""
    return subprocess.Popen(
        [sys.executable, SCRIPTS / script, *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KERAS_BACKEND": "tensorflow",
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Returns what a script printed."""
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    if process.returncode:
        pytest.fail(err[-4000:])
    return json.loads(out)


def run_mirrored(num_replicas, *scenarios):
    return finish(start("mirrored.py", num_replicas, *scenarios))


@pytest.fixture(scope="module")
def two():
    return run_mirrored(2, "share_rows", "draw_noise", "spend", "refuse")


@pytest.fixture(scope="module")
def three():
    return run_mirrored(3, "share_rows", "draw_noise")


@pytest.fixture(scope="module")
def styles():
    return run_mirrored(2, "fit_styles")["fit_styles"]


@pytest.fixture(scope="module")
def ways():
    return run_mirrored(2, "fit_ways")["fit_ways"]


STYLES = (
    "number",
    "tree",
    "toeplitz",
    "integers",
    "quantile",
    "bias_corrected",
    "averaged",
)
WAYS = ("compiled", "on_batch", "units", "weighted", "rows")


def check_same(result):
    """Fails unless replicas took the step of one device."""
    assert result["moved"] > 0.01
    assert result["error"] < 1e-5
    assert result["copies_agree"]
    one, several = result["ledgers"]
    assert one == several
    assert one


@pytest.mark.parametrize("name", STYLES)
def test_two_replicas_take_the_step_of_one_device(styles, name):
    """Noise from one seed; twice the noise, the loss or the sum would show."""
    check_same(styles[name])


@pytest.mark.parametrize("name", WAYS)
def test_in_every_way_to_train(ways, name):
    """On units in pieces, with XLA, on batches by hand and eagerly."""
    check_same(ways[name])


def test_logs_are_those_of_one_device(styles):
    one, several = styles["number"]["logs"]
    assert several == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("count", [2, 3])
def test_every_row_reaches_exactly_one_replica(count, request):
    """Of all batches, empty ones and those of one row, in whole units."""
    results = request.getfixturevalue({2: "two", 3: "three"}[count])
    batches = {1: (5, 0, 1, 4, 7), 3: (6, 3, 0, 12)}
    for unit, sizes in batches.items():
        seen = results["share_rows"][str(unit)]
        fit, split = seen[: len(sizes)], seen[len(sizes) :]
        end = 0
        for size, by_fit, by_hand in zip(sizes, fit, split, strict=True):
            begin, end = end, end + size
            assert len(by_fit) == len(by_hand) == count
            assert sum(by_fit, []) == list(range(begin, end))
            assert sum(by_hand, []) == list(range(size))
            lengths = [len(share) for share in by_fit]
            assert all(length % unit == 0 for length in lengths)
            assert max(lengths) - min(lengths) <= unit


# Mean squares of the three first updates, and products of (1, 2), (2, 3) and
# (1, 3), in units of the noise on the sum: closed forms. Trees: the nodes have
# variance 1 and 2/3, and the second step is the second node less the first.
MOMENTS = {
    "number": ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]),
    "integers": ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]),
    "tree": ([1.0, 1.0, 1.0], [-2 / 3, 0.0, 0.0]),
    "toeplitz": ([1.0, 1.25, 1.3125], [-0.5, -0.625, 0.25]),
}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", MOMENTS)
def test_noise_is_drawn_once_with_the_stated_variance(name, count, request):
    """80,000 values: a standard deviation wrong by 2% fails."""
    fixture = request.getfixturevalue({2: "two", 3: "three"}[count])
    result = fixture["draw_noise"][name]
    squares, products = MOMENTS[name]
    tail = FALSE_ALARM / 96  # Six numbers, eight times, on two sides.
    low, high = stats.chi2.ppf([tail, 1 - tail], result["size"])
    for found, expected in zip(result["mean_squares"], squares, strict=True):
        assert low < found / expected * result["size"] < high
    deviations = stats.norm.isf(tail) / np.sqrt(result["size"])
    pairs = ((0, 1), (1, 2), (0, 2))
    for found, expected, (i, j) in zip(
        result["products"], products, pairs, strict=True
    ):
        spread = np.sqrt(squares[i] * squares[j] + expected**2)
        assert abs(found - expected) < deviations * spread
    assert result["copies_agree"]
    assert result["num_steps"] == 3


def test_a_budget_ends_as_on_one_device(two):
    one, several = (two["spend"][name] for name in ("one", "several"))
    assert several == one
    assert several["unchanged"]
    assert several["stayed"]
    for way in ("compiled", "eager"):
        assert several[way].startswith("PrivacyBudgetError")
    assert several["nothing left"] is None


def test_a_saved_model_is_as_private_in_the_scope(two):
    result = two["spend"]["several"]
    assert result["same"]
    assert result["loaded"] == result["taken"]
    assert result["more"] == [*result["taken"], [4.0, None, "gaussian", 1]]


def test_a_run_of_replicas_is_resumed():
    assert run_mirrored(2, "resume")["resume"] == [4, 8]


REFUSED = {
    "same rows on all": "ValueError: x must be another part of the batch",
    "same array on all": "ValueError: x must be another part of the batch",
    "optimizer of no scope": "ValueError: optimizer must be made in the scope",
    "optimizer not built": "ValueError: optimizer must be built",
    "out of the scope": "ValueError: optimizer must be made in the scope",
    "out of run": "RuntimeError: optimizer.apply must be called by all",
    "model of no scope": "ValueError: model must be made in the scope",
    "compiled out of scope": "ValueError: model must be made in the scope",
    "other strategy": "NotImplementedError: strategy must be a Mirrored",
    "shares of others": "TypeError: x must be whole batches",
    "several steps": "ValueError: steps_per_execution must be 1",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_refused(two, name):
    assert two["refuse"][name].startswith(REFUSED[name])


def test_a_mistake_releases_nothing(two):
    assert two["refuse"]["unchanged"]
    assert two["refuse"]["num_steps"] == 0


def test_keras_fails_where_an_execution_takes_several_steps(two):
    """Once this fails, `replica_training.share` needs to refuse no more."""
    assert two["refuse"]["several steps of Keras"].startswith(
        "InvalidArgumentError"
    )


def start_workers(folder, lose_at):
    """Starts two processes that train together."""
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("localhost", 0))
    addresses = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for each in sockets:
        each.close()
    return [
        start(
            "workers.py",
            folder,
            lose_at,
            TF_CONFIG=json.dumps(
                {
                    "cluster": {"worker": addresses},
                    "task": {"type": "worker", "index": index},
                }
            ),
        )
        for index in range(2)
    ]


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """A run of two processes that lost one, and went on."""
    folder = tmp_path_factory.mktemp("workers")
    first = start_workers(folder, 5)
    try:
        assert first[1].wait(timeout=300) == 70
    finally:
        for process in first:
            process.kill()
            process.communicate()
    results = [finish(process) for process in start_workers(folder, 0)]
    return folder, results


def load(folder, attempt, worker, step):
    path = folder / f"{attempt}-{worker}-{step}.npz"
    return np.load(path) if path.exists() else None


RELEASED = [("first", i) for i in range(5)] + [("second", i) for i in (4, 5)]


def test_processes_add_the_same_noise_of_the_stated_variance(workers):
    """80,000 values: a standard deviation wrong by 2% fails."""
    folder, _ = workers
    tail = FALSE_ALARM / 2 / len(RELEASED)
    low, high = stats.chi2.ppf([tail, 1 - tail], 80_000)
    for attempt, step in RELEASED:
        updates = [load(folder, attempt, w, step)["update"] for w in (0, 1)]
        np.testing.assert_array_equal(*updates)
        assert low < np.sum(updates[0] ** 2) < high


def test_noise_is_never_taken_up_again(workers):
    """Of the lost step and of the one that replaces it, and all others."""
    folder, _ = workers
    updates = [load(folder, a, 0, s)["update"].ravel() for a, s in RELEASED]
    products = np.corrcoef(updates)[np.triu_indices(len(updates), 1)]
    limit = stats.norm.isf(FALSE_ALARM / 2 / len(products))
    assert np.abs(products).max() < limit / np.sqrt(80_000)


def test_processes_share_one_draw(workers):
    """No unit is in a batch twice; and the lost draw is not used again."""
    folder, _ = workers
    draws = {}
    for attempt, step in RELEASED:
        parts = [load(folder, attempt, w, step)["rows"] for w in (0, 1)]
        assert 0 <= len(parts[1]) - len(parts[0]) <= 1
        rows = np.concatenate(parts)
        assert (np.diff(rows) > 0).all()
        draws[attempt, step] = rows.tolist()
    assert draws["first", 4] != draws["second", 4]


def test_no_step_of_a_lost_process_is_forgotten(workers):
    """Seven were released; an eighth may have been announced."""
    _, results = workers
    assert results[0]["ledger"] == results[1]["ledger"]
    ((probability, num_examples, count),) = results[0]["ledger"]
    assert (probability, num_examples) == (0.2, 40)
    assert count in (7, 8)
    assert results[0]["num_lost"] == count - 6
    assert results[0]["weights"] == results[1]["weights"]


def test_a_step_that_one_process_refuses_is_taken_by_none(workers):
    for result in workers[1]:
        assert result["refused"] == 1
        assert result["stayed"]


def test_what_needs_one_process_is_refused(workers):
    for result in workers[1]:
        assert result["integers"].startswith(
            "NotImplementedError: noise_multiplier must not be Discrete"
        )
        assert result["fit"].startswith("NotImplementedError: fit must be used")


def test_keras_does_not_fit_in_several_processes(workers):
    """Once this fails, simplify tutorials/multi_worker.py: it may use fit."""
    for result in workers[1]:
        assert "Attempt to convert a value (PerReplica" in (
            result["fit by Keras"] or "Keras's fit works: simplify the tutorial"
        )
