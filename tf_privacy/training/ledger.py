# SPDX-License-Identifier: Apache-2.0
"""From the steps that an optimizer counted to epsilon and the statement."""

import functools

from tf_privacy import accounting
from tf_privacy.optimizers import step_ledger

# The accountant's range. More noise than this, or less chance to be sampled, is
# accounted as this much: an upper bound.
_LARGEST_NOISE = 1000.0
_SMALLEST_PROBABILITY = 1e-8
_INITIAL_WEIGHTS = (
    "The initial weights were not made from the data that this statement "
    "protects."
)


def make_phases(entries) -> list[accounting.Phase]:
    """Returns what ran as the accountant's phases.

    Args:
        entries: From `StepLedger.entries()`.

    Raises:
        ValueError: If the steps were on units of different sizes.
    """
    step_ledger.check_one_unit([kind for kind, _ in entries])
    return [
        accounting.Phase(
            noise_multiplier=min(kind.noise_multiplier, _LARGEST_NOISE),
            sampling_probability=_probability(kind),
            num_steps=count,
            l2_norm_clip=kind.l2_norm_clip,
            expected_batch_size=kind.expected_batch_size,
            num_examples=kind.num_examples,
        )
        for kind, count in entries
    ]


def _probability(kind):
    if kind.sampling_probability is None:
        return None
    return max(kind.sampling_probability, _SMALLEST_PROBABILITY)


def make_statement(
    entries, *, delta: float, neighboring_relation=None
) -> accounting.PrivacyStatement:
    """Returns the privacy statement of the steps that ran.

    Args:
        entries: From `StepLedger.entries()`.
        delta: Probability in (0, 1).
        neighboring_relation: Which data sets are compared; None means
            ADD_OR_REMOVE_ONE.
    """
    if neighboring_relation is None:
        neighboring_relation = accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    unit = "example"
    size = entries[0][0].examples_per_unit if entries else 1
    if size > 1:
        unit = f"unit of {size} consecutive examples"
    return accounting.make_privacy_statement(
        make_phases(entries),
        delta=delta,
        unit=unit,
        neighboring_relation=neighboring_relation,
        fixed_noise_seed=any(kind.fixed_seed for kind, _ in entries),
        notes=(_INITIAL_WEIGHTS,),
    )


def make_curve(
    entries, kind: step_ledger.StepKind, *, delta: float
) -> accounting.EpsilonCurve:
    """Returns epsilon as a function of further steps of one kind.

    Args:
        entries: What ran before.
        kind: What the further steps are.
        delta: Probability in (0, 1).
    """
    return accounting.EpsilonCurve(
        spent=[phase.make_mechanism() for phase in make_phases(entries)],
        noise_multiplier=min(kind.noise_multiplier, _LARGEST_NOISE),
        sampling_probability=_probability(kind) or 1.0,
        delta=delta,
    )


def limit_steps(optimizer, row: int, kind: step_ledger.StepKind) -> None:
    """Sets how many more steps the optimizer's budget leaves for one kind.

    Without a budget, nothing is set.

    Args:
        optimizer: A `DPOptimizer`.
        row: The kind's row in the ledger.
        kind: What the further steps are.
    """
    if optimizer.budget is None:
        return
    target_epsilon, target_delta = optimizer.budget
    entries = optimizer.ledger.entries()
    ran = dict(entries).get(kind, 0)
    others = tuple(entry for entry in entries if entry[0] != kind)
    most = _compute_max_steps(others, kind, target_epsilon, target_delta)
    optimizer.ledger.set_limit(row, max(0, most - ran))


@functools.lru_cache(maxsize=64)
def _compute_max_steps(others, kind, target_epsilon, target_delta) -> int:
    """Returns how many steps of a kind fit, remembered between calls.

    It depends on the steps of other kinds alone, so that a loop of equal steps
    asks for it once.
    """
    curve = make_curve(others, kind, delta=target_delta)
    return curve.compute_max_steps(target_epsilon=target_epsilon)
