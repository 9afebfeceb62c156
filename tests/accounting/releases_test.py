# SPDX-License-Identifier: Apache-2.0
"""Every release's loss against closed forms, quadrature and its own RDP."""

import functools
import math

import mpmath
import numpy as np
import pytest
from scipy import integrate
from scipy import stats

from tf_privacy.accounting import laplace_loss
from tf_privacy.accounting import privacy_loss
from tf_privacy.accounting import releases
from tf_privacy.accounting import renyi
from tf_privacy.accounting import tight

OVERFLOW = releases.Overflow(0.01, 0.04, 1e-3)
RELEASES = [
    releases.GaussianRelease(1.3),
    releases.SampledGaussianRelease(0.8, 0.02),
    releases.GroupGaussianRelease(2.0, 0.05, 4),
    releases.ReplacedGaussianRelease(1.1, 0.05),
    releases.ReplacedGaussianRelease(1.1, 0.05, OVERFLOW),
    releases.FixedSizeGaussianRelease(1.5, 0.1),
    releases.TruncatedGaussianRelease(1.1, 0.05, OVERFLOW),
    releases.BoundedRelease(0.7, 0.0),
    laplace_loss.LaplaceRelease(1.5, 1.0),
    laplace_loss.LaplaceRelease(0.7, 0.1),
]
LOG_LOST = math.log(1e-18)


def make_losses(release):
    return [release.make_loss(LOG_LOST, removes=r) for r in (True, False)]


@pytest.mark.parametrize("release", RELEASES, ids=repr)
def test_masses_add_up_on_both_sides(release):
    """E[exp(0 L)] = 1, and E[exp(-L)] is what the neighbor gives: 1."""
    for loss in make_losses(release):
        assert loss.compute_cumulants(0.0)[0] == pytest.approx(0.0, abs=1e-12)
        if isinstance(loss, privacy_loss.GaussianLoss):
            continue
        below, weight = loss._collect(
            [privacy_panels(piece) for piece in loss._pieces]
        )[:2]
        assert np.exp(weight - below).sum() == pytest.approx(1.0, abs=1e-9)


def privacy_panels(piece):
    edges = np.linspace(piece.left, piece.right, 200)
    return edges[:-1], edges[1:]


@pytest.mark.parametrize("release", RELEASES, ids=repr)
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_one_release_has_its_delta(release, epsilon):
    """Against the integral of (A - exp(epsilon) B)_+ over the outcomes."""
    for removes in (True, False):
        make_loss = functools.partial(release.make_loss, removes=removes)
        direction = tight.Direction([(make_loss, 1)])
        bounds = tight.compute_delta_bounds(
            [direction], epsilon=epsilon, tolerance=1e-3
        )
        wanted = compute_delta(release, epsilon, removes)
        assert bounds.upper >= wanted * (1 - 1e-9)
        assert bounds.lower <= wanted * (1 + 1e-9)
        assert bounds.upper <= wanted * 1.05 + 1e-12


def list_branches(release):
    q, overflow = release.sampling_probability, release.overflow
    if overflow is None:
        return [(1.0, 1.0, q)]
    full, doubt = overflow.probability, overflow.doubt
    return [
        (1.0 - full - doubt, 1.0, q),
        (full, 2.0, overflow.kept_probability),
        (doubt, 2.0, q),
    ]


def list_components(release, removes):
    """Returns A and B as lists of (weight, branch, mean), and a density."""
    name = type(release).__name__
    z = release.__dict__.get("noise_multiplier")
    q = release.__dict__.get("sampling_probability")
    if name == "GaussianRelease":
        pair = [(1.0, 0, 1.0)], [(1.0, 0, 0.0)]
    elif name == "SampledGaussianRelease" or name == "LaplaceRelease":
        pair = [(1 - q, 0, 0.0), (q, 0, 1.0)], [(1.0, 0, 0.0)]
    elif name == "GroupGaussianRelease":
        counts = range(release.group_size + 1)
        law = stats.binom(release.group_size, q).pmf
        pair = [(law(k), 0, float(k)) for k in counts], [(1.0, 0, 0.0)]
    else:
        pair = [], []
        truncated = name == "TruncatedGaussianRelease"
        for branch, (chance, clips, p) in enumerate(list_branches(release)):
            for side, sign in enumerate((1.0, 0.0 if truncated else -1.0)):
                pair[side].append((chance * (1 - p), branch, 0.0))
                pair[side].append((chance * p, branch, sign * clips))
    law = stats.laplace if name == "LaplaceRelease" else stats.norm
    first, second = pair if removes else pair[::-1]
    return first, second, lambda x, mean: law.pdf(x, loc=mean, scale=z)


