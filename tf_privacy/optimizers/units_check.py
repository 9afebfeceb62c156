# SPDX-License-Identifier: Apache-2.0
"""What is sampled, clipped and accounted for must be the same unit."""

import math

from tf_privacy.clipping import moving_clips
from tf_privacy.sampling import poisson


def check_units(name: str, received, examples_per_unit: int) -> None:
    """Raises if something is not of the optimizer's units.

    Args:
        name: Of the argument.
        received: A ClippedSum or a PoissonSampling.
        examples_per_unit: The optimizer's.

    Raises:
        ValueError: If it is of other units.
    """
    if received.examples_per_unit != examples_per_unit:
        raise ValueError(
            f"{name} must be of units of examples_per_unit="
            f"{examples_per_unit}, as the optimizer's. Received: "
            f"{received.examples_per_unit}. What is sampled, clipped and "
            "accounted for must be the same unit: give examples_per_unit to "
            "the optimizer, to the data and to clipped_gradients alike."
        )


def check_separation(noise_style, sampling) -> None:
    """Raises if data may come back sooner than correlated noise allows.

    Args:
        noise_style: The optimizer's NoiseStyle.
        sampling: A PoissonSampling, or None.

    Raises:
        ValueError: If it does: by its coins, a unit may be in every batch.
    """
    if sampling is None or not noise_style.is_correlated:
        return
    is_free = noise_style.min_separation == 1
    if not is_free or noise_style.max_participations is not None:
        raise ValueError(
            f"{type(noise_style).__name__} must get data in a fixed order: a "
            "unit takes part at most every min_separation="
            f"{noise_style.min_separation} steps. Received: Poisson sampling, "
            "where it may be in every batch. Use a CyclicDataset."
        )


def check_clipped(clipped, optimizer) -> None:
    """Raises if a ClippedSum was not clipped for an optimizer.

    Args:
        clipped: A ClippedSum.
        optimizer: A DPOptimizer.

    Raises:
        ValueError: If its units, its clip or its query are others.
    """
    check_units("grads", clipped, optimizer.examples_per_unit)
    clip = optimizer.l2_norm_clip
    if not math.isclose(clipped.l2_sensitivity, clip, rel_tol=1e-9):
        raise ValueError(
            f"l2_norm_clip of the ClippedSum must be the optimizer's, {clip:g}."
            f" Received: {clipped.l2_sensitivity:g}. Clip with "
            "l2_norm_clip=optimizer.current_clip."
        )
    if bool(clipped.row_counts) != (optimizer.row_selection is not None):
        raise ValueError(
            "grads must hold the counts of rows if, and only if, the optimizer "
            f"has a row_selection. Received: {len(clipped.row_counts)} counts. "
            "Clip with l2_norm_clip=optimizer.current_clip."
        )
    style = optimizer.clipping_style
    is_moving = isinstance(style, moving_clips.MovingClip)
    if (clipped.scale is not None) != is_moving or (
        (clipped.scales is not None) != optimizer.step_noise.scales_gradients
    ):
        raise ValueError(
            "grads must be clipped at the clip in force, and scaled as the "
            "optimizer scales gradients. Received: a ClippedSum that was not. "
            "Clip with l2_norm_clip=optimizer.current_clip."
        )
    if clipped.query_sensitivity != style.query_sensitivity:
        raise ValueError(
            "grads must hold the query that moves the clip of "
            f"{type(style).__name__}. Received: query_sensitivity="
            f"{clipped.query_sensitivity}. Clip with "
            "l2_norm_clip=optimizer.current_clip."
        )


def check_sampling(sampling, examples_per_unit: int) -> None:
    """Raises if an argument `sampling` says nothing of the optimizer's units.

    Args:
        sampling: A PoissonSampling, or None.
        examples_per_unit: The optimizer's.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is of other units.
    """
    if sampling is None:
        return
    if not isinstance(sampling, poisson.PoissonSampling):
        raise TypeError(
            "sampling must be a PoissonSampling or None. Received: "
            f"{sampling!r}. Pass PoissonDataset.sampling, or None for "
            "batches that were made otherwise."
        )
    check_units("sampling", sampling, examples_per_unit)
