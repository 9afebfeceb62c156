# SPDX-License-Identifier: Apache-2.0
"""What a sanity check runs: the planned training, and how much of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

from tf_privacy import _checks
from tf_privacy.optimizers import dp_optimizer

# How the weights are updated in a run.
ORDINARY, CLIPPED, NOISED, PRIVATE = range(4)
# What it is trained on.
REAL, RANDOM_LABELS, RANDOM_INPUTS, ONE_USER, ALL_USERS = range(5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One training run of the check.

    Attributes:
        name: For `SanityPlan.arms` and the report.
        title: For people.
        update: ORDINARY, CLIPPED (and no noise), NOISED (and no clip) or
            PRIVATE.
        data: REAL, RANDOM_LABELS (on real inputs), RANDOM_INPUTS (and labels),
            ONE_USER or ALL_USERS (random inputs with patterns).
    """

    name: str
    title: str
    update: int
    data: int

    @property
    def sees_data(self) -> bool:
        """Whether it is trained on the caller's inputs."""
        return self.data in (REAL, RANDOM_LABELS)

    @property
    def has_patterns(self) -> bool:
        """Whether it looks for patterns instead of an accuracy."""
        return self.data in (ONE_USER, ALL_USERS)


ARMS = {
    arm.name: arm
    for arm in (
        Arm(name=name, title=title, update=update, data=data)
        for name, title, update, data in (
            ("ordinary", "ordinary training", ORDINARY, REAL),
            ("clipping_only", "clipping only", CLIPPED, REAL),
            ("noise_only", "noise only", NOISED, REAL),
            ("private", "private training", PRIVATE, REAL),
            (
                "private_random_labels",
                "private, random labels",
                PRIVATE,
                RANDOM_LABELS,
            ),
            (
                "private_random_inputs",
                "private, random inputs",
                PRIVATE,
                RANDOM_INPUTS,
            ),
            (
                "ordinary_random_labels",
                "ordinary, random labels",
                ORDINARY,
                RANDOM_LABELS,
            ),
            (
                "private_one_user",
                "private, pattern of one user",
                PRIVATE,
                ONE_USER,
            ),
            (
                "private_all_users",
                "private, pattern of all users",
                PRIVATE,
                ALL_USERS,
            ),
            (
                "ordinary_all_users",
                "ordinary, pattern of all users",
                ORDINARY,
                ALL_USERS,
            ),
        )
    )
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SanityPlan:
    """The training that is planned, and how much of it the check runs.

    Attributes:
        optimizer: The `DPOptimizer` that is to train; it is not used itself:
            each run gets a copy by its configuration, and the runs without
            privacy a copy of its inner optimizer.
        loss: As for `model.compile`.
        batch_size: Expected number of units in a batch, as for `fit` of a
            private model; >= 1.
        epochs: Of each run; >= 1. What is learnt by heart grows with them: a
            check of fewer epochs than will be trained says less.
        num_examples: Most rows to use, training and held-out ones together,
            drawn at random; None uses all.
        validation_split: Share of the users that is held out, drawn at random,
            if no validation data are given; in (0, 1).
        examples_per_user: Consecutive rows that belong to one person. None
            takes the optimizer's examples_per_unit. Where it is more than 1,
            patterns that only one user has are planted and looked for.
        arms: Names of the runs, out of `sanity_plan.ARMS`; None runs all.
        alpha: Probability of each statistical rule to raise a false alarm by
            chance; in (0, 0.5).
        predict_classes: Maps the model's outputs, as numpy arrays, to class
            indices `[B]`. None takes the largest of several outputs; of a
            single one, whether it is above 0.5, or above 0 if the loss has
            from_logits=True.
        seed: Fixes which rows are used and held out, the random data and the
            patterns; never noise, batches or dropout.
    """

    optimizer: dp_optimizer.DPOptimizer
    loss: Any
    batch_size: int
    epochs: int
    num_examples: int | None = None
    validation_split: float = 0.2
    examples_per_user: int | None = None
    arms: tuple[str, ...] | None = None
    alpha: float = 1e-3
    predict_classes: Callable | None = None
    seed: int = 0

    def __post_init__(self):
        if not isinstance(self.optimizer, dp_optimizer.DPOptimizer):
            raise TypeError(
                "optimizer must be a DP optimizer. Received: "
                f"{type(self.optimizer).__name__}. Give the one that is to "
                "train, such as tf_privacy.DPSGD(...)."
            )
        if self.loss is None:
            raise ValueError(
                "loss must be one that model.compile takes. Received: None. "
                'Example: "sparse_categorical_crossentropy".'
            )
        for name in ("batch_size", "epochs", "examples_per_user"):
            if getattr(self, name) is not None or name != "examples_per_user":
                self._set(name, at_least=1)
        if self.num_examples is not None:
            self._set("num_examples", at_least=2)
        self._set("seed", at_least=0)
        _checks.check_real(
            "validation_split", self.validation_split, above=0.0, below=1.0
        )
        _checks.check_real("alpha", self.alpha, above=0.0, below=0.5)
        expected = self.optimizer.expected_batch_size
        if expected is not None and expected != self.batch_size:
            raise ValueError(
                "batch_size must be the optimizer's expected_batch_size, "
                f"{expected:g}. Received: {self.batch_size}. Give the batch "
                "size that is to be trained with."
            )
        self._check_users()
        for name in self.arms or ():
            _checks.check_choice("arms", name, tuple(ARMS))

    def _set(self, name, **bounds):
        value = _checks.check_integer(name, getattr(self, name), **bounds)
        object.__setattr__(self, name, value)

    def _check_users(self):
        rows, unit = self.rows_per_user, self.optimizer.examples_per_unit
        if max(rows, unit) % min(rows, unit):
            raise ValueError(
                "examples_per_user must be a multiple of the optimizer's "
                f"examples_per_unit, {unit}, or divide it. Received: {rows}. "
                "Lay the rows of each user side by side, as many of each "
                "(tf_privacy.arrange_units does it)."
            )

    @property
    def rows_per_user(self) -> int:
        """Rows of one person."""
        return self.examples_per_user or self.optimizer.examples_per_unit

    @property
    def rows_per_block(self) -> int:
        """Rows that are never torn apart: a unit's and a user's."""
        return max(self.rows_per_user, self.optimizer.examples_per_unit)

    def make_optimizer(self) -> dp_optimizer.DPOptimizer:
        """Returns a copy of the optimizer that has taken no step."""
        return _copy(self.optimizer)

    def make_inner_optimizer(self):
        """Returns a copy of the optimizer behind the noise."""
        return _copy(self.optimizer.inner_optimizer)

    def choose_arms(self) -> tuple[Arm, ...]:
        """Returns the runs, in the order in which they are made."""
        names = ARMS if self.arms is None else self.arms
        return tuple(
            arm
            for name, arm in ARMS.items()
            if name in names
            and (self.rows_per_user > 1 or not arm.has_patterns)
        )


def _copy(optimizer):
    return type(optimizer).from_config(optimizer.get_config())
