# SPDX-License-Identifier: Apache-2.0
"""Tests of the searches."""

import math

import pytest

from tf_privacy.accounting import search


@pytest.mark.parametrize("power", [1.0, 3.0, 0.2])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_root_is_the_last_safe_point_and_is_found_soon(power, sign):
    asked = []

    def compute_excess(x):
        asked.append(x)
        return sign * (math.copysign(abs(x - 2.0) ** power, x - 2.0))

    root = search.find_root(
        compute_excess,
        safe=-10.0 * sign,
        unsafe=10.0 * sign,
        start=-1.0,
        slope=sign,
        tolerance=1e-6,
    )
    assert root in asked and compute_excess(root) <= 0.0
    assert abs(root - 2.0) <= 2e-6 or power > 1.0
    assert len(asked) < 80


def test_root_at_the_ends():
    settings = {"safe": 0.0, "unsafe": 1.0, "start": 0.5, "slope": 1.0}
    find = lambda f: search.find_root(f, **settings, tolerance=1e-6)
    assert find(lambda x: -1.0 - x) == 1.0
    assert find(lambda x: 1.0 + x) is None
    # A step: no secant helps.
    root = find(lambda x: 1.0 if x > 0.7 else -1.0)
    assert root == pytest.approx(0.7, abs=2e-6) and root <= 0.7


@pytest.mark.parametrize(
    "function, zero",
    [
        (lambda x: math.exp(x) - 3.0, math.log(3.0)),
        (lambda x: 1.0 - x**7, 1.0),
        (lambda x: x, 0.0),
        (lambda x: math.atan(50 * (x + 2.3)), -2.3),
    ],
)
def test_zero_is_found_in_few_steps(function, zero):
    asked = []
    counted = lambda x: asked.append(x) or function(x)
    found = search.find_zero(counted, -5.0, 4.0, tolerance=1e-10)
    assert found == pytest.approx(zero, abs=2e-10)
    assert len(asked) < 60


def test_zero_needs_a_change_of_sign():
    for value in (1.0, math.nan):
        with pytest.raises(ValueError, match="^function must change its sign"):
            search.find_zero(lambda x: value, 0.0, 1.0, tolerance=1e-6)  # noqa: B023
