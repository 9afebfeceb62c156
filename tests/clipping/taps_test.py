# SPDX-License-Identifier: Apache-2.0
"""Tests of the tapped forward pass: random numbers, and weights in odd places.

What the engine returns is what a tape over the whole model would find, or an
error; never, silently, a part of it.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras import ops

from tests import models
from tests.clipping import exactness
from tf_privacy.clipping import engine

Apply = exactness.Apply
ApplyWeight = exactness.ApplyWeight
ApplyWith = exactness.ApplyWith
stack = exactness.stack
X = exactness.normal(0, 8, 5)
Y = exactness.normal(1, 8, 3)
HUGE_CLIP = 1e6


def sum_of_outputs(y_true, y_pred):
    """Returns a loss whose derivative by each output is 1."""
    axes = tuple(range(1, len(y_pred.shape)))
    return ops.sum(y_pred, axis=axes) + 0.0 * ops.sum(y_true)


def make_step(model, *data, graph):
    """Returns a function to the engine's gradients, outputs and norms."""

    def run(*data):
        step = engine.clipped_gradients(model, *data, l2_norm_clip=HUGE_CLIP)
        return step.clipped_sum.gradients, step.y_pred, step.norms

    if graph:
        run = tf.function(run, autograph=False)
    run(*data)
    return lambda: tuple(map(np.array, keras.tree.flatten(run(*data))))


@pytest.mark.parametrize("graph", [True, False])
def test_the_gradient_sees_the_mask_of_the_forward_pass(graph):
    model = stack(
        layers.Dense(40, use_bias=False),
        layers.Dropout(0.5),
        loss=sum_of_outputs,
    )
    step = make_step(model, X, Y, graph=graph)
    seen = []
    for _ in range(3):
        gradient, y_pred, _ = step()
        kept = 2.0 * (y_pred != 0.0)
        np.testing.assert_allclose(gradient, X.T @ kept, 1e-4, 1e-4)
        assert 0.3 < np.mean(y_pred != 0.0) < 0.7
        seen.extend(kept)
    # 40 coins: two rows agree with probability 2^-40.
    assert len({row.tobytes() for row in seen}) == 3 * len(X)


@pytest.mark.parametrize("graph", [True, False])
def test_dropped_channels_are_the_same_at_all_positions_of_a_row(graph):
    x = exactness.normal(2, 8, 6, 3)
    model = stack(
        layers.Dense(40, use_bias=False),
        layers.SpatialDropout1D(0.5),
        shape=(6, 3),
        loss=sum_of_outputs,
    )
    step = make_step(model, x, Y, graph=graph)
    seen = []
    for _ in range(2):
        gradient, y_pred, _ = step()
        kept = 2.0 * (y_pred[:, 0] != 0.0)
        expected = x.sum(axis=1).T @ kept
        np.testing.assert_allclose(gradient, expected, 1e-4, 1e-4)
        seen.extend(kept)
    assert len({row.tobytes() for row in seen}) == 2 * len(x)


