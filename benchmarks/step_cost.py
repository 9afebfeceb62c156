# SPDX-License-Identifier: Apache-2.0
"""Compares the private training step with the ordinary one: time and memory.

Both are the step that `fit` runs, forward pass to weight update, on the same
batch of the same model. The ordinary step is timed with and without XLA and
the faster one is the floor. All steps are interleaved in one process, so that
a machine whose speed drifts slows all of them; ratios of medians are printed.
Memory is the peak of one step, each measured in its own process, the ordinary
one without XLA and both without oneDNN.

    python -m benchmarks.step_cost --models=mlp,lstm --batch_sizes=64,256
"""

from absl import app
from absl import flags

from benchmarks import models
from benchmarks import peers
from benchmarks import steps

FLAGS = flags.FLAGS
flags.DEFINE_list("models", list(models.WORKLOADS), "Which models to time.")
flags.DEFINE_list("batch_sizes", [], "Empty: each model's own.")
flags.DEFINE_integer("rounds", 9, "Interleaved rounds; the median counts.")
flags.DEFINE_float("seconds", 0.3, "How long each step is repeated a round.")
flags.DEFINE_bool("xla", True, "Whether to time the compiled ordinary step.")
flags.DEFINE_bool("memory", True, "Whether to measure the memory of a step.")
flags.DEFINE_bool("peers", False, "Whether to time other libraries' MLP too.")
flags.DEFINE_list("optimizers", [], "sgd, adam; empty: each model's own.")


def _print_header():
    header = (
        f"{'model':<12} {'optimizer':<9} {'batch':>6} {'floor ms':>9} "
        f"{'private':>8} {'target':>7} {'plain/xla':>9}"
    )
    print(f"{header} {steps.MEMORY_HEADER}" if FLAGS.memory else header)


def _print_row(case):
    times = steps.time_steps(
        case, rounds=FLAGS.rounds, seconds=FLAGS.seconds, xla=FLAGS.xla
    )
    row = (
        f"{case.model:<12} {case.optimizer:<9} {case.batch_size:>6} "
        f"{times.floor * 1e3:>9.1f} {times.private / times.floor:>8.2f} "
        f"{case.workload().target:>7.1f} {times.plain / times.xla:>9.2f}"
    )
    if FLAGS.memory:
        row = f"{row} {steps.format_memory(case)}"
    print(row, flush=True)


def main(argv):
    """Prints one line for each model, optimizer and batch size."""
    del argv
    _print_header()
    for name in FLAGS.models:
        workload = models.WORKLOADS[name]
        for optimizer in FLAGS.optimizers or workload.optimizers:
            for batch_size in FLAGS.batch_sizes or [workload.batch_size]:
                _print_row(
                    steps.Case(
                        model=name,
                        batch_size=int(batch_size),
                        optimizer=optimizer,
                    )
                )
    if FLAGS.peers:
        sizes = FLAGS.batch_sizes or [models.WORKLOADS["mlp"].batch_size]
        for batch_size in sizes:
            peers.print_rows(
                int(batch_size), rounds=FLAGS.rounds, seconds=FLAGS.seconds
            )


if __name__ == "__main__":
    app.run(main)
