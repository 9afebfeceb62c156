# SPDX-License-Identifier: Apache-2.0
"""Tests of a user's own rules: a right one serves, a wrong one is found."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import tf_privacy
from tf_privacy.clipping import rules
from tf_privacy.clipping.rules import rule as rule_module

X = np.random.default_rng(0).normal(size=(7, 4)).astype("float32")


@keras.saving.register_keras_serializable()
class Scaled(layers.Layer):
    """Multiplies each feature with a weight."""

    def build(self, input_shape):
        """Create the weight."""
        self.scale = self.add_weight(shape=(input_shape[-1],), name="scale")

    def call(self, inputs):
        """Return the product."""
        return inputs * self.scale


class ScaledRule(tf_privacy.ClippingRule):
    """What a user would write."""

    factor = 1.0
    mixes = False

    def supports(self, layer, variables, input_shapes):
        """Return whether it is the layer above."""
        return type(layer) is Scaled

    def forward(self, layer, call, tap, args, kwargs):
        """Tap the product."""
        return tap(call(*args, **kwargs)), args[0]

    def terms(self, layer, saved, cotangents):
        """Return the weight's term."""
        rows = saved * cotangents[0] * self.factor
        if self.mixes:
            rows = rows + 0.0 * ops.flip(rows, axis=0)
        return [(layer.scale, tf_privacy.Instantiated(rows))]


class WrongFactor(ScaledRule):
    """Halves the gradient: half of the clip would be missed."""

    factor = 0.5


class Mixing(ScaledRule):
    """Lets one row's NaN into another."""

    mixes = True


class Missing(ScaledRule):
    """Forgets the weight."""

    def terms(self, layer, saved, cotangents):
        """Return nothing."""
        return []


def test_a_right_rule_passes_and_serves(monkeypatch):
    monkeypatch.setattr(rules, "_OWN_RULES", [])
    tf_privacy.check_rule(ScaledRule(), Scaled(), X)
    tf_privacy.register_rule(ScaledRule())
    model = keras.Sequential([keras.Input((4,)), Scaled(), layers.Dense(1)])
    table = tf_privacy.explain_clipping(model, X)
    (line,) = [row for row in table.splitlines() if "Scaled" in row]
    assert "rule" in line


@pytest.mark.parametrize(
    "rule, found",
    [
        (WrongFactor(), "weighted sum"),
        (Mixing(), "NaN of one row"),
        (Missing(), "no term"),
    ],
    ids=["factor", "mixing", "missing"],
)
def test_a_wrong_rule_is_found(rule, found):
    with pytest.raises(ValueError, match=f"rule must give.*{found}"):
        tf_privacy.check_rule(rule, Scaled(), X)


def test_a_rule_for_another_layer_is_refused():
    with pytest.raises(ValueError, match="rule must support"):
        tf_privacy.check_rule(ScaledRule(), layers.Dense(2), X)
    with pytest.raises(TypeError, match="rule must be"):
        tf_privacy.register_rule(ScaledRule)


@pytest.mark.parametrize(
    "layer, x",
    [
        (layers.Dense(3, activation="tanh"), X),
        (layers.LayerNormalization(), X),
        (layers.Conv1D(3, 2), X.reshape(7, 4, 1)),
        (layers.LSTM(3), X.reshape(7, 4, 1)),
    ],
    ids=["dense", "normalization", "convolution", "lstm"],
)
def test_the_rules_of_the_library_pass(layer, x):
    layer(x)
    rule = rules.find_rule(layer, layer.trainable_variables, (x.shape,))
    assert isinstance(rule, rule_module.ClippingRule)
    tf_privacy.check_rule(rule, layer, x)
