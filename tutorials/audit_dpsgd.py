# SPDX-License-Identifier: Apache-2.0
"""Attacks an image classifier, trained without and with privacy.

    python tutorials/audit_dpsgd.py                     # two minutes
    python tutorials/audit_dpsgd.py --dataset=digits --num_canaries=400

Three audits. The training step by itself: does what comes out of the optimizer
have the noise and the clip that the accountant counts on? The trained models:
which of a thousand mislabelled canaries, put in by fair coins, can be told from
the model? And what a simple attack finds about ordinary examples.
"""

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
    "dataset", "mnist5k", datasets.NAMES, "See mnist_dpsgd.py."
)
_NUM_CANARIES = flags.DEFINE_integer(
    "num_canaries", 1000, "Mislabelled examples, in or out by a fair coin."
)
_EPOCHS = flags.DEFINE_integer("epochs", 40, "Passes over the data.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Expected size.")
_TARGET_EPSILON = flags.DEFINE_float(
    "target_epsilon", 3.0, "What the private model may spend."
)
_DELTA = flags.DEFINE_float("delta", 1e-5, "Below 1 / training examples.")
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "out/audit_dpsgd", "Folder for the reports."
)
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Train on 512 examples for two epochs, to see that it runs."
)

_L2_NORM_CLIP = 1.0
_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make_model(data: datasets.ImageData) -> keras.Model:
    """Returns a dense network, large enough to learn labels by heart.

    Args:
        data: What it will classify.
    """
    return keras.Sequential(
        [
            keras.Input(data.x_train.shape[1:]),
            layers.Flatten(),
            layers.Dense(256, activation="relu"),
            layers.Dense(data.num_classes),
        ]
    )


def make_private(model, loss, *, noise_multiplier: float):
    """Returns the model, made private and compiled.

    Args:
        model: A Keras model.
        loss: A Keras loss.
        noise_multiplier: Noise stddev over the clip.
    """
    model = tf_privacy.privatize(model)
    optimizer = tf_privacy.DPSGD(
        0.1, l2_norm_clip=_L2_NORM_CLIP, noise_multiplier=noise_multiplier
    )
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    return model


def train(model, *, x, y, epochs: int, batch_size: int):
    """Returns the model after training.

    Args:
        model: Compiled.
        x: Images.
        y: Labels.
        epochs: Passes over the data.
        batch_size: Expected size.
    """
    model.fit(x, y, epochs=epochs, batch_size=batch_size, verbose=0)
    return model


def report_on(name: str, model, data, plan, claimed_epsilon) -> None:
    """Prints both audits of a trained model and saves the first as a page.

    Args:
        name: Of the model, for the file.
        model: A trained model.
        data: The images; those that canaries were made of went out.
        plan: The canaries.
        claimed_epsilon: What the model claims; None for nothing.
    """
    _, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)
    print(f"\n=== {name}: accuracy on the test set {accuracy:.3f}")
    report = audit.audit_canaries(
        model, plan, delta=_DELTA.value, claimed_epsilon=claimed_epsilon
    )
    print(report)
    rest = np.setdiff1d(np.arange(len(data.x_train)), plan.source_rows)
    print("\nOrdinary examples:")
    print(
        audit.audit_membership(
            model,
            (data.x_train[rest], data.y_train[rest]),
            (data.x_test, data.y_test),
            outputs="logits",
        )
    )
    folder = pathlib.Path(_OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(report.to_json(), encoding="utf-8")
    try:
        path = folder / f"{name}.html"
        report.to_html(path)
    except ImportError as error:
        print(error)
        return
    print(f"report saved in {path}")


def main(argv):
    """Audits the step, trains two models and audits them.

    Args:
        argv: The program's name; what is left after the flags.
    """
    if len(argv) > 1:
        raise app.UsageError(f"arguments must be flags. Received: {argv[1]!r}.")
    data = datasets.load_images(_DATASET.value)
    epochs, num_canaries = _EPOCHS.value, _NUM_CANARIES.value
    batch_size = _BATCH_SIZE.value
    if _SMOKE.value:
        data, epochs, num_canaries = data.take(512, 256), 2, 200
        batch_size = 64
    if not 2 <= num_canaries < len(data.x_train):
        raise app.UsageError(
            f"num_canaries must be in [2, {len(data.x_train)}), the training "
            f"examples. Received: {num_canaries}."
        )
    plan = audit.make_mislabeled_canaries(
        data.x_train,
        data.y_train,
        num_classes=data.num_classes,
        num_canaries=num_canaries,
    )
    x, y = plan.insert(data.x_train, data.y_train)
    noise_multiplier = tf_privacy.calibrate_noise_multiplier(
        target_epsilon=_TARGET_EPSILON.value,
        target_delta=_DELTA.value,
        sampling_probability=batch_size / len(x),
        num_steps=math.ceil(len(x) / batch_size) * epochs,
    )

    print("=== the training step")
    step_report = audit.audit_pipeline(
        lambda model, loss: make_private(
            model, loss, noise_multiplier=noise_multiplier
        ),
        noise_multiplier=noise_multiplier,
        l2_norm_clip=_L2_NORM_CLIP,
        delta=_DELTA.value,
    )
    print(step_report)
    step_report.assert_ok()

    settings = {"x": x, "y": y, "epochs": epochs, "batch_size": batch_size}
    model = make_model(data)
    model.compile(
        optimizer=keras.optimizers.Adam(), loss=_LOSS, metrics=["accuracy"]
    )
    # It claims nothing: it is held against the private model's claim.
    report_on(
        "without_privacy",
        train(model, **settings),
        data,
        plan,
        _TARGET_EPSILON.value,
    )
    model = train(
        make_private(
            make_model(data), _LOSS, noise_multiplier=noise_multiplier
        ),
        **settings,
    )
    statement = model.privacy_statement(delta=_DELTA.value)
    report_on("with_dpsgd", model, data, plan, statement.epsilon)


if __name__ == "__main__":
    app.run(main)
