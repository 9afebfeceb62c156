# SPDX-License-Identifier: Apache-2.0
"""Recorded norms and factors, against one example at a time."""

import keras
import numpy as np
import pytest

from tests import models
from tests import oracles
from tf_privacy.clipping import engine
from tf_privacy.clipping import layer_norms
from tf_privacy.clipping import styles

NAMES = ["dense_mlp", "embedding_masked_mean", "two_outputs_weighted"]
CASES = [c for c in models.CASES if c.name in NAMES]


def norms_of(gradients):
    """Returns the norm of each example's gradient of each variable."""
    return np.array([[np.linalg.norm(g) for g in row] for row in gradients])


def record(model, data, style, examples_per_unit=1):
    settings = engine.ClipSettings(
        style=style, examples_per_unit=examples_per_unit
    )
    return layer_norms.clip_and_record(model, data, settings)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(
    "make_style", [styles.FlatClipping, styles.PerLayerClipping]
)
def test_norms_and_factors_are_those_of_single_examples(case, make_style):
    model, x, y, weight = case.make(0)
    gradients = oracles.loop_gradients(model, x, y, weight)
    norms = norms_of(gradients)
    clip = float(np.median(np.sqrt(np.sum(norms**2, axis=1))))
    step = record(model, (x, y, weight), make_style(l2_norm_clip=clip))
    np.testing.assert_allclose(step.norms, norms, 1e-4, 1e-5)
    owners = [v.path.rpartition("/")[0] for v in model.trainable_variables]
    if make_style is styles.FlatClipping:
        owners = ["all"] * len(owners)
    share = clip / np.sqrt(len(set(owners)))
    for column, owner in enumerate(owners):
        mine = [i for i, other in enumerate(owners) if other == owner]
        group = np.sqrt(np.sum(norms[:, mine] ** 2, axis=1))
        expected = share / np.maximum(group, share)
        np.testing.assert_allclose(step.factors[:, column], expected, 1e-4)
        total = sum(
            f * row[column] for f, row in zip(expected, gradients, strict=True)
        )
        np.testing.assert_allclose(step.gradients[column], total, 1e-3, 1e-5)


def test_the_loop_over_examples_records_the_same():
    """A layer that uses its weights and a sublayer goes example by example."""

    @keras.saving.register_keras_serializable(package="layer_norms_test")
    class Mixed(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(3)
            self.scale = self.add_weight(
                shape=(3,), initializer="ones", name="scale"
            )

        def call(self, inputs):
            return self.inner(inputs) * self.scale

    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 2)).astype("float32")
    y = rng.normal(size=(5, 3)).astype("float32")
    model = Mixed()
    model.compile(loss="mse")
    model(x)
    expected = norms_of(oracles.loop_gradients(model, x, y))
    step = record(model, (x, y, None), styles.FlatClipping(l2_norm_clip=0.5))
    np.testing.assert_allclose(step.norms, expected, 1e-4, 1e-6)


def test_a_unit_that_is_not_finite_has_factor_zero():
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    x = rng.normal(size=(4, 2)).astype("float32")
    x[2] = np.nan
    step = record(
        model,
        (x, np.zeros((4, 1), "float32"), None),
        styles.FlatClipping(l2_norm_clip=1.0),
    )
    assert not np.isfinite(step.norms[2]).all()
    np.testing.assert_array_equal(step.factors[2], 0.0)
    assert np.isfinite(step.gradients[0]).all()
    assert (step.factors[[0, 1, 3]] > 0.0).all()


def test_layer_names_leave_the_models_own_name_out():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(2, name="first"),
            keras.Sequential([keras.layers.Dense(1, name="last")], name="top"),
        ]
    )
    names = layer_norms.layer_names(model.trainable_variables)
    assert [name.split("/")[-1] for name in names] == 2 * ["first"] + 2 * [
        "last"
    ]
    assert not names[0].startswith("sequential")
