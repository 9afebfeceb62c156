# SPDX-License-Identifier: Apache-2.0
"""A table of choices that meet one privacy target: batch, noise, steps."""

import dataclasses
import json
import math
from collections.abc import Sequence

from tf_privacy import _checks
from tf_privacy.accounting import budget
from tf_privacy.accounting import neighboring_relation as relation_lib
from tf_privacy.accounting import ranges
from tf_privacy.accounting import statement_text

_ADD_OR_REMOVE_ONE = relation_lib.NeighboringRelation.ADD_OR_REMOVE_ONE
_NUM_BATCHES = 8
_HEADINGS = (
    ("batch", 9),
    ("steps", 9),
    ("epochs", 8),
    ("noise", 9),
    ("epsilon", 9),
    ("noise/batch", 12),
    ("signal", 9),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to meet the target.

    Attributes:
        expected_batch_size: Examples.
        sampling_probability: expected_batch_size / num_examples.
        num_steps: Noisy steps.
        num_epochs: Passes over the data that the steps make.
        noise_multiplier: Least noise that meets the target.
        epsilon: Nats; what this choice spends, at most the target.
        noise_of_mean: Noise stddev on the mean gradient, in units of the clip:
            noise_multiplier / expected_batch_size. Smaller is better.
        signal_to_noise: sqrt(num_steps) / noise_of_mean: how far a gradient
            of one clip's length, the same in every step, stands out of the
            noise of the whole run. Larger is better.
    """

    expected_batch_size: int
    sampling_probability: float
    num_steps: int
    num_epochs: float
    noise_multiplier: float
    epsilon: float
    noise_of_mean: float
    signal_to_noise: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """Choices that meet one target; `str()` shows them as a table.

    Attributes:
        num_examples: Examples in the training set.
        target_epsilon: Nats.
        target_delta: Probability in (0, 1).
        choices: From small batches to large ones.
    """

    num_examples: int
    target_epsilon: float
    target_delta: float
    choices: tuple[Choice, ...]

    def to_dict(self) -> dict:
        """Returns plain values for JSON."""
        values = dataclasses.asdict(self)
        values["choices"] = list(values["choices"])
        return values

    def to_json(self) -> str:
        """Returns `to_dict()` as a JSON object."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        lines = [
            f"Choices for {self.num_examples} examples that meet epsilon = "
            f"{self.target_epsilon:g} at delta = {self.target_delta:g}:",
            "".join(f"{name:>{width}}" for name, width in _HEADINGS),
        ]
        for each in self.choices:
            cells = (
                str(each.expected_batch_size),
                str(each.num_steps),
                f"{each.num_epochs:.4g}",
                statement_text.format_up(each.noise_multiplier),
                statement_text.format_up(each.epsilon),
                f"{each.noise_of_mean:.3g}",
                f"{each.signal_to_noise:.3g}",
            )
            lines.append(
                "".join(
                    f"{cell:>{width}}"
                    for cell, (_, width) in zip(cells, _HEADINGS, strict=True)
                )
            )
        lines += [
            "noise/batch: noise on the mean gradient, in clips (less is "
            "better).",
            "signal: a steady gradient over the noise of the run (more is "
            "better).",
        ]
        return "\n".join(lines)


def _list_batch_sizes(num_examples: int) -> list[int]:
    """Returns the largest powers of two up to half of the data."""
    most = max(1, num_examples // 2)
    sizes = [1 << k for k in range(most.bit_length()) if 1 << k <= most]
    return sizes[-_NUM_BATCHES:]


def _check_length(num_epochs, num_steps):
    """Returns the epochs, once exactly one of the two is given."""
    if (num_epochs is None) == (num_steps is None):
        raise ValueError(
            "num_epochs must be given, or num_steps, not both. Received: "
            f"num_epochs={num_epochs!r}, num_steps={num_steps!r}."
        )
    if num_epochs is None:
        return None
    return _checks.check_real("num_epochs", num_epochs, above=0.0)


def plan(
    *,
    num_examples: int,
    target_epsilon: float,
    target_delta: float,
    num_epochs: float | None = None,
    num_steps: int | None = None,
    expected_batch_sizes: Sequence[int] | None = None,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> PrivacyPlan:
    """Returns the noise that each batch size needs, and what it is worth.

    Args:
        num_examples: Examples in the training set; whole, in [1, 1e8].
        target_epsilon: Nats; finite, > 0.
        target_delta: Probability in (0, 1).
        num_epochs: Passes over the data, for every batch size; > 0. Or give
            `num_steps`.
        num_steps: Noisy steps, for every batch size; whole, in [1, 1e8].
        expected_batch_sizes: Whole numbers in [1, num_examples]; None takes
            the eight largest powers of two up to half of the data.
        neighboring_relation: Which data sets are compared.

    Returns:
        A `PrivacyPlan`; batch sizes that cannot meet the target with a noise
        multiplier up to 1000 are left out.

    Raises:
        ValueError: If an argument is out of range, or no batch size meets the
            target.
    """
    num_examples = _checks.check_integer(
        "num_examples", num_examples, at_least=1, at_most=10**8
    )
    target_epsilon = _checks.check_real(
        "target_epsilon", target_epsilon, above=0.0
    )
    target_delta = _checks.check_delta(target_delta, name="target_delta")
    num_epochs = _check_length(num_epochs, num_steps)
    if expected_batch_sizes is None:
        expected_batch_sizes = _list_batch_sizes(num_examples)
    choices = []
    for size in expected_batch_sizes:
        choice = _make_choice(
            _checks.check_integer(
                "expected_batch_sizes",
                size,
                at_least=1,
                at_most=num_examples,
            ),
            num_examples,
            num_epochs,
            num_steps,
            (target_epsilon, target_delta, neighboring_relation),
        )
        if choice is not None:
            choices.append(choice)
    if not choices:
        raise ValueError(
            "target_epsilon must be attainable with a noise_multiplier <= "
            f"{ranges.MAX_NOISE_MULTIPLIER:g}. Received: {target_epsilon!r}. "
            "Use fewer epochs, smaller batches, or a larger target."
        )
    return PrivacyPlan(
        num_examples=num_examples,
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        choices=tuple(choices),
    )


def _make_choice(size, num_examples, num_epochs, num_steps, target):
    """Returns the choice for one batch size, or None if there is none."""
    target_epsilon, target_delta, relation = target
    probability = size / num_examples
    if num_steps is None:
        num_steps = math.ceil(num_epochs / probability * (1.0 - 1e-12))
    num_steps = ranges.check_num_steps(num_steps, at_least=1)
    run = {
        "sampling_probability": probability,
        "num_steps": num_steps,
        "neighboring_relation": relation,
    }
    if not _is_attainable(run, target_epsilon, target_delta):
        return None
    noise = budget.calibrate_noise_multiplier(
        target_epsilon=target_epsilon, target_delta=target_delta, **run
    )
    epsilon = budget.compute_epsilon(
        noise_multiplier=noise, delta=target_delta, **run
    )
    return Choice(
        expected_batch_size=size,
        sampling_probability=probability,
        num_steps=num_steps,
        num_epochs=num_steps * probability,
        noise_multiplier=noise,
        epsilon=epsilon,
        noise_of_mean=noise / size,
        signal_to_noise=math.sqrt(num_steps) * size / noise,
    )


def _is_attainable(run, target_epsilon, target_delta) -> bool:
    most = budget.compute_epsilon(
        noise_multiplier=ranges.MAX_NOISE_MULTIPLIER, delta=target_delta, **run
    )
    return most <= target_epsilon
