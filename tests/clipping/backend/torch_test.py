# SPDX-License-Identifier: Apache-2.0
"""Tests of what the engine asks of PyTorch."""

import keras
import numpy as np
import pytest

from tests.clipping import exactness

if keras.backend.backend() == "torch":
    import torch

    from tf_privacy.clipping import keras_internals
    from tf_privacy.clipping.backend import torch as backend
    from tf_privacy.clipping.backend.batches import torch as batches
    from tf_privacy.clipping.backend.execution import torch as execution
    from tf_privacy.clipping.backend.replicas import torch as replicas
    from tf_privacy.clipping.backend.row_maps import torch as row_maps

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="needs KERAS_BACKEND=torch"
)


def test_cotangents_stop_at_the_taps():
    def function(tap):
        first = tap(torch.tensor([1.0, 2.0]))
        second = tap(3.0 * first)
        tap(torch.tensor(5.0))
        return (second**2).sum(), "aux"

    aux, cotangents = backend.pull_back(function)
    assert aux == "aux"
    np.testing.assert_allclose(cotangents[0], [18.0, 36.0])
    np.testing.assert_allclose(cotangents[1], [6.0, 12.0])
    assert cotangents[2] is None


def test_a_tap_has_the_cotangent_of_what_comes_after_it():
    def function(tap):
        first = 2.0 * tap(torch.tensor([1.0]))
        one, other = tap(first), tap(first)
        return (one + 10.0 * other + 100.0 * first).sum(), None

    _, cotangents = backend.pull_back(function)
    assert [float(g) for g in cotangents] == [222.0, 1.0, 10.0]


def test_nothing_to_differentiate_has_no_cotangents():
    _, cotangents = backend.pull_back(lambda tap: (torch.tensor(1.0), None))
    assert cotangents == []


@pytest.mark.parametrize("recording", [True, False])
def test_what_leaves_the_pullback_holds_no_forward_pass(recording):
    mask = torch.tensor([True, False])

    def function(tap):
        outputs = torch.exp(tap(torch.tensor([1.0, 2.0])))
        keras_internals.set_keras_mask(outputs, mask)
        return outputs.sum(), {"outputs": outputs, "other": None}

    with torch.set_grad_enabled(recording):
        aux, cotangents = backend.pull_back(function)
    assert not aux["outputs"].requires_grad
    assert keras_internals.get_keras_mask(aux["outputs"]) is mask
    assert not cotangents[0].requires_grad


def test_weights_get_no_gradient_from_a_pullback():
    layer = exactness.dense()
    backend.pull_back(lambda tap: (layer(tap(torch.ones((2, 5)))).sum(), None))
    assert layer.kernel.value.grad is None


@pytest.mark.parametrize("find", ["gradient", "isolated_gradient"])
def test_gradients_of_weights_are_zeros_where_there_are_none(find):
    used, unused = keras.Variable([1.0, 2.0]), keras.Variable([3.0])
    count = keras.Variable(0, dtype="int32", trainable=False)

    def function():
        count.assign(1)
        return (used * used).sum()

    with torch.no_grad():
        gradients = getattr(backend, find)(function, [used, unused])
        none = getattr(backend, find)(lambda: torch.ones(()), [used])
    np.testing.assert_array_equal(gradients[0], [2.0, 4.0])
    np.testing.assert_array_equal(gradients[1], [0.0])
    np.testing.assert_array_equal(none[0], [0.0, 0.0])
    assert int(count.value) == (find == "gradient")


@pytest.mark.parametrize("length", [0, 1, 1000, 1024, 1025, 300_000])
@pytest.mark.parametrize("make", ["ones", "randn"])
def test_norms_of_long_rows_are_exact(make, length):
    # One after the other in float32, 300,000 equal squares lose 1e-4.
    rows = 0.3 * getattr(torch, make)((2, length))
    expected = np.sum(np.square(rows.numpy(), dtype=np.float64), axis=1)
    got = backend.squared_norms(rows, (1,))
    np.testing.assert_allclose(got, expected, rtol=2e-6)


@pytest.mark.parametrize("axes", [(), (-1,), (1,), (1, 2), (0, 1, 2)])
def test_norms_along_any_axes(axes):
    array = exactness.normal(0, 3, 4, 5)
    got = backend.squared_norms(torch.from_numpy(array), axes)
    np.testing.assert_allclose(got, np.sum(array**2, axis=axes), rtol=1e-5)


