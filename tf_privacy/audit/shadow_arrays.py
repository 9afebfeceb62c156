# SPDX-License-Identifier: Apache-2.0
"""Checks and means of the scores that shadow models give."""

import numpy as np

from tf_privacy.audit import scores as scores_lib


def check_matrix(name: str, scores, *, shape: tuple) -> np.ndarray:
    """Returns scores as float64 once they are finite and of the shape.

    Args:
        name: The parameter's name as the caller wrote it.
        scores: Real numbers.
        shape: What is wanted; None stands for any length.

    Returns:
        float64 of the same shape, a copy.

    Raises:
        TypeError: If `scores` are not real numbers.
        ValueError: If the shape is another one or a score is not finite; its
            place is named.
    """
    array = np.asarray(scores)
    fits = array.ndim == len(shape) and all(
        want in (None, got)
        for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(
            "any" if each is None else str(each) for each in shape
        )
        raise ValueError(
            f"{name} must be of shape [{wanted}]. Received: shape "
            f"{array.shape}."
        )
    if array.dtype.kind in "f" and not np.all(np.isfinite(array)):
        place = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(
            f"{name} must be finite. Received: {array[tuple(place)]} at "
            f"{place.tolist()}. An example without a score has no rank."
        )
    flat = scores_lib.check_scores(name, array.reshape(-1))
    return flat.reshape(array.shape)


def check_membership(is_member, *, shape: tuple[int, int]) -> np.ndarray:
    """Returns the table of who was trained on what.

    Args:
        is_member: `[S, N]` bool.
        shape: (S, N).

    Returns:
        The same array.

    Raises:
        TypeError: If it is not bool.
        ValueError: If it is of another shape.
    """
    array = np.asarray(is_member)
    if array.dtype != np.bool_:
        raise TypeError(
            "is_member must be True or False for each shadow model and "
            f"example. Received: an array of {array.dtype}."
        )
    if array.shape != shape:
        raise ValueError(
            f"is_member must be of shape {list(shape)}, as shadow_scores. "
            f"Received: shape {array.shape}."
        )
    return array


def check_shadow_scores(target_scores, *, shadow_scores, is_member):
    """Returns the three with an axis of augmentations, once they fit.

    Args:
        target_scores: `[N]` or `[A, N]`.
        shadow_scores: `[S, N]` or `[S, A, N]`.
        is_member: `[S, N]` bool.

    Returns:
        `[A, N]` float64, `[S, A, N]` float64 and `[S, N]` bool; A is 1 where
        there was no such axis.

    Raises:
        TypeError: If scores are not real numbers, or `is_member` not bool.
        ValueError: If shapes differ, or a score is not finite.
    """
    shape = np.shape(target_scores)
    if len(shape) not in (1, 2):
        raise ValueError(
            "target_scores must be [N], or [A, N] with augmentations. "
            f"Received: shape {shape}."
        )
    target = check_matrix("target_scores", target_scores, shape=shape)
    shadow = check_matrix("shadow_scores", shadow_scores, shape=(None, *shape))
    member = check_membership(is_member, shape=(len(shadow), shape[-1]))
    target = target.reshape(-1, shape[-1])
    return target, shadow.reshape(-1, *target.shape), member


def compute_means(
    shadow_scores: np.ndarray, *, used: np.ndarray, side: str
) -> np.ndarray:
    """Returns the mean score of each example over some of the models.

    Args:
        shadow_scores: `[S, A, N]` float64.
        used: `[S, N]` bool; which models count for which example.
        side: For messages: "in" or "out of".

    Returns:
        `[A, N]` float64.

    Raises:
        ValueError: If no model counts for an example; the first is named.
    """
    counts = used.sum(axis=0)
    missing = np.flatnonzero(counts == 0)
    if missing.size:
        raise ValueError(
            f"is_member must have each example {side} at least one shadow "
            f"model. Received: none for example {missing[0]}, {missing.size} "
            "such examples in all. Leave them out, or train more models."
        )
    return np.where(used[:, None, :], shadow_scores, 0.0).sum(axis=0) / counts
