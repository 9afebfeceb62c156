# SPDX-License-Identifier: Apache-2.0
"""How a private model clips one logical batch: whole or in pieces."""

import math

import keras
from keras import ops

from tf_privacy.clipping import engine
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import microbatches
from tf_privacy.clipping.backend.replicas import replicas


def clip_batch(model, data, *, augment, jit_compile, log, counted=None):
    """Returns the ClippedSum of one logical batch, and the logs.

    Args:
        model: A model that is compiled with a DPOptimizer, which says what a
            unit is, how it is clipped and how much goes through at once.
        data: `(x, y, sample_weight)`, structures of tensors `[B, ...]`.
        augment: An Augmentation, or None.
        jit_compile: Whether XLA compiles the pieces: True, False or "auto".
        log: `log(x, y, y_pred, sample_weight, counted)`; updates the metrics
            and returns them.
        counted: `[U]` bool; false for units that only fill up the batch; None
            counts all.
    """
    settings, units_per_piece, compiled = plan_batch(
        model, data, augment=augment, jit_compile=jit_compile
    )
    if units_per_piece is None and counted is not None:
        if keras.distribution.distribution() is None:
            # A step of the usual size; a second one for a batch beyond it.
            units_per_piece = microbatches.count_usual_units(
                model.optimizer.expected_batch_size
            )
    if units_per_piece is None and not compiled:
        x, y, sample_weight = engine.prepare_data(data, settings)
        step = engine.clip_prepared(
            model, (x, y, sample_weight), settings, counted
        )
        rows = _rows_of(counted, settings)
        return step.clipped_sum, log(x, y, step.y_pred, sample_weight, rows)

    def observe(step, piece, counted):
        rows = _rows_of(counted, settings)
        log(piece[0], piece[1], step.y_pred, piece[2], rows)

    clipped = microbatches.sum_over_microbatches(
        model,
        data,
        settings,
        units_per_piece=units_per_piece
        or math.ceil(
            model.optimizer.expected_batch_size / replicas.num_replicas()
        ),
        compiled=compiled,
        observe=observe,
        counted=counted,
    )
    return clipped, model.get_metrics_result()


def _rows_of(counted, settings):
    """Returns `[B]`, for each row that goes through, whether it counts."""
    if counted is None:
        return None
    return ops.repeat(counted, settings.rows_per_unit)


def plan_batch(model, data, *, augment, jit_compile):
    """Returns how a logical batch is to be clipped, and in which pieces.

    What is checked before a first step is checked here.

    Args:
        model: As for `clip_batch`.
        data: As for `clip_batch`; only shapes and dtypes are used in a graph.
        augment: As for `clip_batch`.
        jit_compile: As for `clip_batch`.

    Returns:
        The ClipSettings, the units in a piece or None for all at once, and
        whether pieces are compiled.
    """
    optimizer = model.optimizer
    if not optimizer.built:
        keras_internals.build_for(model, data[0])
        with keras.name_scope(optimizer.name):
            optimizer.build(model.trainable_variables)
    settings = engine.ClipSettings(
        style=optimizer.current_clip,
        examples_per_unit=optimizer.examples_per_unit,
        augmentation=augment,
    )
    units_per_piece = microbatches.find_units_per_piece(
        model,
        data[0],
        settings,
        microbatch_size=optimizer.microbatch_size,
        memory_limit=optimizer.memory_limit,
        expected_batch_size=optimizer.expected_batch_size,
    )
    compiled = microbatches.choose_compiled(
        model,
        data,
        settings,
        jit_compile=jit_compile,
        units_per_piece=units_per_piece,
    )
    return settings, units_per_piece, compiled
