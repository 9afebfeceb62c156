# SPDX-License-Identifier: Apache-2.0
"""User-level privacy: one person's examples side by side, as one unit."""

import keras
import numpy as np

from tf_privacy import _checks
from tf_privacy.training import poisson_dataset


def arrange_units(
    x,
    y=None,
    sample_weight=None,
    *,
    unit_ids,
    examples_per_unit: int,
    seed: int | None = None,
):
    """Returns the data with each unit's examples side by side, k of each.

    A unit with more than `examples_per_unit` examples keeps that many, drawn
    at random; one with fewer is filled up with its own examples at
    sample_weight 0, which add nothing. Give the result to `fit` or
    `PoissonDataset`, and `examples_per_unit` to the optimizer: then epsilon is
    for all examples of one person together.

    Args:
        x: An array or a structure of arrays `[N, ...]`.
        y: The same, or None.
        sample_weight: `[N]` float, or None for all 1.
        unit_ids: `[N]`; whose example each row is; integers or strings.
        examples_per_unit: k; rows of each unit in the result; >= 1.
        seed: None draws from the operating system's entropy; an int makes the
            choice of examples repeatable, which costs no privacy.

    Returns:
        x, y and sample_weight with `[k * number of units, ...]` rows; the
        weights are `[k * number of units]` float32. Units come in the order of
        their first example.

    Raises:
        ValueError: If lengths differ or `unit_ids` is not one id for each row.
    """
    count = _checks.check_integer(
        "examples_per_unit", examples_per_unit, at_least=1
    )
    x, y, sample_weight = keras.tree.map_structure(
        poisson_dataset.as_source, (x, y, sample_weight)
    )
    num_rows = poisson_dataset.check_lengths((x, y, sample_weight))
    ids = np.asarray(unit_ids)
    if ids.shape != (num_rows,):
        raise ValueError(
            f"unit_ids must hold one id for each of the {num_rows} rows. "
            f"Received: shape {ids.shape}. Say for each row whose it is."
        )
    weights = np.ones(num_rows, "float32")
    if sample_weight is not None:
        weights = np.asarray(sample_weight, "float32")
    if weights.shape != (num_rows,):
        raise ValueError(
            f"sample_weight must have shape ({num_rows},). Received: "
            f"{weights.shape}. Weigh steps of a sequence in the loss instead."
        )
    rows, counted = _choose_rows(ids, count, np.random.default_rng(seed))

    def take(source):
        return None if source is None else np.asarray(source)[rows]

    x, y = keras.tree.map_structure(take, (x, y))
    return x, y, np.where(counted, weights[rows], np.float32(0.0))


def _choose_rows(ids, count: int, rng):
    """Returns the row at each place, and whether it counts there."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    shuffled = rng.permutation(len(ids))
    ordered = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    sizes = np.bincount(inverse)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(count)[None, :]
    in_first_order = np.argsort(first)
    sizes, starts = sizes[in_first_order], starts[in_first_order]
    rows = ordered[starts[:, None] + place % sizes[:, None]]
    return rows.reshape(-1), (place < sizes[:, None]).reshape(-1)
