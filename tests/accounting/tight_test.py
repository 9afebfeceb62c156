# SPDX-License-Identifier: Apache-2.0
"""The tight accountant against golden values and in its corners.

tests/golden/epsilons.csv, deltas.csv and schedules.csv were computed on
2026-11-28 by a program that shares no code with the library and whose author
had not seen it: closed forms in mpmath (60 digits), nested Gauss-Legendre
quadrature over single steps, unsmoothed contour integrals at two orders, and a
density convolution on a logarithmic grid. The column `method` names those that
agreed; the bracket is at least their difference.
"""

import csv
import functools
import math
import pathlib

import mpmath
import numpy as np
import pytest

from tf_privacy.accounting import budget
from tf_privacy.accounting import composition
from tf_privacy.accounting import contour
from tf_privacy.accounting import mechanism
from tf_privacy.accounting import releases
from tf_privacy.accounting import tight

_GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
# Where a unit hardly ever takes part, but shows clearly when it does, or where
# epsilon is far below the spread of the losses, less is promised.
_LOOSE = {
    ("1e-08", "0.5", "2", "1e-12"): 1.1,
    ("1e-08", "0.3", "10", "1e-09"): 9.1,
    ("1e-08", "0.4", "1000000", "1e-09"): 0.015,
    ("1e-07", "0.5", "10000000", "1e-10"): 0.08,
    ("1e-08", "0.5", "100000000", "1e-08"): 0.015,
}


