# SPDX-License-Identifier: Apache-2.0
"""Tests of which layer calls are tapped, and of what is refused."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras import ops

from tests import models
from tests.clipping import exactness
from tf_privacy.clipping import call_plan

Apply = exactness.Apply
ApplyWith = exactness.ApplyWith
dense = exactness.dense
stack = exactness.stack
X = exactness.normal(0, 8, 5)
Y = exactness.normal(1, 8, 3)
DENSE = ("Dense", "rule")


def assert_exact(model, x=X, y=Y):
    for graph in (True, False):
        assert exactness.error_to_loop(model, x, y, graph=graph) <= 1e-5


ZOO = {
    "dense_mlp": [DENSE] * 2,
    "conv2d_groups": [("Conv2D", "rule"), DENSE],
    "transformer": [
        # Positions have no rows of their own: one generic unit.
        ("TokenAndPosition", "generic"),
        ("LayerNormalization", "rule"),
        *[("EinsumDense", "rule")] * 4,
        ("LayerNormalization", "rule"),
        *[DENSE] * 3,
    ],
    "shared_layer": [DENSE] * 3,
    "siamese": [DENSE] * 5,
    "nested_models": [DENSE] * 4,
    "unused_output": [DENSE] * 7,
    "frozen_layers": [DENSE] * 2,
    "custom_weights": [("Bilinear", "generic"), DENSE],
    "custom_gate": [("Gated", "generic")] * 2,
    # The model reads weights in its own call: it is the unit.
    "model_weights": [("Affine", "generic")],
    "folded_time": [("FoldTime", "generic"), DENSE],
    "time_major": [("TimeMajor", "generic"), DENSE],
    "einsum_dense_heads": [("EinsumDense", "rule")] * 4,
}


@pytest.mark.parametrize("name", ZOO)
def test_path_of_each_call(name):
    (case,) = [c for c in models.CASES if c.name == name]
    model, x, _, _ = case.make(0)
    assert exactness.paths(model, x) == ZOO[name]


def repeat(owned, inputs):
    """Calls a layer in a loop of TensorFlow."""
    return tf.while_loop(
        lambda step, h: step < 3,
        lambda step, h: (step + 1, tf.tanh(owned(h))),
        (tf.constant(0), inputs),
    )[1]


NESTED = {
    "while_loop": repeat,
    "vectorized_map": lambda d, x: tf.vectorized_map(
        lambda row: d(row[None])[0], x
    ),
    "map_fn": lambda d, x: tf.map_fn(lambda row: d(row[None])[0], x),
    "cond": lambda d, x: tf.cond(
        tf.reduce_all(tf.ones(2) > 0), lambda: d(x), lambda: x
    ),
    "scan": lambda d, x: ops.scan(
        lambda h, _: (ops.tanh(d(h)), None), x, length=2
    )[0],
    "function": lambda d, x: tf.function(d, autograph=False)(x),
    "of_the_class": lambda d, x: type(d).call(d, x),
}


@pytest.mark.parametrize("name", NESTED)
def test_a_layer_called_out_of_sight_is_charged_to_its_caller(name):
    model = stack(ApplyWith(dense(), NESTED[name]), layers.Dense(3))
    assert exactness.paths(model, X) == [("ApplyWith", "generic"), DENSE]
    assert exactness.error_to_loop(model, X, Y) <= 1e-5


def test_a_direct_call_is_seen():
    model = stack(ApplyWith(dense(), lambda d, x: d.call(x)), layers.Dense(3))
    assert exactness.paths(model, X) == [DENSE, DENSE]
    assert_exact(model)


class LoopThenDense(layers.Layer):
    """Calls a layer without weights out of sight, then one with weights."""

    def __init__(self, nest, **kwargs):
        super().__init__(**kwargs)
        self.nest = nest
        self.activation = layers.Activation("tanh")
        self.dense = dense()

    def call(self, inputs):
        """Return the dense layer's outputs."""
        return self.dense(self.nest(self.activation, inputs))


@pytest.mark.parametrize("name", ["while_loop", "cond", "map_fn", "function"])
def test_calls_out_of_sight_do_not_shift_the_places_of_others(name):
    model = stack(LoopThenDense(NESTED[name]), layers.Dense(3))
    assert_exact(model)


