# SPDX-License-Identifier: Apache-2.0
"""How do I keep my own training loop?

    python tutorials/custom_loop.py
    python tutorials/custom_loop.py --target_epsilon=1

Four lines of it change. `PoissonDataset` draws the batches, each example by its
own coin; `clipped_gradients` takes the place of the tape; `optimizer.apply`
adds the noise, steps and counts; and `PrivacyBudget.limit` says how many steps
there may be, and refuses the next one. All of it works inside `tf.function`.

What the loop below does besides is to average the weights of the last quarter
of the steps: they are private already, so their average costs nothing, and some
of the noise is gone from it, the more the larger the learning rate. `fit`
trains the same network for as many steps: epsilon is the same.
"""

import time

import checks
import datasets
import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from keras import layers

import tf_privacy

_TARGET_EPSILON = flags.DEFINE_float(
    "target_epsilon", 2.0, "What each of the two trainings may spend."
)
_DELTA = flags.DEFINE_float("delta", 1e-5, "Below 1 / training examples.")
_NOISE_MULTIPLIER = flags.DEFINE_float(
    "noise_multiplier", 5.0, "Noise stddev over the clip."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Expected size.")
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Spend a quarter of the budget, to see that it runs."
)

_LEARNING_RATE = 2.0
_AVERAGED_FRACTION = 0.25


def make_model(data: datasets.ImageData) -> keras.Model:
    """Returns a network that keeps a ledger of its private steps.

    `clipped_gradients` takes plain models, too; but a private one, compiled,
    states what was spent, and takes it along when it is saved.

    Args:
        data: What it will classify.
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
        optimizer=tf_privacy.DPSGD(
            _LEARNING_RATE,
            l2_norm_clip=1.0,
            noise_multiplier=_NOISE_MULTIPLIER.value,
            # The divisor: it must not follow the size of a batch.
            expected_batch_size=_BATCH_SIZE.value,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def make_step(model, sampling):
    """Returns a compiled function that takes one private step on a batch.

    Args:
        model: A private model, compiled.
        sampling: The law by which the batches are drawn.
    """
    optimizer = model.optimizer

    # Batches differ in size: without this, each size would be traced anew.
    @tf.function(reduce_retracing=True)
    def step(x, y):
        clipped = tf_privacy.clipped_gradients(
            model, x, y, l2_norm_clip=optimizer.l2_norm_clip
        )
        # clipped.norms and clipped.y_pred are there to look at, but are not
        # private: do not publish them, nor stop by them.
        optimizer.apply(clipped.clipped_sum, sampling=sampling)

    return step


def train_by_loop(model, data: datasets.ImageData, budget) -> list:
    """Trains until the budget is spent, and returns averages of the weights.

    Args:
        model: A private model, compiled.
        data: The images.
        budget: A `PrivacyBudget`.
    """
    optimizer = model.optimizer
    batches = tf_privacy.PoissonDataset(
        data.x_train,
        data.y_train,
        expected_batch_size=optimizer.expected_batch_size,
    )
    num_steps = budget.limit(optimizer, sampling=batches.sampling)
    step = make_step(model, batches.sampling)
    first_averaged = int((1 - _AVERAGED_FRACTION) * num_steps)
    snapshots = []
    for i in range(num_steps):
        x, y = batches[i]
        step(tf.constant(x), tf.constant(y))
        if i >= first_averaged:
            snapshots.append(model.get_weights())
    # A compiled step past the budget releases nothing but cannot raise; this
    # can.
    optimizer.check_budget()
    return [np.mean(each, axis=0) for each in zip(*snapshots, strict=True)]


def report(name: str, model, data: datasets.ImageData, seconds: float) -> None:
    """Prints what a training achieved and spent.

    Args:
        name: Of the training.
        model: Trained.
        data: The images.
        seconds: How long it took.
    """
    _, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)
    statement = model.privacy_statement(delta=_DELTA.value)
    print(
        f"{name}: accuracy {accuracy:.3f}, {statement.num_steps} steps in "
        f"{seconds:.1f} s, epsilon {checks.round_up(statement.epsilon)} at "
        f"delta {statement.delta:g}"
    )


def main(argv):
    """Trains by a loop and by fit.

    Args:
        argv: The program's name; what is left after the flags.
    """
    checks.check_arguments(argv)
    for flag in (_TARGET_EPSILON, _NOISE_MULTIPLIER):
        checks.check_above_zero(flag.name, flag.value)
    data = datasets.load_images("digits")
    checks.check_delta(_DELTA.value, len(data.x_train))
    checks.check_batch_size(_BATCH_SIZE.value, len(data.x_train))
    target_epsilon = _TARGET_EPSILON.value / (4 if _SMOKE.value else 1)
    budget = tf_privacy.PrivacyBudget(target_epsilon, _DELTA.value)

    model = make_model(data)
    start = time.perf_counter()
    averages = train_by_loop(model, data, budget)
    seconds = time.perf_counter() - start
    report("own loop, last weights", model, data, seconds)
    model.set_weights(averages)
    report("own loop, averaged", model, data, seconds)
    num_steps = model.optimizer.ledger.num_steps()
    try:
        train_by_loop(model, data, budget)
    except tf_privacy.PrivacyBudgetError as error:
        print(f"one more step is refused: {error}")

    model = make_model(data)
    start = time.perf_counter()
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=_BATCH_SIZE.value,
        steps_per_epoch=num_steps,
        verbose=0,
    )
    report("fit", model, data, time.perf_counter() - start)


if __name__ == "__main__":
    app.run(main)
