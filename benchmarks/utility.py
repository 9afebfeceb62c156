# SPDX-License-Identifier: Apache-2.0
"""Utility, measured: test accuracy at a given epsilon.

    python -m benchmarks.utility --data=folder --datasets=mnist5k,adult \
        --epsilons=1,3,8 --seeds=3 --recipes=none,plain,best

`benchmarks/utility_data.py` says how to get the data, `utility_recipes.py` what
the recipes are. Noise comes from `tf_privacy.calibrate_noise_multiplier`, and
the epsilon in the table is what the trained model's privacy statement says, the
largest of the seeds', rounded up. The recipe "opacus" is "plain" trained by
Opacus, with the noise, batches and number of steps of ours; give
`--opacus_python` where that is installed in an environment of its own.

Results are appended one by one to `--results`. A run that is there already,
of the same settings, is skipped: start again after an interruption, or to add
to the table. `--validation` measures on a part of the training examples, to
choose settings by; such results are kept apart from the others.
"""

import argparse
import dataclasses
import functools
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np

from benchmarks import utility_data
from benchmarks import utility_opacus
from benchmarks import utility_recipes

_OPACUS = "opacus"
_RECIPES = (*utility_recipes.RECIPES, _OPACUS)
_SMOKE_EXAMPLES = 400
_COLUMNS = ("data", "recipe", "epsilon", "accuracy", "s.e.", "seeds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One training: what a result is known by.

    Attributes:
        dataset: One of `utility_data.NAMES`.
        recipe: Name of the recipe.
        target_epsilon: None without privacy.
        seed: Of the initial weights.
        part: "test", "validation" or "smoke".
    """

    dataset: str
    recipe: str
    target_epsilon: float | None
    seed: int
    part: str

    @property
    def settings(self) -> utility_recipes.Recipe:
        """The recipe's settings: Opacus has those of plain."""
        name = "plain" if self.recipe == _OPACUS else self.recipe
        return utility_recipes.RECIPES[name]

    def describe(self) -> dict:
        """Returns the case and its settings: if they change, it runs again."""
        return {
            **dataclasses.asdict(self),
            "delta": utility_recipes.DELTA,
            "settings": dataclasses.asdict(self.settings),
        }


class Results:
    """Results in a file, a line of JSON each.

    Args:
        path: The file; made if it is not there.
    """

    def __init__(self, path: str):
        self._path = pathlib.Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()

    def find(self, case: Case) -> dict | None:
        """Returns the result of a case, or None.

        Args:
            case: The case.
        """
        wanted = case.describe()
        for line in self._path.read_text("utf-8").splitlines():
            result = json.loads(line)
            if result["case"] == wanted:
                return result
        return None

    def add(self, case: Case, outcome: dict) -> None:
        """Appends the result of a case.

        Args:
            case: The case.
            outcome: What came out.
        """
        line = json.dumps({"case": case.describe(), **outcome})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def list_cases(arguments) -> list[Case]:
    """Returns the cases that the command line asks for, all seeds in turn.

    Args:
        arguments: Parsed.
    """
    part = "validation" if arguments.validation else "test"
    return [
        Case(
            dataset=dataset,
            recipe=recipe,
            target_epsilon=epsilon,
            seed=seed,
            part="smoke" if arguments.smoke else part,
        )
        for dataset in arguments.datasets
        for seed in range(arguments.seeds)
        for recipe in arguments.recipes
        for epsilon in _list_epsilons(recipe, arguments)
    ]


def _list_epsilons(recipe, arguments):
    if recipe == _OPACUS or utility_recipes.RECIPES[recipe].private:
        return arguments.epsilons
    return [None]


def run(case: Case, arguments) -> dict | None:
    """Trains as a case says.

    Args:
        case: The case.
        arguments: Parsed.

    Returns:
        What came out, or None where Opacus is not installed.
    """
    problem = _load(
        case.dataset,
        arguments.data,
        part=case.part,
        fixed_features=case.settings.fixed_features,
    )
    if case.recipe == _OPACUS:
        return run_opacus(case, problem, arguments.opacus_python)
    return utility_recipes.train(
        case.settings, problem, epsilon=case.target_epsilon, seed=case.seed
    )


# Of one data set, with and without its features.
@functools.lru_cache(maxsize=2)
def _load(dataset, folder, *, part, fixed_features):
    if fixed_features:
        problem = _load(dataset, folder, part=part, fixed_features=False)
        return utility_recipes.add_features(problem)
    problem = utility_data.load(dataset, folder)
    if part == "smoke":
        return problem.take(_SMOKE_EXAMPLES, _SMOKE_EXAMPLES)
    return problem.hold_out() if part == "validation" else problem


def run_opacus(case: Case, problem, python: str) -> dict | None:
    """Trains by Opacus, in a process of its own.

    Args:
        case: The case.
        problem: The data set.
        python: The interpreter that has Opacus.

    Returns:
        What came out; epsilon by our accountant. None where Opacus is not
        installed.
    """
    steps = utility_recipes.Steps.of(case.settings, problem)
    noise_multiplier = steps.calibrate_noise_multiplier(case.target_epsilon)
    settings = {
        **dataclasses.asdict(case.settings),
        **dataclasses.asdict(steps),
        "num_classes": problem.num_classes,
        "noise_multiplier": noise_multiplier,
        "seed": case.seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        arrays = pathlib.Path(folder) / "problem.npz"
        np.savez(
            arrays,
            x_train=problem.x_train,
            y_train=problem.y_train,
            x_test=problem.x_test,
            y_test=problem.y_test,
        )
        setting_file = pathlib.Path(folder) / "settings.json"
        setting_file.write_text(json.dumps(settings), "utf-8")
        script = utility_opacus.__file__
        answer = subprocess.run(
            [python, script, str(arrays), str(setting_file)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.strip()
    if answer == utility_opacus.MISSING:
        print(f"{case.dataset}, {case.recipe}: {answer}, skipped", flush=True)
        return None
    return {
        **json.loads(answer),
        "epsilon": steps.compute_epsilon(noise_multiplier),
        "noise_multiplier": noise_multiplier,
        "num_steps": steps.num_steps,
    }


def summarize(cases: list[Case], results: Results) -> list[dict]:
    """Returns mean and standard error over the seeds of each kind of case.

    Args:
        cases: The cases; those without a result are left out.
        results: The results.
    """
    groups = {}
    for case in cases:
        result = results.find(case)
        if result is not None:
            key = dataclasses.replace(case, seed=0)
            groups.setdefault(key, []).append(result)
    return [_summarize_seeds(case, found) for case, found in groups.items()]


def _summarize_seeds(case, found):
    accuracies = [result["accuracy"] for result in found]
    error = None
    if len(accuracies) > 1:
        error = statistics.stdev(accuracies) / math.sqrt(len(accuracies))
    epsilon = None
    if case.target_epsilon is not None:
        epsilon = max(result["epsilon"] for result in found)
    return {
        "data": case.dataset,
        "recipe": case.recipe,
        "epsilon": epsilon,
        "accuracy": statistics.mean(accuracies),
        "s.e.": error,
        "seeds": len(accuracies),
    }


def format_table(rows: list[dict]) -> str:
    """Returns a table in Markdown.

    Args:
        rows: From `summarize`.
    """
    lines = [
        f"| {' | '.join(_COLUMNS)} |",
        f"|{' --- |' * len(_COLUMNS)}",
    ]
    for row in rows:
        epsilon, error = row["epsilon"], row["s.e."]
        cells = (
            row["data"],
            row["recipe"],
            # Rounded up: an epsilon is never stated below what it is.
            "-" if epsilon is None else f"{math.ceil(1e3 * epsilon) / 1e3:g}",
            f"{100 * row['accuracy']:.2f}%",
            "-" if error is None else f"{100 * error:.2f}%",
            str(row["seeds"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse(argv) -> argparse.Namespace:
    """Returns the arguments of the command line.

    Args:
        argv: What comes after the program's name.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=".", help="Folder of the packages.")
    parser.add_argument(
        "--datasets", type=_one_of(utility_data.NAMES), default=["mnist5k"]
    )
    parser.add_argument(
        "--recipes", type=_one_of(_RECIPES), default=["none", "plain", "best"]
    )
    parser.add_argument(
        "--epsilons", type=_read_epsilons, default=[1.0, 3.0, 8.0]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", default="out/utility.jsonl")
    parser.add_argument("--opacus_python", default=sys.executable)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    return parser.parse_args(argv)


def _one_of(names):
    def read(text):
        chosen = text.split(",")
        for name in chosen:
            if name not in names:
                raise argparse.ArgumentTypeError(
                    f"must be some of {', '.join(names)}. Received: {name!r}."
                )
        return chosen

    return read


def _read_epsilons(text):
    return [float(number) for number in text.split(",")]


def main(argv=None) -> None:
    """Trains what is not yet there, prints the table, writes it as JSON.

    Args:
        argv: What comes after the program's name; None for the command's own.
    """
    arguments = parse(argv)
    results = Results(arguments.results)
    cases = list_cases(arguments)
    for case in cases:
        if results.find(case) is not None:
            continue
        outcome = run(case, arguments)
        if outcome is not None:
            results.add(case, outcome)
            print(
                f"{case.dataset}, {case.recipe}, {case.target_epsilon}, seed "
                f"{case.seed}: {outcome['accuracy']:.4f}",
                flush=True,
            )
    rows = summarize(cases, results)
    pathlib.Path(arguments.results).with_suffix(".json").write_text(
        json.dumps(rows, indent=1), "utf-8"
    )
    print(format_table(rows))


if __name__ == "__main__":
    main()
