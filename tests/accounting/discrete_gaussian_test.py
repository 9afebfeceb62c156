# SPDX-License-Identifier: Apache-2.0
"""The discrete Gaussian's bounds, against sums over the integers.

The oracle lists the mechanism's own probabilities on a piece of the lattice
that holds all but 1e-25 of them, and knows nothing of moments or orders.
"""

import functools
import math

import mpmath
import numpy as np
import pytest
from scipy import optimize

from tf_privacy import accounting
from tf_privacy.accounting import discrete_gaussian
from tf_privacy.accounting import releases

Relation = accounting.NeighboringRelation
ORDERS = np.array([1.01, 1.5, 2.0, 2.7, 3.0, 4.0, 5.5, 8.0, 16.0])

# Scale of the noise in integers, what a unit moves the sum, chance to be drawn.
LATTICES = [
    (0.5, (1,), 0.3),
    (0.8, (1,), 0.01),
    (1.0, (1,), 1.0),
    (1.3, (2,), 0.1),
    (2.5, (2,), 0.5),
    (3.0, (1,), 0.02),
    (0.9, (1, 1), 0.05),
    (1.5, (2, -1), 0.2),
]


def make_neighbors(scale, moved, q, is_replaced=False):
    """Returns the sum's law with and without the unit, on one cube."""
    last = int(12 * scale) + 2 * max(map(abs, moved)) + 14

    def law(shift):
        axis = np.arange(-last, last + 1, dtype=np.float64)
        total = np.exp(-0.5 * (axis / scale) ** 2).sum()
        rows = [np.exp(-0.5 * ((axis - m) / scale) ** 2) / total for m in shift]
        return functools.reduce(np.multiply.outer, rows).ravel()

    without = law((0,) * len(moved))
    first = (1 - q) * without + q * law(moved)
    if is_replaced:
        opposite = tuple(-m for m in moved)
        return first, (1 - q) * without + q * law(opposite)
    return first, without


def compute_divergence(first, second, order):
    """Returns D_order(first || second) by its definition."""
    used = (first > 1e-280) & (second > 1e-280)
    log_ratio = np.log(first[used]) - np.log(second[used])
    terms = order * log_ratio + np.log(second[used])
    return float(np.logaddexp.reduce(terms)) / (order - 1)


def compute_multiplier(scale, moved):
    return scale / math.hypot(*moved)


@pytest.mark.parametrize("scale, moved, q", LATTICES)
def test_rdp_is_never_below_the_true_one(scale, moved, q):
    """In both directions, at integer orders and between."""
    pair = make_neighbors(scale, moved, q)
    release = discrete_gaussian.DiscreteGaussianRelease(
        compute_multiplier(scale, moved), q, False
    )
    bounds = release.compute_rdp(ORDERS)
    for order, bound in zip(ORDERS, bounds, strict=True):
        for first, second in (pair, pair[::-1]):
            wanted = compute_divergence(first, second, order)
            assert wanted <= bound * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("scale, moved, q", LATTICES)
def test_rdp_of_removing_is_exact_at_small_integer_orders(scale, moved, q):
    """And the larger direction."""
    with_unit, without = make_neighbors(scale, moved, q)
    release = discrete_gaussian.DiscreteGaussianRelease(
        compute_multiplier(scale, moved), q, False
    )
    orders = np.array([2.0, 3.0, 4.0])
    for order, bound in zip(orders, release.compute_rdp(orders), strict=True):
        removing = compute_divergence(with_unit, without, order)
        adding = compute_divergence(without, with_unit, order)
        assert removing == pytest.approx(bound, rel=1e-7)
        assert adding <= removing * (1 + 1e-12)