class Inner(layers.Layer):
    """Owns a weight, and drops units within its own call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = layers.Dropout(0.5)

    def build(self, input_shape):
        """Create the weight."""
        self.kernel = self.add_weight(
            shape=(input_shape[-1], 40), name="kernel"
        )

    def call(self, inputs):
        """Return dropped outputs."""
        return self.dropout(ops.matmul(inputs, self.kernel))


RANDOM_LAYERS = {
    "dropout": lambda: layers.Dropout(0.5),
    "alpha_dropout": lambda: layers.AlphaDropout(0.5),
    "gaussian_dropout": lambda: layers.GaussianDropout(0.5),
    "gaussian_noise": lambda: layers.GaussianNoise(1.0),
    "inner": Inner,
    "tensorflow": lambda: Apply(lambda x: tf.nn.dropout(x, 0.5)),
}


@pytest.mark.parametrize(
    "name, graph",
    [*((name, True) for name in RANDOM_LAYERS), ("inner", False)],
)
def test_equal_rows_differ_from_each_other_and_between_steps(name, graph):
    model = stack(layers.Dense(40), RANDOM_LAYERS[name](), layers.Dense(3))
    x, y = np.ones((8, 5), "float32"), np.ones((8, 3), "float32")
    step = make_step(model, x, y, graph=graph)
    norms = np.concatenate([step()[-1] for _ in range(3)])
    assert len(set(norms.tolist())) == 24


@pytest.mark.parametrize(
    "layer, dropout, recurrent_dropout",
    [
        # Keras's fused LSTM cell ignores recurrent_dropout.
        (layers.LSTM, 0.5, 0.0),
        (layers.SimpleRNN, 0.0, 0.5),
        (layers.SimpleRNN, 0.0, 0.0),
    ],
)
def test_dropout_within_recurrent_layers(layer, dropout, recurrent_dropout):
    model = stack(
        layer(12, dropout=dropout, recurrent_dropout=recurrent_dropout),
        layers.Dense(3),
        shape=(4, 12),
    )
    x, y = np.ones((8, 4, 12), "float32"), np.ones((8, 3), "float32")
    step = make_step(model, x, y, graph=True)
    norms = np.concatenate([step()[-1] for _ in range(2)])
    distinct = len(np.unique(np.round(norms / norms[0], 5)))
    # 12 coins: a few of 16 rows may agree.
    assert distinct >= 12 if dropout or recurrent_dropout else distinct == 1


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("name", ["dropout", "inner"])
def test_states_of_seeds_advance(name, graph):
    model = stack(layers.Dense(4), RANDOM_LAYERS[name](), layers.Dense(3))
    (seed,) = [v for v in model.variables if "seed" in v.path]
    step = make_step(model, X, Y, graph=graph)
    states = [np.array(seed).tobytes()]
    for _ in range(3):
        step()
        states.append(np.array(seed).tobytes())
    assert len(set(states)) == 4


def test_a_seed_fixes_the_masks_of_a_step():
    case = models.DROPOUT_CASES[0]
    totals = []
    for _ in range(2):
        model, x, y, _ = case.make(5)
        clip = exactness.make_clip(model, x, y)
        totals.append(np.concatenate([g.ravel() for g in clip(x, y)[0]]))
    np.testing.assert_allclose(totals[0], totals[1], 1e-6)


# Weights in odd places. Whatever a plain tape finds must be found, or refused.


def assert_exact_or_refused(model, x=X, y=Y):
    try:
        error = exactness.error_to_loop(model, x, y)
    except (ValueError, RuntimeError, tf.errors.OpError):
        return
    assert error <= 1e-5


def matmul(inputs, weight):
    return tf.tanh(inputs @ weight)


@tf.custom_gradient
def doubled_gradient(inputs, weight):
    """Returns a product whose gradient for the weight is doubled."""

    def gradient(upstream):
        return (
            upstream @ tf.transpose(weight),
            2.0 * tf.transpose(inputs) @ upstream,
        )

    return inputs @ weight, gradient


def through_python(weight, inputs):
    outputs = tf.py_function(
        lambda x, w: x @ w, [inputs, weight.value], tf.float32
    )
    outputs.set_shape(inputs.shape)
    return outputs


READS = {
    "value": lambda w, x: matmul(x, w.value),
    "converted": lambda w, x: matmul(x, tf.convert_to_tensor(w)),
    "keras": lambda w, x: ops.tanh(ops.matmul(x, w)),
    "transposed": lambda w, x: matmul(x, tf.transpose(w.value)),
    "private_value": lambda w, x: matmul(x, w._value),
    "both": lambda w, x: matmul(x, w.value) + matmul(x, w._value),
    "numpy": lambda w, x: matmul(x, w.numpy()),
    "stopped": lambda w, x: matmul(x, tf.stop_gradient(w.value)),
    "custom_gradient": lambda w, x: doubled_gradient(x, w.value),
    "py_function": through_python,
    "gathered": lambda w, x: x * tf.gather(w.value, [2], axis=0),
    "function": lambda w, x: tf.function(
        lambda x: matmul(x, w.value), autograph=False
    )(x),
    "recompute": lambda w, x: tf.recompute_grad(lambda x: matmul(x, w.value))(
        x
    ),
}


@pytest.mark.parametrize("name", READS)
def test_a_weight_read_in_any_way(name):
    try:
        model = stack(ApplyWeight(READS[name]), layers.Dense(3))
        model(X)
    except NotImplementedError:
        return  # Keras itself cannot build it.
    assert_exact_or_refused(model)


def kept_function(signature):
    """Returns a layer around a function that is traced once, for all."""

    class Kept(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = exactness.dense(activation="tanh")
            self.built = True

        @tf.function(input_signature=signature, autograph=False)
        def traced(self, inputs):
            return self.dense(inputs)

        def call(self, inputs):
            return self.traced(inputs)

    return Kept()


@pytest.mark.parametrize(
    "signature", [None, [tf.TensorSpec((None, 5))]], ids=["open", "fixed"]
)
def test_a_layer_within_a_function_that_was_traced_before(signature):
    layer = kept_function(signature)
    model = stack(layer, layers.Dense(3))
    for rows in (2, 3, 7):
        layer(X[:rows])
    assert_exact_or_refused(model)


class Remembers(keras.Model):
    """Uses, in its own call, a tensor that a layer left behind."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = ApplyWeight(self.remember)
        self.outer = exactness.dense(3)

    def remember(self, weight, inputs):
        """Return a product, and keep what it was taken with."""
        self.kept = [ops.tanh(weight)]
        return ops.matmul(inputs, self.kept[0])

    def call(self, inputs):
        """Return the outputs."""
        hidden = self.inner(inputs)
        return self.outer(ops.matmul(hidden, self.kept[0]))


