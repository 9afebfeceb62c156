# SPDX-License-Identifier: Apache-2.0
"""User-level privacy: one person's examples side by side, as one unit."""

import hashlib
import secrets

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
            choice of examples repeatable, which costs no privacy: it depends
            on no other unit.

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
    secret = secrets.token_bytes(32) if seed is None else _as_key(seed)
    rows, counted = _choose_rows(ids, count, secret)

    def take(source):
        return None if source is None else np.asarray(source)[rows]

    x, y = keras.tree.map_structure(take, (x, y))
    return x, y, np.where(counted, weights[rows], np.float32(0.0))


def _as_key(seed: int) -> bytes:
    seed = _checks.check_integer("seed", seed)
    return hashlib.sha256(str(seed).encode()).digest()


def _choose_rows(ids, count: int, secret: bytes):
    """Returns the row at each place, and whether it counts there.

    Which of a unit's rows are kept is drawn from its id and its own rows alone:
    a unit more or less changes nothing in the others.
    """
    names, first, inverse = np.unique(
        ids, return_index=True, return_inverse=True
    )
    sizes = np.bincount(inverse)
    starts = np.cumsum(sizes) - sizes
    ordered = np.argsort(inverse, kind="stable")
    in_first_order = np.argsort(first)
    rows, counted = [], []
    for unit in in_first_order:
        own = ordered[starts[unit] : starts[unit] + sizes[unit]]
        if len(own) > count:
            own = own[_draw(names[unit], len(own), count, secret)]
        rows.append(np.resize(own, count))
        counted.append(np.arange(count) < len(own))
    return np.concatenate(rows), np.concatenate(counted)


def _draw(name, size: int, count: int, secret: bytes):
    """Returns `count` of `size` places, in order, for the unit of that id."""
    digest = hashlib.blake2b(repr(name).encode(), key=secret).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    return np.sort(rng.choice(size, size=count, replace=False))
