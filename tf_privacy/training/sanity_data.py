# SPDX-License-Identifier: Apache-2.0
"""The data of a sanity check: drawn rows, random labels, inputs, patterns.

Training must not be in the audit's debt, so this stands beside its
`randomize_labels` and `randomize_inputs`, which redraw a part of an array:
here all is drawn, for structures of arrays and in the shapes of the labels.
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from tf_privacy.training import poisson_dataset

# By whether all users share them. More make the test sharper, and are harder to
# learn for a small model.
_MOST_PATTERNS = {True: 20, False: 40}
# Fresh rows that show a pattern to the trained model.
_ROWS_PER_PATTERN = 11
# A pattern fills half of the entries of inputs that have as many as this.
_MANY_ENTRIES = 16


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows to train on or to test with.

    Attributes:
        x: A structure of arrays `[N, ...]`.
        y: `[N]`, `[N, 1]` or one-hot `[N, C]`, as the caller's labels.
        sample_weight: `[N]` float32, or None.
        classes: `[N]` int64; the labels as class indices.
        num_classes: C.
    """

    x: Any
    y: np.ndarray
    sample_weight: np.ndarray | None
    classes: np.ndarray
    num_classes: int

    @property
    def counted(self) -> np.ndarray:
        """`[N]` bool; rows whose weight is not 0."""
        if self.sample_weight is None:
            return np.ones(len(self.classes), bool)
        return np.asarray(self.sample_weight) > 0.0

    def take(self, rows: np.ndarray) -> "Rows":
        """Returns some of the rows.

        Args:
            rows: Sorted indices.
        """
        return dataclasses.replace(
            self,
            x=_take(self.x, rows),
            y=self.y[rows],
            sample_weight=_take(self.sample_weight, rows),
            classes=self.classes[rows],
        )

    def with_classes(self, classes: np.ndarray) -> "Rows":
        """Returns the same inputs with other labels.

        Args:
            classes: `[N]` class indices.
        """
        if self.y.ndim == 2 and self.y.shape[1] > 1:
            y = np.eye(self.num_classes, dtype=self.y.dtype)[classes]
        else:
            shape = (len(classes), *self.y.shape[1:])
            y = classes.astype(self.y.dtype).reshape(shape)
        return dataclasses.replace(self, y=y, classes=classes)


def _take(source, rows):
    return keras.tree.map_structure(
        lambda s: None if s is None else poisson_dataset.take(s, rows), source
    )


def make_rows(data, *, name: str, rows_per_block: int) -> Rows:
    """Returns the caller's data, checked.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)`.
        name: What to call it in messages.
        rows_per_block: What the number of rows must be a multiple of.

    Raises:
        TypeError: If it is no such tuple of arrays.
        ValueError: If lengths differ, or labels are not of classes.
    """
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise TypeError(
            f"{name} must be a tuple (x, y) or (x, y, sample_weight) of "
            f"arrays. Received: {type(data).__name__}. Load the rows of a data "
            "set into arrays; num_examples of them will do."
        )
    x, y, weight = keras.tree.map_structure(
        poisson_dataset.as_source, (*data, None)[:3]
    )
    num_rows = poisson_dataset.check_lengths((x, y, weight))
    if num_rows % rows_per_block:
        raise ValueError(
            f"{name} must hold whole users and units: a multiple of "
            f"{rows_per_block} rows. Received: {num_rows} rows. Fill up with "
            "rows of sample_weight 0 (tf_privacy.arrange_units does it)."
        )
    y = np.asarray(y)
    classes, num_classes = _find_classes(y, name)
    return Rows(
        x=x,
        y=y,
        sample_weight=weight,
        classes=classes,
        num_classes=num_classes,
    )


