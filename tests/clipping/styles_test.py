# SPDX-License-Identifier: Apache-2.0
"""Tests of the clipping styles: no factor lets a unit past its bound."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_privacy
from tf_privacy.clipping import styles

RELATION = tf_privacy.NeighboringRelation
STYLES = [
    styles.FlatClipping,
    styles.PerLayerClipping,
    styles.AutomaticClipping,
]


def compute(style, *norms, counted=None):
    """Return factors for each group of norms, and who is present."""
    squared = [
        tf.constant(np.square(np.asarray(n, "f8")), tf.float32) for n in norms
    ]
    if counted is not None:
        counted = tf.constant(counted)
    factors, present = style.compute_factors(squared, counted)
    return [f.numpy() for f in factors], present.numpy()


@pytest.mark.parametrize("l2_norm_clip", [1e-6, 0.5, 1.0, 1e6])
@pytest.mark.parametrize("num_groups", [1, 2, 7])
@pytest.mark.parametrize("make_style", STYLES)
def test_no_unit_passes_the_bound(make_style, num_groups, l2_norm_clip):
    style = make_style(l2_norm_clip=l2_norm_clip)
    norms = np.concatenate([[0.0], np.logspace(-15, 15, 200), [l2_norm_clip]])
    rng = np.random.default_rng(0)
    groups = [rng.permutation(norms) for _ in range(num_groups)]
    factors, present = compute(style, *groups)
    assert np.all(present)
    clipped = np.array(factors) * np.array(groups)
    total = np.sqrt(np.sum(np.square(clipped), axis=0))
    relation = RELATION.ADD_OR_REMOVE_ONE
    assert np.all(total <= style.sensitivity(relation) * (1 + 1e-6))
    # The bound is reached: it is not a looser one than it says.
    assert total.max() > 0.5 * l2_norm_clip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lying(tf_privacy.ClippingStyle):
    """A style whose factors do not keep its bound."""

    factor: float

    def scale_factors(self, norms, num_groups):
        """Return the same factor for every unit."""
        return self.factor * tf.ones_like(norms)


@pytest.mark.parametrize("factor", [1e30, 2.0, -2.0, np.inf, -np.inf, np.nan])
def test_the_bound_holds_whatever_a_style_of_the_users_answers(factor):
    norms = np.concatenate([[0.0], np.logspace(-15, 15, 200)])
    style = Lying(l2_norm_clip=0.5, factor=factor)
    factors, _ = compute(style, norms, norms)
    clipped = np.array(factors) * norms
    assert np.all(np.isfinite(clipped))
    assert np.linalg.norm(clipped, axis=0).max() <= 0.5 * (1 + 1e-6)


@pytest.mark.parametrize("make_style", STYLES)
def test_replacing_a_unit_moves_the_sum_twice_as_far(make_style):
    style = make_style(l2_norm_clip=3.0)
    assert style.sensitivity(RELATION.ADD_OR_REMOVE_ONE) == 3.0
    assert style.sensitivity(RELATION.ZERO_OUT_ONE) == 3.0
    assert style.sensitivity(RELATION.REPLACE_ONE) == 6.0
    with pytest.raises(ValueError, match="neighboring_relation must be"):
        style.sensitivity("replace_one")


def test_flat_clipping_leaves_small_gradients_alone():
    style = styles.FlatClipping(l2_norm_clip=1.0)
    (factors,), _ = compute(style, [0.0, 1e-10, 0.999])
    np.testing.assert_array_equal(factors, 1.0)


def test_automatic_clipping_is_the_published_formula():
    style = styles.AutomaticClipping(l2_norm_clip=2.0, stability=0.01)
    norms = np.array([0.0, 0.01, 1.0, 100.0])
    (factors,), _ = compute(style, norms)
    np.testing.assert_allclose(factors, 2.0 / (norms + 0.01), 1e-6)


def test_per_layer_clipping_gives_each_layer_its_share():
    style = styles.PerLayerClipping(l2_norm_clip=2.0)
    factors, _ = compute(style, [4.0], [1.0], [0.5], [100.0])
    np.testing.assert_allclose(np.ravel(factors), [0.25, 1.0, 1.0, 0.01], 1e-6)


@pytest.mark.parametrize("norm", [np.nan, np.inf])
@pytest.mark.parametrize("make_style", STYLES)
def test_a_unit_that_is_not_finite_anywhere_is_absent(make_style, norm):
    style = make_style(l2_norm_clip=2.0)
    factors, present = compute(style, [1.0, norm, 4.0], [1.0, 1.0, norm])
    np.testing.assert_array_equal(present, [True, False, False])
    for factor in factors:
        assert factor[0] > 0.0
        np.testing.assert_array_equal(factor[1:], 0.0)


@pytest.mark.parametrize("make_style", STYLES)
def test_padding_is_absent(make_style):
    style = make_style(l2_norm_clip=2.0)
    (factors,), present = compute(style, [1.0, 1.0], counted=[True, False])
    np.testing.assert_array_equal(present, [True, False])
    assert factors[0] > 0.0
    assert factors[1] == 0.0


@pytest.mark.parametrize("make_style", STYLES)
def test_no_units(make_style):
    (factors,), present = compute(make_style(l2_norm_clip=1.0), [])
    assert factors.shape == present.shape == (0,)


def test_groups_are_the_layers_that_own_weights():
    model = keras.Sequential(
        [
            keras.Input((4, 2)),
            keras.layers.LSTM(3),
            keras.layers.Dense(3, use_bias=False),
            keras.layers.Activation("relu"),
            keras.layers.Dense(2),
        ]
    )
    style = styles.PerLayerClipping(l2_norm_clip=1.0)
    groups = style.group_variables(model.trainable_variables)
    assert groups == [0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize("make_style", STYLES)
def test_saved_and_loaded_a_style_is_the_same(make_style):
    style = make_style(l2_norm_clip=0.7)
    config = keras.saving.serialize_keras_object(style)
    assert keras.saving.deserialize_keras_object(config) == style


def test_a_style_cannot_be_changed():
    style = styles.FlatClipping(l2_norm_clip=0.7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        style.l2_norm_clip = 1.0


@pytest.mark.parametrize("clip", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("make_style", STYLES)
def test_bounds_that_are_none_are_refused(make_style, clip):
    with pytest.raises(ValueError, match="l2_norm_clip must be"):
        make_style(l2_norm_clip=clip)


@pytest.mark.parametrize("stability", [0.0, -1.0, np.nan, np.inf])
def test_stability_must_be_positive(stability):
    with pytest.raises(ValueError, match="stability must be"):
        styles.AutomaticClipping(l2_norm_clip=1.0, stability=stability)
