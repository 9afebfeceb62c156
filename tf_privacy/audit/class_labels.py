# SPDX-License-Identifier: Apache-2.0
"""Classes as the user's labels write them: [N], [N, 1] or one-hot [N, K]."""

import numpy as np

from tf_privacy import _checks


def decode_classes(y, *, num_classes: int) -> np.ndarray:
    """Returns the class of each example.

    Args:
        y: `[N]` or `[N, 1]` whole numbers in [0, num_classes), of any type; or
            `[N, num_classes]` with one 1 in each row and else 0.
        num_classes: K; >= 2.

    Returns:
        `[N]` int64.

    Raises:
        ValueError: If `y` is none of these.
    """
    y = np.asarray(y)
    num_classes = _checks.check_integer("num_classes", num_classes, at_least=2)
    form = _find_form(y, num_classes)
    if y.dtype.kind in "biuf":
        if form == (num_classes,):
            ones = y == 1
            if np.all(ones | (y == 0)) and np.all(ones.sum(axis=1) == 1):
                return np.argmax(ones, axis=1)
        elif np.all((y >= 0) & (y < num_classes) & (y == np.floor(y))):
            return y.astype(np.int64).reshape(len(y))
    raise ValueError(
        f"y must hold classes from 0 to {num_classes - 1}, or one-hot rows. "
        f"Received: {y.dtype} of shape {y.shape} with others. Count the "
        "classes, and map them to 0, 1, ... as the loss wants them."
    )


def encode_classes(
    classes: np.ndarray, *, like: np.ndarray, num_classes: int
) -> np.ndarray:
    """Returns labels in the form and the type of others.

    Args:
        classes: `[M]` int in [0, num_classes).
        like: Labels as for `decode_classes`; only form and type matter.
        num_classes: K; >= 2.

    Returns:
        `[M]`, `[M, 1]` or `[M, K]`.

    Raises:
        ValueError: If `like` has none of the forms, or its type cannot hold
            the classes.
    """
    like = np.asarray(like)
    form = _find_form(like, num_classes)
    if form == (num_classes,):
        return np.eye(num_classes, dtype=like.dtype)[classes]
    labels = classes.astype(like.dtype)
    if not np.array_equal(labels, classes):
        raise ValueError(
            f"y must be of a type that holds {num_classes} classes. Received: "
            f"{like.dtype}. Use int32."
        )
    return labels.reshape(-1, *form)


def _find_form(y: np.ndarray, num_classes: int) -> tuple[int, ...]:
    """Returns the shape of one label: (), (1,) or (num_classes,)."""
    form = y.shape[1:]
    if y.ndim == 0 or form not in ((), (1,), (num_classes,)):
        raise ValueError(
            f"y must be of shape [N], [N, 1] or [N, {num_classes}], one-hot. "
            f"Received: shape {y.shape}. Other labels go with "
            "make_custom_canaries."
        )
    return form