def test_a_tensor_that_a_layer_left_behind():
    assert_exact_or_refused(exactness.compiled(Remembers(), X))


class HoldsVariable(keras.Model):
    """Holds a variable of TensorFlow, which Keras does not train."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = tf.Variable(tf.eye(5))
        self.outer = exactness.dense(3)

    def call(self, inputs):
        """Return the outputs."""
        return self.outer(tf.matmul(inputs, self.scale))


def test_a_variable_of_tensorflow_is_not_trained():
    model = exactness.compiled(HoldsVariable(), X)
    assert len(model.trainable_variables) == 2
    assert exactness.error_to_loop(model, X, Y) <= 1e-5


def test_a_loss_that_reads_a_weight():
    layer = exactness.dense(3)

    def loss(y_true, y_pred):
        error = ops.mean(ops.square(y_true - y_pred), axis=-1)
        return error + ops.sum(ops.square(layer.kernel))

    assert_exact_or_refused(stack(layer, loss=loss))


def test_a_loss_that_calls_the_model():
    model = stack(layers.Dense(5, activation="tanh"))
    model.compile(
        loss=lambda y, y_pred: ops.mean(ops.square(model(y) - y_pred), axis=-1)
    )
    assert_exact_or_refused(model, X, exactness.normal(3, 8, 5))


def test_a_loss_that_calls_another_model():
    other = stack(layers.Dense(2))
    model = stack(layers.Dense(5, activation="tanh"))
    model.compile(
        loss=lambda y, y_pred: ops.mean(
            ops.square(other(y) - other(y_pred)), axis=-1
        )
    )
    for graph in (True, False):
        y = exactness.normal(3, 8, 5)
        assert exactness.error_to_loop(model, X, y, graph=graph) <= 1e-5


def test_a_frozen_model_within_a_model():
    other = stack(layers.Dense(5, activation="tanh"), layers.Dense(5))
    other.trainable = False
    model = stack(layers.Dense(5), other, layers.Dense(3))
    for graph in (True, False):
        assert exactness.error_to_loop(model, X, Y, graph=graph) <= 1e-5


def test_arguments_by_name_and_extra_tensors():
    class Extra(layers.Layer):
        """Takes rows, a constant and a mask by name."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = exactness.dense()

        def build(self, input_shape):
            """Create the weight."""
            self.shift = self.add_weight(shape=(5,), name="shift")

        def call(self, inputs, *, other, constant, scale=1.0):
            """Return a sum of all."""
            hidden = self.dense(inputs=inputs) * scale + self.shift
            return ops.tanh(hidden) * constant + other

    class Caller(keras.Model):
        """Calls the layer with everything."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.extra = Extra()
            self.outer = exactness.dense(3)

        def call(self, inputs):
            """Return the outputs."""
            constant = ops.arange(5, dtype="float32")
            hidden = self.extra(
                inputs, other=2.0 * inputs, constant=constant, scale=0.5
            )
            return self.outer(inputs=hidden)

    model = exactness.compiled(Caller(), X)
    for graph in (True, False):
        assert exactness.error_to_loop(model, X, Y, graph=graph) <= 1e-5
