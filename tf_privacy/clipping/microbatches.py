# SPDX-License-Identifier: Apache-2.0
"""One logical batch sent through the model in pieces, in one step.

The pieces are consecutive units of one draw, and their sums add up before any
noise: the result is that of the whole batch, in the memory of a piece.
"""

import dataclasses
import math

import keras
from keras import ops

from tf_privacy import _checks
from tf_privacy.clipping import clipped_sum
from tf_privacy.clipping import costs
from tf_privacy.clipping import engine
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import plan_check
from tf_privacy.clipping import probe_rows
from tf_privacy.clipping import row_independence
from tf_privacy.clipping import row_selection
from tf_privacy.clipping.backend.batches import batches
from tf_privacy.clipping.backend.execution import execution

AUTO = "auto"
# What a piece may hold if the user sets no limit. More is not faster: on 2 busy
# CPU cores the clipping of a transformer's batch of 64 took 0.55 to 0.86 times
# as long in pieces of 16 as in one.
DEFAULT_BYTES = 2**28
# Batches may be larger than expected by chance; by more than this, hardly.
_STANDARD_DEVIATIONS = 6.0


def check_microbatch_size(value):
    """Returns a valid `microbatch_size`.

    Args:
        value: A whole number >= 1, "auto" or None.

    Raises:
        ValueError: If it is none of them.
    """
    if value is None or value == AUTO:
        return value
    return _checks.check_integer(
        "microbatch_size",
        value,
        at_least=1,
        hint='"auto" finds one that fits the memory; None never splits.',
    )


