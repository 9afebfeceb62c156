# SPDX-License-Identifier: Apache-2.0
"""The noise multiplier that correlated noise needs for a target."""

from tf_privacy import _checks
from tf_privacy.accounting import budget
from tf_privacy.accounting import neighboring_relation as relation_lib
from tf_privacy.accounting import ranges

_ZERO_OUT_ONE = relation_lib.NeighboringRelation.ZERO_OUT_ONE
# Above the rounding of a product and of the accountant's closed form.
_ROUND_UP = 1.0 + 1e-9


def calibrate_correlated_noise_multiplier(
    *,
    target_epsilon: float,
    target_delta: float,
    sensitivity: float,
    num_releases: int = 1,
    neighboring_relation: relation_lib.NeighboringRelation = _ZERO_OUT_ONE,
) -> float:
    """Returns the least noise multiplier of correlated noise for a target.

    Each release, a run of `MatrixMechanism` or one tree of `TreeAggregation`,
    is a Gaussian mechanism of noise multiplier noise_multiplier / sensitivity,
    and those of one run compose.

    Args:
        target_epsilon: Nats; finite, > 0.
        target_delta: Probability in (0, 1).
        sensitivity: L2 norm of what one unit adds to a release, over
            l2_norm_clip; in [1e-9, 1e9]. That of a `ToeplitzNoise` or
            `TreeNoise`, which does not depend on its noise multiplier.
        num_releases: Releases, one after the other; whole, in [1, 1e8]: the
            steps of the run over the steps of a release, rounded up.
        neighboring_relation: Which data sets are compared. Adding a unit to
            data in a fixed order shifts all that follow, so correlated noise is
            stated for ZERO_OUT_ONE.

    Returns:
        A noise multiplier in [0.01, 1000], at most 3e-6 (relative) above the
        least one.

    Raises:
        ValueError: If an argument is out of range, or even the noise
            multiplier 1000 does not meet the target.
    """
    sensitivity = _checks.check_real(
        "sensitivity", sensitivity, at_least=1e-9, at_most=1e9
    )
    num_releases = ranges.check_num_steps(
        num_releases, name="num_releases", at_least=1
    )
    over_sensitivity = budget.calibrate_noise_multiplier(
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        sampling_probability=1.0,
        num_steps=num_releases,
        neighboring_relation=neighboring_relation,
    )
    found = over_sensitivity * sensitivity * _ROUND_UP
    if found > ranges.MAX_NOISE_MULTIPLIER:
        raise ValueError(
            "target_epsilon must be attainable with a noise_multiplier <= "
            f"{ranges.MAX_NOISE_MULTIPLIER:g}. Received: {target_epsilon!r}, "
            f"which takes {found:g}. Use a C of less sensitivity, as by larger "
            "min_separation or smaller coefficients, or a larger target."
        )
    return max(found, ranges.MIN_NOISE_MULTIPLIER)
