# SPDX-License-Identifier: Apache-2.0
"""Trains on several JAX devices or processes, and writes down what came of it.

    python jax_devices.py LAYOUT OUTPUT [RANK PORT]
LAYOUT is one, data, model or processes; the last needs rank and port.
"""

import json
import os
import pathlib
import sys

LAYOUT, OUTPUT = sys.argv[1:3]
os.environ["KERAS_BACKEND"] = "jax"
NUM_DEVICES = {"one": 1, "data": 3, "model": 4, "processes": 1}[LAYOUT]
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count={NUM_DEVICES}"
)

# The flag must be there before JAX is.
import jax  # noqa: E402

if LAYOUT == "processes":
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{sys.argv[4]}", num_processes=2, process_id=int(sys.argv[3])
    )

import keras  # noqa: E402
import numpy as np  # noqa: E402

import tf_privacy  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype("float32")
LABELS = RNG.integers(0, 600, 40)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def set_layout():
    """Spreads batches, and for `model` weights, over the devices."""
    if LAYOUT in ("data", "processes"):
        layout = keras.distribution.DataParallel(
            devices=jax.devices(), auto_shard_dataset=False
        )
        keras.distribution.set_distribution(layout)
    if LAYOUT == "model":
        mesh = keras.distribution.DeviceMesh(
            (2, 2), ["batch", "model"], jax.devices()
        )
        layouts = keras.distribution.LayoutMap(mesh)
        layouts[".*kernel"] = (None, "model")
        layouts[".*bias"] = ("model",)
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(
                layout_map=layouts, batch_dim_name="batch"
            )
        )


def make_model(noise_multiplier):
    """Returns a model whose weights begin at zero."""
    # Processes must begin alike; random weights would need a common seed.
    dense = keras.layers.Dense(600, kernel_initializer="zeros")
    model = tf_privacy.DPSequential([keras.Input((6,)), dense])
    model.compile(
        tf_privacy.DPSGD(
            1.0, l2_norm_clip=2.0, noise_multiplier=noise_multiplier
        ),
        LOSS,
        metrics=["accuracy"],
    )
    return model


def as_list(weights):
    return np.concatenate([np.ravel(w) for w in weights]).tolist()


def train_exactly():
    """Returns weights of three steps on all rows, with noise too small."""
    model = make_model(1e-6)
    model.fit(X, LABELS, batch_size=40, epochs=3, verbose=0)
    return as_list(model.get_weights())


class KeepWeights(keras.callbacks.Callback):
    """Keeps the weights after every step."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(as_list(self.model.get_weights()))


def train_on_noise():
    """Returns what steps on rows of weight zero add: noise; and the ledger."""
    model, kept = make_model(1.5), KeepWeights()
    model.fit(
        X,
        LABELS,
        batch_size=4,
        sample_weight=np.zeros(40, "float32"),
        steps_per_epoch=3,
        verbose=0,
        callbacks=[kept],
    )
    noise = np.diff([[0.0] * len(kept.weights[0]), *kept.weights], axis=0)
    entries = [
        [kind.noise_multiplier, kind.sampling_probability, count]
        for kind, count in model.optimizer.ledger.entries()
    ]
    local = [
        np.asarray(shard.data).ravel().tolist()
        for variable in model.trainable_variables
        for shard in variable.value.addressable_shards
    ]
    return {"noise": noise.tolist(), "entries": entries, "copies": local}


set_layout()
report = {"exact": train_exactly(), **train_on_noise()}
pathlib.Path(OUTPUT).write_text(json.dumps(report))
