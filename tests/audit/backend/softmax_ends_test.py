# SPDX-License-Identifier: Apache-2.0
"""Tests of logits found below the end of a model, by its layers."""

import keras
import numpy as np
import pytest
from keras import layers
from scipy import special

from tf_privacy.audit import keras_backend
from tf_privacy.audit.backend import softmax_ends

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def get_scores(model, *, outputs="probabilities", x=X):
    compile_on_rows = keras_backend.load("").compile_on_rows
    get_logits = softmax_ends.make_logit_call(
        model, x, outputs=outputs, compile_on_rows=compile_on_rows
    )
    return compile_on_rows(model, get_logits, x)(x)


def set_far_weights(model):
    """Gives a model weights whose probabilities round to 0 and 1."""
    rng = np.random.default_rng(1)
    model.set_weights(
        [300 * rng.normal(size=w.shape) for w in model.get_weights()]
    )


def make_activated(activation, units=3):
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(units, activation=activation)]
    )


def make_layer(last, units=3):
    return keras.Sequential([keras.Input((4,)), layers.Dense(units), last])


def make_operation():
    inputs = keras.Input((4,))
    outputs = keras.ops.softmax(layers.Dense(3)(inputs))
    return keras.Model(inputs, outputs)


def make_nested():
    inner = make_activated("softmax")
    inputs = keras.Input((2, 2))
    return keras.Model(inputs, inner(layers.Flatten()(inputs)))


def make_called_twice():
    """The last layer has another use, before and after this one."""
    dense = layers.Dense(4, activation="softmax")
    other, inputs = keras.Input((4,)), keras.Input((4,))
    dense(other)
    model = keras.Model(inputs, dense(dense(inputs)))
    dense(keras.Input((4,)))
    return model


def make_step_by_step():
    model = keras.Sequential([keras.Input((4,))])
    for units in (5, 3):
        model.add(layers.Dense(units))
    model.add(layers.Activation("softmax"))
    return model


@pytest.mark.parametrize(
    "make_model",
    [
        lambda: make_activated("softmax"),
        lambda: make_layer(layers.Softmax()),
        lambda: make_layer(layers.Activation("softmax")),
        make_operation,
        make_nested,
        make_called_twice,
        make_step_by_step,
    ],
)
def test_softmax_at_the_end_is_left_out(make_model):
    model = make_model()
    set_far_weights(model)
    x = X.reshape(-1, *model.input_shape[1:])
    probabilities = model.predict(x, verbose=0)
    assert np.any(probabilities == 0.0)
    scores = get_scores(model, x=x)
    # Logarithms of probabilities end at -87.
    assert np.min(scores - scores.max(axis=1, keepdims=True)) < -100
    np.testing.assert_allclose(
        special.softmax(scores, axis=1), probabilities, rtol=1e-3, atol=1e-30
    )
    with pytest.raises(ValueError, match="^outputs must be 'probabilities'"):
        get_scores(model, x=x, outputs="logits")


@pytest.mark.parametrize(
    "make_model",
    [
        lambda: make_activated("sigmoid", 1),
        lambda: make_layer(layers.Activation("sigmoid"), 1),
    ],
)
def test_sigmoid_at_the_end_is_left_out(make_model):
    model = make_model()
    set_far_weights(model)
    probabilities = model.predict(X, verbose=0)
    assert np.any(probabilities == 1.0)
    scores = get_scores(model)
    np.testing.assert_allclose(
        special.expit(scores), probabilities, rtol=1e-3, atol=1e-30
    )
    assert scores.max() > 100


class OwnCall(keras.Sequential):
    """Its layers end in a softmax, but it does not."""

    def call(self, inputs, training=None, mask=None):
        outputs = super().call(inputs, training=training, mask=mask)
        return keras.ops.log(outputs) + 1.0


class Unseen(keras.Model):
    """What it ends in shows in its call alone."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return keras.ops.softmax(self.dense(inputs))


def test_model_is_taken_as_it_is_where_its_layers_do_not_show_its_end():
    model = OwnCall([keras.Input((4,)), layers.Dense(3, activation="softmax")])
    np.testing.assert_allclose(
        get_scores(model, outputs="logits"),
        model.predict(X, verbose=0),
        rtol=1e-5,
    )
    model = Unseen()
    model(X)
    np.testing.assert_allclose(
        get_scores(model), np.log(model.predict(X, verbose=0)), rtol=1e-4
    )


class Softmax(layers.Layer):
    """A layer that is none, whatever its name."""

    def call(self, inputs):
        return keras.ops.tanh(inputs)


def make_recurrent():
    """Its activation is inside the layer, not at its end."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Reshape((2, 2)),
            layers.LSTM(3, activation="softmax", unroll=True),
        ]
    )


@pytest.mark.parametrize(
    "make_model",
    [
        make_recurrent,
        lambda: make_layer(Softmax()),
        lambda: make_layer(layers.Rescaling(0.5)),
        lambda: make_activated("tanh"),
    ],
)
def test_other_ends_are_no_softmax(make_model):
    model = make_model()
    np.testing.assert_allclose(
        get_scores(model, outputs="logits"),
        model.predict(X, verbose=0),
        rtol=1e-4,
        atol=1e-6,
    )


def test_probabilities_have_logits():
    p = np.array([[0.25, 0.75]], np.float32)
    got = keras.ops.convert_to_numpy(
        softmax_ends.to_logits(keras.ops.convert_to_tensor(p), "probabilities")
    )
    np.testing.assert_allclose(got, np.log(p), rtol=1e-6)
    got = softmax_ends.to_logits(
        keras.ops.convert_to_tensor(p[:, 1:]), "probabilities"
    )
    got = keras.ops.convert_to_numpy(got)
    np.testing.assert_allclose(got, [[np.log(3.0)]], rtol=1e-6)
