# SPDX-License-Identifier: Apache-2.0
"""From the steps that an optimizer counted to epsilon and the statement."""

import dataclasses
import functools

from tf_privacy import accounting
from tf_privacy.noise import noise_style
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
            moving_clip=kind.moving_clip,
            query_stddev=kind.query_stddev,
            family=kind.family,
            sensitivity=kind.sensitivity,
            steps_per_release=kind.steps_per_release,
            min_separation=kind.min_separation,
            max_participations=kind.max_participations,
            selection_fraction=kind.selection_fraction,
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
            ADD_OR_REMOVE_ONE, or ZERO_OUT_ONE where noise is correlated.
    """
    if neighboring_relation is None:
        relations = accounting.NeighboringRelation
        phases = make_phases(entries)
        are_free = not any(phase.is_correlated for phase in phases)
        neighboring_relation = (
            relations.ADD_OR_REMOVE_ONE if are_free else relations.ZERO_OUT_ONE
        )
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


class FurtherSteps:
    """The steps that an optimizer is about to make, for the accountant.

    Steps of a kind that ran before are taken together with those to come, so
    that a loop of single steps asks the accountant once.

    Args:
        optimizer: A `DPOptimizer`.
        sampling: The PoissonSampling of the batches, or None.
    """

    def __init__(self, optimizer, *, sampling=None):
        self._optimizer = optimizer
        self._style = optimizer.noise_style
        self._kinds = optimizer.step_kinds(sampling)
        self._rows = optimizer.rows_of(sampling)
        self._begin()

    def _begin(self):
        """Notes where the noise's schedule stands, and what ran before."""
        self._start = int(self._optimizer.iterations.numpy())
        self._before = self._optimizer.ledger.entries()

    @property
    def kinds(self) -> tuple[step_ledger.StepKind, ...]:
        """Of the steps, one for each level of the noise."""
        return self._kinds

    @property
    def rows(self) -> list[int]:
        """Of the ledger, one for each level of the noise."""
        return self._rows

    @property
    def _has_levels(self) -> bool:
        return len(self._kinds) > 1

    def _split(self):
        """Returns the entries of other steps, and how many of these ran."""
        entries = self._optimizer.ledger.entries()
        if self._has_levels:
            before = dict(self._before)
            new = {kind: n - before.get(kind, 0) for kind, n in entries}
            new = {kind: n for kind, n in new.items() if n}
            ran = sum(new.values())
            expected = _sum_by(self._kinds, self._counter().count(max(0, ran)))
            iterations = self._optimizer.iterations.numpy()
            if new == expected and int(iterations) == self._start + ran:
                return tuple(self._before), ran
            # A ledger or the count of updates moved behind our back.
            self._begin()
            return tuple(self._before), 0
        (kind,) = self._kinds
        others = tuple(entry for entry in entries if entry[0] != kind)
        return others, dict(entries).get(kind, 0)

    def _counter(self):
        return _LevelCounter(style=self._style, start=self._start)

    def make_curve(self, *, delta: float):
        """Returns epsilon over the number of these steps, and that number now.

        Args:
            delta: Probability in (0, 1).

        Returns:
            An `EpsilonCurve` and an int. The curve is the same object for as
            long as no other steps run.
        """
        others, ran = self._split()
        curve = _make_curve(others, self._kinds, self._counter(), delta)
        return curve, ran

    def limit(self) -> int:
        """Sets how many more steps the optimizer's budget leaves.

        Returns:
            That number; without a budget, nothing is set and it is -1.
        """
        if self._optimizer.budget is None:
            return -1
        target_epsilon, target_delta = self._optimizer.budget
        others, ran = self._split()
        most = _compute_max_steps(
            others, self._kinds, self._counter(), target_epsilon, target_delta
        )
        left = max(0, most - ran)
        counts = self._style.count_levels(self._start + ran, left)
        self._optimizer.ledger.set_limits(_sum_by(self._rows, counts))
        return left

    def remaining(self) -> int:
        """Returns how many more of these steps the limit leaves."""
        return self._optimizer.ledger.remaining(sorted(set(self._rows)))


def _sum_by(keys, counts) -> dict:
    """Returns the sum of the counts of each key, where it is not 0."""
    sums = {}
    for key, count in zip(keys, counts, strict=True):
        sums[key] = sums.get(key, 0) + count
    return {key: count for key, count in sums.items() if count}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _LevelCounter:
    """How many of the first steps have each level; a key of a cache."""

    style: noise_style.NoiseStyle
    start: int

    def count(self, num_steps: int) -> list[int]:
        return self.style.count_levels(self.start, num_steps)

    def __eq__(self, other):
        # Where there is one level, it does not matter when steps began.
        single = len(self.style.noise_multipliers) == 1
        return self.style == other.style and (
            single or self.start == other.start
        )

    def __hash__(self):
        return hash(self.style)


@functools.lru_cache(maxsize=64)
def _make_curve(others, kinds, counter, delta) -> accounting.EpsilonCurve:
    """Returns epsilon as a function of further steps of given kinds."""

    def describe(num_steps):
        counts = zip(kinds, counter.count(num_steps), strict=True)
        return [
            phase.make_mechanism()
            for phase in make_phases([(k, n) for k, n in counts if n])
        ]

    spent = [phase.make_mechanism() for phase in make_phases(others)]
    if len(kinds) > 1 or not make_phases([(kinds[0], 1)])[0].is_plain:
        return accounting.DescribedEpsilonCurve(
            spent=spent, describe_steps=describe, delta=delta
        )
    return accounting.EpsilonCurve(
        spent=spent,
        noise_multiplier=min(kinds[0].noise_multiplier, _LARGEST_NOISE),
        sampling_probability=_probability(kinds[0]) or 1.0,
        delta=delta,
    )


@functools.lru_cache(maxsize=64)
def _compute_max_steps(
    others, kinds, counter, target_epsilon, target_delta
) -> int:
    """Returns how many steps of these kinds fit, remembered between calls."""
    curve = _make_curve(others, kinds, counter, target_delta)
    return curve.compute_max_steps(target_epsilon=target_epsilon)