@pytest.mark.parametrize("q", [1e-4, 0.01, 0.3])
@pytest.mark.parametrize("z", [0.4, 1.0, 5.0])
def test_integer_orders_are_the_binomial_sum(z, q):
    release = discrete_gaussian.DiscreteGaussianRelease(z, q, False)
    with mpmath.workdps(60):
        for order in (2, 3, 10, 32):
            moment = mpmath.fsum(
                mpmath.binomial(order, k)
                * (1 - mpmath.mpf(q)) ** (order - k)
                * mpmath.mpf(q) ** k
                * mpmath.exp(k * (k - 1) / (2 * mpmath.mpf(z) ** 2))
                for k in range(order + 1)
            )
            wanted = float(mpmath.log(moment) / (order - 1))
            (found,) = release.compute_rdp(np.array([float(order)]))
            assert wanted <= found <= wanted * (1 + 1e-8)


@pytest.mark.parametrize("scale, moved, q", LATTICES)
def test_replacing_is_never_below_the_true_one(scale, moved, q):
    """The unit moves the sum one way, the one in its place the other way."""
    pair = make_neighbors(scale, moved, q, is_replaced=True)
    release = discrete_gaussian.DiscreteGaussianRelease(
        compute_multiplier(scale, moved), q, True
    )
    bounds = release.compute_rdp(ORDERS)
    for order, bound in zip(ORDERS, bounds, strict=True):
        wanted = compute_divergence(*pair, order)
        assert wanted <= bound * (1 + 1e-9) + 1e-12


def make_steps(law, num_steps):
    return functools.reduce(np.multiply.outer, [law] * num_steps).ravel()


def compute_true_epsilon(pair, delta):
    """Returns the least epsilon of both directions, by its definition."""

    def excess(epsilon):
        worst = max(
            np.maximum(a - math.exp(epsilon) * b, 0.0).sum()
            for a, b in (pair, pair[::-1])
        )
        return worst - delta

    if excess(0.0) <= 0.0:
        return 0.0
    return optimize.brentq(excess, 0.0, 600.0, xtol=1e-9)


@pytest.mark.parametrize("delta", [0.1, 1e-3, 1e-6, 1e-10])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("scale, moved, q", LATTICES[:6])
def test_epsilon_is_never_below_the_true_one(scale, moved, q, num_steps, delta):
    pair = [
        make_steps(law, num_steps) for law in make_neighbors(scale, moved, q)
    ]
    wanted = compute_true_epsilon(pair, delta)
    mechanism = accounting.DiscreteGaussian(compute_multiplier(scale, moved))
    steps = accounting.SelfComposed(
        accounting.PoissonSampled(mechanism, q), num_steps
    )
    found = accounting.compute_epsilon_bounds_of([steps], delta=delta)
    assert found.lower == 0.0
    assert found.epsilon >= wanted * (1 - 1e-9)
    # Not by so much that it says nothing.
    assert found.epsilon <= 2.5 * wanted + 1.5
    delta_found = accounting.compute_delta_of([steps], epsilon=wanted)
    assert delta_found >= delta * (1 - 1e-6) or wanted == 0.0


def test_the_continuous_gaussians_own_epsilon_would_be_too_small():
    """Why the tight accountant must not be used for integer noise."""
    wanted = compute_true_epsilon(make_neighbors(1.0, (1,), 1.0), 0.38)
    continuous = accounting.compute_epsilon_of(
        [accounting.Gaussian(1.0)], delta=0.38
    )
    assert continuous < wanted
    found = accounting.compute_epsilon_of(
        [accounting.DiscreteGaussian(1.0)], delta=0.38
    )
    assert found >= wanted


@pytest.mark.parametrize("relation", list(Relation))
def test_without_sampling_it_is_concentrated(relation):
    """rho = 1 / (2 z^2), and 4 times that where a unit is replaced."""
    rho = 1 / (2 * 1.7**2) * (4 if relation is Relation.REPLACE_ONE else 1)
    found, wanted = (
        accounting.compute_rdp_of([mechanism], neighboring_relation=relation)
        for mechanism in (
            accounting.DiscreteGaussian(1.7),
            accounting.ConcentratedDP(rho),
        )
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-14)


