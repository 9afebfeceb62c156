# SPDX-License-Identifier: Apache-2.0
"""Can the loss of a private model be a density?

    python tutorials/probabilistic_model.py
    python tutorials/probabilistic_model.py --target_epsilon=1

Yes: any loss of one example will do, the log-density of a distribution of
TensorFlow Probability as well. For each diabetes patient the model predicts the
progress of the disease and how uncertain that is, a location and a width; it is
judged by the log-likelihood of test patients, and by how many of them fall in
its 90% intervals.

What is new with privacy is the clip. A normal density pulls at its width with
the square of an outlier's distance; clipped, the pull is lost, and intervals
come out too narrow. A larger clip mends it, with noise in proportion; a density
with heavy tails, Student's t, pulls gently and needs less of both. Mind the
units: the finer the unit of the target, the smaller its gradients.
"""

import functools
import importlib
import math

import checks
import keras
import numpy as np
from absl import app
from absl import flags
from keras import layers
from keras import ops

import tf_privacy

_TARGET_EPSILON = flags.DEFINE_float(
    "target_epsilon", 3.0, "What each training may spend."
)
_DELTA = flags.DEFINE_float("delta", 1e-4, "Below 1 / training examples.")
_EPOCHS = flags.DEFINE_integer("epochs", 100, "Passes over the patients.")
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Train two models for two epochs, to see that it runs."
)

_DENSITIES = ("normal", "Student's t")
# Which density, and which clip; None for training without privacy.
_TRAININGS = (
    ("normal", None),
    ("normal", 1.0),
    ("normal", 4.0),
    ("normal", 8.0),
    ("Student's t", None),
    ("Student's t", 4.0),
)
_BATCH_SIZE = 177  # Half of the training patients.
_LEAST_WIDTH = 0.05
_DEGREES_OF_FREEDOM = 5.0
_COVERAGE = 0.9
_SPLIT_SEED = 20160701
_NUM_TEST = 88
# What is plausible, by medicine and not by these patients: age, sex, body mass
# index, blood pressure, cholesterol (total, LDL, HDL, total over HDL), log of
# triglycerides, glucose. The last one is the progress of the disease.
_LOW = np.array([18, 1, 15, 60, 80, 30, 15, 1, 2.5, 50, 0])
_HIGH = np.array([80, 2, 45, 140, 320, 250, 105, 10, 6.5, 130, 400])


def load_patients():
    """Returns x and y of the training patients, then of the test patients.

    x is `[N, 10]` float32 in about [-1, 1], y `[N]` float32 in about [-2, 2].
    """
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise ImportError(
            "scikit-learn must be installed: it carries the data. Received: "
            'nothing of it here. Run: pip install "scikit-learn>=1.4"'
        ) from error
    patients = datasets.load_diabetes(scaled=False)
    table = np.concatenate([patients.data, patients.target[:, None]], axis=1)
    table = 2 * (table - _LOW) / (_HIGH - _LOW) - 1
    table = np.random.default_rng(_SPLIT_SEED).permutation(table)
    x, y = table[:, :-1].astype("float32"), 2 * table[:, -1].astype("float32")
    return x[_NUM_TEST:], y[_NUM_TEST:], x[:_NUM_TEST], y[:_NUM_TEST]


@functools.cache
def load_distributions():
    """Returns `tfp.distributions`; it takes seconds to import."""
    return importlib.import_module("tensorflow_probability").distributions


def make_distribution(density: str, outputs):
    """Returns what the model predicts for each patient, as a distribution.

    Args:
        density: One of `_DENSITIES`.
        outputs: `[B, 2]` float32; the location, and the width before softplus.
    """
    distributions = load_distributions()
    location = outputs[:, 0]
    # A width that can go to 0 has densities, and losses, without a bound.
    width = _LEAST_WIDTH + ops.softplus(outputs[:, 1])
    if density == "normal":
        return distributions.Normal(location, width)
    return distributions.StudentT(_DEGREES_OF_FREEDOM, location, width)


