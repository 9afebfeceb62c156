# SPDX-License-Identifier: Apache-2.0
"""Shows what memorizes noise, and that training with privacy does not.

    python tutorials/memorization.py                     # 8x8 digits
    python tutorials/memorization.py --dataset=mnist5k
    python tutorials/memorization.py --target_epsilon=1

One network is trained on real digits, on digits of which half or all labels are
random, and on noise with random labels; by SGD, with dropout, and by DP-SGD.
The table compares how well each fits, how many validation images lie close to
another predicted class (more of them the more noise is fitted, but also where
little is learned at all), and how unevenly training images matter to the loss.

The accuracies are those on the training data themselves, which no epsilon
covers: fine for public data such as these.
"""

import dataclasses
import importlib
import math
import pathlib

import datasets
import keras
import numpy as np
from absl import app
from absl import flags
from keras import layers

import tf_privacy
from tf_privacy import audit

_DATASET = flags.DEFINE_enum(
    "dataset", "digits", datasets.NAMES, "See datasets.py; 1400 images of it."
)
_TARGET_EPSILON = flags.DEFINE_float(
    "target_epsilon", 3.0, "What DP-SGD may spend."
)
_DELTA = flags.DEFINE_float("delta", 1e-5, "Below 1 / training examples.")
_EPOCHS = flags.DEFINE_integer("epochs", 100, "Passes over the data.")
_RADIUS = flags.DEFINE_float(
    "radius", 0.05, "How far a critical sample may be; pixels are in [0, 1]."
)
_PLOT_PATH = flags.DEFINE_string(
    "plot_path",
    "out/memorization.png",
    "Where to draw the plot, with matplotlib; empty for none.",
)
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Train on 256 examples for two epochs, to see that it runs."
)

_TRAININGS = ("SGD", "SGD, dropout", "DP-SGD")
# Names of variants that the plot compares.
_DRAWN = ("real labels", "random labels")
_SEED = 0
_NUM_TRAIN = 1000
_NUM_VALIDATION = 400
_BATCH_SIZE = 200
_HIDDEN_UNITS = 256
_DROPOUT = 0.5
_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """Data of which a part is noise.

    Attributes:
        name: For the table.
        x, y: `[N, H, W, C]` float32 and `[N]`; to train on.
        is_random: `[N]` bool; whose labels are random.
        x_validation: `[M, H, W, C]` float32; noise where `x` is.
        limits: Least and largest pixel; None for noise.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    is_random: np.ndarray
    x_validation: np.ndarray
    limits: tuple[float | None, float | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What one training did on one variant.

    Attributes:
        data: Name of the variant.
        training: One of `_TRAININGS`.
        accuracies: `[E]`; after each epoch, on the examples with random labels,
            or on all if there are none.
        train_accuracy: At the end, on all; in [0, 1].
        validation_accuracy: At the end, against true labels; in [0, 1].
        critical: Share of critical samples in validation data; in [0, 1].
        gini: Of how much each example's loss depends on its pixels.
    """

    data: str
    training: str
    accuracies: list[float]
    train_accuracy: float
    validation_accuracy: float
    critical: float
    gini: float


def make_variants(
    data: datasets.ImageData, num_classes: int, rng: np.random.Generator
) -> list[Variant]:
    """Returns the data as they are, and with more and more noise.

    Args:
        data: Real images.
        num_classes: How many labels there are.
        rng: Draws labels and pixels.
    """
    variants = []
    for name, fraction in (
        ("real labels", 0.0),
        ("half random labels", 0.5),
        ("random labels", 1.0),
    ):
        y, is_random = audit.randomize_labels(
            data.y_train, fraction=fraction, num_classes=num_classes, rng=rng
        )
        variants.append(
            Variant(
                name=name,
                x=data.x_train,
                y=y,
                is_random=is_random,
                x_validation=data.x_test,
                limits=(0.0, 1.0),
            )
        )
    noise, _ = audit.randomize_inputs(data.x_train, fraction=1.0, rng=rng)
    other, _ = audit.randomize_inputs(data.x_test, fraction=1.0, rng=rng)
    last = dataclasses.replace(
        variants[-1],
        name="noise, random labels",
        x=noise,
        x_validation=other,
        limits=(None, None),
    )
    return [*variants, last]


