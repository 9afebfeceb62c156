# SPDX-License-Identifier: Apache-2.0
"""Tests of what the engine asks of JAX."""

import keras
import numpy as np
import pytest

from tests.clipping import exactness

if keras.backend.backend() == "jax":
    import jax
    import jax.numpy as jnp

    from tf_privacy.clipping import engine
    from tf_privacy.clipping import keras_internals
    from tf_privacy.clipping.backend import jax as backend
    from tf_privacy.clipping.backend.batches import jax as batches
    from tf_privacy.clipping.backend.execution import jax as execution
    from tf_privacy.clipping.backend.graphs import jax as graphs
    from tf_privacy.clipping.backend.row_maps import jax as row_maps

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="needs KERAS_BACKEND=jax"
)


def count_up(variable):
    variable.assign(variable.value + 1)


def make_counter():
    return keras.Variable(0, dtype="int32", trainable=False)


def under_trace(function, variables):
    """Return what a compiled function returns, and variables after it."""

    def run(values):
        mapping = list(zip(variables, values, strict=True))
        with keras_internals.InnerScope(mapping) as scope:
            outputs = function()
            return outputs, [scope.get_current_value(v) for v in variables]

    return jax.jit(run)([v.value for v in variables])


@pytest.mark.parametrize("compiled", [True, False])
def test_cotangents_stop_at_the_taps_and_tensors_come_out(compiled):
    def pull():
        def function(tap):
            first = tap(jnp.array([1.0, 2.0]))
            second = tap(3.0 * first)
            tap(jnp.array(5.0))
            return jnp.sum(second**2), (second, "aux")

        (second, text), cotangents = backend.pull_back(function)
        assert text == "aux"
        # Alive outside of the differentiated function.
        return second + 0.0, cotangents

    second, cotangents = jax.jit(pull)() if compiled else pull()
    np.testing.assert_allclose(second, [3.0, 6.0])
    np.testing.assert_allclose(cotangents[0], [18.0, 36.0])
    np.testing.assert_allclose(cotangents[1], [6.0, 12.0])
    np.testing.assert_allclose(cotangents[2], 0.0)


def test_masks_come_out_of_a_pullback():
    def function(tap):
        outputs = jnp.exp(tap(jnp.array([1.0, 2.0])))
        keras_internals.set_keras_mask(outputs, outputs > 4.0)
        return jnp.sum(outputs), {"outputs": outputs, "other": None}

    aux, _ = backend.pull_back(function)
    mask = keras_internals.get_keras_mask(aux["outputs"])
    assert aux["other"] is None
    assert mask.tolist() == [False, True]


def test_state_is_updated_once_although_a_pullback_runs_twice():
    counter = make_counter()

    def function(tap):
        count_up(counter)
        return jnp.sum(tap(jnp.ones(2))), None

    backend.pull_back(function)
    assert int(counter.value) == 1
    _, (after,) = under_trace(lambda: backend.pull_back(function)[1], [counter])
    assert int(after) == 2
    assert int(counter.value) == 1


@pytest.mark.parametrize("find", ["gradient", "isolated_gradient"])
def test_gradients_of_weights_are_zeros_where_there_are_none(find):
    used, unused = keras.Variable([1.0, 2.0]), keras.Variable([3.0])
    counter = make_counter()

    def function():
        count_up(counter)
        return jnp.sum(used.value * used.value)

    gradients = getattr(backend, find)(function, [used, unused])
    np.testing.assert_array_equal(gradients[0], [2.0, 4.0])
    np.testing.assert_array_equal(gradients[1], [0.0])
    assert int(counter.value) == (find == "gradient")


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("truth", [True, False])
def test_a_branch_may_assign_to_variables(truth, compiled):
    first, second = make_counter(), make_counter()

    def run():
        return execution.cond(
            jnp.array(truth),
            lambda: (count_up(first), jnp.array(1.0))[1],
            lambda: (count_up(second), jnp.array(2.0))[1],
        )

    if compiled:
        output, after = under_trace(run, [first, second])
    else:
        output, after = run(), [first.value, second.value]
    assert float(output) == (1.0 if truth else 2.0)
    assert [int(v) for v in after] == [int(truth), int(not truth)]


def test_one_of_several_branches_runs():
    counters = [make_counter() for _ in range(3)]
    branches = [lambda c=c: count_up(c) for c in counters]
    _, after = under_trace(
        lambda: execution.switch(jnp.array(2), branches), counters
    )
    assert [int(v) for v in after] == [0, 0, 1]