def _find_classes(y, name):
    """Returns labels as class indices, and how many classes there are."""
    if y.ndim == 2 and y.shape[1] > 1:
        if np.all((y == 0) | (y == 1)) and np.all(y.sum(axis=1) == 1):
            return np.argmax(y, axis=1), y.shape[1]
    elif y.size == len(y) and y.dtype.kind in "biuf":
        classes = y.reshape(-1).astype(np.int64)
        if np.all((classes == y.reshape(-1)) & (classes >= 0)):
            return classes, max(2, int(classes.max()) + 1)
    raise ValueError(
        f"{name} must hold the labels of a classification: class indices [N] "
        f"or one-hot rows [N, C]. Received: y of shape {y.shape} and type "
        f"{y.dtype}. For other tasks there is "
        "tf_privacy.estimate_signal_to_noise."
    )


def split(
    rows: Rows,
    *,
    rows_per_block: int,
    num_examples: int | None,
    validation_split: float,
    rng: np.random.Generator,
) -> tuple[Rows, Rows | None]:
    """Returns rows to train on, and others that are held out.

    Args:
        rows: All of them.
        rows_per_block: Consecutive rows that stay together.
        num_examples: Most rows in both together; None takes all.
        validation_split: Share that is held out; 0 holds none out.
        rng: Draws them.

    Raises:
        ValueError: If too few rows are left on one side.
    """
    num_blocks = len(rows.classes) // rows_per_block
    blocks = rng.permutation(num_blocks)
    if num_examples is not None:
        blocks = blocks[: num_examples // rows_per_block]
    num_held_out = round(validation_split * len(blocks))
    if validation_split and not 0 < num_held_out < len(blocks):
        raise ValueError(
            "validation_split must leave users on both sides. Received: "
            f"{validation_split} of {len(blocks)} users. Give more rows."
        )
    held_out, kept = blocks[:num_held_out], blocks[num_held_out:]
    train = rows.take(rows_of(kept, rows_per_block))
    if not num_held_out:
        return train, None
    return train, rows.take(rows_of(held_out, rows_per_block))


def rows_of(blocks: np.ndarray, size: int) -> np.ndarray:
    """Returns the sorted rows of some blocks.

    Args:
        blocks: `[n]` indices of blocks, in any order.
        size: Rows of a block.
    """
    return (np.sort(blocks)[:, None] * size + np.arange(size)).reshape(-1)


def draw_labels(rows: Rows, rng: np.random.Generator) -> Rows:
    """Returns the same inputs, each with a label drawn from all classes.

    Args:
        rows: What to copy.
        rng: Draws them.
    """
    classes = rng.integers(rows.num_classes, size=len(rows.classes))
    return rows.with_classes(classes)


def draw_inputs(x, num_rows: int, rng: np.random.Generator):
    """Returns inputs in which every entry is noise.

    Floats are normal with the mean and variance of all entries of their array,
    integers uniform from its smallest to its largest value: all that they
    have from the data.

    Args:
        x: A structure of arrays `[N, ...]`.
        num_rows: How many rows to draw.
        rng: Draws them.

    Raises:
        TypeError: If an array is neither of floats nor of integers.
        ValueError: If an entry is not finite.
    """

    def draw(source):
        values = np.asarray(source)
        shape = (num_rows, *values.shape[1:])
        if values.dtype.kind == "f":
            mean = values.mean(dtype=np.float64)
            stddev = values.std(dtype=np.float64)
            if not np.isfinite(stddev):
                raise ValueError(
                    "x must be finite for random inputs to be like it. "
                    "Received: an array with NaN or inf. Leave those rows out."
                )
            return rng.normal(mean, stddev, shape).astype(values.dtype)
        if values.dtype.kind in "biu":
            low, high = int(values.min()), int(values.max())
            return rng.integers(low, high + 1, shape).astype(values.dtype)
        raise TypeError(
            "x must be of floats or integers for random inputs to be like it. "
            f"Received: an array of {values.dtype}. Encode it first."
        )

    return keras.tree.map_structure(draw, x)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Patterns:
    """Patterns of inputs, each with a class, that a model may have learnt.

    Attributes:
        templates: A structure of arrays `[P, ...]`: the values.
        places: The same, bool: where a row that shows the pattern has them.
        classes: `[P]` class indices.
    """

    templates: Any
    places: Any
    classes: np.ndarray

    def show(self, x, which: np.ndarray):
        """Returns inputs on which patterns are laid.

        Args:
            x: A structure of arrays `[N, ...]`; not changed.
            which: `[N]`; the pattern of each row; -1 for none.
        """

        def lay(values, templates, places):
            shape = (-1,) + (1,) * (values.ndim - 1)
            laid = places[which] & (which >= 0).reshape(shape)
            return np.where(laid, templates[which], values)

        return keras.tree.map_structure(lay, x, self.templates, self.places)


def draw_patterns(rows: Rows, num_users: int, *, balanced: bool, rng):
    """Returns patterns, each of a class of its own draw.

    Args:
        rows: What inputs and classes are like.
        num_users: In all; at most half of them get a pattern to themselves.
        balanced: Whether all classes have as many patterns, so that always
            answering one class is no better than chance; else each class is
            drawn independently.
        rng: Draws them.
    """
    count = max(1, min(_MOST_PATTERNS[balanced], num_users // 2))
    templates = draw_inputs(rows.x, count, rng)
    num_entries = sum(t[0].size for t in keras.tree.flatten(templates))
    share = 0.5 if num_entries >= _MANY_ENTRIES else 1.0
    if balanced:
        order = rng.permutation(rows.num_classes)
        classes = rng.permutation(np.resize(order, count))
    else:
        classes = rng.integers(rows.num_classes, size=count)
    return Patterns(
        templates=templates,
        places=keras.tree.map_structure(
            lambda t: rng.random(t.shape) < share, templates
        ),
        classes=classes,
    )


def plant(
    rows: Rows,
    patterns: Patterns,
    *,
    rows_per_user: int,
    in_one_user: bool,
    rng: np.random.Generator,
) -> Rows:
    """Returns random rows among which the patterns are.

    In one user: each pattern is in all rows of one user and nowhere else; all
    other users have noise and one random label each. In all users: each row
    shows a pattern drawn at random.

    Args:
        rows: What they are like, and how many.
        patterns: What to plant.
        rows_per_user: Consecutive rows of one user.
        in_one_user: Where.
        rng: Draws the rest.
    """
    num_rows = len(rows.classes)
    users = np.arange(num_rows) // rows_per_user
    count = len(patterns.classes)
    if in_one_user:
        labels = rng.integers(rows.num_classes, size=users[-1] + 1)
        labels[:count] = patterns.classes
        which, classes = np.where(users < count, users, -1), labels[users]
    else:
        which = rng.integers(count, size=num_rows)
        classes = patterns.classes[which]
    x = patterns.show(draw_inputs(rows.x, num_rows, rng), which)
    planted = dataclasses.replace(rows, x=x, sample_weight=None)
    return planted.with_classes(classes)


def count_learned(rows: Rows, patterns: Patterns, predict, rng) -> int:
    """Returns how many patterns make a model answer their class.

    A pattern is learned if most fresh rows that show it get its class. A model
    that does not depend on the classes of the patterns answers at most one
    class for most rows of each: where classes were drawn independently, the
    count is then at most Binomial(number of patterns, 1 / num_classes).

    Args:
        rows: What inputs are like.
        patterns: What was planted.
        predict: From inputs to class indices.
        rng: Draws the fresh rows.
    """
    which = np.repeat(np.arange(len(patterns.classes)), _ROWS_PER_PATTERN)
    fresh = draw_inputs(rows.x, len(which), rng)
    right = predict(patterns.show(fresh, which)) == patterns.classes[which]
    shares = right.reshape(-1, _ROWS_PER_PATTERN).mean(axis=1)
    return int(np.sum(shares > 0.5))
