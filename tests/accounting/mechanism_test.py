# SPDX-License-Identifier: Apache-2.0
"""Tests of the descriptions of what ran."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from tf_privacy import accounting
from tf_privacy.accounting import mechanism
from tf_privacy.accounting import releases

GOOD = {"noise_multiplier": 1, "sampling_probability": 0.1, "num_steps": 1e3}


def test_holds_checked_values():
    made = mechanism.SampledGaussianSteps(**GOOD)
    assert made.num_steps == 1000 and isinstance(made.num_steps, int)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.num_steps = 1


@pytest.mark.parametrize(
    "name, value",
    [
        (name, value)
        for name, bad in {
            "noise_multiplier": [0, -1.0, 0.009, 1000.1],
            "sampling_probability": [0, -0.1, 1e-9, 1.01],
            "num_steps": [-1, 0.5, 100_000_001],
        }.items()
        for value in [*bad, float("nan"), float("inf"), -float("inf")]
    ],
)
def test_refuses_values_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .* Received: "):
        mechanism.SampledGaussianSteps(**{**GOOD, name: value})


@pytest.mark.parametrize("name", list(GOOD))
@pytest.mark.parametrize("value", [None, "1", True])
def test_refuses_what_is_no_number(name, value):
    with pytest.raises(TypeError, match=f"^{name} must be"):
        mechanism.SampledGaussianSteps(**{**GOOD, name: value})


Relation = accounting.NeighboringRelation
GAUSSIAN = accounting.Gaussian(1.1)
MECHANISMS = [
    GAUSSIAN,
    accounting.Laplace(2.0),
    accounting.ApproximateDP(0.5, 1e-9),
    accounting.ConcentratedDP(0.01),
    accounting.AdaptiveClipping(1.1, 10.0),
    accounting.PoissonSampled(GAUSSIAN, 0.01),
    accounting.PoissonSampled(accounting.Laplace(2.0), 0.01),
    accounting.TruncatedPoissonSampled(GAUSSIAN, 0.01, 10_000, 150),
    accounting.SampledGaussianSteps(**GOOD),
    accounting.BallsInBins(1.1, 100, 2),
    accounting.TreeAggregation(noise_multiplier=5.0, steps_per_tree=64),
    accounting.MatrixMechanism(noise_multiplier=5.0, sensitivity=2.0),
    accounting.DiscreteGaussian(1.1),
    accounting.PoissonSampled(accounting.DiscreteGaussian(1.1), 0.01),
]


def compute(*mechanisms, relation=Relation.ADD_OR_REMOVE_ONE, delta=1e-5):
    return accounting.compute_epsilon_bounds_of(
        mechanisms, delta=delta, neighboring_relation=relation
    )


@pytest.mark.parametrize("made", MECHANISMS, ids=repr)
def test_contract_of_a_mechanism(made):
    """Immutable, hashable, counted, and never below its parts."""
    assert hash(made) == hash(dataclasses.replace(made))
    assert made == dataclasses.replace(made)
    once = compute(made)
    thrice = accounting.SelfComposed(made, 3)
    assert compute(thrice) == compute(made, made, made)
    assert compute(accounting.Composed([made, made, made])) == compute(thrice)
    assert once.epsilon < compute(thrice).epsilon
    assert once.lower <= once.epsilon <= once.rdp_epsilon
    assert compute(accounting.SelfComposed(made, 0)).epsilon == 0.0
    assert once.epsilon < compute(made, GAUSSIAN).epsilon


@pytest.mark.parametrize("made", MECHANISMS, ids=repr)
def test_replacing_costs_at_least_as_much(made):
    if isinstance(getattr(made, "mechanism", None), accounting.Laplace):
        with pytest.raises(ValueError, match="^neighboring_relation of Poi"):
            compute(made, relation=Relation.REPLACE_ONE)
        return
    replaced = compute(made, relation=Relation.REPLACE_ONE).epsilon
    assert replaced >= compute(made).epsilon
    assert compute(made, relation=Relation.ZERO_OUT_ONE) == compute(made)


def test_the_steps_of_dp_sgd_are_what_they_are_made_of():
    steps = accounting.SampledGaussianSteps(**GOOD)
    parts = accounting.SelfComposed(
        accounting.PoissonSampled(accounting.Gaussian(1.0), 0.1), 1000
    )
    assert compute(steps) == compute(parts)


@pytest.mark.parametrize(
    "made",
    [
        accounting.SampledWithoutReplacement(GAUSSIAN, 100, 10_000),
        accounting.ShuffledEpochs(GAUSSIAN, 3),
    ],
    ids=repr,
)
def test_data_of_fixed_size_cannot_be_added_to(made):
    with pytest.raises(ValueError, match="^neighboring_relation of "):
        compute(made)
    assert compute(made, relation=Relation.REPLACE_ONE).epsilon > 0
    assert compute(made, relation=Relation.ZERO_OUT_ONE).lower == 0.0


def test_shuffled_epochs_are_not_amplified():
    shuffled = compute(
        accounting.ShuffledEpochs(GAUSSIAN, 60), relation=Relation.ZERO_OUT_ONE
    )
    assert shuffled.epsilon == compute(*[GAUSSIAN] * 60).epsilon


def test_a_sample_of_everything_is_no_sample():
    whole = accounting.SampledWithoutReplacement(GAUSSIAN, 10, 10)
    wanted = compute(GAUSSIAN, relation=Relation.REPLACE_ONE)
    got = compute(whole, relation=Relation.REPLACE_ONE)
    assert got.epsilon == wanted.epsilon


def test_adaptive_clipping_is_the_two_queries_together():
    # Andrew et al. 2021, Theorem 1: z = (z_sum^-2 + (2 sigma_b)^-2)^(-1/2).
    both = compute(accounting.AdaptiveClipping(1.0, 2.0))
    count = accounting.Gaussian(4.0)
    assert both.epsilon == pytest.approx(
        compute(accounting.Gaussian(1.0), count).epsilon, rel=1e-9
    )


def test_tree_of_one_participation_is_a_gaussian_a_level():
    tree = accounting.TreeAggregation(
        noise_multiplier=5.0, steps_per_tree=64, num_trees=4
    )
    # 7 levels, 4 trees.
    wanted = compute(accounting.Gaussian(5.0 / 28**0.5)).epsilon
    assert compute(tree).epsilon == pytest.approx(wanted, rel=1e-9)


def test_truncation_hardly_costs_where_it_hardly_happens():
    settings = {"mechanism": GAUSSIAN, "sampling_probability": 0.01}
    plain = compute(
        accounting.SelfComposed(accounting.PoissonSampled(**settings), 200)
    ).epsilon
    epsilons = []
    for size in (100, 120, 150, 10_001):
        made = accounting.TruncatedPoissonSampled(
            **settings, num_examples=10_000, max_batch_size=size
        )
        epsilons.append(compute(accounting.SelfComposed(made, 200)).epsilon)
    assert epsilons == sorted(epsilons)[::-1]
    assert epsilons[-1] == plain
    assert epsilons[-2] <= 1.01 * plain < 1.2 * plain < epsilons[0]


def test_overflow_is_the_binomial_tail_rounded_up():
    made = accounting.TruncatedPoissonSampled(GAUSSIAN, 0.01, 10_000, 130)
    exact = stats.binom.sf(129, 10_000, 0.01)
    assert exact <= made.overflow_probability <= exact * (1 + 1e-6)


@pytest.mark.parametrize("relation", list(Relation))
def test_truncation_with_all_units_in_every_batch(relation):
    made = accounting.TruncatedPoissonSampled(GAUSSIAN, 1.0, 1000, 10)
    found = compute(made, relation=relation)
    # A unit is among the 10 of 1000 with probability 0.01, and moves the sum
    # by up to 2 clips.
    wanted = accounting.SampledGaussianSteps(
        noise_multiplier=0.55, sampling_probability=0.01, num_steps=1
    )
    assert found.lower == 0.0
    assert compute(wanted).epsilon <= found.epsilon
    assert found.epsilon <= compute(accounting.Gaussian(0.55)).epsilon


def test_truncation_covers_neighbors_of_either_size():
    """By brute force over the number of others, one release."""
    q, most, noise = 0.3, 4, 1.1
    for size in (8, 12, 40):
        made = accounting.TruncatedPoissonSampled(GAUSSIAN, q, size, most)
        for epsilon in (0.0, 0.3, 1.0, 2.0):
            found = accounting.compute_delta_of([made], epsilon=epsilon)
            totals = []
            for others in (size - 1, size):
                law = stats.binom(others, q)
                full = law.sf(most - 1)
                k = np.arange(most, others + 1)
                kept = q * float(law.pmf(k) @ (most / (k + 1.0))) / full
                room = compute_release_delta(noise, q, epsilon)
                none = compute_release_delta(noise / 2.0, kept, epsilon)
                totals.append((1 - full) * room + full * none)
            assert max(totals) * (1 - 1e-9) <= found <= 1.5 * max(totals)


def compute_release_delta(noise, q, epsilon):
    """Removing, one Poisson-sampled Gaussian: the loss's half line."""
    point = noise**2 * math.log(math.expm1(epsilon) / q + 1) + 0.5
    mass = stats.norm.sf(point / noise)
    moved = stats.norm.sf((point - 1) / noise)
    return q * (moved - mass) - math.expm1(epsilon) * mass


