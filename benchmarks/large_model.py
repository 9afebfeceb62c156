# SPDX-License-Identifier: Apache-2.0
"""Takes private steps of a language model of 124 million parameters.

Each kind of step runs in a process of its own, and so has a peak of its own;
the processes take turns, so that a machine whose speed drifts slows all of
them. `held` is the resident memory between two steps, `peak` the most within
one, both without what the libraries hold before there is a model, in MiB;
`copies` is the peak in copies of the trained weights, 4 bytes for each number.
oneDNN is off unless asked for: its allocator keeps what it once had, so that
`held` would be what the first step took.

    python -m benchmarks.large_model --batch=8 --steps=3
    python -m benchmarks.large_model --kinds=ordinary,ordinary_lora,private_lora
"""

import multiprocessing
import os
import statistics

from absl import app
from absl import flags

from benchmarks import language_model
from benchmarks import large_model_process

FLAGS = flags.FLAGS

_KINDS = ["ordinary", "private", "ordinary_lora", "private_lora"]

flags.DEFINE_integer("layers", 12, "Decoder layers.", lower_bound=1)
flags.DEFINE_integer("width", 768, "Features of a token.", lower_bound=1)
flags.DEFINE_integer("vocabulary", 50257, "Different tokens.", lower_bound=2)
flags.DEFINE_integer("sequence", 128, "Tokens of a row.", lower_bound=2)
flags.DEFINE_integer("batch", 8, "Rows of a batch.", lower_bound=1)
flags.DEFINE_integer("microbatch", 0, "Rows of a piece; 0: automatic.")
flags.DEFINE_integer("memory_limit", 0, "MiB of a piece; 0: the default.")
flags.DEFINE_integer("lora_rank", 4, "Of the kinds that end in _lora.")
flags.DEFINE_integer("steps", 3, "Measured steps of each kind.", lower_bound=1)
flags.DEFINE_enum("optimizer", "adam", ["sgd", "adam"], "Which optimizer.")
flags.DEFINE_float("noise_multiplier", 1.0, "Of the private steps.")
flags.DEFINE_list("kinds", _KINDS[:2], f"What takes turns: {_KINDS}.")
flags.DEFINE_bool("onednn", False, "Whether TensorFlow uses oneDNN.")
flags.DEFINE_bool("keras_hub", None, "Whether KerasHub makes the model.")

_MIB = 2**20


class _Worker:
    """A process that takes one kind of step when told to."""

    def __init__(self, case):
        # Not forked: TensorFlow's threads would be gone.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=large_model_process.serve, args=(theirs, case), daemon=True
        )
        self._process.start()
        theirs.close()
        self.start = self._connection.recv()
        self.seconds = []

    def step(self):
        """Takes one step."""
        self._connection.send("step")
        self.seconds.append(self._connection.recv())

    def finish(self):
        """Ends the process and returns its End."""
        self._connection.send("finish")
        end = self._connection.recv()
        self._process.join()
        return end


def make_case(kind: str) -> large_model_process.Case:
    """Returns what the flags say of one kind of step.

    Args:
        kind: One of the flag `kinds`.
    """
    return large_model_process.Case(
        size=language_model.Size(
            layers=FLAGS.layers,
            width=FLAGS.width,
            vocabulary=FLAGS.vocabulary,
            sequence=FLAGS.sequence,
        ),
        is_private=kind.startswith("private"),
        batch_size=FLAGS.batch,
        microbatch_size=FLAGS.microbatch,
        memory_limit=FLAGS.memory_limit * _MIB,
        lora_rank=FLAGS.lora_rank if kind.endswith("_lora") else 0,
        optimizer=FLAGS.optimizer,
        noise_multiplier=FLAGS.noise_multiplier,
        keras_hub=FLAGS.keras_hub,
    )


def _print_start(kind, start):
    print(
        f"{kind}: {start.parameters:,} parameters, {start.trained:,} trained; "
        f"{start.path}; first two steps {start.first_seconds:.0f} s"
    )
    if start.row_bytes:
        print(
            f"    pieces of {start.piece_rows} rows, reckoned at "
            f"{start.row_bytes / _MIB:.0f} MiB a row"
        )


def _print_table(workers):
    print(
        f"{'kind':<14} {'s a step':>9} {'ratio':>6} {'cpu s':>7} "
        f"{'ratio':>6} {'held':>7} {'peak':>7} "
        f"{'copies':>7} {'first peak':>10} {'libraries':>9} {'loss':>7} "
        f"{'steps':>5} {'epsilon':>8}"
    )
    floor = None
    for kind, worker in workers.items():
        end = worker.finish()
        wall = statistics.median(s.wall for s in worker.seconds)
        cpu = statistics.median(s.cpu for s in worker.seconds)
        floor = floor or (wall, cpu)
        copy = 4 * worker.start.trained
        held, peak, first = (
            n - end.libraries for n in (end.held, end.peak, end.first_peak)
        )
        print(
            f"{kind:<14} {wall:>9.2f} {wall / floor[0]:>6.2f} {cpu:>7.2f} "
            f"{cpu / floor[1]:>6.2f} "
            f"{held / _MIB:>7.0f} {peak / _MIB:>7.0f} {peak / copy:>7.1f} "
            f"{first / _MIB:>10.0f} {end.libraries / _MIB:>9.0f} "
            f"{end.loss:>7.3f} {end.num_steps:>5} {end.epsilon:>8.2f}"
        )


def main(argv):
    """Prints one line for each kind of step; ratios are to the first."""
    del argv
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(FLAGS.onednn))
    workers = {}
    for kind in FLAGS.kinds:
        workers[kind] = _Worker(make_case(kind))
        _print_start(kind, workers[kind].start)
    for _ in range(FLAGS.steps):
        for worker in workers.values():
            worker.step()
    _print_table(workers)


if __name__ == "__main__":
    app.run(main)
