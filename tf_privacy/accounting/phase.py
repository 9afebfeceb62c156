# SPDX-License-Identifier: Apache-2.0
"""A stretch of training at constant settings, as a mechanism and in words."""

import dataclasses

from tf_privacy import _checks
from tf_privacy.accounting import discrete_gaussian
from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import noise_mechanisms
from tf_privacy.accounting import ranges
from tf_privacy.accounting import sampled_mechanisms

# Which noise there is; the last two correlate it from step to step.
FAMILIES = ("gaussian", "discrete_gaussian", "tree", "matrix")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training at constant settings.

    Attributes:
        noise_multiplier: Noise stddev over the L2 clip; in [0.01, 1000]; of
            everything that a step releases.
        sampling_probability: Of Poisson sampling, in [1e-8, 1]; None where the
            batches were made by the user, which counts as 1.
        num_steps: Noisy releases that ran; whole, in [0, 1e8].
        l2_norm_clip: L2 bound on one unit's gradient; > 0.
        expected_batch_size: Divisor of the noisy sum, in examples; > 0.
        num_examples: Examples in the training set, or None if unknown.
        moving_clip: Whether l2_norm_clip is only where the clip began.
        query_stddev: Noise stddev over sensitivity of the query that moved the
            clip, or None.
        family: Of the noise; one of `FAMILIES`.
        sensitivity: L2 norm that one unit adds to a release of correlated
            noise over l2_norm_clip; > 0.
        steps_per_release: Steps whose noise belongs together; >= 1.
        min_separation: Steps from one participation of a unit in a release to
            its next, at least.
        max_participations: Of a unit in a release; None for no limit.
        selection_fraction: Part of the budget that selected rows of embedding
            tables, or None.
    """

    noise_multiplier: float
    sampling_probability: float | None
    num_steps: int
    l2_norm_clip: float
    expected_batch_size: float
    num_examples: int | None = None
    moving_clip: bool = False
    query_stddev: float | None = None
    family: str = "gaussian"
    sensitivity: float = 1.0
    steps_per_release: int = 1
    min_separation: int = 1
    max_participations: int | None = None
    selection_fraction: float | None = None

    def __post_init__(self):
        checked = {
            "num_steps": ranges.check_num_steps(self.num_steps),
            "family": _checks.check_choice("family", self.family, FAMILIES),
        }
        for name in ("l2_norm_clip", "expected_batch_size"):
            value = getattr(self, name)
            checked[name] = _checks.check_real(name, value, above=0.0)
        if self.num_examples is not None:
            checked["num_examples"] = _checks.check_integer(
                "num_examples", self.num_examples, at_least=1
            )
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.is_correlated and self.sampling_probability is not None:
            raise ValueError(
                "sampling_probability must be None where noise is correlated: "
                "sampling does not amplify it. Received: "
                f"{self.sampling_probability!r}."
            )
        self.make_mechanism()

    @property
    def is_correlated(self) -> bool:
        """Whether the noise of several steps belongs together."""
        return self.family in ("tree", "matrix")

    @property
    def is_plain(self) -> bool:
        """Whether it is ordinary DP-SGD."""
        return self.family == "gaussian"

    @property
    def sampling(self) -> str:
        """How batches were made, in words."""
        if self.is_correlated:
            return (
                "in an order that lets no unit come back within "
                f"{self.min_separation} steps (no amplification)"
            )
        if self.sampling_probability is None:
            return "batches made by the user (no amplification)"
        return "poisson"

    @property
    def noise(self) -> str:
        """What the noise is, in words; empty for ordinary DP-SGD."""
        words = []
        if self.family == "discrete_gaussian":
            words.append("discrete Gaussian noise on an integer grid")
        if self.is_correlated:
            words.append(
                f"{self.family} noise correlated over releases of "
                f"{self.steps_per_release} steps, to which one unit adds "
                f"{self.sensitivity:.6g} l2_norm_clips"
            )
        if self.query_stddev is not None:
            words.append(
                "a clip that follows a noised query, of noise "
                f"{self.query_stddev:g} over sensitivity, paid for within "
                "noise_multiplier"
            )
        elif self.moving_clip:
            words.append("a clip on a schedule")
        if self.selection_fraction is not None:
            words.append(
                "only on rows of embedding tables that noised counts selected, "
                f"with {self.selection_fraction:g} of the budget"
            )
        return "; ".join(words)

    def list_assumptions(self, unit: str) -> list[str]:
        """Returns what the order of the data must keep to.

        Args:
            unit: What the guarantee protects.
        """
        if not self.is_correlated:
            return []
        often = ""
        if self.max_participations is not None:
            often = f", and at most {self.max_participations} times"
        return [
            f"In every {self.steps_per_release} steps whose noise belongs "
            f"together, one {unit} took part in steps at least "
            f"{self.min_separation} apart{often}."
        ]

    def make_mechanism(self) -> mechanism_lib.Mechanism:
        """Returns what the phase counts as; user batches are unsampled."""
        if self.is_correlated:
            release = noise_mechanisms.MatrixMechanism(
                noise_multiplier=self.noise_multiplier,
                sensitivity=self.sensitivity,
            )
            # A release that was broken off counts in full.
            count = -(-self.num_steps // self.steps_per_release)
            return mechanism_lib.SelfComposed(release, count)
        probability = self.sampling_probability
        probability = 1.0 if probability is None else probability
        if self.family == "discrete_gaussian":
            step = discrete_gaussian.DiscreteGaussian(self.noise_multiplier)
            return mechanism_lib.SelfComposed(
                sampled_mechanisms.PoissonSampled(step, probability),
                self.num_steps,
            )
        return mechanism_lib.SampledGaussianSteps(
            noise_multiplier=self.noise_multiplier,
            sampling_probability=probability,
            num_steps=self.num_steps,
        )

    def without_amplification(self) -> mechanism_lib.Mechanism:
        """Returns the phase as if any unit may be in every batch.

        To a release of correlated noise a unit then adds at most the sum, over
        its steps, of what it adds in one.
        """
        if self.is_correlated:
            most = self.sensitivity * self.steps_per_release
            return dataclasses.replace(
                self, sensitivity=min(most, 1e9), min_separation=1
            ).make_mechanism()
        return dataclasses.replace(
            self, sampling_probability=None
        ).make_mechanism()
