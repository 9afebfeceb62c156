# SPDX-License-Identifier: Apache-2.0
"""Check that the noise that came out of real steps is the claimed noise.

Coordinates of canaries that were not in the data hold nothing but noise. If the
claim is true they are independent draws of N(0, noise_multiplier^2), in units
of the clip. Each test (`noise_statistics`) looks for one way in which noise
goes wrong, and has a p-value that is valid at any size.
"""

import dataclasses
import enum
import functools

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import binomial
from tf_privacy.audit import dirac_scores
from tf_privacy.audit import noise_statistics

# Above the errors of the distribution functions.
_ROUND_UP = 1.0 + 1e-9
# Of the risk of all tests, what `compute_shape` spends on its interval.
_SHAPE_RISK = 1e-3
_ASSUMPTIONS = (
    "no gradient lies in these coordinates",
    "observations are in units of the clip that the claim means",
)


class NoiseVerdict(enum.Enum):
    """What the noise says about the guarantee; the value explains it.

    AS_CLAIMED: no test failed.
    LESS_NOISE: the standard deviation is too small.
    OTHER_NOISE: it is not independent normal noise of one size.
    MORE_NOISE: the standard deviation is too large, and nothing else is wrong.
    """

    AS_CLAIMED = "no difference from the claimed noise was found"
    LESS_NOISE = "less noise than claimed: the guarantee is broken"
    OTHER_NOISE = (
        "not the noise that the accountant assumes: the guarantee is not proved"
    )
    MORE_NOISE = (
        "more noise than claimed (for instance drawn once for each replica): "
        "the guarantee holds, accuracy is lost"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseTest:
    """One property of the noise, tested.

    Attributes:
        name: Of the property.
        measures: What the statistic is.
        statistic: As measured.
        p_value: Probability of so extreme a statistic under the claim, or an
            upper bound; in [0, 1].
        failed: Whether the p-value is below this test's share of the risk.
    """

    name: str
    measures: str
    statistic: float
    p_value: float
    failed: bool

    def __str__(self) -> str:
        mark = "FAILED" if self.failed else "passed"
        return (
            f"{mark} {self.name}: {self.measures} {self.statistic:.5g}, "
            f"p-value {self.p_value:.2g}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseCheck:
    """The size of the noise that was seen, and every test of it.

    Attributes:
        noise_multiplier: The claimed one.
        lower: Lower end of the interval for the noise multiplier seen.
        upper: Upper end.
        confidence: Probability, at least, that the claimed noise passes all
            tests with the truth inside of the interval.
        num_steps: Steps looked at.
        num_coordinates: Coordinates looked at, in each step.
        tests: What was tested; the shape decides which tests there are.
        assumptions: What must be true, one sentence each.
    """

    noise_multiplier: float
    lower: float
    upper: float
    confidence: float
    num_steps: int
    num_coordinates: int
    tests: tuple[NoiseTest, ...]
    assumptions: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether no test failed."""
        return self.verdict is NoiseVerdict.AS_CLAIMED

    @property
    def verdict(self) -> NoiseVerdict:
        """What the tests say about the guarantee."""
        failed = {test.name for test in self.tests if test.failed}
        if not failed:
            return NoiseVerdict.AS_CLAIMED
        if "size" in failed and self.upper < self.noise_multiplier:
            return NoiseVerdict.LESS_NOISE
        if failed == {"size"}:
            return NoiseVerdict.MORE_NOISE
        return NoiseVerdict.OTHER_NOISE

    def __str__(self) -> str:
        lines = [
            f"noise multiplier between {self.lower:.5g} and {self.upper:.5g} "
            f"(claimed {self.noise_multiplier:g}), confidence "
            f"{self.confidence:g}",
            f"  {self.verdict.value}",
            f"  {self.num_steps} steps, {self.num_coordinates} coordinates:",
            *(f"    {test}" for test in self.tests),
            "  Holds if:",
            *(f"    - {text}" for text in self.assumptions),
        ]
        return "\n".join(lines)


def estimate_noise(
    observations: np.ndarray,
    *,
    noise_multiplier: float,
    confidence: float,
    resolution: float = 2e-5,
) -> NoiseCheck:
    """Returns whether what non-members' coordinates hold is the claimed noise.

    Each of K tests has the share (1 - confidence) / K of the risk, so that the
    claimed noise passes all of them with probability at least confidence:

        size: n numbers' sum of squares, chi-squared; the interval follows
        mean: is 0
        shape: normal, of whatever standard deviation
        largest: the largest number is neither too large nor cut off
        repetitions: no more equal numbers than the resolution explains
        steps: each as noisy as all (some without noise)
        coordinates: each as noisy as all
        common to coordinates: no part that a step adds to all of them
        common to steps: no part that stays, or that cancels over the steps
        pairs of steps: no two are alike (a key used twice)
        pairs of coordinates: no two are alike
        lags: signs of steps up to 8 apart are independent

    T steps and M coordinates take O(T M (T + M)) time; of more than 10,000 rows
    the first 10,000 are compared in pairs. If each step has a noise multiplier
    of its own, divide each row by it and claim 1.

    Args:
        observations: `[T, M]` finite, in units of the clip: coordinates of the
            noised sums in which no gradient lies; T M >= 2.
        noise_multiplier: The claimed one; > 0.
        confidence: In (0, 1).
        resolution: Spacing of the numbers that the observations were read from,
            in units of the noise; in (0, 1]. The default leaves room for
            weights in float32, read as differences, over 10,000 steps.

    Returns:
        `NoiseCheck`.

    Raises:
        TypeError: If observations are not real numbers.
        ValueError: If they are no matrix or not all finite, or a number is out
            of range.
    """
    observations = dirac_scores.check_observations("observations", observations)
    noise_multiplier = _checks.check_noise_multiplier(noise_multiplier)
    confidence = binomial.check_confidence(confidence)
    resolution = _checks.check_real(
        "resolution", resolution, above=0.0, at_most=1.0
    )
    if observations.size < 2:
        raise ValueError(
            "observations must hold at least 2 numbers. Received: shape "
            f"{observations.shape}. Take more non-members or more steps."
        )
    tests = _list_tests(
        observations.shape,
        noise_multiplier=noise_multiplier,
        spacing=resolution,
        risk=_SHAPE_RISK * (1.0 - confidence),
    )
    level = (1.0 - confidence) / len(tests)
    lower, upper = noise_statistics.compute_size_interval(
        observations, level=level
    )
    return NoiseCheck(
        noise_multiplier=noise_multiplier,
        lower=lower,
        upper=upper,
        confidence=confidence,
        num_steps=observations.shape[0],
        num_coordinates=observations.shape[1],
        tests=tuple(_run_test(*test, observations, level) for test in tests),
        assumptions=_ASSUMPTIONS,
    )


def _list_tests(shape, *, noise_multiplier, spacing, risk) -> list[tuple]:
    """Returns (name, what it measures, function), as the shape allows."""
    tests = [
        (
            "size",
            "noise multiplier",
            functools.partial(
                noise_statistics.compute_size, noise_multiplier=noise_multiplier
            ),
        ),
        ("mean", "mean in standard errors", noise_statistics.compute_mean),
        (
            "shape",
            "distance from normal",
            functools.partial(noise_statistics.compute_shape, risk=risk),
        ),
        ("largest", "in standard deviations", noise_statistics.compute_largest),
        (
            "repetitions",
            "equal to an earlier number",
            functools.partial(
                noise_statistics.compute_repetitions, spacing=spacing
            ),
        ),
    ]
    if shape[0] > 1:
        tests.append(
            ("lags", "share of equal signs", noise_statistics.compute_lags)
        )
    if min(shape) > 1:
        for measures, compute, names in (
            (
                "most unusual size over the common one",
                noise_statistics.compute_row_sizes,
                ("steps", "coordinates"),
            ),
            (
                "size of sums over that of independent ones",
                noise_statistics.compute_common_part,
                ("common to coordinates", "common to steps"),
            ),
            (
                "largest correlation",
                noise_statistics.compute_row_pairs,
                ("pairs of steps", "pairs of coordinates"),
            ),
        ):
            tests.append((names[0], measures, compute))
            tests.append((names[1], measures, _transpose(compute)))
    return tests


def _transpose(compute):
    """Returns a function of rows as a function of columns."""
    return lambda noise: compute(noise.T)


def _run_test(name, measures, compute, observations, level) -> NoiseTest:
    statistic, p_value = compute(observations)
    p_value = min(1.0, p_value * _ROUND_UP)
    return NoiseTest(
        name=name,
        measures=measures,
        statistic=statistic,
        p_value=p_value,
        failed=p_value < level,
    )
