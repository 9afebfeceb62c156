# SPDX-License-Identifier: Apache-2.0
"""Epsilon, delta and noise of one training run described by four numbers."""

import math

from tf_privacy import _checks
from tf_privacy.accounting import composition
from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import neighboring_relation as relation_lib

_ADD_OR_REMOVE_ONE = relation_lib.NeighboringRelation.ADD_OR_REMOVE_ONE
# Relative width at which the search for the noise stops, on the safe side.
_NOISE_TOLERANCE = 1e-6


def compute_epsilon(
    *,
    noise_multiplier: float,
    sampling_probability: float,
    num_steps: int,
    delta: float,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> float:
    """Returns the epsilon of `num_steps` equal private steps at `delta`.

    Args:
        noise_multiplier: Noise stddev over the L2 clip; in [0.01, 1000].
        sampling_probability: Chance that a unit joins a batch, by independent
            (Poisson) draws; in [1e-8, 1]. Batches made in any other way are
            covered by 1 only.
        num_steps: Noisy releases; whole, in [0, 1e8].
        delta: Probability in (0, 1).
        neighboring_relation: ADD_OR_REMOVE_ONE or ZERO_OUT_ONE.

    Returns:
        epsilon in nats, >= 0; an upper bound. Zero steps give 0.

    Raises:
        ValueError: If an argument is out of range or not a number.

    Source: Mironov, Talwar and Zhang 2019, arXiv:1908.10530 (RDP); Canonne,
        Kamath and Steinke 2020, arXiv:2004.00010, Proposition 12.
    """
    relation_lib.check_neighboring_relation(neighboring_relation)
    run = mechanism_lib.Mechanism(
        noise_multiplier=noise_multiplier,
        sampling_probability=sampling_probability,
        num_steps=num_steps,
    )
    return composition.compute_epsilon_of([run], delta=delta)


def compute_delta(
    *,
    noise_multiplier: float,
    sampling_probability: float,
    num_steps: int,
    epsilon: float,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> float:
    """Returns the delta of `num_steps` equal private steps at `epsilon`.

    Args:
        noise_multiplier: Noise stddev over the L2 clip; in [0.01, 1000].
        sampling_probability: Chance that a unit joins a batch, by independent
            (Poisson) draws; in [1e-8, 1].
        num_steps: Noisy releases; whole, in [0, 1e8].
        epsilon: Nats; finite, >= 0.
        neighboring_relation: ADD_OR_REMOVE_ONE or ZERO_OUT_ONE.

    Returns:
        delta in [0, 1]; an upper bound. Zero steps give 0.

    Raises:
        ValueError: If an argument is out of range or not a number.

    Source: as for `compute_epsilon`.
    """
    relation_lib.check_neighboring_relation(neighboring_relation)
    run = mechanism_lib.Mechanism(
        noise_multiplier=noise_multiplier,
        sampling_probability=sampling_probability,
        num_steps=num_steps,
    )
    return composition.compute_delta_of([run], epsilon=epsilon)


def calibrate_noise_multiplier(
    *,
    target_epsilon: float,
    target_delta: float,
    sampling_probability: float,
    num_steps: int,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> float:
    """Returns the least noise multiplier that meets the target.

    Args:
        target_epsilon: Nats; finite, > 0.
        target_delta: Probability in (0, 1).
        sampling_probability: Chance that a unit joins a batch, by independent
            (Poisson) draws; in [1e-8, 1].
        num_steps: Noisy releases; whole, in [1, 1e8].
        neighboring_relation: ADD_OR_REMOVE_ONE or ZERO_OUT_ONE.

    Returns:
        A noise multiplier in [0.01, 1000], at most 2e-6 (relative) above the
        least one. `compute_epsilon` was evaluated at it and is <= the target.

    Raises:
        ValueError: If an argument is out of range, or even the noise
            multiplier 1000 does not meet the target.
    """
    target_epsilon = _checks.check_real(
        "target_epsilon", target_epsilon, above=0.0
    )
    target_delta = _checks.check_delta(target_delta, name="target_delta")
    num_steps = mechanism_lib.check_num_steps(num_steps, at_least=1)

    def compute_excess(log_noise: float) -> float:
        epsilon = compute_epsilon(
            noise_multiplier=_compute_noise(log_noise),
            sampling_probability=sampling_probability,
            num_steps=num_steps,
            delta=target_delta,
            neighboring_relation=neighboring_relation,
        )
        # The floor keeps the logarithm finite; its sign is what counts.
        return math.log(max(epsilon, 0.01 * target_epsilon) / target_epsilon)

    low = math.log(mechanism_lib.MIN_NOISE_MULTIPLIER)
    high = math.log(mechanism_lib.MAX_NOISE_MULTIPLIER)
    if compute_excess(low) <= 0.0:
        return mechanism_lib.MIN_NOISE_MULTIPLIER
    if not compute_excess(high) <= 0.0:
        raise ValueError(
            "target_epsilon must be attainable with a noise_multiplier <= "
            f"{mechanism_lib.MAX_NOISE_MULTIPLIER:g}. Received: "
            f"{target_epsilon!r}. Use fewer steps, a smaller "
            "sampling_probability, or a larger target."
        )
    return _compute_noise(_search_root(compute_excess, low, high))


def _compute_noise(log_noise: float) -> float:
    noise = max(math.exp(log_noise), mechanism_lib.MIN_NOISE_MULTIPLIER)
    return min(noise, mechanism_lib.MAX_NOISE_MULTIPLIER)


def _search_root(function, low: float, high: float) -> float:
    """Returns a point within the tolerance above the root, where it is <= 0.

    Bracketing by secants, with a bisection whenever the bracket has not halved
    in two evaluations; `function` falls from > 0 at `low` to <= 0 at `high`.
    """
    f_low, f_high = function(low), function(high)
    width = high - low
    bisect_next = False
    while high - low > _NOISE_TOLERANCE:
        if bisect_next:
            x = 0.5 * (low + high)
        else:
            x = low + (high - low) * f_low / (f_low - f_high)
            # Step past the root, so that the bracket closes from both sides.
            margin = 0.5 * _NOISE_TOLERANCE
            x = min(max(x + margin, low + margin), high - margin)
        value = function(x)
        if value <= 0.0:
            high, f_high = x, value
        else:
            low, f_low = x, value
        bisect_next = not bisect_next and high - low > 0.5 * width
        width = high - low
    return high
