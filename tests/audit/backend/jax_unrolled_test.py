# SPDX-License-Identifier: Apache-2.0
"""Tests of derivatives of a step of training, in JAX."""

import keras
import numpy as np
import pytest

from tests.audit import precision

if keras.backend.backend() != "jax":
    pytest.skip("of JAX", allow_module_level=True)

import jax
from jax import numpy as jnp

from tf_privacy.audit.backend import jax_unrolled as backend


@pytest.fixture(autouse=True)
def wide():
    """Computes in float64."""
    with precision.wide_floats():
        yield


def stop(x):
    return jax.lax.stop_gradient(jnp.sin(x))


def in_a_scan(x):
    return jax.lax.scan(lambda sum, _: (sum + stop(x), None), 0.0, length=1)[0]


def in_a_branch(x):
    return jax.lax.cond(x > 0, stop, lambda x: x, x)


def in_a_branch_not_taken(x):
    return jax.lax.cond(x > 9, lambda x: x, stop, x)


def with_a_rule_of_its_own(x):
    @jax.custom_jvp
    def function(x):
        return stop(x)

    function.defjvps(lambda tangent, _, x: tangent * jnp.cos(x))
    return jax.lax.stop_gradient(function(x))


@pytest.mark.parametrize(
    "stopped",
    [
        stop,
        jax.jit(stop),
        jax.checkpoint(stop),
        jax.jit(jax.jit(stop)),
        in_a_scan,
        in_a_branch,
        in_a_branch_not_taken,
        with_a_rule_of_its_own,
    ],
)
def test_a_stopped_gradient_stops_the_step_and_not_what_follows(stopped):
    w, x = jnp.array(0.7), jnp.array(1.3)

    def step(inputs):
        w, x = inputs

        def compute_loss(weights):
            return weights[0] * stopped(weights[0] * x), ()

        gradients, _ = backend.gradient(compute_loss, [w])
        # The step takes the stopped factor for a constant.
        return gradients

    np.testing.assert_allclose(step([w, x])[0], np.sin(0.91), rtol=1e-12)
    for run in (
        backend.pull_back,
        jax.jit(backend.pull_back, static_argnums=0),
    ):
        by_w, by_x = run(step, [w, x], [jnp.array(2.0)])
        np.testing.assert_allclose(by_w, 2 * 1.3 * np.cos(0.91), rtol=1e-12)
        np.testing.assert_allclose(by_x, 2 * 0.7 * np.cos(0.91), rtol=1e-12)


@pytest.mark.parametrize(
    "function",
    [jax.nn.log_softmax, jax.nn.softmax, jax.nn.logsumexp, jax.nn.standardize],
)
def test_functions_of_jax_that_stop_what_is_constant_keep_their_slopes(
    function,
):
    # Ties and far values are where a followed maximum could show.
    x = jnp.array([1.0, 3.0, 3.0, -200.0])
    weights = jnp.array([0.3, -1.0, 0.4, 2.0])

    def step(inputs):
        def compute_loss(weights):
            return jnp.sum(weights[0] * function(weights[0])), ()

        return backend.gradient(compute_loss, inputs)[0]

    (got,) = backend.pull_back(step, [x], [weights])
    wanted = jax.vjp(lambda x: step([x])[0], x)[1](weights)[0]
    assert np.any(np.abs(wanted) > 1e-3)
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)


def test_functions_are_compiled_once_for_each_number_of_rows():
    count = []

    def function(state, x):
        count.append(x.shape)
        return [state[0] * jnp.sum(x)]

    step = backend.compile_step(function, [jnp.ones(())], np.ones((1, 2)))
    for num_rows in (1, 3, 1, 3):
        step([jnp.ones(())], np.ones((num_rows, 2)))
    assert count == [(1, 2), (3, 2)]
    assert backend.check_derivatives(step) is None
    assert backend.pull_back(lambda v: v, [jnp.array(3.0)], None) == [1.0]
