# SPDX-License-Identifier: Apache-2.0
"""Tests of derivatives of a step of training, in PyTorch."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "torch":
    pytest.skip("of PyTorch", allow_module_level=True)

import torch

from tf_privacy.audit.backend import torch_unrolled as backend


def make_number(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(
    "stop", [torch.Tensor.detach, lambda t: t.detach(), keras.ops.stop_gradient]
)
def test_a_stopped_gradient_stops_the_step_and_not_what_follows(stop):
    w, x = make_number(0.7), make_number(1.3)

    def step(inputs):
        w, x = inputs

        def compute_loss(weights):
            return weights[0] * stop(torch.sin(weights[0] * x)), ()

        # The step takes the stopped factor for a constant.
        return backend.gradient(compute_loss, [w])[0]

    found = [step([w, x])[0], backend.compile_step(step)([w, x])[0]]
    assert not found[1].requires_grad
    for got in found:
        np.testing.assert_allclose(got.detach(), np.sin(0.91), rtol=1e-12)
    by_w, by_x = backend.pull_back(step, [w, x], [make_number(2.0)])
    np.testing.assert_allclose(by_w, 2 * 1.3 * np.cos(0.91), rtol=1e-12)
    np.testing.assert_allclose(by_x, 2 * 0.7 * np.cos(0.91), rtol=1e-12)
    assert not w.requires_grad and not x.requires_grad


def test_what_does_not_depend_on_an_input_has_derivative_zero():
    x, y = make_number(0.7), make_number(1.3)

    def function(inputs):
        return [make_number(1.0), inputs[0] ** 2, inputs[0]]

    ones = [make_number(1.0)] * 3
    got = backend.pull_back(function, [x, y], ones)
    np.testing.assert_allclose(got, [2.4, 0.0], rtol=1e-12)
    got = backend.pull_back(lambda _: [make_number(1.0)], [x, y], None)
    np.testing.assert_array_equal(got, [0.0, 0.0])


def test_numbers_that_are_no_floats_are_detached_as_they_are():
    x = make_number(0.7)

    def function(inputs):
        counter = torch.tensor(3).detach()
        return [inputs[0] * counter]

    assert backend.pull_back(function, [x], None) == [3.0]