@pytest.mark.parametrize("piece_size", [1, 2, 5, 7, 100])
@pytest.mark.parametrize("num_rows", [0, 1, 5, 7])
@pytest.mark.parametrize("compiled", [True, False])
def test_pieces_cover_every_row_once(num_rows, piece_size, compiled):
    rows = jnp.asarray(exactness.normal(0, 7, 3))
    counter = make_counter()

    def sum_piece(start, stop):
        count_up(counter)
        places = jnp.arange(7)
        inside = (places >= start) & (places < stop)
        return [jnp.sum(rows * inside[:, None], axis=0)]

    def run():
        return batches.sum_over_pieces(
            sum_piece, num_rows, piece_size, [jnp.zeros(3)]
        )

    if compiled:
        (total,), (count,) = under_trace(run, [counter])
    else:
        (total,), count = run(), counter.value
    expected = np.asarray(rows)[:num_rows].sum(axis=0)
    np.testing.assert_allclose(total, expected, atol=1e-5)
    assert int(count) == -(-num_rows // piece_size)


def test_only_a_batch_of_no_rows_is_filled():
    data = (jnp.zeros((0, 3), "int32"), None)
    filled, none = batches.fill_if_empty(data, 2)
    assert filled.shape == (2, 3) and filled.dtype == "int32"
    assert none is None
    rows = jnp.ones((1, 3))
    assert batches.fill_if_empty(rows, 2) is rows


def squares(row):
    return jnp.sum(row[0] ** 2) * row[1]


@pytest.mark.parametrize("num_rows", [0, 1, 4])
def test_rows_are_mapped_and_differentiated(num_rows):
    rows = jnp.asarray(exactness.normal(0, num_rows, 3))
    weights = jnp.arange(num_rows, dtype="float32")

    def total(rows):
        return jnp.sum(row_maps.map_rows(squares, [rows, weights]))

    values = row_maps.map_rows(squares, [rows, weights])
    expected = np.sum(np.square(rows), axis=1) * weights
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    slopes = jax.grad(total)(rows)
    np.testing.assert_allclose(slopes, 2.0 * rows * weights[:, None], rtol=1e-6)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="x, y and sample_weight must have"):
        row_maps.map_rows(squares, [jnp.ones((3, 2)), jnp.ones(1)])


@pytest.mark.parametrize("way", ["map_row_gradients", "loop_row_gradients"])
@pytest.mark.parametrize("num_rows", [1, 2, 5])
def test_row_gradients_for_any_number_of_rows(way, num_rows):
    layer = exactness.ApplyWeight(lambda w, inputs: jnp.tanh(inputs @ w.value))
    layer.build((None, 3))
    unused = keras.Variable([1.0, 2.0])
    rows = exactness.normal(0, num_rows, 3)
    cotangents = exactness.normal(1, num_rows, 3)
    got, none = getattr(row_maps, way)(
        lambda row: [layer.call(row[0][None])[0]],
        [jnp.asarray(rows)],
        [jnp.asarray(cotangents)],
        [layer.weight, unused],
    )
    slopes = 1 - np.tanh(rows @ np.asarray(layer.weight.value)) ** 2
    expected = np.einsum("bi,bj->bij", rows, cotangents * slopes)
    np.testing.assert_allclose(got, expected, 1e-5, 1e-6)
    np.testing.assert_array_equal(none, np.zeros((num_rows, 2)))


def mix_backward(inputs):
    """Return the inputs; the gradient holds a part of every row."""
    mean = jnp.mean(inputs, axis=0, keepdims=True)
    return inputs + (mean - jax.lax.stop_gradient(mean))


