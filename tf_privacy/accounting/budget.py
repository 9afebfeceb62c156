# SPDX-License-Identifier: Apache-2.0
"""Epsilon, delta and noise of one training run described by four numbers."""

import math

from tf_privacy import _checks
from tf_privacy.accounting import composition
from tf_privacy.accounting import concentrated
from tf_privacy.accounting import mechanism as mechanism_lib
from tf_privacy.accounting import neighboring_relation as relation_lib
from tf_privacy.accounting import ranges
from tf_privacy.accounting import search

_ADD_OR_REMOVE_ONE = relation_lib.NeighboringRelation.ADD_OR_REMOVE_ONE
# Relative width at which searches stop, on the safe side.
_TOLERANCE = 1e-6


def _make_run(noise_multiplier, sampling_probability, num_steps):
    return mechanism_lib.SampledGaussianSteps(
        noise_multiplier=noise_multiplier,
        sampling_probability=sampling_probability,
        num_steps=num_steps,
    )


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
        neighboring_relation: Which data sets are compared.

    Returns:
        epsilon in nats, >= 0; an upper bound, typically 0.03% above the truth.
        Zero steps give 0.

    Raises:
        ValueError: If an argument is out of range or not a number.

    Source: `tf_privacy.accounting.contour`; where that finds no proof, Renyi
        DP (Mironov, Talwar and Zhang 2019, arXiv:1908.10530).
    """
    run = _make_run(noise_multiplier, sampling_probability, num_steps)
    return composition.compute_epsilon_of(
        [run], delta=delta, neighboring_relation=neighboring_relation
    )


def compute_epsilon_bounds(
    *,
    noise_multiplier: float,
    sampling_probability: float,
    num_steps: int,
    delta: float,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> composition.EpsilonBounds:
    """Returns certified bounds of the epsilon of equal private steps.

    Args:
        noise_multiplier: Noise stddev over the L2 clip; in [0.01, 1000].
        sampling_probability: Chance that a unit joins a batch, by independent
            (Poisson) draws; in [1e-8, 1].
        num_steps: Noisy releases; whole, in [0, 1e8].
        delta: Probability in (0, 1).
        neighboring_relation: Which data sets are compared.

    Returns:
        `EpsilonBounds`, with the Renyi accountant's figure beside.

    Raises:
        ValueError: If an argument is out of range or not a number.
    """
    run = _make_run(noise_multiplier, sampling_probability, num_steps)
    return composition.compute_epsilon_bounds_of(
        [run], delta=delta, neighboring_relation=neighboring_relation
    )


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
        neighboring_relation: Which data sets are compared.

    Returns:
        delta in [0, 1]; an upper bound. Zero steps give 0.

    Raises:
        ValueError: If an argument is out of range or not a number.

    Source: as for `compute_epsilon`.
    """
    run = _make_run(noise_multiplier, sampling_probability, num_steps)
    return composition.compute_delta_of(
        [run], epsilon=epsilon, neighboring_relation=neighboring_relation
    )


def _compute_log_excess(epsilon: float, target: float) -> float:
    # The floor keeps the logarithm finite; its sign is what counts.
    return math.log(max(epsilon, 0.01 * target) / target)


def _guess_noise(target_epsilon, target_delta, q, num_steps) -> float:
    """Returns about the noise that meets a target, by the central limit."""

    def compute_excess(log_mu):
        found = concentrated.compute_gdp_delta(
            math.exp(log_mu), epsilon=target_epsilon
        )
        return math.log(max(found, 1e-320)) - math.log(target_delta)

    low, high = -35.0, 0.5 * math.log(2.0 * target_epsilon + 100.0) + 5.0
    if compute_excess(low) > 0.0 or compute_excess(high) < 0.0:
        return 1.0
    mu = math.exp(search.find_zero(compute_excess, low, high, tolerance=1e-6))
    if q == 1.0:
        return math.sqrt(num_steps) / mu
    return math.log1p((mu / q) ** 2 / num_steps) ** -0.5


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
        neighboring_relation: Which data sets are compared.

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
    num_steps = ranges.check_num_steps(num_steps, at_least=1)
    sampling_probability = ranges.check_sampling_probability(
        sampling_probability
    )

    def compute_excess(log_noise: float) -> float:
        epsilon = compute_epsilon(
            noise_multiplier=_limit_noise(math.exp(log_noise)),
            sampling_probability=sampling_probability,
            num_steps=num_steps,
            delta=target_delta,
            neighboring_relation=neighboring_relation,
        )
        return _compute_log_excess(epsilon, target_epsilon)

    guess = _guess_noise(
        target_epsilon, target_delta, sampling_probability, num_steps
    )
    found = search.find_root(
        compute_excess,
        safe=math.log(ranges.MAX_NOISE_MULTIPLIER),
        unsafe=math.log(ranges.MIN_NOISE_MULTIPLIER),
        start=math.log(_limit_noise(guess)),
        slope=-1.2,
        tolerance=_TOLERANCE,
    )
    if found is None:
        raise ValueError(
            "target_epsilon must be attainable with a noise_multiplier <= "
            f"{ranges.MAX_NOISE_MULTIPLIER:g}. Received: "
            f"{target_epsilon!r}. Use fewer steps, a smaller "
            "sampling_probability, or a larger target."
        )
    return _limit_noise(math.exp(found))


