# SPDX-License-Identifier: Apache-2.0
"""Scores of an attack: one number for each example, checked once."""

import numpy as np


def check_scores(
    name: str, scores, *, at_least_count: int = 1, hint: str = ""
) -> np.ndarray:
    """Returns scores as a new float64 vector once every one is finite.

    A NaN compares false with everything, so that it would count as an example
    that is never guessed, or always: it is refused, not ranked.

    Args:
        name: The parameter's name as the caller wrote it.
        scores: `[N]` real numbers.
        at_least_count: The least N; >= 0.
        hint: What to do instead, one sentence; may be empty.

    Returns:
        `[N]` float64, a copy.

    Raises:
        TypeError: If `scores` are not real numbers.
        ValueError: If they are not one-dimensional, fewer than
            `at_least_count`, or not all finite; the first index is named.
    """
    array = np.asarray(scores)
    end = f" {hint}" if hint else ""
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{name} must be real numbers. Received: an array of "
            f"{array.dtype}.{end}"
        )
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be a vector, one score for each example. Received: "
            f"shape {array.shape}.{end}"
        )
    if array.size < at_least_count:
        raise ValueError(
            f"{name} must hold at least {at_least_count} scores. Received: "
            f"{array.size}.{end}"
        )
    array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(
            f"{name} must be finite. Received: {array[bad[0]]} at index "
            f"{bad[0]}, {bad.size} such scores in all.{end}"
        )
    return array
