# SPDX-License-Identifier: Apache-2.0
"""Times private `fit` over ordinary `fit` on whichever Keras backend is in use.

Whole passes of both are run in turn on the same data, after a first one each
that compiles, and medians are compared. Poisson batches of the private one are
of random size and, on JAX, filled up to one shape: what that costs is in it.

    KERAS_BACKEND=jax python -m benchmarks.backends --models=mlp,mnist_cnn
"""

import statistics
import time

import keras
import numpy as np
from absl import app
from absl import flags

import tf_privacy
from benchmarks import models

FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["mlp", "mnist_cnn", "transformer"], "Which ones.")
flags.DEFINE_integer("steps", 12, "Steps in a pass.")
flags.DEFINE_integer("rounds", 5, "Passes of each; the median counts.")


def make_fit(workload, data, *, private: bool):
    """Returns a function that trains for one pass.

    Args:
        workload: A `models.Workload`.
        data: (x, y) of all steps.
        private: Whether it trains privately.
    """
    model = workload.make_model()
    if private:
        model = tf_privacy.privatize(model)
        optimizer = tf_privacy.DPSGD(
            0.01, l2_norm_clip=1.0, noise_multiplier=1.0
        )
    else:
        optimizer = keras.optimizers.SGD(0.01)
    model.compile(optimizer, workload.loss())

    def fit():
        model.fit(*data, batch_size=workload.batch_size, verbose=0)

    return fit


def time_fits(workload) -> dict[bool, float]:
    """Returns the median seconds of a pass, private and ordinary.

    Args:
        workload: A `models.Workload`.
    """
    num_rows = workload.batch_size * FLAGS.steps
    data = workload.make_batch(np.random.default_rng(0), num_rows)
    fits = {
        private: make_fit(workload, data, private=private)
        for private in (False, True)
    }
    times = {private: [] for private in fits}
    for round_number in range(FLAGS.rounds + 1):
        for private, fit in fits.items():
            start = time.perf_counter()
            fit()
            if round_number:  # The first one compiles.
                times[private].append(time.perf_counter() - start)
    return {private: statistics.median(t) for private, t in times.items()}


def main(argv):
    """Prints a line for each model."""
    del argv
    print(f"KERAS_BACKEND={keras.backend.backend()}")
    print(f"{'model':<12} {'batch':>6} {'ordinary ms':>12} {'private':>8}")
    for name in FLAGS.models:
        workload = models.WORKLOADS[name]
        times = time_fits(workload)
        milliseconds = times[False] / FLAGS.steps * 1e3
        ratio = times[True] / times[False]
        print(
            f"{name:<12} {workload.batch_size:>6} {milliseconds:>12.2f} "
            f"{ratio:>8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