def _limit_noise(noise: float) -> float:
    # The ends of the range are met in spite of rounding.
    if noise <= ranges.MIN_NOISE_MULTIPLIER * (1.0 + 1e-12):
        return ranges.MIN_NOISE_MULTIPLIER
    return min(noise, ranges.MAX_NOISE_MULTIPLIER)


def calibrate_sampling_probability(
    *,
    target_epsilon: float,
    target_delta: float,
    noise_multiplier: float,
    num_steps: int,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> float:
    """Returns the largest sampling probability that meets the target.

    Args:
        target_epsilon: Nats; finite, > 0.
        target_delta: Probability in (0, 1).
        noise_multiplier: Noise stddev over the L2 clip; in [0.01, 1000].
        num_steps: Noisy releases; whole, in [1, 1e8].
        neighboring_relation: Which data sets are compared.

    Returns:
        A probability in [1e-8, 1], at most 2e-6 (relative) below the largest;
        `compute_epsilon` was evaluated at it and is <= the target.

    Raises:
        ValueError: If an argument is out of range, or even the probability
            1e-8 does not meet the target.
    """
    target_epsilon = _checks.check_real(
        "target_epsilon", target_epsilon, above=0.0
    )
    target_delta = _checks.check_delta(target_delta, name="target_delta")
    num_steps = ranges.check_num_steps(num_steps, at_least=1)

    def compute_excess(log_probability: float) -> float:
        epsilon = compute_epsilon(
            noise_multiplier=noise_multiplier,
            sampling_probability=_limit_probability(log_probability),
            num_steps=num_steps,
            delta=target_delta,
            neighboring_relation=neighboring_relation,
        )
        return _compute_log_excess(epsilon, target_epsilon)

    found = search.find_root(
        compute_excess,
        safe=math.log(ranges.MIN_SAMPLING_PROBABILITY),
        unsafe=0.0,
        start=math.log(0.01),
        slope=1.2,
        tolerance=_TOLERANCE,
    )
    if found is None:
        raise ValueError(
            "target_epsilon must be attainable with a sampling_probability >= "
            f"{ranges.MIN_SAMPLING_PROBABILITY:g}. Received: "
            f"{target_epsilon!r}. Use more noise, fewer steps, or a larger "
            "target."
        )
    return _limit_probability(found)


def _limit_probability(log_probability: float) -> float:
    low = ranges.MIN_SAMPLING_PROBABILITY
    return min(1.0, max(low, math.exp(log_probability)))


def calibrate_expected_batch_size(
    *,
    target_epsilon: float,
    target_delta: float,
    noise_multiplier: float,
    num_steps: int,
    num_examples: int,
    neighboring_relation: relation_lib.NeighboringRelation = _ADD_OR_REMOVE_ONE,
) -> int:
    """Returns the largest whole expected batch size that meets the target.

    Args:
        target_epsilon: Nats; finite, > 0.
        target_delta: Probability in (0, 1).
        noise_multiplier: Noise stddev over the L2 clip; in [0.01, 1000].
        num_steps: Noisy releases; whole, in [1, 1e8].
        num_examples: Examples in the training set; whole, in [1, 1e8].
        neighboring_relation: Which data sets are compared.

    Returns:
        Examples, rounded down, in [1, num_examples]; `compute_epsilon` was
        evaluated at it and is <= the target.

    Raises:
        ValueError: If an argument is out of range, or even a batch of one
            does not meet the target.
    """
    num_examples = _checks.check_integer(
        "num_examples", num_examples, at_least=1, at_most=10**8
    )
    probability = calibrate_sampling_probability(
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        noise_multiplier=noise_multiplier,
        num_steps=num_steps,
        neighboring_relation=neighboring_relation,
    )
    # The search may have stopped just short of a whole batch.
    size = math.floor(probability * num_examples * (1.0 + 4.0 * _TOLERANCE))
    for candidate in (size, size - 1):
        if not 1 <= candidate <= num_examples:
            continue
        epsilon = compute_epsilon(
            noise_multiplier=noise_multiplier,
            sampling_probability=candidate / num_examples,
            num_steps=num_steps,
            delta=target_delta,
            neighboring_relation=neighboring_relation,
        )
        if epsilon <= target_epsilon:
            return candidate
    raise ValueError(
        "target_epsilon must be attainable with a batch of one example. "
        f"Received: {target_epsilon!r}. Use more noise, fewer steps, or a "
        "larger target."
    )