def make_model(
    shape: tuple[int, ...], *, num_classes: int, dropout: float
) -> keras.Model:
    """Returns a network of two hidden layers, which can memorize.

    Args:
        shape: Of one image.
        num_classes: How many logits.
        dropout: Share of hidden units to leave out in training; 0 for none.
    """
    hidden = []
    for _ in range(2):
        hidden.append(layers.Dense(_HIDDEN_UNITS, activation="relu"))
        if dropout:
            hidden.append(layers.Dropout(dropout))
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Flatten(),
            *hidden,
            layers.Dense(num_classes),
        ]
    )


def make_training(
    name: str, shape, *, num_classes: int, num_examples: int, epochs: int
) -> keras.Model:
    """Returns a compiled model.

    Args:
        name: One of `_TRAININGS`.
        shape: Of one image.
        num_classes: How many logits.
        num_examples: In the training set.
        epochs: Passes over the data.
    """
    keras.utils.set_random_seed(_SEED)
    model = make_model(
        shape,
        num_classes=num_classes,
        dropout=_DROPOUT if "dropout" in name else 0.0,
    )
    if name == "DP-SGD":
        model = tf_privacy.privatize(model)
        optimizer = tf_privacy.DPSGD(
            0.3,
            l2_norm_clip=1.0,
            noise_multiplier=tf_privacy.calibrate_noise_multiplier(
                target_epsilon=_TARGET_EPSILON.value,
                target_delta=_DELTA.value,
                sampling_probability=_BATCH_SIZE / num_examples,
                num_steps=math.ceil(num_examples / _BATCH_SIZE) * epochs,
            ),
        )
    else:
        optimizer = keras.optimizers.SGD(0.2, momentum=0.9)
    model.compile(optimizer=optimizer, loss=_LOSS, metrics=["accuracy"])
    return model


def train(model: keras.Model, variant: Variant, epochs: int) -> list[float]:
    """Returns the accuracies after each epoch, on what should not be fitted.

    Args:
        model: Compiled; is trained.
        variant: The data.
        epochs: Passes over them.
    """
    watched = variant.is_random
    if not watched.any():
        watched = ~watched
    # The accuracy that `fit` shows for training data is that of a model which
    # still changes, with dropout: given as validation data they get a true one.
    history = model.fit(
        variant.x,
        variant.y,
        batch_size=_BATCH_SIZE,
        epochs=epochs,
        validation_data=(variant.x[watched], variant.y[watched]),
        verbose=0,
    )
    return history.history["val_accuracy"]


def measure(
    model: keras.Model,
    variant: Variant,
    *,
    y_validation: np.ndarray,
    training: str,
    accuracies: list[float],
) -> Row:
    """Returns what a trained model has learned of its data.

    Args:
        model: Trained; gives logits.
        variant: What it was trained on.
        y_validation: `[M]`; true labels.
        training: Its name.
        accuracies: From `train`.
    """
    lower, upper = variant.limits
    critical = audit.find_critical_samples(
        model,
        variant.x_validation,
        outputs="logits",
        radius=_RADIUS.value,
        rng=np.random.default_rng(_SEED),
        lower=lower,
        upper=upper,
    )
    slopes = audit.compute_loss_slopes(model, variant.x, variant.y, loss=_LOSS)
    return Row(
        data=variant.name,
        training=training,
        accuracies=accuracies,
        train_accuracy=compute_accuracy(model, variant.x, variant.y),
        validation_accuracy=compute_accuracy(
            model, variant.x_validation, y_validation
        ),
        critical=critical.ratio,
        gini=audit.compute_gini(slopes),
    )


def compute_accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """Returns the share of images whose largest logit is the label's.

    Args:
        model: Gives logits.
        x: `[N, H, W, C]` float32.
        y: `[N]` labels.
    """
    logits = keras.ops.convert_to_numpy(model(x, training=False))
    return float(np.mean(np.argmax(logits, axis=1) == y))