def find_units_per_piece(
    model,
    x,
    settings,
    *,
    microbatch_size,
    memory_limit: float | None,
    expected_batch_size: float,
) -> int | None:
    """Returns how many units go through the model at once; None for all.

    Args:
        model: A `keras.Model`.
        x: A structure of tensors `[B, ...]`; only shapes and dtypes are used.
        settings: The `engine.ClipSettings`.
        microbatch_size: Rows of a piece, "auto" or None.
        memory_limit: For "auto": bytes that a piece may hold; None takes
            `DEFAULT_BYTES`.
        expected_batch_size: Mean number of units of a batch.
    """
    if microbatch_size is None:
        return None
    if microbatch_size != AUTO:
        return max(1, microbatch_size // settings.rows_per_unit)
    if settings.augmentation is not None:
        x = settings.augmentation.view_specs(x)
    keras_internals.build_for(model, x)
    row_independence.check_once(model, x)
    plan = plan_check.confirmed_plan(model, x)
    if plan.loop_reason:
        return None  # Goes one row at a time in any case.
    cost = costs.estimate_cost(model, x, plan, scales=settings.style.scales)
    row_bytes = cost.row_bytes
    limit = memory_limit or DEFAULT_BYTES
    most = max(1, int(limit / (row_bytes * settings.rows_per_unit)))
    spread = math.sqrt(expected_batch_size)
    if most >= expected_batch_size + _STANDARD_DEVIATIONS * spread:
        return None
    # Pieces of one size for most batches, instead of a small last one.
    usual = count_usual_units(expected_batch_size)
    return math.ceil(usual / math.ceil(usual / most))


def count_usual_units(expected_batch_size: float) -> int:
    """Returns how many units hold all but two in a hundred Poisson batches.

    Args:
        expected_batch_size: Mean number of units.
    """
    return math.ceil(expected_batch_size + 2.0 * math.sqrt(expected_batch_size))


def choose_compiled(
    model, data, settings, *, jit_compile, units_per_piece: int | None
) -> bool:
    """Returns whether XLA is to compile the work on a piece.

    Args:
        model: A `keras.Model`.
        data: `(x, y, sample_weight)`; only shapes and dtypes are used.
        settings: The `engine.ClipSettings`.
        jit_compile: True, False, or "auto": the faster one as measured on a
            piece of made-up rows. On a CPU it means no: XLA was slower for
            convolutions and an LSTM, no faster for a transformer, and takes
            2 to 20 s to compile.
        units_per_piece: Units in a piece, or None.
    """
    if jit_compile != AUTO:
        return bool(jit_compile)
    if execution.runs_on_cpu():
        return False
    num_units = units_per_piece or _TIMED_UNITS
    times = measure_compiled(model, data, settings, num_units=num_units)
    return times[True] < times[False]


# Units of a timed piece where a batch is not split.
_TIMED_UNITS = 64
_TIMED_RUNS = 5


def measure_compiled(model, data, settings, *, num_units: int):
    """Returns the seconds that a piece takes, compiled and not.

    Both are run in turn on made-up rows, after a first run each that compiles;
    the median counts.

    Args:
        model: A `keras.Model`.
        data: `(x, y, sample_weight)`; only shapes and dtypes are used.
        settings: The `engine.ClipSettings`.
        num_units: Units in the piece.

    Returns:
        A dict: compiled or not -> seconds.
    """
    num_rows = num_units * settings.examples_per_unit
    specs = keras.tree.map_structure(
        lambda t: None if t is None else probe_rows.as_spec(t), data
    )

    def clip(rows):
        own = dataclasses.replace(settings, style=settings.style.at_rest())
        piece = engine.prepare_data(rows, own)
        step = engine.clip_prepared(model, piece, own)
        return step.clipped_sum.gradients

    def measure():
        rows = keras.tree.map_structure(
            lambda s: None if s is None else probe_rows.make_up(s, num_rows),
            specs,
        )
        return execution.time_both_ways(lambda: clip(rows), _TIMED_RUNS)

    return execution.run_outside_of_graph(measure)


@execution.runs_as_written
def sum_over_microbatches(
    model,
    data,
    settings,
    *,
    units_per_piece: int,
    compiled: bool,
    observe,
    counted=None,
):
    """Returns the ClippedSum of one logical batch, sent through in pieces.

    Args:
        model: A `keras.Model`.
        data: `(x, y, sample_weight)`, structures of arrays `[B, ...]`.
        settings: The `engine.ClipSettings`.
        units_per_piece: Units in each piece. The last one may have fewer, or,
            if it is compiled, is filled up to the same shape with units that
            do not count.
        compiled: Whether XLA compiles the work on a piece.
        observe: `observe(step, piece, counted)`, called with each piece's
            ClippedStep and its rows as they went through the model. Padding is
            left out and the last argument None, or that says which units
            count.
        counted: `[U]` bool; false for units that only fill up the batch; None
            counts all.
    """
    data = engine.as_units(data, settings.examples_per_unit)
    keras_internals.build_for(model, data[0])
    leaf = next(t for t in keras.tree.flatten(data) if t is not None)
    num_units = ops.shape(leaf)[0] // settings.examples_per_unit
    # An eager batch of no rows has no piece: it is observed whole.
    if counted is not None:
        places = ops.arange(num_units, dtype="int32")
        # Up to the last one that counts.
        num_units = ops.max(ops.where(counted, places + 1, 0))
    is_empty = execution.is_eager() and int(num_units) == 0
    fixed = compiled or counted is not None or _has_fixed_shapes()
    clip = _padded_clip(model, settings) if fixed and not is_empty else None

    def clip_piece(start, stop):
        if clip is None:
            rows = _slice_units(data, start, stop, settings)
            piece = engine.prepare_data(rows, settings)
            step, mine = engine.clip_prepared(model, piece, settings), None
        else:
            step, piece, mine = clip(
                data, start, stop, units_per_piece, counted
            )
        observe(step, piece, mine)
        return step.clipped_sum.sums

    variables = tuple(model.trainable_variables)
    if is_empty:
        clip_piece(0, 0)
    shapes = [v.shape for v in variables]
    if settings.style.query_sensitivity is not None:
        shapes.append(())
    shapes += [t.shape[:1] for t in _tables(model, settings)]
    sums = batches.sum_over_pieces(
        clip_piece,
        num_units,
        units_per_piece,
        [ops.zeros(shape, "float32") for shape in shapes],
    )
    return _as_clipped_sum(sums, model, settings)


def _tables(model, settings):
    return (
        row_selection.find_tables(model) if settings.style.selects_rows else []
    )


def _as_clipped_sum(sums, model, settings):
    """Returns the ClippedSum of which `ClippedSum.sums` are the tensors."""
    variables, tables = model.trainable_variables, _tables(model, settings)
    has_query = settings.style.query_sensitivity is not None
    counts = sums[len(sums) - len(tables) :]
    return clipped_sum.ClippedSum(
        gradients=tuple(sums[: len(variables)]),
        variables=tuple(variables),
        l2_sensitivity=settings.style.l2_norm_clip,
        examples_per_unit=settings.examples_per_unit,
        query_sum=sums[len(variables)] if has_query else None,
        query_sensitivity=settings.style.query_sensitivity,
        row_counts=row_selection.align(counts, tables, variables),
        scale=settings.style.scale,
        scales=settings.style.scales,
    )


def _slice_units(data, start, stop, settings):
    size = settings.examples_per_unit
    return keras.tree.map_structure(
        lambda t: None if t is None else t[start * size : stop * size], data
    )


def _padded_units(data, start, num_units: int, settings):
    """Returns so many units from `start` on; the last one again for padding."""
    size = settings.examples_per_unit

    def take(tensor):
        if tensor is None:
            return None
        last = ops.shape(tensor)[0] - size
        first = ops.minimum(
            (start + ops.arange(num_units, dtype="int32")) * size, last
        )
        rows = first[:, None] + ops.arange(size, dtype="int32")
        taken = ops.take(tensor, ops.reshape(rows, (-1,)), axis=0)
        return ops.reshape(taken, (num_units * size, *tensor.shape[1:]))

    return keras.tree.map_structure(take, data)


def _has_fixed_shapes() -> bool:
    """Whether the size of a piece must be known when a step is compiled."""
    return execution.FIXED_SHAPES and not execution.is_eager()


def _padded_clip(model, settings):
    """Returns a function that clips one piece, compiled for a fixed shape."""

    def clip(data, counted):
        step = engine.clip_prepared(model, data, settings, counted)
        return step.clipped_sum.sums, step.y_pred, step.norms

    fast_clip = execution.compiled(clip)

    def clip_padded(data, start, stop, num_units, counted):
        rows = _padded_units(data, start, num_units, settings)
        piece = engine.prepare_data(rows, settings)
        places = start + ops.arange(num_units, dtype="int32")
        mine = places < stop
        if counted is not None:
            last = ops.shape(counted)[0] - 1
            mine = mine & ops.take(counted, ops.minimum(places, last))
        sums, y_pred, norms = fast_clip(piece, mine)
        if counted is not None or _has_fixed_shapes():
            step = engine.ClippedStep(
                clipped_sum=_as_clipped_sum(sums, model, settings),
                y_pred=y_pred,
                norms=norms,
            )
            return step, piece, mine
        num_rows = (stop - start) * settings.rows_per_unit
        piece, y_pred = keras.tree.map_structure(
            lambda t: None if t is None else t[:num_rows], (piece, y_pred)
        )
        step = engine.ClippedStep(
            clipped_sum=_as_clipped_sum(sums, model, settings),
            y_pred=y_pred,
            norms=norms[: stop - start],
        )
        return step, piece, None

    return clip_padded
