# SPDX-License-Identifier: Apache-2.0
"""What do I change to make my model private?

    python tutorials/quickstart.py
    python tutorials/quickstart.py --target_epsilon=1

Two lines: `tf_privacy.privatize` around the model, and a DP optimizer in place
of yours. The same digits are learned twice, without and with these lines; then
the private model states what it guarantees.
"""

import math

import checks
import datasets
import keras
from absl import app
from absl import flags
from keras import layers

import tf_privacy

_TARGET_EPSILON = flags.DEFINE_float(
    "target_epsilon", 3.0, "What training may spend."
)
_DELTA = flags.DEFINE_float("delta", 1e-5, "Below 1 / training examples.")
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Train on 512 examples for two epochs, to see that it runs."
)

_BATCH_SIZE = 256
_NUM_EPOCHS = 60
_NUM_EPOCHS_SMOKE = 2


def make_model(data: datasets.ImageData) -> keras.Model:
    """Returns an ordinary Keras model.

    Args:
        data: What it will classify.
    """
    return keras.Sequential(
        [
            keras.Input(data.x_train.shape[1:]),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(data.num_classes),
        ]
    )


def train(model, optimizer, data: datasets.ImageData, num_epochs: int) -> float:
    """Trains as you would without privacy, and returns the test accuracy.

    Args:
        model: A Keras model, private or not.
        optimizer: A DP optimizer for a private one.
        data: The images.
        num_epochs: Passes over them.
    """
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=_BATCH_SIZE,
        epochs=num_epochs,
        verbose=0,
    )
    return model.evaluate(data.x_test, data.y_test, verbose=0)[1]


def main(argv):
    """Trains the same network without and with privacy.

    Args:
        argv: The program's name; what is left after the flags.
    """
    checks.check_arguments(argv)
    checks.check_above_zero("target_epsilon", _TARGET_EPSILON.value)
    data, num_epochs = datasets.load_images("digits"), _NUM_EPOCHS
    if _SMOKE.value:
        data, num_epochs = data.take(512, 256), _NUM_EPOCHS_SMOKE
    num_examples = len(data.x_train)
    checks.check_delta(_DELTA.value, num_examples)

    model = make_model(data)
    optimizer = keras.optimizers.Adam(0.01)
    accuracy = train(model, optimizer, data, num_epochs)
    print(f"without privacy: accuracy {accuracy:.3f}, no epsilon")

    # How much noise keeps this training within the target? In units of the
    # clip, which bounds what one example can add to a step.
    noise_multiplier = tf_privacy.calibrate_noise_multiplier(
        target_epsilon=_TARGET_EPSILON.value,
        target_delta=_DELTA.value,
        sampling_probability=_BATCH_SIZE / num_examples,
        num_steps=math.ceil(num_examples / _BATCH_SIZE) * num_epochs,
    )
    # The two lines.
    model = tf_privacy.privatize(make_model(data))
    optimizer = tf_privacy.DPAdam(
        0.01, l2_norm_clip=1.0, noise_multiplier=noise_multiplier
    )
    accuracy = train(model, optimizer, data, num_epochs)
    statement = model.privacy_statement(delta=_DELTA.value)
    print(
        f"with privacy: accuracy {accuracy:.3f}, epsilon "
        f"{checks.round_up(statement.epsilon)} at delta {statement.delta:g}"
    )
    print(f"\n{statement}")


if __name__ == "__main__":
    app.run(main)