@pytest.mark.parametrize("num_positions", [1, 2, 8])
def test_products_of_long_positions_are_exact(num_positions):
    array = torch.full((2, num_positions, 100_000), 0.3)
    got = backend.grams_of_rows(array)
    exact = 100_000 * float(array[0, 0, 0]) ** 2
    np.testing.assert_allclose(got, np.full(got.shape, exact), rtol=3e-5)


@pytest.mark.parametrize("piece_size", [1, 2, 5, 7, 100])
@pytest.mark.parametrize("num_rows", [0, 1, 5, 7])
def test_pieces_cover_every_row_once(num_rows, piece_size):
    rows = exactness.normal(0, 7, 3).astype(np.float64)
    (total,) = batches.sum_over_pieces(
        lambda start, stop: [torch.from_numpy(rows[start:stop].sum(axis=0))],
        num_rows,
        piece_size,
        [torch.zeros(3, dtype=torch.float64)],
    )
    np.testing.assert_allclose(total, rows[:num_rows].sum(axis=0), atol=1e-12)


def test_only_a_batch_of_no_rows_is_filled():
    data = (torch.zeros((0, 3), dtype=torch.int32), None)
    filled, none = batches.fill_if_empty(data, 2)
    assert filled.shape == (2, 3) and filled.dtype == torch.int32
    assert none is None
    rows = torch.ones((1, 3))
    assert batches.fill_if_empty(rows, 2) is rows


def test_rows_that_are_no_whole_units_are_refused():
    data = (torch.ones((6, 2)), None)
    assert batches.check_multiple(data, 3) is data
    with pytest.raises(ValueError, match="x must hold whole units"):
        batches.check_multiple(data, 4)


def squares(row):
    return torch.sum(row[0] ** 2) * row[1]


def branches(row):
    return squares(row) if row[0].sum() > 0 else 3.0 * squares(row)


@pytest.mark.parametrize("function", [squares, branches])
@pytest.mark.parametrize("num_rows", [0, 1, 4])
def test_rows_are_mapped_with_or_without_a_vectorised_form(function, num_rows):
    if function is branches and not num_rows:
        pytest.skip("no row, no branch")
    rows = torch.from_numpy(exactness.normal(0, num_rows, 3)).requires_grad_()
    weights = torch.arange(num_rows).float()
    values = row_maps.map_rows(function, [rows, weights])
    slopes = torch.autograd.grad(values.sum(), rows)[0]
    factors = weights.clone()
    if function is branches:
        factors[rows.detach().sum(dim=1) <= 0] *= 3.0
    expected = (rows.detach() ** 2).sum(dim=1) * factors
    np.testing.assert_allclose(values.detach(), expected, rtol=1e-6)
    wanted = 2.0 * rows.detach() * factors[:, None]
    np.testing.assert_allclose(slopes, wanted, rtol=1e-6)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="x, y and sample_weight must have"):
        row_maps.map_rows(squares, [torch.ones((3, 2)), torch.ones(1)])


def test_a_loss_that_refuses_nan_does_not_fail_the_other_rows():
    probabilities = torch.tensor([[0.25], [torch.nan], [0.5]])
    probabilities.requires_grad_()
    values = row_maps.map_rows(
        lambda row: torch.nn.functional.binary_cross_entropy(*row),
        [probabilities, torch.ones((3, 1))],
    )
    slopes = torch.autograd.grad(values.sum(), probabilities)[0]
    np.testing.assert_allclose(
        values.detach(), [np.log(4.0), np.nan, np.log(2.0)], rtol=1e-6
    )
    np.testing.assert_allclose(slopes[:, 0], [-4.0, np.nan, -2.0], rtol=1e-6)


def test_a_loss_that_writes_into_its_arguments_does_not_change_data():
    weights = torch.ones((3, 2))

    def function(row):
        row[1] *= 2.0
        return torch.sum(row[0] * row[1])

    rows = torch.ones((3, 2), requires_grad=True)
    values = row_maps.map_rows(function, [rows, weights])
    np.testing.assert_array_equal(values.detach(), [4.0, 4.0, 4.0])
    np.testing.assert_array_equal(weights, np.ones((3, 2)))


LOSSES = [
    (keras.losses.SparseCategoricalCrossentropy(), "label"),
    (keras.losses.SparseCategoricalCrossentropy(from_logits=True), "label"),
    (keras.losses.CategoricalCrossentropy(), "one_hot"),
    (keras.losses.CategoricalCrossentropy(from_logits=True), "one_hot"),
    (keras.losses.BinaryCrossentropy(), "one_hot"),
    (keras.losses.BinaryCrossentropy(from_logits=True), "one_hot"),
    (keras.losses.MeanSquaredError(), "one_hot"),
    (keras.losses.MeanAbsoluteError(), "one_hot"),
    (keras.losses.Huber(), "one_hot"),
    (keras.losses.KLDivergence(), "one_hot"),
]


