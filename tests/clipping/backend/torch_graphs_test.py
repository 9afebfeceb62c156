# SPDX-License-Identifier: Apache-2.0
"""Tests of what is noted of PyTorch's operations."""

import keras
import pytest

if keras.backend.backend() == "torch":
    import torch
    from torch.nn import functional

    from tf_privacy.clipping.backend.graphs import torch as graphs

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="needs KERAS_BACKEND=torch"
)


def keep(size):
    return torch.full((size,), 0.5)


@pytest.mark.parametrize(
    "make, stateful",
    [
        (lambda: torch.randn(2), True),
        (lambda: torch.rand(2), True),
        (lambda: torch.randint(3, (2,)), True),
        (lambda: torch.randperm(3), True),
        (lambda: torch.bernoulli(keep(2)), True),
        (lambda: torch.poisson(keep(2)), True),
        (lambda: torch.multinomial(keep(3), 1), True),
        (lambda: torch.empty(3).normal_(), True),
        (lambda: functional.dropout(keep(3), 0.5), True),
        (lambda: functional.dropout(keep(3), 0.0), False),
        (lambda: torch.randn(2, generator=torch.Generator()), True),
        (
            lambda: functional.scaled_dot_product_attention(
                *[torch.ones((2, 2, 3, 4))] * 3
            ),
            False,
        ),
        (lambda: keras.random.normal((2,), seed=1), False),
        (lambda: keras.random.normal((2,)), False),
        (lambda: keras.random.uniform(()), False),
        (lambda: keras.random.truncated_normal((2,)), False),
        (lambda: keras.random.randint((2,), 0, 4), False),
        (lambda: keras.random.categorical(keep(6).reshape(2, 3), 1), False),
        (lambda: keras.random.shuffle(keep(3)), False),
        (lambda: keras.random.dropout(keep(3), 0.5), False),
        (lambda: keep(3) + 1.0, False),
        (
            lambda: torch.vmap(
                lambda row: row + torch.randn(()), randomness="different"
            )(keep(3)),
            True,
        ),
    ],
)
def test_random_operations_with_state_of_their_own_are_seen(make, stateful):
    graph = graphs.trace(lambda specs: make(), [])
    assert graphs.has_unseeded_random_operation(graph) is stateful


@pytest.mark.parametrize(
    "make_layer",
    [
        lambda: keras.layers.Dropout(0.5),
        lambda: keras.layers.GaussianNoise(0.5),
        lambda: keras.layers.SpatialDropout1D(0.5),
    ],
)
def test_random_layers_ask_for_their_seed(make_layer):
    layer, updated = make_layer(), []

    class Scope(keras.StatelessScope):
        def add_update(self, update):
            updated.append(update[0])

    spec = keras.KerasTensor((1009, 4, 3), "float32")
    with Scope():
        graphs.trace(lambda inputs: layer(inputs, training=True), spec)
    assert layer.seed_generator.state in updated


STATE = [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "change, name",
    [
        (lambda state, x: state.add_(1.0), "aten.add_.Tensor"),
        (lambda state, x: state[:2].copy_(x[0, :2]), "aten.copy_.default"),
        (lambda state, x: torch.add(x[0], 1.0, out=state), "aten.add.out"),
        (lambda state, x: state + x, ""),
        (lambda state, x: x.add_(state), ""),
        (lambda state, x: torch.tensor(STATE).add_(state), ""),
        (lambda state, x: torch.zeros(3)[:2].add_(state[:2]), ""),
    ],
)
@pytest.mark.parametrize("needs_values", [False, True])
def test_changes_of_what_was_there_before_are_seen(change, name, needs_values):
    state = torch.tensor(STATE)

    def function(inputs):
        if needs_values:
            assert float(inputs[0, 0]) == 1.0
        change(state, inputs)

    graph = graphs.trace(function, keras.KerasTensor((1009, 3), "float32"))
    assert graphs.find_assignment(graph) == name


def test_batch_statistics_are_an_assignment():
    module = torch.nn.BatchNorm1d(3)
    graph = graphs.trace(module, keras.KerasTensor((1009, 3), "float32"))
    assert graphs.find_assignment(graph)


def test_placeholders_have_no_values_unless_they_are_needed():
    seen = []

    def function(inputs):
        seen.append(type(inputs))
        if inputs.sum() > 0:
            seen.append("values")

    graphs.trace(function, keras.KerasTensor((5, 3), "float32"))
    assert len(seen) == 3 and seen[0] is not torch.Tensor
    assert seen[1:] == [torch.Tensor, "values"]


def test_errors_of_the_function_are_its_own():
    def function(inputs):
        raise ValueError("no such layer")

    with pytest.raises(ValueError, match="no such layer"):
        graphs.trace(function, keras.KerasTensor((5, 3), "float32"))


def test_specs_of_outputs_are_known_without_running():
    spec = graphs.output_specs(
        lambda inputs: keras.ops.cast(inputs[:, 1:], "float16"),
        keras.KerasTensor((None, 5), "int32"),
    )
    assert spec.shape == (None, 4)
    assert spec.dtype == "float16"


def test_bytes_of_values_with_a_row_for_each_row_are_counted():
    weight = torch.ones((3, 4))
    spec = keras.KerasTensor((1009, 3), "float32")
    graph = graphs.trace(
        lambda inputs: torch.reshape(inputs @ weight, (-1,)), spec
    )
    # The placeholder and the product; the reshape copies nothing.
    assert graphs.count_bytes(graph, 1009) == 1009 * (3 + 4) * 4


def test_levels_of_maps_are_told_apart():
    plain, mapped = graphs.current_graph(), []

    def function(row):
        mapped.append(graphs.current_graph())
        return row

    torch.vmap(torch.vmap(function))(torch.ones((2, 3)))
    torch.vmap(function)(torch.ones(2))
    assert len({plain, *mapped}) == 3
    assert graphs.current_graph() == plain