def test_renyi_alone_serves_what_has_no_loss():
    bounds = compute(accounting.ConcentratedDP(0.01), GAUSSIAN)
    assert bounds.epsilon == bounds.rdp_epsilon
    assert bounds.accountant.startswith("RDP")


def test_pure_dp_composes_as_randomized_response():
    # k releases of epsilon 0.1: Kairouz et al. 2015, Theorem 3.3.
    made, k, delta = accounting.ApproximateDP(0.1), 50, 1e-6
    bounds = compute(accounting.SelfComposed(made, k), delta=delta)
    p = 1 / (1 + math.exp(-0.1))

    def exact(epsilon):
        counts = np.arange(k + 1)
        law = stats.binom(k, p).pmf(counts)
        loss = 0.1 * (2 * counts - k)
        return float(law @ np.maximum(0.0, -np.expm1(epsilon - loss)))

    assert exact(bounds.epsilon) <= delta < exact(bounds.lower - 1e-9)
    assert bounds.epsilon < 1.001 * bounds.lower


def test_a_fixed_part_of_delta_leaves_the_rest_for_the_others():
    # (epsilon, 9e-6) costs epsilon and leaves 1e-6 for the Gaussian steps.
    steps = accounting.SampledGaussianSteps(**GOOD)
    both = compute(steps, accounting.ApproximateDP(1e-9, 9e-6), delta=1e-5)
    alone = compute(steps, delta=1e-6)
    assert both.epsilon == pytest.approx(alone.epsilon, rel=1e-3)