def compute_delta(release, epsilon, removes):
    if isinstance(release, releases.BoundedRelease):
        up = 1 / (1 + math.exp(-release.epsilon))
        return max(0.0, up - math.exp(epsilon) * (1 - up))
    if isinstance(release, releases.FixedSizeGaussianRelease):
        # Balle, Barthe and Gaboardi 2018: q times the Gaussian's at alpha.
        q = release.sampling_probability
        alpha = 1 + math.expm1(epsilon) / q
        mu = 2.0 / release.noise_multiplier
        x = math.log(alpha) / mu
        return q * float(
            stats.norm.cdf(mu / 2 - x) - alpha * stats.norm.cdf(-mu / 2 - x)
        )
    first, second, density = list_components(release, removes)
    total = 0.0
    for branch in {b for _, b, _ in first}:

        def excess(x, branch=branch):
            a, b = (
                sum(w * density(x, m) for w, c, m in side if c == branch)
                for side in (first, second)
            )
            return max(0.0, a - math.exp(epsilon) * b)

        total += integrate.quad(
            excess, -40, 40, points=np.linspace(-10, 12, 45), limit=1000
        )[0]
    return total


@pytest.mark.parametrize("release", RELEASES, ids=repr)
def test_tight_is_at_most_rdp(release):
    """At every order, the loss's own moment is at most the RDP bound."""
    orders = np.array([1.5, 2.0, 3.0, 5.0])
    rdp = release.compute_rdp(orders)
    for loss in make_losses(release):
        for order, bound in zip(orders, rdp, strict=True):
            moment = loss.compute_cumulants(order - 1.0)[0]
            assert moment <= (order - 1.0) * bound * (1 + 1e-9) + 1e-9


def test_proved_error_of_the_quadrature_holds():
    """The transform against mpmath, at high frequencies too."""
    noise, q, order = 0.6, 0.03, 4.0
    release = releases.SampledGaussianRelease(noise, q)
    loss = release.make_loss(math.log(1e-25), removes=True)
    grid = privacy_loss.FrequencyGrid(
        order=order, spacing=40.0, num_rows=2, num_columns=2
    )
    found = loss.transform(grid)
    assert found.moment_error < 1e-12 and found.ratio_error < 1e-11
    with mpmath.workdps(30):

        def compute_moment(s):
            def integrand(t):
                u = q * mpmath.expm1(t / noise - 1 / mpmath.mpf(2 * noise**2))
                return mpmath.npdf(t) * mpmath.power(1 + u, s + 1)

            (piece,) = loss._pieces
            points = mpmath.linspace(piece.left, piece.right, 241)
            return mpmath.quad(integrand, points)

        whole = compute_moment(order)
        assert found.log_moment == pytest.approx(
            float(mpmath.log(whole)), abs=found.moment_error + 1e-15
        )
        for j, frequency in enumerate(grid.frequencies):
            s = mpmath.mpc(order, float(frequency))
            ratio = compute_moment(s) / whole
            ratio *= mpmath.expj(-float(frequency) * found.mean)
            got = complex(np.exp(found.log_ratio[j]))
            assert abs(got - complex(ratio)) <= found.ratio_error + 1e-15


def test_whole_orders_of_the_fixed_size_bound():
    """Wang et al. 2019, Theorem 9, summed term by term in mpmath."""
    q, noise = 0.02, 3.0
    release = releases.FixedSizeGaussianRelease(noise, q)
    orders = np.arange(2.0, 40.0)
    got = release.compute_rdp(orders)
    rdp = lambda j: mpmath.mpf(2 * j) / noise**2
    for order, value in zip(orders, got, strict=True):
        a = int(order)
        second = q**2 * mpmath.binomial(a, 2)
        second *= min(4 * mpmath.expm1(rdp(2)), 2 * mpmath.exp(rdp(2)))
        rest = sum(
            mpmath.binomial(a, j) * q**j * 2 * mpmath.exp((j - 1) * rdp(j))
            for j in range(3, a + 1)
        )
        wanted = mpmath.log(1 + second + rest) / (a - 1)
        wanted = min(wanted, 2 * a / mpmath.mpf(noise) ** 2)
        assert value == pytest.approx(float(wanted), rel=1e-9)


def test_zcdp_has_only_a_renyi_bound():
    release = releases.ConcentratedRelease(0.1)
    assert not release.has_loss
    with pytest.raises(privacy_loss.NotCertifiedError):
        release.make_loss(LOG_LOST, removes=True)
    np.testing.assert_array_equal(
        release.compute_rdp(renyi.DEFAULT_ORDERS), 0.1 * renyi.DEFAULT_ORDERS
    )


def test_what_is_not_pure_has_no_rdp():
    rdp = releases.BoundedRelease(1.0, 1e-9).compute_rdp(np.array([2.0]))
    assert np.isinf(rdp).all()
