# SPDX-License-Identifier: Apache-2.0
"""How do I get good accuracy at a small epsilon?

    python tutorials/transfer_features.py               # two minutes
    python tutorials/transfer_features.py --target_epsilons=0.1,1

Let public data do most of the work. The noise of private training is added to
every weight, so the fewer weights a task needs, the better it is learned; and a
network that was trained on public data has features to offer that need no more
than one layer on top. A network is trained here on the public digits that come
with scikit-learn, in the ordinary way, and three ways to learn the private
digits are compared at equal epsilon: from nothing; by training all weights
further; by a new last layer alone, the others frozen.

Three things to mind. Only private data are protected: public means that nobody
has to be. Features must be of each example alone: scaling them by the mean of
the private data would release that mean without noise. BatchNormalization mixes
examples; in a trained network `fold_batch_normalization` turns it into a fixed
scale, and the network predicts as before.

Source: Tramer and Boneh 2021, arXiv:2011.11660, on how good features beat deep
networks at a small epsilon.
"""

import math
import time

import checks
import datasets
import keras
import numpy as np
from absl import app
from absl import flags
from keras import layers

import tf_privacy

_TARGET_EPSILONS = flags.DEFINE_list(
    "target_epsilons", ["0.3", "3"], "What a private model may spend."
)
_DELTA = flags.DEFINE_float("delta", 1e-5, "Below 1 / private examples.")
_PUBLIC_EPOCHS = flags.DEFINE_integer(
    "public_epochs", 30, "Passes over the public digits.", lower_bound=1
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", 15, "Passes over the private digits.", lower_bound=1
)
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Few digits, one epoch, one epsilon, to see that it runs."
)

_SEED = 0
_NUM_CLASSES = 10
_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def load_public() -> tuple[np.ndarray, np.ndarray]:
    """Returns scikit-learn's digits, enlarged and framed like MNIST's."""
    data = datasets.load_images("digits")
    x = np.concatenate([data.x_train, data.x_test])
    x = keras.ops.image.resize(x, (20, 20), interpolation="bilinear")
    x = np.pad(keras.ops.convert_to_numpy(x), ((0, 0), (4, 4), (4, 4), (0, 0)))
    return x, np.concatenate([data.y_train, data.y_test])


def make_network() -> keras.Sequential:
    """Returns a network with BatchNormalization, as public ones have it."""
    hidden = []
    for filters in (16, 32, 64):
        hidden += [
            layers.Conv2D(filters, 3, strides=2, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *hidden,
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(_NUM_CLASSES),
        ]
    )


def train_publicly(x: np.ndarray, y: np.ndarray, *, epochs: int):
    """Returns a network trained on public data, without BatchNormalization.

    Args:
        x: `[N, 28, 28, 1]` images.
        y: `[N]` classes.
        epochs: Passes over them.
    """
    keras.utils.set_random_seed(_SEED)
    network = make_network()
    varied = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.RandomTranslation(0.1, 0.1, fill_mode="constant"),
            layers.RandomRotation(0.05, fill_mode="constant"),
            layers.RandomZoom(0.15, fill_mode="constant"),
            network,
        ]
    )
    varied.compile(optimizer=keras.optimizers.Adam(1e-3), loss=_LOSS)
    varied.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return tf_privacy.fold_batch_normalization(network)


def make_new(trained: keras.Sequential, *, is_frozen: bool) -> keras.Sequential:
    """Returns the trained network's features with a new last layer.

    Args:
        trained: From `train_publicly`; not changed.
        is_frozen: Whether only the new layer is to be trained.
    """
    copied = keras.models.clone_model(trained)
    copied.set_weights(trained.get_weights())
    features = keras.Sequential([copied.inputs[0], *copied.layers[:-1]])
    features.trainable = not is_frozen
    return keras.Sequential(
        [
            features,
            layers.UnitNormalization(),
            layers.Dense(_NUM_CLASSES, kernel_initializer="zeros"),
        ]
    )