def print_row(row: Row, fit: audit.RandomFit | None) -> None:
    """Prints a line of the table.

    Args:
        row: What was measured.
        fit: How far random labels were fitted; None if there were none.
    """
    fitted = "-"
    if fit is not None:
        fitted = (
            f"{fit.excess:+.1%} [{fit.excess_lower:+.1%}, "
            f"{fit.excess_upper:+.1%}]"
        )
    print(
        f"{row.data:<20}  {row.training:<12}  {row.train_accuracy:>5.3f}  "
        f"{row.validation_accuracy:>10.3f}  {row.critical:>8.3f}  "
        f"{row.gini:>5.3f}  {fitted}"
    )


def load_figures():
    """Returns matplotlib's module of figures."""
    try:
        return importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError(
            "plot_path needs matplotlib. Received: no such package. Run pip "
            'install "tf-privacy[report]", or pass --plot_path= for no plot.'
        ) from error


def draw(path: str, rows: list[Row], chance: float) -> None:
    """Draws how training fits real and random labels, epoch by epoch.

    Args:
        path: File to write.
        rows: The table's.
        chance: Accuracy of guessing.
    """
    figure = load_figures().Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        if row.data in _DRAWN:
            axes.plot(
                np.arange(1, len(row.accuracies) + 1),
                row.accuracies,
                "--" if row.data == "real labels" else "-",
                color=f"C{_TRAININGS.index(row.training)}",
                label=f"{row.training}: {row.data}",
            )
    axes.axhline(chance, color="gray", linestyle=":", label="guessing")
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy on training examples")
    axes.set_title(
        f"Who learns by heart? (DP-SGD: epsilon = {_TARGET_EPSILON.value:g})"
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"plot drawn in {path}")


def main(argv):
    """Trains, measures, prints a table and draws a plot.

    Args:
        argv: The program's name; what is left after the flags.
    """
    if len(argv) > 1:
        raise app.UsageError(f"arguments must be flags. Received: {argv[1]!r}.")
    if _PLOT_PATH.value:
        load_figures()
    data = datasets.load_images(_DATASET.value)
    num_classes = data.num_classes
    epochs = _EPOCHS.value
    data = data.take(_NUM_TRAIN, _NUM_VALIDATION)
    if _SMOKE.value:
        data = data.take(256, 128)
        epochs = 2
    num_examples = len(data.x_train)
    if not 0 < _DELTA.value < 1 / num_examples:
        raise app.UsageError(
            f"delta must be above 0 and below 1 / {num_examples} training "
            f"examples. Received: {_DELTA.value}."
        )
    variants = make_variants(data, num_classes, np.random.default_rng(_SEED))
    if _SMOKE.value:
        variants = [v for v in variants if v.name in _DRAWN]

    print(
        f"{'data':<20}  {'training':<12}  train  validation  critical   Gini  "
        "random labels fitted over chance"
    )
    rows = {}
    for variant in variants:
        for name in _TRAININGS:
            model = make_training(
                name,
                variant.x.shape[1:],
                num_classes=num_classes,
                num_examples=num_examples,
                epochs=epochs,
            )
            row = measure(
                model,
                variant,
                y_validation=data.y_test,
                training=name,
                accuracies=train(model, variant, epochs),
            )
            rows[variant.name, name] = row
            fit = None
            if variant.is_random.any():
                fit = audit.estimate_random_fit(
                    real_accuracies=rows["real labels", name].accuracies,
                    random_accuracies=row.accuracies,
                    num_random_examples=int(variant.is_random.sum()),
                    num_classes=num_classes,
                )
            print_row(row, fit)
    # The last model of all was trained with privacy, as the others like it.
    statement = model.privacy_statement(delta=_DELTA.value)
    # Rounded up: an epsilon is never stated below what it is.
    epsilon = math.ceil(1000 * statement.epsilon) / 1000
    print(f"epsilon of each DP-SGD: {epsilon} at delta {statement.delta:g}")

    if _PLOT_PATH.value:
        draw(_PLOT_PATH.value, list(rows.values()), 1 / num_classes)


if __name__ == "__main__":
    app.run(main)
