# SPDX-License-Identifier: Apache-2.0
"""One of two JAX processes that train together and may be killed.

    python jax_workers.py RANK PORT FOLDER KILL_AFTER OUTPUT
Ends without a word after KILL_AFTER steps; 0 lets it come to its end.
"""

import json
import os
import pathlib
import sys

RANK, PORT, FOLDER, KILL_AFTER, OUTPUT = sys.argv[1:]
os.environ["KERAS_BACKEND"] = "jax"

# The backend must be chosen before Keras is imported.
import jax  # noqa: E402

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(
    f"127.0.0.1:{PORT}", num_processes=2, process_id=int(RANK)
)

import keras  # noqa: E402
import numpy as np  # noqa: E402

import tf_privacy  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype("float32")
LABELS = RNG.integers(0, 3, 40)


class Watch(keras.callbacks.Callback):
    """Keeps the weights after each step, and ends the process if told so."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        kernel = self.model.get_weights()[0]
        self.weights.append([float(v) for v in kernel.ravel()])
        if len(self.weights) == int(KILL_AFTER):
            pathlib.Path(OUTPUT).write_text(json.dumps(self.weights))
            os._exit(9)


keras.distribution.set_distribution(
    keras.distribution.DataParallel(
        devices=jax.devices(), auto_shard_dataset=False
    )
)
dense = keras.layers.Dense(3, kernel_initializer="zeros")
model = tf_privacy.DPSequential([keras.Input((6,)), dense])
model.compile(
    tf_privacy.DPSGD(0.1, l2_norm_clip=1.0, noise_multiplier=1.0),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
resume = tf_privacy.ResumableTraining(FOLDER, reserve_steps=2)
watch = Watch()
model.fit(
    X, LABELS, batch_size=10, epochs=3, verbose=0, callbacks=[resume, watch]
)
report = {
    "weights": watch.weights,
    "steps": model.optimizer.ledger.num_steps(),
    "lost": resume.num_lost_steps,
    "updates": int(model.optimizer.iterations.numpy()),
}
pathlib.Path(OUTPUT).write_text(json.dumps(report))
