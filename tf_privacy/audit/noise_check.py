# SPDX-License-Identifier: Apache-2.0
"""Is the noise that came out of real steps the noise that was claimed?

Coordinates of canaries that were not in the data hold nothing but noise. If the
claim is true they are independent draws of N(0, noise_multiplier^2), and every
test here has a p-value that is valid at any size: exact, or an upper bound.
Nothing is estimated from the data and then taken for known: statistics that are
to hold whatever the noise's size are shares of the sum of all squares. For n
independent N(0, s^2) numbers the share of a fixed k-dimensional projection is
Beta(k / 2, (n - k) / 2) for every s.
"""

import dataclasses
import enum
import math

import numpy as np
from scipy import special
from scipy import stats

from tf_privacy import _checks
from tf_privacy.audit import binomial
from tf_privacy.audit import dirac_scores

_LARGEST_LAG = 8
# So many rows of a matrix are compared in pairs, and in blocks of this size.
_MAX_PAIRED = 10_000
_BLOCK = 1024
# So many values are searched for repetitions.
_MAX_SEARCHED = 20_000
# Largest slope of the normal distribution function in the log of its scale.
_SCALE_SLOPE = float(stats.norm.pdf(1.0))
# Above the errors of the distribution functions.
_ROUND_UP = 1.0 + 1e-9


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

    Source: Beta shares: Cochran 1934, doi:10.1017/S0305004100016595. Shape:
        Massart 1990, doi:10.1214/aop/1176990746, over an interval for the
        scale: Berger and Boos 1994, doi:10.1080/01621459.1994.10476836. Cut-off
        largest: shares are negatively associated, Joag-Dev and Proschan 1983,
        doi:10.1214/aos/1176346079. Repetitions: Hoeffding 1956,
        doi:10.1214/aoms/1177728178.
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
    makers = _list_tests(observations.shape)
    share = (1.0 - confidence) / len(makers)
    noise = _Noise(observations, noise_multiplier, resolution, share)
    tests = []
    for name, (measures, make) in makers.items():
        statistic, p_value = make(noise)
        p_value = min(1.0, float(p_value) * _ROUND_UP)
        tests.append(
            NoiseTest(
                name=name,
                measures=measures,
                statistic=float(statistic),
                p_value=p_value,
                failed=p_value < share,
            )
        )
    lower, upper = noise.compute_interval(share)
    return NoiseCheck(
        noise_multiplier=noise_multiplier,
        lower=lower,
        upper=upper,
        confidence=confidence,
        num_steps=observations.shape[0],
        num_coordinates=observations.shape[1],
        tests=tuple(tests),
        assumptions=(
            "no gradient lies in these coordinates",
            "observations are in units of the clip that the claim means",
        ),
    )


class _Noise:
    """Observations, scaled so that no square overflows.

    Args:
        observations: `[T, M]`, checked.
        noise_multiplier: The claimed one.
        resolution: In units of the noise.
        level: Each test's share of the risk.
    """

    def __init__(self, observations, noise_multiplier, resolution, level):
        self.size = observations.size
        self.claimed = noise_multiplier
        self.resolution = resolution
        self.level = level
        self.unit = float(np.max(np.abs(observations)))
        # Zeros stay zeros: a share of nothing is 0, and fails.
        self.scaled = observations / (self.unit or 1.0)
        self.sum_of_squares = float(np.sum(np.square(self.scaled)))

    def compute_stddev(self) -> float:
        """Returns the root of the mean square, in units of the clip."""
        return self.unit * math.sqrt(self.sum_of_squares / self.size)

    def compute_interval(self, level) -> tuple[float, float]:
        """Returns where the noise multiplier is, but for this risk."""
        quantiles = stats.chi2.ppf([1.0 - 0.5 * level, 0.5 * level], self.size)
        ends = self.compute_stddev() * np.sqrt(self.size / quantiles)
        return float(ends[0]), float(ends[1])

    def divide(self, squares) -> np.ndarray:
        """Returns shares of the sum of squares; 0 of nothing."""
        total = self.sum_of_squares or 1.0
        return np.minimum(1.0, np.asarray(squares) / total)