def test_rdp_is_close_to_the_continuous_gaussians():
    """At integer orders the same; in between a little more, never less."""
    release = discrete_gaussian.DiscreteGaussianRelease(1.1, 0.01, False)
    continuous = releases.SampledGaussianRelease(1.1, 0.01)
    orders = np.array([2.0, 7.0, 40.0, 1e6])
    np.testing.assert_allclose(
        release.compute_rdp(orders), continuous.compute_rdp(orders), rtol=1e-8
    )
    between = np.array([1.001, 2.5, 7.3, 40.9, 1e3 + 0.5])
    assert np.all(
        release.compute_rdp(between) >= continuous.compute_rdp(between)
    )


@pytest.mark.parametrize("relation", list(Relation))
@pytest.mark.parametrize("q", [1e-3, 0.2, 1.0])
def test_contract_of_a_mechanism(q, relation):
    """Counted, never merged with Gaussians, and never below its parts."""
    compute = functools.partial(
        accounting.compute_epsilon_bounds_of,
        delta=1e-5,
        neighboring_relation=relation,
    )
    made = accounting.PoissonSampled(accounting.DiscreteGaussian(1.1), q)
    assert hash(made) == hash(
        accounting.PoissonSampled(accounting.DiscreteGaussian(1.1), q)
    )
    once = compute([made])
    thrice = accounting.SelfComposed(made, 3)
    assert compute([thrice]) == compute([made, made, made])
    assert compute([accounting.Composed([made] * 3)]) == compute([thrice])
    assert once.epsilon < compute([thrice]).epsilon
    assert once.epsilon == once.rdp_epsilon and once.lower == 0.0
    assert not made.is_attained
    assert compute([accounting.SelfComposed(made, 0)]).epsilon == 0.0
    gaussian = accounting.PoissonSampled(accounting.Gaussian(1.1), q)
    continuous, _ = accounting.compute_rdp_epsilon_of(
        [gaussian], delta=1e-5, neighboring_relation=relation
    )
    assert once.epsilon >= continuous
    assert compute([made, gaussian]).epsilon > once.epsilon


def test_sampling_with_probability_1_is_no_sampling():
    plain = accounting.DiscreteGaussian(0.9)
    sampled = accounting.PoissonSampled(plain, 1.0)
    for relation in Relation:
        assert sampled.list_releases(relation) == plain.list_releases(relation)


def test_a_unit_that_is_drawn_more_often_costs_more():
    epsilons = [
        accounting.compute_epsilon_of(
            [accounting.PoissonSampled(accounting.DiscreteGaussian(z), q)],
            delta=1e-5,
        )
        for z, q in [(2.0, 0.01), (1.0, 0.01), (1.0, 0.1), (1.0, 1.0)]
    ]
    assert epsilons == sorted(epsilons) and len(set(epsilons)) == 4


def test_what_is_not_analyzed_is_refused():
    made = accounting.DiscreteGaussian(1.0)
    for sample in (
        lambda: accounting.SampledWithoutReplacement(made, 10, 100),
        lambda: accounting.TruncatedPoissonSampled(made, 0.1, 100, 20),
        lambda: accounting.ShuffledEpochs(made, 3),
    ):
        with pytest.raises(TypeError, match="^mechanism must be a Gaussian or"):
            sample()
    for described in (made, accounting.PoissonSampled(made, 0.1)):
        with pytest.raises(ValueError, match="^mechanism must have an equal"):
            accounting.to_dp_event(described)
    with pytest.raises(ValueError, match="^mechanism must be Gaussian, or"):
        accounting.compute_group_epsilon([made], group_size=2, delta=1e-5)


@pytest.mark.parametrize(
    "value", [0.0, -1.0, 0.009, 1001.0, np.nan, np.inf, -np.inf]
)
def test_a_noise_multiplier_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="^noise_multiplier must be .* Rec"):
        accounting.DiscreteGaussian(value)


@pytest.mark.parametrize("value", [None, "1", True])
def test_a_noise_multiplier_that_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="^noise_multiplier must be"):
        accounting.DiscreteGaussian(value)