LEAKS = {
    "scale": (lambda x: 2.0 * x, False),
    "integers": (lambda x: jnp.arange(7)[:, None], False),
    "tiny": (lambda x: x - 1e-6 * jnp.mean(x, axis=0), True),
    "reversed": (lambda x: x[::-1], True),
    "backward": (mix_backward, True),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_gradient_at_another_row_is_a_leak(name):
    function, leaks = LEAKS[name]
    inputs = jnp.asarray(exactness.normal(0, 7, 3))
    assert (backend.row_leak(function, inputs) > 0.0) is leaks


def test_what_is_asked_outside_of_a_trace_sees_values():
    variable = keras.Variable(3.0, trainable=False)
    seen = []

    def run():
        assert not execution.is_eager()
        with execution.outside_of_graph():
            seen.append(float(variable.value))
        seen.append(
            execution.run_outside_of_graph(lambda: execution.is_eager())
        )
        return variable.value

    assert execution.is_eager()
    under_trace(run, [variable])
    assert seen == [3.0, True]


def test_a_trace_is_told_from_one_within_it():
    levels = []

    def inner(carry, row):
        levels.append(graphs.current_graph())
        return carry, row

    def run(x):
        levels.append(graphs.current_graph())
        levels.append(graphs.current_graph())
        return jax.lax.scan(inner, 0.0, x)

    jax.jit(run)(jnp.ones(3))
    assert levels[0] == levels[1]
    assert levels[2] != levels[0]


def test_specs_of_outputs_are_known_without_running():
    spec = graphs.output_specs(
        lambda x: x[:, 1:].astype("float16"), keras.KerasTensor((6, 5), "int32")
    )
    assert spec.shape == (6, 4)
    assert spec.dtype == "float16"


def test_bytes_of_values_with_a_row_for_each_row_are_counted():
    weight = jnp.ones((3, 4))
    spec = keras.KerasTensor((1009, 3), "float32")
    graph = graphs.trace(lambda x: jnp.reshape(x @ weight, (-1,)), spec)
    assert graphs.count_bytes(graph, 1009) == 1009 * 4 * 4


def test_calls_of_the_host_are_seen():
    def ask(x):
        return jax.pure_callback(
            lambda a: a, jax.ShapeDtypeStruct((2,), "float32"), x
        )

    spec = keras.KerasTensor((2,), "float32")
    graph = graphs.trace(lambda x: jax.lax.map(lambda row: row + 1, x), spec)
    assert not graphs.has_unseeded_random_operation(graph)
    graph = graphs.trace(ask, spec)
    assert graphs.has_unseeded_random_operation(graph)
    assert graphs.find_assignment(graph) == ""


def test_an_array_that_is_changed_in_place_is_seen():
    held = jax.new_ref(jnp.zeros(2))

    def change(x):
        held[...] = x
        return x

    graph = graphs.trace(change, keras.KerasTensor((2,), "float32"))
    assert graphs.find_assignment(graph)


def test_nan_that_a_mapped_gradient_spreads_stays_in_its_row(monkeypatch):
    """XLA may make one product of all rows and multiply parts by zero."""
    layer = exactness.ApplyWeight(lambda w, inputs: inputs @ w.value)
    layer.build((None, 3))
    rows = exactness.normal(0, 4, 3)
    rows[1, 0] = np.nan
    map_all = jax.vmap

    def map_and_mix(function):
        def mixed(*arrays):
            gradients = map_all(function)(*arrays)
            return [g + 0.0 * jnp.sum(g, axis=0) for g in gradients]

        return mixed

    monkeypatch.setattr(jax, "vmap", map_and_mix)
    (gradients,) = row_maps.map_row_gradients(
        lambda row: [layer.call(row[0][None])[0]],
        [jnp.asarray(rows)],
        [jnp.ones((4, 3))],
        [layer.weight],
    )
    finite = np.all(np.isfinite(gradients), axis=(1, 2))
    assert finite.tolist() == [True, False, True, True]


def test_products_behind_norms_and_sums_keep_all_digits():
    """On accelerators, where fewer are the default."""
    model = keras.Sequential([keras.Input((6, 4)), keras.layers.Dense(3)])
    x, y = exactness.normal(0, 5, 6, 4), exactness.normal(1, 5, 6, 3)

    def run(x, y):
        with keras_internals.InnerScope():
            step = engine.clipped_gradients(
                model,
                x,
                y,
                l2_norm_clip=1.0,
                loss=lambda y, y_pred, weight: jnp.mean((y - y_pred) ** 2),
            )
        return step.clipped_sum.gradients, step.norms

    lines = [
        line
        for line in jax.jit(run).lower(x, y).as_text().splitlines()
        if "dot_general" in line
    ]
    highest = ["precision = [HIGHEST, HIGHEST]" in line for line in lines]
    # All but the forward pass, and the backward pass if there is one.
    assert sum(highest) >= 1
    assert len(highest) - sum(highest) <= 2
