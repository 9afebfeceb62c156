# SPDX-License-Identifier: Apache-2.0
"""The benchmark of utility tells what it ran, once."""

import importlib.util
import json
import sys

import numpy as np
import pytest

from benchmarks import scattering
from benchmarks import utility
from benchmarks import utility_data
from benchmarks import utility_opacus
from benchmarks import utility_recipes


def make_table(num_examples=700):
    """Returns records of two classes, far apart."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=num_examples).astype(np.int32)
    x = rng.normal(size=(num_examples, 8)) + 3.0 * (2 * y[:, np.newaxis] - 1)
    return utility_data.Problem(
        x_train=x[200:].astype(np.float32),
        y_train=y[200:],
        x_test=x[:200].astype(np.float32),
        y_test=y[:200],
        num_classes=2,
    )


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Returns a function that runs the smoke setting on made-up records."""
    monkeypatch.setattr(utility_data, "load", lambda name, folder: make_table())
    utility._load.cache_clear()
    results = tmp_path / "made" / "results.jsonl"

    def run(*more):
        utility.main(
            ["--smoke", "--datasets=adult", f"--results={results}", *more]
        )
        lines = results.read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    yield run
    utility._load.cache_clear()


def read_rows(text):
    """Returns the cells of the table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines][
        2:
    ]


def test_table_holds_what_was_run_and_nothing_runs_twice(
    command, capsys, tmp_path, monkeypatch
):
    recipes = "--recipes=none,best"
    first = command(recipes, "--epsilons=3", "--seeds=1")
    rows = read_rows(capsys.readouterr().out)
    assert [row[1] for row in rows] == ["none", "best"]
    for row, result in zip(rows, first, strict=True):
        assert row[0] == "adult"
        assert row[3] == f"{100 * result['accuracy']:.2f}%"
        assert row[4:] == ["-", "1"]
        # Two standard deviations between the classes in each of 8 columns.
        assert result["accuracy"] > 0.95
    assert rows[0][2] == "-"
    assert first[0]["epsilon"] is None
    assert 2.9 < first[1]["epsilon"] <= 3.0
    assert first[1]["epsilon"] <= float(rows[1][2]) <= 3.0
    # 400 examples, batches of 100: 15 epochs of 4 steps, or 25.
    assert [result["num_steps"] for result in first] == [60, 100]

    def refuse(*arguments, **settings):
        raise AssertionError("a finished run must not run again")

    monkeypatch.setattr(utility_recipes, "train", refuse)
    assert command(recipes, "--epsilons=3", "--seeds=1") == first
    assert read_rows(capsys.readouterr().out) == rows
    summary = json.loads((tmp_path / "made" / "results.json").read_text())
    assert [row["recipe"] for row in summary] == ["none", "best"]


def test_mean_and_standard_error_are_over_the_seeds(tmp_path):
    results = utility.Results(tmp_path / "results.jsonl")
    arguments = utility.parse(
        ["--datasets=spam", "--recipes=plain", "--epsilons=1,3", "--seeds=4"]
    )
    cases = utility.list_cases(arguments)
    for case, accuracy in zip(cases[::2], (0.7, 0.8, 0.8, 0.9), strict=True):
        assert case.target_epsilon == 1.0
        spent = 0.99915 if case.seed == 2 else 0.9987
        results.add(case, {"accuracy": accuracy, "epsilon": spent})
    # Nothing is there at epsilon 3; the deviations' squares add up to 0.02.
    rows = read_rows(utility.format_table(utility.summarize(cases, results)))
    error = f"{100 * np.sqrt(0.02 / 3 / 4):.2f}%"
    assert rows == [["spam", "plain", "1", "80.00%", error, "4"]]


def test_other_settings_are_another_result(tmp_path, monkeypatch):
    results = utility.Results(tmp_path / "results.jsonl")
    case = utility.Case(
        dataset="adult", recipe="plain", target_epsilon=1.0, seed=0, part="test"
    )
    results.add(case, {"accuracy": 0.5, "epsilon": 1.0})
    assert results.find(case)["accuracy"] == 0.5
    other = utility_recipes.Recipe(learning_rate=0.2)
    monkeypatch.setitem(utility_recipes.RECIPES, "plain", other)
    assert results.find(case) is None


def test_held_out_examples_are_training_examples():
    problem = make_table().hold_out()
    whole = make_table()
    assert len(problem.x_test) == 100 and len(problem.x_train) == 400
    both = np.concatenate([problem.x_test, problem.x_train])
    np.testing.assert_array_equal(both, whole.x_train)


def test_opacus_is_skipped_where_it_is_missing(command, capsys):
    if importlib.util.find_spec("opacus") is not None:
        pytest.skip("opacus is installed")
    assert not command(
        "--recipes=opacus",
        "--epsilons=3",
        "--seeds=1",
        f"--opacus_python={sys.executable}",
    )
    said = capsys.readouterr().out
    assert f"adult, opacus: {utility_opacus.MISSING}, skipped" in said
    assert read_rows(said) == []


@pytest.mark.parametrize("argument", ["--recipes=plain,x", "--datasets=x"])
def test_unknown_names_are_refused(argument, capsys):
    with pytest.raises(SystemExit):
        utility.parse([argument])
    assert "must be some of" in capsys.readouterr().err


def test_features_are_of_each_image_alone_and_of_norm_one():
    images = np.random.default_rng(0).random((3, 28, 28, 1))
    features = scattering.compute_features(images)
    assert features.shape == (3, 25 * 49)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    for image, feature in zip(images, features, strict=True):
        alone = scattering.compute_features(image[np.newaxis])
        np.testing.assert_allclose(alone[0], feature, atol=1e-6)
    # No channel has a mean.
    means = features.reshape(3, 25, 49).mean(axis=2)
    np.testing.assert_allclose(means, 0.0, atol=1e-6)


def test_wavelets_see_their_direction_and_no_constant():
    stripes = np.sin(0.75 * np.pi * np.arange(28))
    image = np.broadcast_to(stripes, (1, 28, 28))
    channels = scattering._scatter(np.stack([image[0], image[0].T]))
    # The first-order channels of the fine wavelets: every fifth.
    answers = channels[:, 1:21:5].mean(axis=2)
    assert np.argmax(answers[0]) == 0
    assert np.argmax(answers[1]) == 2
    constant = scattering._scatter(np.ones((1, 28, 28)))
    np.testing.assert_allclose(constant[0, 0], 1.0, atol=1e-5)
    np.testing.assert_allclose(constant[0, 1:], 0.0, atol=1e-5)
