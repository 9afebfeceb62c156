# SPDX-License-Identifier: Apache-2.0
"""A process that trains one language model, a step whenever it is told to."""

import dataclasses
import math
import time

import keras
import numpy as np

import tf_privacy
from benchmarks import language_model
from benchmarks import resident
from benchmarks import scaling_model
from tf_privacy.clipping import call_plan
from tf_privacy.clipping import costs
from tf_privacy.clipping import engine
from tf_privacy.clipping import microbatches
from tf_privacy.clipping import plan_check
from tf_privacy.clipping import styles

_ORDINARY = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
_PRIVATE = {"sgd": tf_privacy.DPSGD, "adam": tf_privacy.DPAdam}
_LEARNING_RATE = 1e-3
_L2_NORM_CLIP = 1.0
_DELTA = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What one process trains, and how.

    Attributes:
        size: How large the model is.
        is_private: Whether its steps are private.
        lora_rank: 0, or the rank of the adaptation that alone is trained.
        keras_hub: Whether KerasHub makes the model; None where it can.
        optimizer: "sgd" or "adam".
        batch_size: Rows of a batch.
        microbatch_size: Rows of a piece of a private step; 0: automatic.
        memory_limit: Bytes that a piece may hold; 0: the library's default.
        noise_multiplier: Of the private steps.
    """

    size: language_model.Size
    is_private: bool
    lora_rank: int = 0
    keras_hub: bool | None = None
    optimizer: str = "adam"
    batch_size: int
    microbatch_size: int = 0
    memory_limit: int = 0
    noise_multiplier: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What a process is about to do; sent once its first step is done.

    Attributes:
        parameters: Numbers in the weights.
        trained: Numbers in the trained weights.
        path: How the clipping engine goes about a private step.
        piece_rows: Rows that go through the model at once.
        row_bytes: What the library reckons that one row holds meanwhile; 0
            in an ordinary step.
        first_seconds: What the first step took, with all tracing.
    """

    parameters: int
    trained: int
    path: str
    piece_rows: int
    row_bytes: int
    first_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seconds:
    """How long a step took.

    Attributes:
        wall: Seconds that passed.
        cpu: Seconds of all cores; what a shared machine leaves as it is.
    """

    wall: float
    cpu: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class End:
    """What a process has done.

    Attributes:
        libraries: Bytes that it held before there was a model.
        first_peak: Most bytes that it held until its first step was done.
        held: Bytes that it held between steps.
        peak: Most bytes that it held in a later step.
        num_steps: Steps, the first ones included.
        loss: The last one's.
        epsilon: What all steps spent at delta 1e-6, where any row may be in
            every batch; NaN if they are not private.
    """

    libraries: int
    first_peak: int
    held: int
    peak: int
    num_steps: int
    loss: float
    epsilon: float


def make_model(case: Case):
    """Returns a compiled model.

    Args:
        case: What to train, and how.
    """
    model = language_model.make_model(
        case.size, lora_rank=case.lora_rank, keras_hub=case.keras_hub
    )
    if case.is_private:
        model = tf_privacy.privatize(model)
        optimizer = _PRIVATE[case.optimizer](
            _LEARNING_RATE,
            l2_norm_clip=_L2_NORM_CLIP,
            noise_multiplier=case.noise_multiplier,
            expected_batch_size=case.batch_size,
            microbatch_size=case.microbatch_size or microbatches.AUTO,
            memory_limit=case.memory_limit or None,
        )
    else:
        optimizer = _ORDINARY[case.optimizer](_LEARNING_RATE)
    model.compile(
        optimizer=optimizer,
        loss=language_model.make_loss(),
        jit_compile="auto" if case.is_private else False,
    )
    return model


def describe(model, case: Case, *, first_seconds: float) -> Start:
    """Returns what a compiled model is about to do.

    Args:
        model: From `make_model`.
        case: The same.
        first_seconds: What its first step took.
    """
    parameters = model.count_params()
    trained = sum(math.prod(v.shape) for v in model.trainable_variables)
    path, piece_rows, row_bytes = "ordinary", case.batch_size, 0
    if case.is_private:
        path, piece_rows, row_bytes = _find_pieces(model, case)
    return Start(
        parameters=parameters,
        trained=trained,
        path=path,
        piece_rows=piece_rows,
        row_bytes=row_bytes,
        first_seconds=first_seconds,
    )