@pytest.mark.parametrize("loss, kind", LOSSES)
def test_losses_of_keras_are_vectorised(loss, kind, monkeypatch):
    labels = torch.tensor([2, 0, 1, 2, 2])
    y = labels if kind == "label" else torch.eye(3)[labels]
    outputs = torch.from_numpy(exactness.normal(0, 5, 3)).softmax(-1)
    outputs.requires_grad_()
    expected = [
        float(loss(y[b : b + 1], outputs.detach()[b : b + 1])) for b in range(5)
    ]
    monkeypatch.setattr(row_maps, "_NOT_VECTORISED", ())
    values = row_maps.map_rows(
        lambda row: loss(row[0][None], row[1][None]), [y, outputs]
    )
    np.testing.assert_allclose(values.detach(), expected, rtol=1e-5)


def spread(weight, inputs):
    return torch.tanh(inputs @ weight.value)


def spread_if(weight, inputs):
    sign = 1.0 if inputs.sum() > 0 else -1.0
    return sign * spread(weight, inputs)


@pytest.mark.parametrize("function", [spread, spread_if])
@pytest.mark.parametrize("way", ["map_row_gradients", "loop_row_gradients"])
@pytest.mark.parametrize("num_rows", [0, 1, 2, 5])
def test_row_gradients_for_any_number_of_rows(function, way, num_rows):
    layer = exactness.ApplyWeight(function)
    layer.build((None, 3))
    unused = keras.Variable([1.0, 2.0])
    rows = exactness.normal(0, num_rows, 3)
    cotangents = exactness.normal(1, num_rows, 3)
    with torch.no_grad():
        got, none = getattr(row_maps, way)(
            lambda row: [layer.call(row[0][None])[0]],
            [torch.from_numpy(rows)],
            [torch.from_numpy(cotangents)],
            [layer.weight, unused],
        )
    slopes = 1 - np.tanh(rows @ layer.weight.numpy()) ** 2
    if function is spread_if:
        slopes *= np.where(rows.sum(axis=1, keepdims=True) > 0, 1, -1)
    expected = np.einsum("bi,bj->bij", rows, cotangents * slopes)
    assert got.shape == (num_rows, 3, 3)
    np.testing.assert_allclose(got, expected, 1e-5, 1e-6)
    np.testing.assert_array_equal(none, np.zeros((num_rows, 2)))


def mix_backward(inputs):
    """Returns its input; its gradient holds a part of every row."""
    mean = inputs.mean(dim=0, keepdim=True)
    return inputs + (mean - mean.detach())


LEAKS = [
    (lambda x: 2.0 * x, False),
    (lambda x: torch.arange(7)[:, None], False),
    (lambda x: x - 1e-6 * x.mean(dim=0), True),
    (lambda x: x.flip(0), True),
    (mix_backward, True),
]


@pytest.mark.parametrize("function, leaks", LEAKS)
@pytest.mark.parametrize("recording", [True, False])
def test_a_gradient_at_another_row_is_a_leak(function, leaks, recording):
    inputs = torch.from_numpy(exactness.normal(0, 7, 3))
    with torch.set_grad_enabled(recording):
        found = execution.run_outside_of_graph(
            lambda: backend.row_leak(function, inputs)
        )
    assert (found > 0.0) is leaks


def test_comparisons_draw_the_same_and_leave_the_generator_alone():
    layer = keras.layers.Dropout(0.5)

    def drop(draw):
        with execution.same_random_numbers(draw):
            return layer(torch.ones(100), training=True)

    before = torch.random.get_rng_state()
    np.testing.assert_array_equal(drop(1), drop(1))
    assert not torch.equal(drop(1), drop(2))
    assert torch.equal(before, torch.random.get_rng_state())
    one, other = (layer(torch.ones(100), training=True) for _ in range(2))
    assert not torch.equal(one, other)


def test_a_group_of_processes_is_refused(monkeypatch):
    replicas.check_scope(None, "optimizer")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    replicas.check_scope(None, "optimizer")
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(NotImplementedError, match="optimizer must be used by"):
        replicas.check_scope(None, "optimizer")


def test_one_branch_runs():
    ran = []
    branches = [lambda i=i: ran.append(i) for i in range(3)]
    execution.cond(torch.tensor(False), branches[0], branches[1])
    execution.switch(torch.tensor(2, dtype=torch.int32), branches)
    assert ran == [1, 2]
