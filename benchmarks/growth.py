# SPDX-License-Identifier: Apache-2.0
"""Shows how the cost of the private step grows with the size of the problem.

The transformer over the length of a sequence and over its width, the MLP over
the batch, and the MNIST CNN over batches so large that the private step sends
them through the model in pieces, once of the size that the library chooses and
once of 256 rows. The columns are those of `benchmarks.step_cost`.

    python -m benchmarks.growth --sweeps=length,logical_batch
"""

import functools

from absl import app
from absl import flags

from benchmarks import steps

FLAGS = flags.FLAGS

# What changes, the rest of the case, and the default sizes.
_SWEEPS = {
    "length": (
        functools.partial(steps.Case, model="transformer", batch_size=16),
        "length",
        (32, 64, 128, 256),
    ),
    "width": (
        functools.partial(steps.Case, model="transformer", batch_size=16),
        "width",
        (64, 128, 256),
    ),
    "batch": (
        functools.partial(steps.Case, model="mlp"),
        "batch_size",
        (64, 256, 1024, 4096),
    ),
    "logical_batch": (
        functools.partial(steps.Case, model="mnist_cnn"),
        "batch_size",
        (1024, 4096, 16384),
    ),
    "pieces_of_256": (
        functools.partial(steps.Case, model="mnist_cnn", microbatch_size=256),
        "batch_size",
        (1024, 4096, 16384),
    ),
}

flags.DEFINE_list("sweeps", list(_SWEEPS), "Which sizes to change.")
flags.DEFINE_list("sizes", [], "Empty: each sweep's own.")
flags.DEFINE_integer("rounds", 3, "Interleaved rounds; the median counts.")
flags.DEFINE_float("seconds", 0.3, "How long each step is repeated a round.")
flags.DEFINE_bool("xla", True, "Whether to time the compiled ordinary step.")
flags.DEFINE_bool("memory", True, "Whether to measure the memory of a step.")


def _print_row(sweep, size):
    make_case, field, _ = _SWEEPS[sweep]
    case = make_case(**{field: size})
    times = steps.time_steps(
        case, rounds=FLAGS.rounds, seconds=FLAGS.seconds, xla=FLAGS.xla
    )
    row = (
        f"{case.model:<12} {sweep:<13} {size:>6} {times.floor * 1e3:>9.1f} "
        f"{times.private / times.floor:>8.2f}"
    )
    if FLAGS.memory:
        row = f"{row} {steps.format_memory(case)}"
    print(row, flush=True)


def main(argv):
    """Prints one line for each sweep and size."""
    del argv
    header = (
        f"{'model':<12} {'sweep':<13} {'size':>6} {'floor ms':>9} "
        f"{'private':>8}"
    )
    print(f"{header} {steps.MEMORY_HEADER}" if FLAGS.memory else header)
    for sweep in FLAGS.sweeps:
        for size in FLAGS.sizes or _SWEEPS[sweep][-1]:
            _print_row(sweep, int(size))


if __name__ == "__main__":
    app.run(main)
