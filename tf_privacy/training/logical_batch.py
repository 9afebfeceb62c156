# SPDX-License-Identifier: Apache-2.0
"""How a private model clips one logical batch: whole or in pieces."""

import math

import keras

from tf_privacy.clipping import engine
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import microbatches
from tf_privacy.clipping.backend.replicas import replicas


def clip_batch(model, data, *, augment, jit_compile, log):
    """Returns the ClippedSum of one logical batch, and the logs.

    Args:
        model: A model that is compiled with a DPOptimizer, which says what a
            unit is, how it is clipped and how much goes through at once.
        data: `(x, y, sample_weight)`, structures of tensors `[B, ...]`.
        augment: An Augmentation, or None.
        jit_compile: Whether XLA compiles the pieces: True, False or "auto".
        log: `log(x, y, y_pred, sample_weight)`; updates the metrics and
            returns them.
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
    if units_per_piece is None and not compiled:
        x, y, sample_weight = engine.prepare_data(data, settings)
        step = engine.clip_prepared(model, (x, y, sample_weight), settings)
        return step.clipped_sum, log(x, y, step.y_pred, sample_weight)

    def observe(step, piece):
        log(piece[0], piece[1], step.y_pred, piece[2])

    clipped = microbatches.sum_over_microbatches(
        model,
        data,
        settings,
        units_per_piece=units_per_piece
        or math.ceil(optimizer.expected_batch_size / replicas.num_replicas()),
        compiled=compiled,
        observe=observe,
    )
    return clipped, model.get_metrics_result()
