# SPDX-License-Identifier: Apache-2.0
"""The privacy statement: what a run guarantees, on what assumptions."""

import dataclasses
import json
import math
from collections.abc import Sequence

from tf_privacy import _checks
from tf_privacy.accounting import composition
from tf_privacy.accounting import neighboring_relation as relation_lib
from tf_privacy.accounting import phase as phase_lib
from tf_privacy.accounting import statement_text

RELEASED = "All model weights of all steps, and all that is computed from them."
NOT_COVERED = (
    "Metrics and losses reported during training: they are computed on the "
    "raw data.",
    "Choices made by looking at the data, such as a search over "
    "hyper-parameters: each further run on the same data spends more, and so "
    "does a look at a validation set taken from it.",
    "The number of examples and the expected batch size: they are treated as "
    "public.",
)
_ROUNDED_NOISE = (
    "Rounding: the noise is a floating-point approximation of a Gaussian."
)
_ROUNDED_SUM = (
    "Rounding before the noise: clipped gradients are added up in float32; "
    "one unit is taken to move the sum by at most 1.0001 l2_norm_clip."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyStatement:
    """What a training run guarantees; `str()` says it in words.

    Attributes:
        epsilon: Nats, upper bound, of the run as described; inf if the run is
            not private.
        delta: Probability in (0, 1).
        unit: What one neighbor has more, such as "example".
        neighboring_relation: Which data sets are compared.
        phases: What ran.
        num_steps: Noisy releases of all phases together.
        epsilon_lower: Nats; no smaller epsilon holds for all data, models and
            losses. 0 where that is not proved.
        epsilon_rdp: Nats, upper bound by Renyi DP, for comparison with other
            libraries.
        epsilon_without_amplification: Nats, upper bound: as if any unit may be
            in every batch, so without any trust in the sampling.
        max_attack_accuracy: Upper bound on how often an attacker is right who
            guesses whether one unit was used, at even odds; in [0.5, 1].
        released: What may be published.
        accountant: Method of computation.
        assumptions: What must hold for `epsilon` to be true.
        not_covered: What the guarantee does not extend to.
        notes: What a reader of this run should know.
    """

    epsilon: float
    delta: float
    unit: str
    neighboring_relation: relation_lib.NeighboringRelation
    phases: tuple[phase_lib.Phase, ...]
    num_steps: int
    epsilon_lower: float
    epsilon_rdp: float
    epsilon_without_amplification: float
    max_attack_accuracy: float
    released: str
    accountant: str
    assumptions: tuple[str, ...]
    not_covered: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_private(self) -> bool:
        """Whether there is any guarantee."""
        return math.isfinite(self.epsilon)

    def __str__(self) -> str:
        return statement_text.write_statement(self)

    def to_dict(self) -> dict:
        """Returns plain values for JSON; an infinite epsilon becomes None."""
        values = dataclasses.asdict(self)
        for name, value in values.items():
            if isinstance(value, tuple):
                values[name] = list(value)
        for name in values:
            if name.startswith("epsilon") and not math.isfinite(values[name]):
                values[name] = None
        values["is_private"] = self.is_private
        values["neighboring_relation"] = self.neighboring_relation.value
        for described, phase in zip(values["phases"], self.phases, strict=True):
            described["sampling"] = phase.sampling
        return values

    def to_json(self) -> str:
        """Returns `to_dict()` as a JSON object, in the standard's numbers."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def _list_assumptions(
    phases: Sequence[phase_lib.Phase], unit: str
) -> list[str]:
    assumptions = [
        f"One {unit} contributes at most l2_norm_clip to the sum of a step, "
        "and nothing else that was released depends on the data.",
        "The noise is secret, of the stated law, and never used twice.",
        "Whoever trains the model is trusted with the data (central privacy).",
        "The settings above were not chosen by looking at the data.",
    ]
    if any(phase.sampling_probability is not None for phase in phases):
        assumptions.append(
            f"Where the sampling is poisson, every {unit} joined every batch "
            "independently with the stated probability, and nobody saw which."
        )
    assumptions += [
        each for phase in phases for each in phase.list_assumptions(unit)
    ]
    return list(dict.fromkeys(assumptions))


def _describe_rounding(phases: Sequence[phase_lib.Phase]) -> str:
    on_grid = [phase.family == "discrete_gaussian" for phase in phases]
    return _ROUNDED_SUM if phases and all(on_grid) else _ROUNDED_NOISE


def _check_relation(phases, relation) -> None:
    if relation is relation_lib.NeighboringRelation.ADD_OR_REMOVE_ONE and any(
        phase.is_correlated for phase in phases
    ):
        raise ValueError(
            "neighboring_relation must be ZERO_OUT_ONE or REPLACE_ONE where "
            "noise is correlated: a unit more would move all others to other "
            "steps. Received: ADD_OR_REMOVE_ONE. Use ZERO_OUT_ONE."
        )


def _list_notes(
    phases: Sequence[phase_lib.Phase], delta: float, unit: str
) -> list[str]:
    notes = []
    sizes = [phase.num_examples for phase in phases if phase.num_examples]
    if sizes and not delta < 1.0 / max(sizes):
        notes.append(
            f"delta = {delta:g} is not below 1 / num_examples: publishing one "
            f"{unit} picked at random would already satisfy such a delta."
        )
    if not any(phase.num_steps for phase in phases):
        notes.append("No training step was taken.")
    return notes


def _compute_figures(phases, delta, relation) -> dict:
    """Returns what the accountants say, by the statement's fields."""
    mechanisms = [phase.make_mechanism() for phase in phases]
    unsampled = [phase.without_amplification() for phase in phases]
    bounds, worst = (
        composition.compute_epsilon_bounds_of(
            runs, delta=delta, neighboring_relation=relation
        )
        for runs in (mechanisms, unsampled)
    )
    are_sampled = all(
        phase.sampling_probability is not None for phase in phases
    )
    # At epsilon 0, delta is the total variation between the neighbors.
    advantage = composition.compute_delta_of(
        mechanisms, epsilon=0.0, neighboring_relation=relation
    )
    return {
        "epsilon": bounds.epsilon,
        # What a user's own way to make batches hides is not known.
        "epsilon_lower": bounds.lower if are_sampled else 0.0,
        "epsilon_rdp": bounds.rdp_epsilon,
        "epsilon_without_amplification": worst.epsilon,
        "max_attack_accuracy": 0.5 + 0.5 * advantage,
        "accountant": bounds.accountant,
    }


def make_privacy_statement(
    phases: Sequence[phase_lib.Phase],
    *,
    delta: float,
    unit: str = "example",
    neighboring_relation: relation_lib.NeighboringRelation = (
        relation_lib.NeighboringRelation.ADD_OR_REMOVE_ONE
    ),
    fixed_noise_seed: bool = False,
    notes: Sequence[str] = (),
) -> PrivacyStatement:
    """Returns the statement of a run that consisted of `phases`.

    Args:
        phases: What ran, in order; may be empty.
        delta: Probability in (0, 1).
        unit: What the guarantee protects, in the singular.
        neighboring_relation: Which data sets are compared.
        fixed_noise_seed: Whether the noise came from a seed that somebody may
            know. Such a run is not private: epsilon is inf.
        notes: Further remarks for the reader, a sentence each.

    Returns:
        A `PrivacyStatement`; its epsilons are upper bounds.

    Raises:
        ValueError: If an argument is out of range.
    """
    delta = _checks.check_delta(delta)
    phases = tuple(phases)
    _check_relation(phases, neighboring_relation)
    figures = _compute_figures(phases, delta, neighboring_relation)
    written = [*_list_notes(phases, delta, unit), *notes]
    if fixed_noise_seed:
        secret = statement_text.format_up(figures["epsilon"])
        written.insert(
            0,
            "not private: the noise was generated from a fixed seed. With "
            f"secret noise epsilon would have been {secret}.",
        )
        for name in figures:
            if name.startswith("epsilon"):
                figures[name] = math.inf
        figures["max_attack_accuracy"] = 1.0
    return PrivacyStatement(
        **figures,
        delta=delta,
        unit=unit,
        neighboring_relation=neighboring_relation,
        phases=phases,
        num_steps=sum(phase.num_steps for phase in phases),
        released=RELEASED,
        assumptions=tuple(_list_assumptions(phases, unit)),
        not_covered=(*NOT_COVERED, _describe_rounding(phases)),
        notes=tuple(written),
    )
