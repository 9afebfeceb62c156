# SPDX-License-Identifier: Apache-2.0
"""Times the private training step against the ordinary one.

Both are the step that `fit` runs, forward pass to weight update, on the same
batch of the same model. The ordinary step is timed with and without XLA and
the faster one is the floor. All steps are interleaved in one process, so that
a machine whose speed drifts slows all of them; ratios of medians are printed.

    python -m benchmarks.step_cost --models=mlp,lstm --batch_sizes=256
"""

import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from absl import app
from absl import flags

import tf_privacy
from benchmarks import models

FLAGS = flags.FLAGS
flags.DEFINE_list("models", list(models.WORKLOADS), "Which models to time.")
flags.DEFINE_list("batch_sizes", [], "Empty: each model's own.")
flags.DEFINE_integer("rounds", 9, "Interleaved rounds; the median counts.")
flags.DEFINE_float("seconds", 0.3, "How long each step is repeated a round.")
flags.DEFINE_bool("xla", True, "Whether to time the compiled ordinary step.")
flags.DEFINE_string("optimizer", "sgd", "sgd or adam.")

_ORDINARY = {
    "sgd": lambda: keras.optimizers.SGD(0.01),
    "adam": lambda: keras.optimizers.Adam(1e-3),
}
_PRIVATE = {
    "sgd": lambda **dp: tf_privacy.DPSGD(0.01, **dp),
    "adam": lambda **dp: tf_privacy.DPAdam(1e-3, **dp),
}


def _make_step(workload, batch, *, private, jit_compile):
    """Returns a function that makes one step, already traced."""
    model = workload.make_model()
    if private:
        model = tf_privacy.privatize(model)
        optimizer = _PRIVATE[FLAGS.optimizer](
            l2_norm_clip=1.0, noise_multiplier=1.0, expected_batch_size=64
        )
    else:
        optimizer = _ORDINARY[FLAGS.optimizer]()
    model.compile(
        optimizer=optimizer,
        loss=workload.loss(),
        jit_compile="auto" if private else jit_compile,
    )
    model.train_on_batch(*batch)
    if private:
        # What fit does around the steps, once.
        optimizer.ledger.row_of(optimizer.step_kind())
        model._private_phase.row.assign(0)
        model._private_phase.is_open = True

    def step():
        model.train_function(iter([batch]))

    for _ in range(3):
        step()
    return step


def _time_once(step) -> float:
    step()
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < FLAGS.seconds or count < 2:
        step()
        count += 1
    return (time.perf_counter() - start) / count


def _compare(name, batch_size):
    workload = models.WORKLOADS[name]
    x, y = workload.make_batch(models.make_rng(), batch_size)
    batch = keras.tree.map_structure(keras.ops.convert_to_tensor, (x, y))
    steps = {
        "plain": _make_step(workload, batch, private=False, jit_compile=False),
        "private": _make_step(workload, batch, private=True, jit_compile=False),
    }
    if FLAGS.xla:
        steps["xla"] = _make_step(
            workload, batch, private=False, jit_compile=True
        )
    times = {kind: [] for kind in steps}
    for _ in range(FLAGS.rounds):
        for kind, step in steps.items():
            times[kind].append(_time_once(step))
    medians = {kind: statistics.median(t) for kind, t in times.items()}
    floor = min(v for kind, v in medians.items() if kind != "private")
    xla = medians["plain"] / medians["xla"] if FLAGS.xla else float("nan")
    ratio = medians["private"] / floor
    print(
        f"{name:<12} {batch_size:>6} {floor * 1e3:>10.1f} {ratio:>8.2f} "
        f"{workload.target:>7.1f} {xla:>10.2f}",
        flush=True,
    )


def main(argv):
    """Prints one line for each model and batch size."""
    del argv
    print(
        f"{'model':<12} {'batch':>6} {'floor ms':>10} {'private':>8} "
        f"{'target':>7} {'plain/xla':>10}"
    )
    for name in FLAGS.models:
        sizes = FLAGS.batch_sizes or [models.WORKLOADS[name].batch_size]
        for batch_size in sizes:
            _compare(name, int(batch_size))


if __name__ == "__main__":
    app.run(main)
