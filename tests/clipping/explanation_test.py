# SPDX-License-Identifier: Apache-2.0
"""Tests of the table of paths."""

import keras
import numpy as np
import pytest
from keras import layers

from tests import models
from tests.clipping import exactness
from tf_privacy.clipping import explanation

X = exactness.normal(0, 8, 5)


def explain(model, x):
    return [
        line.split()
        for line in explanation.explain_clipping(model, x).splitlines()
    ]


def test_each_call_has_a_line_with_its_path_and_size():
    shared = layers.Dense(5, name="shared")
    model = exactness.stack(
        shared,
        exactness.ApplyWeight(lambda w, x: x * w[0], name="own"),
        layers.Lambda(lambda x: shared(x)),
        layers.Activation("tanh"),
    )
    heading, *lines = explain(model, X)
    assert heading == "layer type path weights norm held form".split()
    # A dense layer's norm: its input, its cotangent and the bias; the bias is
    # held as 5 entries of 4 bytes.
    dense = ["shared", "Dense", "rule", "30", "15", "20", "rank", "one,"]
    assert [line[:8] for line in (lines[0], lines[2])] == [dense] * 2
    assert lines[1][:6] == ["own", "ApplyWeight", "generic", "25", "25", "100"]


def test_the_loop_is_named_with_its_reason():
    def drop(weight, inputs):
        return keras.random.dropout(inputs, 0.5, seed=generator) * weight[0]

    generator = keras.random.SeedGenerator(1)
    layer = exactness.ApplyWeight(drop, name="drops")
    layer.generator = generator
    text = explanation.explain_clipping(exactness.stack(layer), X)
    assert text.startswith("single examples: ")
    assert "'drops'" in text


@pytest.mark.parametrize("name", ["two_inputs_two_outputs", "mixed_inputs"])
def test_structures_of_inputs(name):
    (case,) = [c for c in models.CASES if c.name == name]
    model, x, _, _ = case.make(0)
    assert len(explain(model, x)) > 3


def test_a_model_that_was_never_called():
    model = models.Affine()
    assert explain(model, exactness.normal(0, 2, 4))[1][1:3] == [
        "Affine",
        "generic",
    ]
    assert np.all(np.isfinite(model(exactness.normal(0, 2, 4))))


def test_a_layer_that_keras_did_not_build_yet():
    # An activation that is a layer is built when it is first called.
    model = exactness.stack(layers.Dense(5, activation=layers.PReLU()))
    assert explain(model, X)[1][1:4] == ["Dense", "generic", "35"]
    assert np.all(np.isfinite(model(X)))
    assert np.all(np.isfinite(model.get_weights()[-1]))


def test_explaining_changes_nothing():
    model, x, _, _ = models.DROPOUT_CASES[0].make(0)
    before = [np.array(v) for v in model.variables]
    explanation.explain_clipping(model, x)
    for was, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(was, variable)