def test_a_borrowed_weight_is_charged_to_the_borrower():
    lender = dense()
    model = stack(
        lender,
        Apply(lambda x: ops.matmul(x, lender.kernel)),
        layers.Dense(3),
    )
    assert exactness.paths(model, X) == [DENSE, ("Apply", "generic"), DENSE]
    assert_exact(model)


def test_a_borrowed_layer_is_tapped_at_each_call():
    lender = dense()
    model = stack(lender, layers.Lambda(lambda x: lender(x)), layers.Dense(3))
    assert exactness.paths(model, X) == [DENSE] * 3
    assert_exact(model)


def test_a_layer_that_the_model_does_not_know_may_hold_its_weights():
    lender, stranger = dense(), dense(trainable=False)
    vars(stranger)["_kernel"] = lender._kernel
    model = stack(lender, layers.Lambda(stranger.call), layers.Dense(3))
    assert exactness.paths(model, X) == [DENSE, ("Lambda", "generic"), DENSE]
    assert_exact(model)


def test_one_kernel_in_two_layers():
    first, second = dense(), dense()
    vars(second)["_kernel"] = first._kernel
    assert_exact(stack(first, second, layers.Dense(3)))


class DoubledDense(layers.Dense):
    """Changes what a layer with a rule computes."""

    def call(self, inputs, training=None):
        """Return twice the usual."""
        return 2 * super().call(inputs, training=training)


@pytest.mark.parametrize(
    "layer",
    [
        DoubledDense(5),
        layers.Dense(5, activation=layers.PReLU()),
    ],
    ids=["subclass", "layer_as_activation"],
)
def test_what_a_rule_does_not_describe_is_generic(layer):
    model = stack(layer, layers.Dense(3))
    model(X)  # Builds a layer that serves as an activation.
    assert exactness.paths(model, X)[0] == (type(layer).__name__, "generic")
    assert_exact(model)


def freeze(variable):
    variable.trainable = False


@pytest.mark.parametrize(
    "make, frozen",
    [
        (lambda: dense(activation="tanh"), lambda d: d._kernel),
        (lambda: dense(activation="tanh"), lambda d: d.bias),
        (layers.LayerNormalization, lambda d: d.gamma),
        (layers.LayerNormalization, lambda d: d.beta),
        (
            lambda: layers.EinsumDense("ab,bc->ac", 5, bias_axes="c"),
            lambda d: d._kernel,
        ),
    ],
)
def test_a_frozen_variable_does_not_count_in_the_norm(make, frozen):
    model = stack(make(), layers.Dense(3))
    freeze(frozen(model.layers[0]))
    assert exactness.error_to_loop(model, X, Y) <= 1e-5


def test_a_frozen_convolution_kernel_does_not_count_in_the_norm():
    model = stack(
        layers.Conv1D(4, 2), layers.Flatten(), layers.Dense(3), shape=(6, 2)
    )
    freeze(model.layers[0]._kernel)
    assert_exact(model, exactness.normal(0, 8, 6, 2))


class Counter(layers.Layer):
    """Learns from the data without any noise."""

    def __init__(self, write, **kwargs):
        super().__init__(**kwargs)
        self.write = write
        self.count = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="count"
        )
        self.raw = tf.Variable(0.0, trainable=False)

    def call(self, inputs):
        """Return the inputs."""
        self.write(self, ops.mean(inputs))
        return inputs


STATE = {
    "assign": lambda layer, mean: layer.count.assign(mean),
    "assign_add": lambda layer, mean: layer.count.assign_add(mean),
    "value": lambda layer, mean: layer.count.value.assign(mean),
    "private_value": lambda layer, mean: layer.count._value.assign_add(mean),
    "variable_of_tensorflow": lambda layer, mean: layer.raw.assign_add(mean),
}


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("name", STATE)
def test_a_layer_that_changes_its_state_is_refused_by_name(name, graph):
    counter = Counter(STATE[name], name="counts_rows")
    model = stack(layers.Dense(4), counter, layers.Dense(3))
    with pytest.raises(ValueError, match="(?s)model must hold.*counts_rows"):
        exactness.make_clip(model, X, Y, graph=graph)(X, Y)
    assert float(counter.count) == float(counter.raw) == 0.0


def test_a_name_does_not_make_state_a_seed():
    counter = Counter(STATE["assign"], name="seed_generator_of_rows")
    model = stack(layers.Dense(4), counter, layers.Dense(3))
    with pytest.raises(ValueError, match="model must hold no layer that"):
        exactness.make_clip(model, X, Y, graph=False)(X, Y)