def count_trained(model: keras.Model) -> int:
    """Returns the number of weights that training moves.

    Args:
        model: Any Keras model.
    """
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def train_privately(
    model: keras.Model, data: datasets.ImageData, *, rate, epsilon, epochs: int
) -> keras.Model:
    """Returns the model, trained with DP-Adam.

    Args:
        model: Gives logits of the classes.
        data: The private digits.
        rate: Learning rate.
        epsilon: What may be spent, at the flag's delta.
        epochs: Passes over the data.
    """
    num_examples = len(data.x_train)
    batch_size = num_examples // 8
    model = tf_privacy.privatize(model)
    optimizer = tf_privacy.DPAdam(
        rate,
        l2_norm_clip=1.0,
        noise_multiplier=tf_privacy.calibrate_noise_multiplier(
            target_epsilon=epsilon,
            target_delta=_DELTA.value,
            sampling_probability=batch_size / num_examples,
            num_steps=math.ceil(num_examples / batch_size) * epochs,
        ),
    )
    model.compile(optimizer=optimizer, loss=_LOSS, metrics=["accuracy"])
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=batch_size,
        epochs=epochs,
        verbose=0,
    )
    return model


def read_epsilons() -> list[float]:
    """Returns the epsilons that the flag names.

    Raises:
        absl.app.UsageError: If one of them is no number > 0.
    """
    try:
        epsilons = [float(text) for text in _TARGET_EPSILONS.value]
    except ValueError as error:
        raise app.UsageError(
            "target_epsilons must be numbers with commas between them. "
            f"Received: {','.join(_TARGET_EPSILONS.value)}."
        ) from error
    for epsilon in epsilons:
        checks.check_above_zero("target_epsilons", epsilon)
    return epsilons


def main(argv):
    """Trains on public data once, and on private data in three ways.

    Args:
        argv: The program's name; what is left after the flags.
    """
    checks.check_arguments(argv)
    epsilons = read_epsilons()
    data = datasets.load_images("mnist5k")
    x_public, y_public = load_public()
    epochs, public_epochs = _EPOCHS.value, _PUBLIC_EPOCHS.value
    if _SMOKE.value:
        data, epochs, public_epochs = data.take(400, 200), 1, 1
        x_public, y_public = x_public[:400], y_public[:400]
        epsilons = epsilons[:1]
    checks.check_delta(_DELTA.value, len(data.x_train))

    start = time.monotonic()
    trained = train_publicly(x_public, y_public, epochs=public_epochs)
    trained.compile(loss=_LOSS, metrics=["accuracy"])
    _, accuracy = trained.evaluate(data.x_test, data.y_test, verbose=0)
    print(
        f"trained on {len(x_public)} public digits in "
        f"{time.monotonic() - start:.0f} s; accuracy {accuracy:.3f} on the "
        "private ones, of which it has seen none: no epsilon"
    )
    # The learning rates were found by trial on these very data: with data that
    # need protection, each trial spends epsilon too.
    ways = [
        ("new layer", lambda: make_new(trained, is_frozen=True), 0.1),
        ("all weights", lambda: make_new(trained, is_frozen=False), 0.005),
        (
            "from nothing",
            lambda: tf_privacy.replace_batch_normalization(make_network()),
            0.005,
        ),
    ]
    for epsilon in epsilons:
        for name, make, rate in ways[:1] if _SMOKE.value else ways:
            keras.utils.set_random_seed(_SEED)
            start = time.monotonic()
            model = train_privately(
                make(), data, rate=rate, epsilon=epsilon, epochs=epochs
            )
            seconds = time.monotonic() - start
            _, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)
            spent = model.privacy_statement(delta=_DELTA.value).epsilon
            print(
                f"epsilon {checks.round_up(spent):<5}  {name:<12}  "
                f"{count_trained(model):>6} weights  accuracy {accuracy:.3f}  "
                f"{seconds:3.0f} s"
            )
    print(
        "Each epsilon is that of one model: it is for releasing that one, and "
        "not all of them."
    )


if __name__ == "__main__":
    app.run(main)
