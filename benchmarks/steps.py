# SPDX-License-Identifier: Apache-2.0
"""Makes, times and weighs the private training step and the ordinary one."""

import dataclasses
import functools
import os
import subprocess
import sys

import keras

import tf_privacy
from benchmarks import models
from benchmarks import timing

_ORDINARY = {
    "sgd": lambda: keras.optimizers.SGD(0.01),
    "adam": lambda: keras.optimizers.Adam(1e-3),
}
_PRIVATE = {
    "sgd": lambda **dp: tf_privacy.DPSGD(0.01, **dp),
    "adam": lambda **dp: tf_privacy.DPAdam(1e-3, **dp),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What one row of a table is about.

    Attributes:
        model: A key of `models.WORKLOADS`.
        batch_size: Rows of the batch.
        optimizer: "sgd" or "adam".
        length: Tokens of a sequence; the transformer only.
        width: Features of a token; the transformer only.
        microbatch_size: Rows of a piece of the private step; 0 leaves it to
            the library, as the default does.
    """

    model: str
    batch_size: int
    optimizer: str = "sgd"
    length: int = 128
    width: int = 128
    microbatch_size: int = 0

    def workload(self):
        """Returns the `models.Workload`."""
        if self.model == "transformer":
            return models.make_transformer_workload(
                length=self.length, width=self.width
            )
        return models.WORKLOADS[self.model]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """Medians of the interleaved steps, in seconds.

    Attributes:
        private: The private step.
        plain: The ordinary step, not compiled by XLA.
        xla: The ordinary step, compiled by XLA; NaN if it was not timed.
    """

    private: float
    plain: float
    xla: float = float("nan")

    @property
    def floor(self) -> float:
        """The faster ordinary step."""
        return self.xla if self.xla < self.plain else self.plain


def make_batch(case: Case, *, batch_size: int | None = None):
    """Returns a batch of tensors.

    Args:
        case: Says which model the batch is for.
        batch_size: Rows; None takes the case's.

    Returns:
        `(x, y)`.
    """
    batch = case.workload().make_batch(
        models.make_rng(), batch_size or case.batch_size
    )
    return keras.tree.map_structure(keras.ops.convert_to_tensor, batch)


def make_step(case: Case, batch, *, private: bool, jit_compile: bool = False):
    """Returns a function of a batch that makes one step.

    Args:
        case: Says which model and optimizer.
        batch: The batch of the first step, which traces it.
        private: Whether the step is private.
        jit_compile: Whether XLA compiles the ordinary step; the private one
            is left to decide for itself.

    Returns:
        `step(batch)`, the step that `fit` runs, forward pass to update.
    """
    workload = case.workload()
    model = workload.make_model()
    if private:
        model = tf_privacy.privatize(model)
        optimizer = _PRIVATE[case.optimizer](
            l2_norm_clip=1.0,
            noise_multiplier=1.0,
            # It decides whether the batch is split.
            expected_batch_size=case.batch_size,
            microbatch_size=case.microbatch_size or "auto",
        )
    else:
        optimizer = _ORDINARY[case.optimizer]()
    model.compile(
        optimizer=optimizer,
        loss=workload.loss(),
        jit_compile="auto" if private else jit_compile,
    )
    model.train_on_batch(*batch)
    if private:
        # What fit does around the steps, once.
        optimizer.ledger.row_of(optimizer.step_kind())
        model._private_phase.rows.assign([0])
        model._private_phase.is_open = True

    def step(batch):
        model.train_function(iter([batch]))

    return step


def time_steps(case: Case, *, rounds: int, seconds: float, xla: bool) -> Times:
    """Returns how long the steps of a case take.

    All of them are interleaved in this process, so that a machine whose speed
    drifts slows all of them.

    Args:
        case: What to time.
        rounds: How often each step has its turn; the median counts.
        seconds: How long a step is repeated in its turn.
        xla: Whether to time the ordinary step compiled by XLA too.

    Returns:
        The medians.
    """
    batch = make_batch(case)
    steps = {
        "plain": make_step(case, batch, private=False),
        "private": make_step(case, batch, private=True),
    }
    if xla:
        steps["xla"] = make_step(case, batch, private=False, jit_compile=True)
    medians = timing.time_interleaved(
        [functools.partial(step, batch) for step in steps.values()],
        rounds=rounds,
        seconds=seconds,
    )
    return Times(**dict(zip(steps, medians, strict=True)))


def measure_memory(case: Case, *, private: bool) -> int:
    """Returns the peak memory of one step, measured in a fresh process.

    Args:
        case: What to weigh.
        private: Whether the step is private.

    Returns:
        Bytes, as `benchmarks.step_memory` prints them.

    Raises:
        RuntimeError: If the process fails.
    """
    arguments = [f"--{k}={v}" for k, v in dataclasses.asdict(case).items()]
    arguments.append("--private" if private else "--noprivate")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step_memory", *arguments],
        capture_output=True,
        text=True,
        # oneDNN's allocator never gives memory back: what the steps before
        # have used would be hidden.
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
    )
    if done.returncode:
        raise RuntimeError(
            f"benchmarks.step_memory must succeed. Received:\n{done.stderr}"
        )
    return int(done.stdout.split()[-1])


def format_memory(case: Case) -> str:
    """Returns the memory columns: MiB ordinary, MiB private, their ratio."""
    plain = measure_memory(case, private=False) / 2**20
    private = measure_memory(case, private=True) / 2**20
    ratio = private / plain if plain else float("nan")
    return f"{plain:>10.1f} {private:>11.1f} {ratio:>7.2f}"


MEMORY_HEADER = f"{'plain MiB':>10} {'private MiB':>11} {'ratio':>7}"