def read(name):
    with open(_GOLDEN / name, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def describe(row):
    return "-".join(list(row.values())[:4])


def make(q, noise, steps):
    return mechanism.SampledGaussianSteps(
        noise_multiplier=float(noise),
        sampling_probability=float(q),
        num_steps=int(steps),
    )


@pytest.mark.parametrize("row", read("epsilons.csv"), ids=describe)
def test_epsilon_is_certified_on_both_sides_and_tight(row):
    key = tuple(list(row.values())[:4])
    run = make(*key[:3])
    bounds = composition.compute_epsilon_bounds_of([run], delta=float(key[3]))
    low, high = float(row["epsilon_lower"]), float(row["epsilon_upper"])
    assert bounds.lower <= high
    assert bounds.epsilon >= low
    assert bounds.epsilon <= bounds.rdp_epsilon
    # The absolute term is for epsilons near 0, where delta is near delta(0).
    assert bounds.epsilon <= high * (1 + _LOOSE.get(key, 2e-3)) + 1e-5


def make_direction(q, noise, steps, removes):
    release = releases.SampledGaussianRelease(
        noise_multiplier=noise, sampling_probability=q
    )
    make_loss = functools.partial(release.make_loss, removes=removes)
    return tight.Direction([(make_loss, steps)])


@pytest.mark.parametrize("row", read("deltas.csv"), ids=describe)
def test_delta_of_each_direction_is_between_its_bounds(row):
    epsilon = float(row["epsilon"])
    bounds = tight.compute_delta_bounds(
        [
            make_direction(
                float(row["q"]),
                float(row["noise_multiplier"]),
                int(row["num_steps"]),
                row["direction"] == "remove",
            )
        ],
        epsilon=epsilon,
    )
    low, high = float(row["delta_lower"]), float(row["delta_upper"])
    assert bounds.lower <= high and bounds.upper >= low
    if row["q"] not in ("1e-08", "1e-05"):
        assert bounds.upper <= high * 1.04 + 1e-13


@pytest.mark.parametrize("row", read("schedules.csv"), ids=describe)
def test_schedules_of_noise_and_sampling(row):
    columns = [
        row[n].split(";") for n in ("q", "noise_multiplier", "num_steps")
    ]
    runs = [make(*phase) for phase in zip(*columns, strict=True)]
    bounds = composition.compute_epsilon_bounds_of(
        runs, delta=float(row["delta"])
    )
    low, high = float(row["epsilon_lower"]), float(row["epsilon_upper"])
    assert bounds.lower <= high and bounds.epsilon >= low
    assert bounds.lower >= 0.999 * low and bounds.epsilon <= 1.001 * high


def test_a_finer_tolerance_gives_a_finer_bracket():
    directions = [make_direction(0.01, 4.0, 10000, r) for r in (True, False)]
    # Two contours that agree to 20 digits.
    truth = 0.94686680076438046489
    for tolerance in (1e-3, 1e-4, 1e-5, 1e-6):
        bounds = tight.compute_epsilon_bounds(
            directions, delta=1e-5, tolerance=tolerance
        )
        assert bounds.lower < truth < bounds.upper
        assert bounds.upper - bounds.lower < 2.2 * tolerance * truth


def test_smoothing_bounds_the_payoff_on_both_sides():
    """The two inequalities behind the certificate, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    for width in (0.01, 0.3, 1.0, 2.8):
        x = np.linspace(-8.0, 8.0, 401) * width
        z = 0.5 * width**2 + width * nodes
        payoff = np.maximum(0.0, -np.expm1(-x))
        smooth = np.maximum(0.0, -np.expm1(-(x[:, None] + z))) @ weights
        bump = width / math.sqrt(2 * math.pi)
        bump = bump * np.exp(-x / 2 - x**2 / (2 * width**2))
        assert np.all(payoff <= smooth + 1e-12)
        # Quadrature of a kink: right to about width / 120.
        assert np.all(smooth - bump <= payoff + 0.01 * width)


@pytest.mark.parametrize("share", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("q", [1.0, 0.1, 1e-6])
def test_closed_forms_keep_their_lower_bound_where_epsilon_vanishes(q, share):
    """delta just below delta(0), against mpmath."""
    noise = 2.0
    with mpmath.workdps(50):
        c = 1 / mpmath.mpf(noise)
        whole = q * (mpmath.ncdf(c / 2) - mpmath.ncdf(-c / 2))
        delta = float(whole * (1 - share))

        def excess(epsilon):
            # Loss above epsilon: t above the point where 1 + u = e^epsilon.
            ratio = mpmath.expm1(epsilon) / q + 1
            point = mpmath.log(ratio) / c + c / 2
            mass = q * (mpmath.ncdf(c - point) - mpmath.ncdf(-point))
            return mass - mpmath.expm1(epsilon) * mpmath.ncdf(-point) - delta

        truth = mpmath.findroot(
            excess, (0, whole * share * 4), solver="anderson", tol=1e-60
        )
    bounds = composition.compute_epsilon_bounds_of(
        [make(q, noise, 1)], delta=delta
    )
    assert bounds.accountant == "closed form"
    assert bounds.lower <= float(truth) * (1 + 1e-12) <= bounds.epsilon


def test_any_order_gives_true_bounds():
    direction = make_direction(0.01, 1.0, 1000, True)
    composed = direction.cut(math.log(1e-5), 1e-3)
    best = composed.find_order(log_delta=math.log(1e-5))
    truth = 1.828237
    for factor in (0.5, 0.8, 1.2, 1.3):
        bounds = contour.DeltaBounds(
            composed,
            order=factor * best,
            epsilon=truth,
            log_delta=math.log(1e-5),
            width=1e-3,
        )
        assert bounds.compute_upper(truth * (1 - 1e-6)) >= 1e-5
        assert bounds.compute_lower(truth * (1 + 1e-6)) <= 1e-5


def test_memory_and_time_do_not_grow_with_the_steps():
    def count(steps):
        composed = make_direction(0.01, 2.0, steps, True).cut(
            math.log(1e-5), 1e-3
        )
        order = composed.find_order(log_delta=math.log(1e-5))
        epsilon, _ = composed.estimate_at(order)
        bounds = contour.DeltaBounds(
            composed,
            order=order,
            epsilon=epsilon,
            log_delta=math.log(1e-5),
            width=2.5e-4 * epsilon,
        )
        return bounds._grid.frequencies.size

    assert max(count(10**k) for k in (3, 4, 6, 8)) < 1500


@pytest.mark.parametrize("delta", [1e-8, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14])
def test_small_deltas_keep_their_epsilon(delta):
    """dp-accounting 0.6's PLD is below the truth from 1e-10 to 1e-13."""
    truth = {
        1e-8: 8.185123,
        1e-10: 9.316139,
        1e-11: 9.842000,
        1e-12: 10.346690,
        1e-13: 10.833100,
        1e-14: 11.303559,
    }[delta]
    epsilon = budget.compute_epsilon(
        noise_multiplier=1.0,
        sampling_probability=0.01,
        num_steps=10**4,
        delta=delta,
    )
    assert truth - 1e-6 < epsilon < truth * 1.001


def test_counts_compose():
    """A release counted k times is k releases, for every kind."""
    for release in (
        releases.SampledGaussianRelease(1.0, 0.1),
        releases.ReplacedGaussianRelease(1.0, 0.1),
        releases.FixedSizeGaussianRelease(1.0, 0.1),
        releases.TruncatedGaussianRelease(
            1.0, 0.1, releases.Overflow(1e-3, 0.08, 1e-4)
        ),
        releases.GroupGaussianRelease(2.0, 0.1, 3),
        releases.BoundedRelease(0.1, 0.0),
    ):
        make_loss = functools.partial(release.make_loss, removes=True)
        once = tight.Direction([(make_loss, 1)] * 5)
        five = tight.Direction([(make_loss, 5)])
        a, b = (
            tight.compute_epsilon_bounds([each], delta=1e-5).upper
            for each in (once, five)
        )
        assert a == pytest.approx(b, rel=1e-9)
