# SPDX-License-Identifier: Apache-2.0
"""Trains on several replicas, and on one device, and prints what came out.

    python mirrored.py num_replicas scenario...

Each scenario is a function below; prints one JSON object of their results. A
process of its own: logical devices must be made before TensorFlow starts.
"""

import contextlib
import json
import sys
import tempfile
import warnings

import keras
import numpy as np
import tensorflow as tf

import tf_privacy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = RNG.normal(size=(24, 1)).astype("float32")
SIZES = (5, 0, 1, 8, 3)
STYLES = {
    "number": {},
    "tree": {
        "noise_multiplier": tf_privacy.TreeNoise(
            noise_multiplier=1.0, num_steps=4, min_separation=4
        )
    },
    "toeplitz": {
        "noise_multiplier": tf_privacy.ToeplitzNoise(
            noise_multiplier=1.0,
            num_steps=4,
            coefficients=(1.0, 0.5),
            min_separation=4,
        )
    },
    "integers": {
        "noise_multiplier": tf_privacy.DiscreteGaussianNoise(
            noise_multiplier=1.0
        )
    },
    "schedule": {
        "noise_multiplier": tf_privacy.NoiseSchedule(
            boundaries=(2,), multipliers=(2.0, 1.0)
        )
    },
    "quantile": {
        "l2_norm_clip": tf_privacy.QuantileClipping(
            l2_norm_clip=1.0, count_stddev=2.0
        )
    },
    "scaled": {"gradient_scaling": tf_privacy.GradientScaling()},
    "bias_corrected": {"preset": tf_privacy.DPAdamBC},
    "averaged": {
        "preset": tf_privacy.DPAdamW,
        "use_ema": True,
        "ema_overwrite_frequency": 2,
    },
}


def make_model(scope, *, layers=None, preset=tf_privacy.DPAdam, **settings):
    """Returns a private model, compiled, made in a scope."""
    settings = {
        "l2_norm_clip": 1.0,
        "noise_multiplier": 1.0,
        "expected_batch_size": 6,
        **settings,
    }
    compiled = {
        key: settings.pop(key)
        for key in ("steps_per_execution", "run_eagerly", "jit_compile")
        if key in settings
    }
    keras.utils.set_random_seed(1)
    with scope:
        model = tf_privacy.privatize(
            keras.Sequential(
                layers
                or [
                    keras.Input((4,)),
                    keras.layers.Dense(6, "tanh", kernel_regularizer="l2"),
                    keras.layers.Dense(1),
                ]
            )
        )
        model.compile(preset(0.05, **settings), "mse", ["mae"], **compiled)
        model.optimizer.build(model.trainable_variables)
    return model


def batches(x=X, y=Y, sizes=SIZES):
    """Returns a data set of batches of these sizes."""
    ends = np.cumsum(sizes)

    def make():
        for size, end in zip(sizes, ends, strict=True):
            yield x[end - size : end], y[end - size : end]

    return tf.data.Dataset.from_generator(
        make,
        output_signature=(
            tf.TensorSpec((None, *x.shape[1:]), x.dtype),
            tf.TensorSpec((None, *y.shape[1:]), y.dtype),
        ),
    )


def flat_weights(model):
    """Returns all weights as one vector."""
    return np.concatenate([w.ravel() for w in model.get_weights()])


def copies_agree(model):
    """Returns whether all replicas hold the same bits, in every variable."""
    variables = [*model.weights, *model.optimizer.variables]
    return all(
        (copy.numpy() == variable.value.values[0].numpy()).all()
        for variable in variables
        for copy in variable.value.values
    )


def describe(optimizer):
    """Returns the ledger, but for what names one object or release."""
    return [
        [kind.noise_multiplier, kind.sampling_probability, kind.family, count]
        for kind, count in optimizer.ledger.entries()
    ]


def compare(strategy, train, **settings):
    """Trains on one device and on replicas, with the same fixed noise."""
    one = make_model(contextlib.nullcontext(), seed=1, **settings)
    several = make_model(strategy.scope(), seed=1, **settings)
    start = flat_weights(one)
    logs = [train(model) for model in (one, several)]
    moved = flat_weights(one) - start
    error = flat_weights(several) - flat_weights(one)
    return {
        "moved": float(np.abs(moved).max()),
        "error": float(np.abs(error).max()),
        "copies_agree": copies_agree(several),
        "ledgers": [describe(m.optimizer) for m in (one, several)],
        "logs": logs,
    }


def fit_batches(model):
    """Fits on batches of all sizes, and returns the last logs."""
    history = model.fit(batches(), epochs=2, verbose=0).history
    return {key: float(values[-1]) for key, values in history.items()}


def fit_styles(strategy):
    """Fits with every kind of noise, clip and inner optimizer."""
    return {
        name: compare(strategy, fit_batches, **settings)
        for name, settings in STYLES.items()
    }


def fit_ways(strategy):
    """Fits in every way that Keras and the library have."""
    units = {"examples_per_unit": 2, "expected_batch_size": 3}

    def fit_units(model):
        model.fit(batches(sizes=(6, 0, 2, 10)), verbose=0)

    def fit_weighted(model):
        model.fit(batches(y=(Y > 0) * 1.0), class_weight={0: 0.5}, verbose=0)

    def fit_words(model):
        words = RNG_WORDS[:, None]
        model.fit(batches(words), verbose=0)

    def train_on_batch(model):
        for size in SIZES:
            model.train_on_batch(X[:size], Y[:size])

    tables = [
        keras.Input((1,), dtype="int32"),
        keras.layers.Embedding(40, 3),
        keras.layers.Flatten(),
        keras.layers.Dense(1),
    ]
    rows = tf_privacy.RowSelection(threshold=0.5, budget_fraction=0.5)
    ways = {
        "in pieces": (fit_batches, {"microbatch_size": 2}),
        "compiled pieces": (fit_batches, {"jit_compile": True}),
        "several at once": (fit_batches, {"steps_per_execution": 2}),
        "eagerly": (fit_batches, {"run_eagerly": True}),
        "units": (fit_units, units),
        "weighted": (fit_weighted, {}),
        "rows of a table": (fit_words, {"row_selection": rows}),
        "train_on_batch": (train_on_batch, {}),
    }
    results = {}
    for name, (train, settings) in ways.items():
        if "row_selection" in settings:
            settings = {**settings, "preset": tf_privacy.DPSGD}
            one, several = (
                make_model(scope, layers=make_tables(), seed=1, **settings)
                for scope in (contextlib.nullcontext(), strategy.scope())
            )
            del tables[:]
            continue
        results[name] = compare(strategy, train, **settings)
    return results
