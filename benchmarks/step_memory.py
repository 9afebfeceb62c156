# SPDX-License-Identifier: Apache-2.0
"""Prints the peak memory of one training step, in bytes.

It is the most resident memory that two steps on the batch reach, less what the
process held before them. Before them come steps on 2 and on 3 rows: they load
everything, and leave the step traced for any number of rows, so that tracing
is not counted. Linux with glibc only, and with TF_ENABLE_ONEDNN_OPTS=0, as
`benchmarks.steps` sets it: oneDNN's allocator keeps what it once had. The
ordinary step is not compiled by XLA.

    python -m benchmarks.step_memory --model=mlp --batch_size=256 --private
"""

import ctypes
import gc
import pathlib

from absl import app
from absl import flags

from benchmarks import models
from benchmarks import steps

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "mlp", list(models.WORKLOADS), "Which model.")
flags.DEFINE_integer("batch_size", 256, "Rows of the batch.", lower_bound=1)
flags.DEFINE_bool("private", False, "Whether the step is private.")
flags.DEFINE_enum("optimizer", "sgd", ["sgd", "adam"], "Which optimizer.")
flags.DEFINE_integer("length", 128, "Tokens; the transformer only.")
flags.DEFINE_integer("width", 128, "Features; the transformer only.")
flags.DEFINE_integer("microbatch_size", 0, "Rows of a piece; 0: automatic.")

_PROCESS = pathlib.Path("/proc/self")
_RESET_PEAK = "5"


def _read_status(field) -> int:
    """Returns a field of the process's status, in bytes."""
    for line in (_PROCESS / "status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status must have {field}. Received: none.")


def main(argv):
    """Prints one number."""
    del argv
    case = steps.Case(
        model=FLAGS.model,
        batch_size=FLAGS.batch_size,
        optimizer=FLAGS.optimizer,
        length=FLAGS.length,
        width=FLAGS.width,
        microbatch_size=FLAGS.microbatch_size,
    )
    batch = steps.make_batch(case)
    tiny = steps.make_batch(case, batch_size=2)
    step = steps.make_step(case, tiny, private=FLAGS.private)
    step(tiny)
    step(steps.make_batch(case, batch_size=3))
    # Free memory that the process keeps would hide what the step takes.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _read_status("VmRSS")
    (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    for _ in range(2):
        step(batch)
    print(_read_status("VmHWM") - before)


if __name__ == "__main__":
    app.run(main)