def test_a_layer_that_starts_to_change_its_state_later_is_refused():
    counter = Counter(lambda layer, mean: None)
    model = stack(layers.Dense(4), counter, layers.Dense(3))
    clip = exactness.make_clip(model, X, Y, graph=False)
    clip(X, Y)
    counter.write = STATE["assign"]
    with pytest.raises((ValueError, RuntimeError)):
        clip(X, Y)
    assert float(counter.count) == 0.0


def test_state_is_refused_where_a_layer_is_rematerialised():
    with keras.RematScope(mode="full"):
        recomputed = layers.Dense(4)
    counter = Counter(STATE["assign"], name="counts_rows")
    model = stack(recomputed, counter, layers.Dense(3))
    with pytest.raises(ValueError, match="model must hold no layer that"):
        exactness.make_clip(model, X, Y, graph=False)(X, Y)


def test_a_stateful_recurrent_layer_is_refused():
    inputs = keras.Input(batch_shape=(7, 4, 5))
    hidden = layers.SimpleRNN(4, stateful=True)(inputs)
    model = keras.Model(inputs, layers.Dense(3)(hidden))
    model.compile(loss="mse")
    x, y = exactness.normal(0, 7, 4, 5), exactness.normal(1, 7, 3)
    with pytest.raises(ValueError):
        exactness.make_clip(model, x, y, graph=False)(x, y)


class AddsLoss(layers.Layer):
    """Adds a loss that depends on the data."""

    def call(self, inputs):
        """Return the inputs."""
        self.add_loss(ops.mean(inputs))
        return inputs


@pytest.mark.parametrize("rematerialised", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        AddsLoss,
        lambda: layers.Dense(4, activity_regularizer="l2"),
        lambda: layers.ActivityRegularization(l2=0.1),
    ],
    ids=["add_loss", "activity_regularizer", "layer"],
)
def test_a_loss_that_depends_on_the_data_is_refused(make, rematerialised):
    mode = keras.RematScope("full") if rematerialised else None
    with mode or contextlib.nullcontext():
        first = layers.Dense(4)
    model = stack(first, make(), layers.Dense(3))
    with pytest.raises(ValueError, match="model must add no loss"):
        exactness.make_clip(model, X, Y, graph=False)(X, Y)


def test_rematerialised_layers():
    with keras.RematScope(mode="full"):
        model = stack(layers.Dense(4, activation="tanh"), layers.Dense(3))
    # In a graph Keras itself cannot run a rematerialised layer.
    assert exactness.error_to_loop(model, X, Y, graph=False) <= 1e-5


class Noisy(layers.Layer):
    """Owns a weight and draws random numbers."""

    def __init__(self, noise, **kwargs):
        super().__init__(**kwargs)
        self.noise = noise
        self.seed_generator = keras.random.SeedGenerator(1)
        self.generator = tf.random.Generator.from_seed(1)

    def build(self, input_shape):
        """Create the weight."""
        width = input_shape[-1]
        self.kernel = self.add_weight(shape=(width, width), name="kernel")

    def call(self, inputs):
        """Return noisy outputs."""
        return self.noise(self, ops.matmul(inputs, self.kernel))