def test_a_fixed_part_of_delta_is_paid_first():
    made = accounting.ApproximateDP(0.1, 2e-6)
    assert compute(made, delta=3e-6).epsilon <= 0.1 + 1e-9
    with pytest.raises(ValueError, match="^epsilon must be a finite"):
        compute(made, delta=1e-6)


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: accounting.SelfComposed(GAUSSIAN, -1), ValueError),
        (lambda: accounting.SelfComposed(releases, 1), TypeError),
        (lambda: accounting.Composed([GAUSSIAN, None]), TypeError),
        (lambda: accounting.PoissonSampled(GAUSSIAN, 0.0), ValueError),
        (
            lambda: accounting.PoissonSampled(
                accounting.SelfComposed(GAUSSIAN, 2), 0.1
            ),
            TypeError,
        ),
        (lambda: accounting.Gaussian(float("nan")), ValueError),
        (lambda: accounting.Laplace(0.0), ValueError),
        (lambda: accounting.ApproximateDP(-0.1), ValueError),
        (lambda: accounting.ApproximateDP(0.1, 1.0), ValueError),
        (lambda: accounting.ConcentratedDP(float("inf")), ValueError),
        (lambda: accounting.AdaptiveClipping(1.0, 0.0), ValueError),
        (
            lambda: accounting.SampledWithoutReplacement(GAUSSIAN, 11, 10),
            ValueError,
        ),
        (lambda: accounting.ShuffledEpochs(GAUSSIAN, 1.5), ValueError),
        (
            lambda: accounting.TreeAggregation(
                noise_multiplier=1.0, steps_per_tree=0
            ),
            ValueError,
        ),
        (
            lambda: accounting.MatrixMechanism(
                noise_multiplier=1.0, sensitivity=0.0
            ),
            ValueError,
        ),
    ],
)
def test_refuses_what_it_cannot_mean(make, error):
    with pytest.raises(error, match=" must be .*Received: "):
        make()


def test_groups_are_at_most_what_the_lemma_says():
    run = accounting.SampledGaussianSteps(
        noise_multiplier=1.1, sampling_probability=256 / 60000, num_steps=14063
    )
    before = 0.0
    for size in (1, 2, 3, 5, 20):
        got = accounting.compute_group_epsilon(
            [run], group_size=size, delta=1e-5
        )
        lemma = accounting.convert_to_group_epsilon(
            [run], group_size=size, delta=1e-5
        )
        assert before < got < lemma
        before = got
    # Counts that never happen, and no count 0 at all, are no trouble.
    for noise, q, size in ((20.0, 0.01, 1000), (300.0, 0.9, 1000)):
        run = accounting.SampledGaussianSteps(
            noise_multiplier=noise, sampling_probability=q, num_steps=1000
        )
        bounds = compute(accounting.GroupRun(run, size))
        assert bounds.lower < bounds.epsilon < 1.002 * bounds.lower
    # All of a group of Gaussian releases is the Gaussian of their sum.
    group = accounting.compute_group_epsilon(
        [accounting.Gaussian(5.0)], group_size=5, delta=1e-5
    )
    assert group == pytest.approx(compute(accounting.Gaussian(1.0)).epsilon)
    with pytest.raises(ValueError, match="^mechanism must be Gaussian"):
        accounting.compute_group_epsilon(
            [accounting.Laplace(1.0)], group_size=2, delta=1e-5
        )


def test_balls_in_bins_are_amplified_by_what_is_proved():
    run = accounting.BallsInBins(1.0, 100, 10)
    found = compute(run)
    # By the Renyi accountant Poisson sampling costs 2.102, and no sampling
    # 17.86.
    assert found.epsilon == pytest.approx(1.986, abs=2e-3)
    assert found.lower == 0.0
    replaced = compute(run, relation=Relation.REPLACE_ONE)
    doubled = compute(*[accounting.Gaussian(0.5)] * 10)
    assert replaced.epsilon == pytest.approx(doubled.epsilon)
