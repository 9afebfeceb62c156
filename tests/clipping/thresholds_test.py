# SPDX-License-Identifier: Apache-2.0
"""Tests of the clipping factors."""

import numpy as np
import pytest
import tensorflow as tf

from tf_privacy.clipping import thresholds


def compute(norms, l2_norm_clip):
    squared = tf.constant(np.square(np.asarray(norms, "f8")), tf.float32)
    factors, finite = thresholds.compute_clip_factors(squared, l2_norm_clip)
    return factors.numpy(), finite.numpy()


@pytest.mark.parametrize("l2_norm_clip", [1e-6, 0.5, 1.0, 1e6])
def test_factor_times_norm_is_at_most_the_clipping_norm(l2_norm_clip):
    norms = np.concatenate([[0.0], np.logspace(-15, 15, 200), [l2_norm_clip]])
    factors, finite = compute(norms, l2_norm_clip)
    assert np.all(finite)
    assert np.all(factors * norms <= l2_norm_clip * (1 + 1e-6))
    kept = np.minimum(norms, l2_norm_clip)
    np.testing.assert_allclose(factors * norms, kept, 1e-6)


def test_small_gradients_are_left_alone():
    factors, _ = compute([0.0, 1e-10, 0.999], 1.0)
    np.testing.assert_array_equal(factors, 1.0)


@pytest.mark.parametrize("norm", [np.nan, np.inf])
def test_a_norm_that_is_not_finite_counts_as_absent(norm):
    factors, finite = compute([1.0, norm, 4.0], 2.0)
    np.testing.assert_array_equal(factors, [1.0, 0.0, 0.5])
    np.testing.assert_array_equal(finite, [True, False, True])


def test_no_units():
    factors, finite = compute([], 1.0)
    assert factors.shape == finite.shape == (0,)
