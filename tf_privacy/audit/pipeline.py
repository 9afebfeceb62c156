# SPDX-License-Identifier: Apache-2.0
"""What came out of real training steps, held against the mechanism claimed.

Dirac canaries (each with a weight of its own, so that none disturbs another)
make each coordinate an independent trial of the whole mechanism: one run of
thousands of canaries tests the claimed curve as thousands of runs would.

Source: canaries with gradients of their own coordinate: Nasr et al. 2023,
arXiv:2302.07956; Andrew et al. 2023, arXiv:2302.03098.
"""

import dataclasses

import numpy as np

from tf_privacy import _checks
from tf_privacy import accounting
from tf_privacy.audit import binomial
from tf_privacy.audit import claim as claim_lib
from tf_privacy.audit import claim_check
from tf_privacy.audit import clipping_check
from tf_privacy.audit import dirac_scores
from tf_privacy.audit import lower_bounds
from tf_privacy.audit import noise_check
from tf_privacy.audit import report
from tf_privacy.audit import verdict

# The claimed curve, the noise and the clip, from both sides, share what may go
# wrong.
_NUM_CHECKS = 4
# Of a clip: canaries that move the sums by less do not test the step.
_LEAST_CONTRIBUTION = 0.9
_SMALLEST = 1e-300
# Of the claimed noise; there may be none at all.
_SMALLEST_NOISE = 1e-9
# On each side of 0. More are paid for by each of them.
_NUM_THRESHOLDS = 12
_TITLE = "Audit of the training step with canaries of their own weight"
_ASSUMPTIONS = (
    "A fair coin for each canary, drawn before training, decided whether it "
    "was in the data.",
    "What was recorded is all that each step released about a canary.",
    "Observations are in units of the clip, canaries join each step with the "
    "stated probability, and the noise is Gaussian.",
    "The steps in use are those audited: same optimizer, clip, noise, way of "
    "sampling, replicas and versions.",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClaimedSteps:
    """What training is said to have done.

    Attributes:
        noise_multiplier: Stddev of the noise on the sum over the clip; > 0.
        sampling_probability: Chance that a canary joins a step; in (0, 1].
        num_steps: Noisy steps; >= 1.
    """

    noise_multiplier: float
    sampling_probability: float
    num_steps: int

    def __post_init__(self):
        _checks.check_noise_multiplier(self.noise_multiplier)
        _checks.check_sampling_probability(self.sampling_probability)
        _checks.check_integer("num_steps", self.num_steps, at_least=1)

    def _describe(self) -> accounting.Mechanism:
        step = accounting.PoissonSampled(
            accounting.Gaussian(self.noise_multiplier),
            self.sampling_probability,
        )
        return accounting.SelfComposed(step, self.num_steps)

    def compute_epsilon(self, delta: float) -> float:
        """Returns the epsilon in nats that the accountant states.

        Args:
            delta: Probability in (0, 1).
        """
        return accounting.compute_epsilon_of([self._describe()], delta=delta)

    def make_claim(self) -> claim_lib.Claim:
        """Returns the (epsilon, delta) curve that the accountant states."""
        return claim_lib.make_claim(
            [self._describe()],
            description=(
                f"{self.num_steps} steps, noise multiplier "
                f"{self.noise_multiplier:g}, sampling probability "
                f"{self.sampling_probability:g}"
            ),
        )


def make_pipeline_report(
    observations: np.ndarray,
    *,
    is_member: np.ndarray,
    steps: ClaimedSteps,
    delta: float,
    confidence: float = 0.95,
    claim: claim_lib.Claim | None = None,
) -> report.AuditReport:
    """Returns whether steps released no more than was claimed.

    Four checks, each wrong with probability at most (1 - confidence) / 4 if all
    is as claimed: the likelihood ratios of members and non-members against the
    whole claimed curve; the noise of the non-members, from both sides; the
    largest and the smallest contribution of the members, against the clip.

    The claim is rejected if the ratios contradict it; where it is that of
    `steps`, also if the noise seen over the contribution seen is certainly
    below the noise multiplier. All else that is not as said (noise of another
    size or kind, contributions that are too large, or too small for a test) is
    a fault: `assert_ok` raises for it too.

    Args:
        observations: `[T, M]` finite; what step t released about canary j over
            the clip: 0 or 1 (and the noise) if all is right.
        is_member: `[M]` bool; which canaries were in the data, some of each.
        steps: What is said to have run.
        delta: Probability in (0, 1), for the epsilons that are shown.
        confidence: In (0, 1).
        claim: What is claimed; None takes the accountant's curve for `steps`.
            Another claim is rejected by the ratios alone.

    Raises:
        ValueError: If an observation is not finite, or the arguments do not
            fit one another.
    """
    confidence = binomial.check_confidence(confidence)
    delta = _checks.check_delta(delta)
    observations = dirac_scores.check_observations("observations", observations)
    is_member = _check_members(is_member, observations.shape[1])
    if len(observations) != steps.num_steps:
        raise ValueError(
            f"observations must have a row for each of {steps.num_steps} "
            f"steps. Received: {len(observations)}."
        )
    is_of_steps = claim is None
    claim = steps.make_claim() if is_of_steps else claim
    each = 1.0 - (1.0 - confidence) / _NUM_CHECKS
    noise = noise_check.estimate_noise(
        observations[:, ~is_member],
        noise_multiplier=steps.noise_multiplier,
        confidence=each,
    )
    clip = clipping_check.estimate_clipping(
        observations,
        is_member=is_member,
        # Other noise than claimed is told apart from other contributions.
        noise_multiplier=max(
            noise.upper, _SMALLEST_NOISE * steps.noise_multiplier
        ),
        sampling_probability=steps.sampling_probability,
        confidence=each,
    )
    return _join_checks(
        _test_curve(observations, is_member, steps, claim, delta, each),
        noise,
        clip,
        claim=claim,
        is_of_steps=is_of_steps,
        delta=delta,
        confidence=confidence,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CurveTest:
    """The likelihood ratios, and what they say about the claimed curve."""

    members: np.ndarray
    others: np.ndarray
    result: claim_check.ClaimResult
    epsilon_lower: float


def _test_curve(observations, is_member, steps, claim, delta, confidence):
    ratios = dirac_scores.compute_log_likelihood_ratios(
        observations,
        noise_multiplier=steps.noise_multiplier,
        sampling_probability=steps.sampling_probability,
    )
    members, others = ratios[is_member], ratios[~is_member]
    # Where the likelihood ratio is e^epsilon, that pair is tested best. They
    # are known before the data are, so that looking at all is paid by a union.
    epsilons = np.array(claim.epsilons)
    epsilons = epsilons[:: max(1, len(epsilons) // _NUM_THRESHOLDS)]
    thresholds = np.unique(np.concatenate([-epsilons, epsilons]))
    settings = {"thresholds": thresholds, "confidence": confidence}
    return _CurveTest(
        members=members,
        others=others,
        result=claim_check.estimate_claim_violation(
            members, others, claim=claim, **settings
        ),
        # The same bounds on the same rates: one event, no further correction.
        epsilon_lower=claim_check.estimate_profile_epsilon(
            members, others, delta=delta, **settings
        ).epsilon_lower,
    )


def _join_checks(curve, noise, clip, *, claim, is_of_steps, delta, confidence):
    result = curve.result
    # Both bounds at once: at least this contribution, at most this noise.
    ratio_upper = noise.upper / max(clip.sensitivity_lower, _SMALLEST)
    is_too_small = is_of_steps and ratio_upper < noise.noise_multiplier
    return report.AuditReport(
        kind="pipeline",
        title=_TITLE,
        epsilon_lower=curve.epsilon_lower,
        claimed_epsilon=claim.get_epsilon(delta),
        claim_curve=(claim.epsilons, claim.deltas),
        delta=delta,
        confidence=confidence,
        is_bound=True,
        is_rejected=result.rejected or is_too_small,
        num_members=len(curve.members),
        num_non_members=len(curve.others),
        assumptions=_ASSUMPTIONS,
        faults=_list_faults(noise, clip),
        warnings=result.warnings,
        figures=_list_figures(result, noise, clip, claim),
        **verdict.describe_attack(
            curve.members, curve.others, confidence=confidence
        ),
    )


def _list_faults(noise, clip) -> tuple[str, ...]:
    faults = []
    if noise.verdict is noise_check.NoiseVerdict.LESS_NOISE:
        faults.append(
            "The noise: less noise than claimed, in units of the clip given to "
            "the audit."
        )
    elif not noise.passed:
        faults.append(f"The noise: {noise.verdict.value}.")
    if not clip.passed:
        faults.append(
            "The clip: a canary moved a sum by at least "
            f"{lower_bounds.show_down(clip.sensitivity_lower)} times the "
            "clip. Look for gradients that are not clipped one by one, or for "
            "another clip than the one given to the audit."
        )
    if clip.weakest_upper < _LEAST_CONTRIBUTION:
        faults.append(
            "The canaries: one moved the sums by at most "
            f"{clip.weakest_upper:.2g} times the clip, so that the steps were "
            "not tested. Look for a clip smaller than the one given to the "
            "audit, for batches that canaries do not join, or for a loss that "
            "is not the audit's."
        )
    return tuple(faults)


def _list_figures(result, noise, clip, claim) -> tuple[tuple[str, str], ...]:
    return (
        (
            "noise multiplier seen",
            f"{noise.lower:.5g} to {noise.upper:.5g}, claimed "
            f"{noise.noise_multiplier:g}",
        ),
        *((f"noise, {test.name}", _show_test(test)) for test in noise.tests),
        (
            "largest contribution over the clip",
            f"at least {lower_bounds.show_down(clip.sensitivity_lower)}",
        ),
        ("claimed", str(claim)),
        (
            "closest to a contradiction",
            f"claimed epsilon {result.epsilon:.4g} at delta "
            f"{result.delta:.3g}, found at least "
            f"{lower_bounds.show_down(result.epsilon_lower)}",
        ),
    )


def _show_test(test) -> str:
    return (
        f"{'FAILED' if test.failed else 'passed'}: {test.measures} "
        f"{test.statistic:.4g}, p-value {test.p_value:.2g}"
    )


def _check_members(is_member, num_canaries: int) -> np.ndarray:
    array = np.asarray(is_member)
    good = array.dtype == bool and array.shape == (num_canaries,)
    if not (good and 0 < array.sum() < num_canaries):
        raise ValueError(
            f"is_member must be {num_canaries} values of bool, some True and "
            f"some False. Received: {array.dtype} of shape {array.shape}, "
            f"{int(array.sum()) if good else 'unknown'} True. Draw a fair coin "
            "for each canary."
        )
    return array