RANDOM = {
    "keras": lambda layer, h: keras.random.dropout(
        h, 0.5, seed=layer.seed_generator
    ),
    "tensorflow": lambda layer, h: tf.nn.dropout(h, 0.5),
    "generator": lambda layer, h: h * layer.generator.uniform(tf.shape(h)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_on_the_generic_path_take_the_loop(name):
    # A recomputation for one row would draw others than the forward pass.
    model = stack(Noisy(RANDOM[name]), layers.Dense(3))
    assert isinstance(exactness.paths(model, X), str)


def test_noise_by_the_place_in_the_batch_is_refused_or_that_of_one_row():
    # The same numbers in every step, but not for every number of rows.
    fixed = lambda layer, h: h + keras.random.normal(ops.shape(h), seed=3)
    model = stack(Noisy(fixed), layers.Dense(3))
    exactness.assert_exact_or_refused(model, X, Y)


def test_random_numbers_beside_rules_keep_the_rules():
    model = stack(
        layers.Dense(4),
        Apply(lambda x: x + tf.random.normal(tf.shape(x))),
        layers.Dropout(0.5),
        layers.Dense(3),
    )
    assert exactness.paths(model, X) == [DENSE, DENSE]


def branch(first, second):
    """Returns a call that depends on the number of rows it is traced for."""

    def call(model, inputs):
        rows = inputs.shape[0]
        chosen = first if rows is not None and rows > 100 else second
        return chosen(model, inputs)

    return call


class Branching(keras.Model):
    """Two layers, used as a function says."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function
        self.a = dense()
        self.b = dense()

    def call(self, inputs):
        """Return what the function makes of the inputs."""
        return self.function(self, inputs)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(
    "function",
    [
        branch(lambda m, x: m.a(x), lambda m, x: m.b(x)),
        branch(lambda m, x: m.b(m.a(x)), lambda m, x: m.b(x)),
        branch(lambda m, x: m.b(x), lambda m, x: m.b(m.a(x))),
        branch(lambda m, x: m.a(x), lambda m, x: x * m.a.bias),
    ],
    ids=["other", "fewer", "more", "raw"],
)
def test_a_call_that_depends_on_the_number_of_rows_is_exact(function, graph):
    # Or refused: what it does for one example alone is what counts.
    model = exactness.compiled(Branching(function), X)
    y = exactness.normal(1, 8, 5)
    try:
        error = exactness.error_to_loop(model, X, y, graph=graph)
    except (ValueError, RuntimeError):
        return
    assert error <= 1e-5


class Positions(keras.Model):
    """Adds an embedding of positions, as many as the probe has rows."""

    def __init__(self, length, **kwargs):
        super().__init__(**kwargs)
        self.length = length
        self.positions = layers.Embedding(length, 2)
        self.outputs_layer = dense(2, 2)

    def call(self, inputs):
        """Return the outputs."""
        positions = self.positions(ops.arange(self.length))
        return self.outputs_layer(inputs + positions)


@pytest.mark.parametrize("batch", [1, 3])
def test_an_axis_as_long_as_the_probe_is_not_taken_for_the_batch(batch):
    length = call_plan.PROBE_BATCH
    x = exactness.normal(0, batch, length, 2)
    y = exactness.normal(1, batch, length, 2)
    model = exactness.compiled(Positions(length), x)
    assert_exact(model, x, y)


class TimeFirst(keras.Model):
    """Puts the batch axis of its outputs second."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = dense(3)

    def call(self, inputs):
        """Return the outputs, `[T, B, 3]`."""
        return ops.transpose(self.inner(inputs), (1, 0, 2))


def test_outputs_without_rows_are_not_split_into_examples():
    # As many steps as rows: every shape fits, every row is another's.
    x, y = exactness.normal(0, 8, 8, 5), exactness.normal(1, 8, 8, 3)
    model = exactness.compiled(TimeFirst(), x)
    try:
        error = exactness.error_to_loop(model, x, y)
    except ValueError as refused:
        assert str(refused).startswith("model must")
    else:
        assert error <= 1e-5


class MeanOutput(keras.Model):
    """Returns its own loss, one number for the whole batch."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = dense(3)

    def call(self, inputs):
        """Return a scalar."""
        return ops.mean(ops.square(self.inner(inputs)))


def test_a_scalar_output_is_that_of_each_example_or_refused():
    model = MeanOutput()
    model(X)
    model.compile(loss=lambda y, y_pred: y_pred)
    exactness.assert_exact_or_refused(model, X, Y)


def test_plans_are_kept_for_the_same_weights_and_shapes():
    model = stack(layers.Dense(4), layers.Dense(3))
    plan = call_plan.plan_calls(model, tf.constant(X))
    assert call_plan.plan_calls(model, tf.constant(X[:3])) is plan
    model.layers[0].trainable = False
    frozen = call_plan.plan_calls(model, tf.constant(X))
    assert len(frozen.calls) == 1
    model.layers[0].trainable = True
    assert len(call_plan.plan_calls(model, tf.constant(X)).calls) == 2


def test_planning_changes_nothing():
    for case in (*models.DROPOUT_CASES, models.CASES[0]):
        model, x, _, _ = case.make(0)
        before = [np.array(v) for v in model.variables]
        calls = [vars(layer).get("call") for layer in model._flatten_layers()]
        call_plan.plan_calls(model, tf.constant(x))
        for was, variable in zip(before, model.variables, strict=True):
            np.testing.assert_array_equal(was, variable)
        assert calls == [
            vars(layer).get("call") for layer in model._flatten_layers()
        ]