def make_loss(density: str):
    """Returns the loss: minus the log-density of each patient's target.

    Args:
        density: One of `_DENSITIES`.
    """

    def loss(y, outputs):
        distribution = make_distribution(density, outputs)
        return -distribution.log_prob(ops.reshape(y, (-1,)))

    return loss


def make_model(num_features: int) -> keras.Model:
    """Returns a model, linear in the features, of a location and a width.

    Args:
        num_features: Features of a patient.
    """
    return keras.Sequential([keras.Input((num_features,)), layers.Dense(2)])


def judge(density: str, outputs, y) -> tuple[float, float]:
    """Returns the mean log-likelihood, and how many are in their intervals.

    Args:
        density: One of `_DENSITIES`.
        outputs: `[M, 2]`; predictions.
        y: `[M]`; what happened.
    """
    distribution = make_distribution(density, outputs)
    rank = np.asarray(distribution.cdf(y))
    tail = (1 - _COVERAGE) / 2
    inside = (tail < rank) & (rank < 1 - tail)
    return float(np.mean(distribution.log_prob(y))), float(np.mean(inside))


def make_optimizer(clip: float | None, num_examples: int, num_epochs: int):
    """Returns an optimizer that spends the target in so many epochs.

    Args:
        clip: Bound on the norm of one patient's gradient; None for an ordinary
            optimizer.
        num_examples: Training patients.
        num_epochs: Passes over them.
    """
    if clip is None:
        return keras.optimizers.Adam(0.03)
    noise_multiplier = tf_privacy.calibrate_noise_multiplier(
        target_epsilon=_TARGET_EPSILON.value,
        target_delta=_DELTA.value,
        sampling_probability=_BATCH_SIZE / num_examples,
        num_steps=math.ceil(num_examples / _BATCH_SIZE) * num_epochs,
    )
    return tf_privacy.DPAdam(
        0.03, l2_norm_clip=clip, noise_multiplier=noise_multiplier
    )


def main(argv):
    """Trains with each density and clip, and judges on the test patients.

    Args:
        argv: The program's name; what is left after the flags.
    """
    checks.check_arguments(argv)
    for flag in (_TARGET_EPSILON, _EPOCHS):
        checks.check_above_zero(flag.name, flag.value)
    x, y, x_test, y_test = load_patients()
    checks.check_delta(_DELTA.value, len(x))
    num_epochs, trainings = _EPOCHS.value, _TRAININGS
    if _SMOKE.value:
        num_epochs, trainings = 2, _TRAININGS[-2:]
    print(f"{len(x)} patients to train on, {len(x_test)} to test on")

    # To compare with; its two constants are not private.
    constant = load_distributions().Normal(np.mean(y), np.std(y))
    print(
        "test log-likelihood of one normal density for all: "
        f"{np.mean(constant.log_prob(y_test)):.2f}\n"
    )
    print("density      clip  test log-likelihood  in 90% intervals  epsilon")
    for density, clip in trainings:
        model = make_model(x.shape[1])
        if clip is not None:
            model = tf_privacy.privatize(model)
        model.compile(
            optimizer=make_optimizer(clip, len(x), num_epochs),
            loss=make_loss(density),
        )
        model.fit(x, y, batch_size=_BATCH_SIZE, epochs=num_epochs, verbose=0)
        likelihood, covered = judge(density, model(x_test), y_test)
        epsilon = "none"
        if clip is not None:
            statement = model.privacy_statement(delta=_DELTA.value)
            epsilon = checks.round_up(statement.epsilon)
        print(
            f"{density:<11} {clip or 'none':>5} {likelihood:>20.2f} "
            f"{covered:>17.2f} {epsilon:>8}"
        )
    print(f"each epsilon at delta {_DELTA.value:g}")


if __name__ == "__main__":
    app.run(main)
