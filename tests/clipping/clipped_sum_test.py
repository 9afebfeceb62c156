# SPDX-License-Identifier: Apache-2.0
"""Tests of ClippedSum."""

import keras
import numpy as np
import pytest

from tf_privacy.clipping import clipped_sum

VARIABLES = (
    keras.Variable(np.zeros((2, 3), "float32")),
    keras.Variable(np.zeros((3,), "float32")),
)


def make(value=1.0, *, variables=VARIABLES, l2_sensitivity=1.0):
    return clipped_sum.ClippedSum(
        gradients=tuple(np.full(v.shape, value) for v in variables),
        variables=variables,
        l2_sensitivity=l2_sensitivity,
    )


def test_sums_of_disjoint_units_add_up():
    total = make(1.0) + make(2.5)
    for gradient, variable in zip(total.gradients, VARIABLES, strict=True):
        np.testing.assert_array_equal(gradient, np.full(variable.shape, 3.5))
    assert total.variables is VARIABLES


def test_sensitivity_of_a_sum_is_the_larger_one():
    for a, b in [(1.0, 2.0), (2.0, 1.0)]:
        total = make(l2_sensitivity=a) + make(l2_sensitivity=b)
        assert total.l2_sensitivity == 2.0


@pytest.mark.parametrize(
    "other", [VARIABLES[::-1], VARIABLES[:1], VARIABLES + VARIABLES, ()]
)
def test_other_variables_do_not_add_up(other):
    with pytest.raises(ValueError, match="other must be a ClippedSum over"):
        make() + make(variables=other)


@pytest.mark.parametrize("other", [0, 1.0, None, np.ones(3), "sum", [1]])
def test_nothing_else_adds_up(other):
    with pytest.raises(TypeError):
        make() + other
    with pytest.raises(TypeError):
        other + make()


def test_python_sum_does_not_start_from_zero():
    with pytest.raises(TypeError):
        sum([make(), make()])
    assert sum([make()], make()).gradients[1][0] == 2.0


@pytest.mark.parametrize(
    "l2_sensitivity", [0.0, -1.0, float("nan"), float("inf"), -float("inf")]
)
def test_sensitivity_must_be_positive(l2_sensitivity):
    with pytest.raises(ValueError, match="l2_sensitivity must be"):
        make(l2_sensitivity=l2_sensitivity)


@pytest.mark.parametrize("l2_sensitivity", [None, "1", True, [1.0]])
def test_sensitivity_must_be_a_number(l2_sensitivity):
    with pytest.raises(TypeError, match="l2_sensitivity must be"):
        make(l2_sensitivity=l2_sensitivity)


def test_one_gradient_for_each_variable():
    with pytest.raises(ValueError, match="gradients must hold one tensor"):
        clipped_sum.ClippedSum(
            gradients=(np.zeros((2, 3)),),
            variables=VARIABLES,
            l2_sensitivity=1.0,
        )


def test_it_is_frozen():
    total = make()
    with pytest.raises(AttributeError):
        total.l2_sensitivity = 0.1
    with pytest.raises(AttributeError):
        total.gradients = ()
