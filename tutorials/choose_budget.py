# SPDX-License-Identifier: Apache-2.0
"""Which epsilon, which batch, how much noise?

    python tutorials/choose_budget.py
    python tutorials/choose_budget.py --dataset=digits --plot=budget.png

Three steps. `plan` lists the noise that each batch size needs for one target:
in the column noise/batch, which is what a step suffers from, large batches win
until it is flat. Training at each choice shows that accuracy follows. Then the
batch is fixed, and epsilon runs from strong to weak: where the curve bends is
the price of privacy for these data.

Every run on the same data spends. These images are public; for personal data
make such tables on public data of the same kind, or account for the search: the
last line says what all runs of this script cost together.
"""

import importlib
import pathlib

import checks
import datasets
import keras
import numpy as np
from absl import app
from absl import flags
from keras import layers

import tf_privacy
from tf_privacy import accounting

_DATASET = flags.DEFINE_enum(
    "dataset", "mnist5k", ["mnist5k", "digits"], "See datasets.py."
)
_TARGET_EPSILON = flags.DEFINE_float(
    "target_epsilon", 2.0, "What each batch size may spend."
)
_DELTA = flags.DEFINE_float("delta", 1e-5, "Below 1 / training examples.")
_STEPS = flags.DEFINE_integer("steps", 200, "Steps of every training.")
_REPEATS = flags.DEFINE_integer("repeats", 2, "Trainings to average over.")
_PLOT = flags.DEFINE_string(
    "plot", None, "Where to draw both tables, with matplotlib; none if not set."
)
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Train 4 steps on 512 examples, to see that it runs."
)

_BATCH_SIZES = (16, 64, 256, 1024)
_FIXED_BATCH_SIZE = 256
_EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)


def train(data: datasets.ImageData, choice: accounting.Choice) -> float:
    """Returns the test accuracy of a small network after one private run.

    Args:
        data: The images.
        choice: Batch size, noise and steps.
    """
    model = tf_privacy.privatize(
        keras.Sequential(
            [
                keras.Input(data.x_train.shape[1:]),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(data.num_classes),
            ]
        )
    )
    model.compile(
        optimizer=tf_privacy.DPAdam(
            0.005, l2_norm_clip=1.0, noise_multiplier=choice.noise_multiplier
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=choice.expected_batch_size,
        steps_per_epoch=choice.num_steps,
        verbose=0,
    )
    return model.evaluate(data.x_test, data.y_test, verbose=0)[1]


def train_all(data, choices, *, repeats: int) -> list[float]:
    """Prints and returns the mean accuracy of each choice.

    Args:
        data: The images.
        choices: From a plan.
        repeats: Trainings of each.
    """
    means = []
    for choice in choices:
        means.append(np.mean([train(data, choice) for _ in range(repeats)]))
        print(
            f"  batch {choice.expected_batch_size:>4}, noise "
            f"{choice.noise_multiplier:5.2f}, epsilon "
            f"{checks.round_up(choice.epsilon):5}: accuracy {means[-1]:.3f}"
        )
    return means


def compute_total(choices, *, repeats: int, delta: float) -> float:
    """Returns the epsilon of all trainings together, as one release.

    Args:
        choices: What ran.
        repeats: How often each of them ran.
        delta: Probability in (0, 1).
    """
    runs = [
        accounting.SampledGaussianSteps(
            noise_multiplier=choice.noise_multiplier,
            sampling_probability=choice.sampling_probability,
            num_steps=choice.num_steps * repeats,
        )
        for choice in choices
    ]
    return accounting.compute_epsilon_of(runs, delta=delta)


def load_figures():
    """Returns matplotlib's module of figures."""
    try:
        return importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError(
            "plot needs matplotlib. Received: no such package. Run pip install "
            '"tf-privacy[report]", or leave --plot out.'
        ) from error


def draw(path: str, batches, epsilons) -> None:
    """Draws accuracy over the batch size and over epsilon.

    Args:
        path: File to write.
        batches: Batch sizes and their accuracies.
        epsilons: Epsilons and their accuracies.
    """
    figure = load_figures().Figure(figsize=(8.0, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot(*batches, "o-")
    left.set_xlabel(f"batch size, at epsilon = {_TARGET_EPSILON.value:g}")
    left.set_ylabel("accuracy on the test set")
    right.plot(*epsilons, "o-")
    right.set_xlabel("epsilon, at one batch size")
    for axes, (values, _) in ((left, batches), (right, epsilons)):
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, labels=[f"{value:g}" for value in values])
        axes.grid(alpha=0.3)
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"plot drawn in {path}")


def main(argv):
    """Prints a plan, tries its choices, then tries several epsilons.

    Args:
        argv: The program's name; what is left after the flags.
    """
    checks.check_arguments(argv)
    for flag in (_TARGET_EPSILON, _STEPS, _REPEATS):
        checks.check_above_zero(flag.name, flag.value)
    if _PLOT.value:
        load_figures()
    data = datasets.load_images(_DATASET.value)
    steps, repeats = _STEPS.value, _REPEATS.value
    batch_sizes, epsilons = _BATCH_SIZES, _EPSILONS
    if _SMOKE.value:
        data, steps, repeats = data.take(512, 256), 4, 1
        batch_sizes, epsilons = (64, 256), (8.0,)
    num_examples = len(data.x_train)
    checks.check_delta(_DELTA.value, num_examples)

    def plan(epsilon, sizes):
        return tf_privacy.plan(
            num_examples=num_examples,
            target_epsilon=epsilon,
            target_delta=_DELTA.value,
            num_steps=steps,
            expected_batch_sizes=[b for b in sizes if b <= num_examples],
        )

    batches = plan(_TARGET_EPSILON.value, batch_sizes)
    print(batches)
    print(f"\nEach choice, trained {repeats} times:")
    by_batch = train_all(data, batches.choices, repeats=repeats)

    print("\nOne batch size, several epsilons:")
    budgets = [plan(e, [_FIXED_BATCH_SIZE]).choices[0] for e in epsilons]
    by_epsilon = train_all(data, budgets, repeats=repeats)

    total = compute_total(
        [*batches.choices, *budgets], repeats=repeats, delta=_DELTA.value
    )
    print(
        "\nWhoever chooses by looking at all of these has spent epsilon = "
        f"{checks.round_up(total)} at delta {_DELTA.value:g}."
    )
    if _PLOT.value:
        sizes = [choice.expected_batch_size for choice in batches.choices]
        draw(_PLOT.value, (sizes, by_batch), (list(epsilons), by_epsilon))


if __name__ == "__main__":
    app.run(main)