def _find_pieces(model, case):
    x, _ = make_batch(np.random.default_rng(0), case, 1)
    plan = plan_check.confirmed_plan(model, x)
    if plan.loop_reason:
        return f"single examples: {plan.loop_reason}", 1, 0
    rows = microbatches.find_units_per_piece(
        model,
        x,
        engine.ClipSettings(style=styles.as_style(_L2_NORM_CLIP)),
        microbatch_size=model.optimizer.microbatch_size,
        memory_limit=model.optimizer.memory_limit,
        expected_batch_size=case.batch_size,
    )
    generic = [c for c in plan.calls.values() if c.rule is None]
    path = f"{len(plan.calls)} layer calls, {len(generic)} of them generic"
    row_bytes = costs.estimate_cost(model, x, plan).row_bytes
    return path, min(rows or case.batch_size, case.batch_size), row_bytes


def make_batch(rng, case: Case, num_rows: int):
    """Returns rows of made-up text as tensors, `(x, y)`.

    Args:
        rng: A NumPy generator.
        case: What is trained on them.
        num_rows: Rows.
    """
    batch = language_model.make_batch(rng, case.size, num_rows)
    return keras.tree.map_structure(keras.ops.convert_to_tensor, batch)


def make_point(model, case: Case) -> scaling_model.Point:
    """Returns what a private step on one row takes, by shapes alone.

    Forward and backward pass multiply each token with each weight once; the
    norms take what the library's own plan says; and the clipped sum multiplies
    each token with each trained weight, unless the norms made the gradients.

    Args:
        model: From `make_model`.
        case: The same.
    """
    x, _ = make_batch(np.random.default_rng(0), case, 1)
    cost = costs.estimate_cost(model, x, call_plan.plan_calls(model, x))
    work = 2.0 * case.size.sequence * model.count_params()
    for call in cost.calls:
        for variable, term in call.terms:
            tokens = 1 if "instantiated" in term.form else case.size.sequence
            if term.form == "rows":
                tokens = 0
            work += term.multiplications + tokens * math.prod(variable.shape)
    return scaling_model.Point(
        num_rows=1,
        calls=len(cost.calls),
        row_work=work,
        row_bytes=cost.row_bytes,
        parameters=sum(math.prod(v.shape) for v in model.trainable_variables),
    )


def serve(connection, case: Case) -> None:
    """Trains until it is told to stop.

    Sends a Start; then, whenever it receives "step", the Seconds of a step;
    and, when it receives anything else, an End.

    Args:
        connection: A `multiprocessing.Connection`.
        case: What to train, and how.
    """
    libraries = resident.reset_peak()
    rng = np.random.default_rng(0)
    model = make_model(case)
    start = time.perf_counter()
    # Traced for one number of rows, and then for any.
    for num_rows in (2, 3):
        model.train_on_batch(*make_batch(rng, case, num_rows))
    seconds = time.perf_counter() - start
    connection.send(describe(model, case, first_seconds=seconds))
    first_peak = resident.read_peak()
    held = resident.reset_peak()
    num_steps, loss = 2, float("nan")
    while connection.recv() == "step":
        batch = make_batch(rng, case, case.batch_size)
        start = time.perf_counter(), time.process_time()
        loss = model.train_on_batch(*batch)
        stop = time.perf_counter(), time.process_time()
        connection.send(
            Seconds(wall=stop[0] - start[0], cpu=stop[1] - start[1])
        )
        num_steps += 1
    epsilon = float("nan")
    if case.is_private:
        epsilon = model.privacy_statement(delta=_DELTA).epsilon
    connection.send(
        End(
            libraries=libraries,
            first_peak=first_peak,
            held=held,
            peak=resident.read_peak(),
            num_steps=num_steps,
            loss=float(loss),
            epsilon=epsilon,
        )
    )
