# SPDX-License-Identifier: Apache-2.0
"""Tests of the terms of a sliding kernel against the sum that defines them."""

import itertools
import types

import numpy as np
import pytest

from tests.clipping import exactness
from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping.rules import filter_gradient
from tf_privacy.clipping.rules import windows

# kind -> (spatial, kernel_size, strides, dilation_rate, padding,
#          channels, filters, groups)
KINDS = {
    "kept": ((7, 6), (3, 2), (2, 1), (1, 1), "same", 3, 4, 1),
    "dilated": ((9,), (3,), (1,), (2,), "causal", 3, 4, 1),
    "outer product": ((4, 4), (2, 2), (2, 2), (1, 1), "same", 8, 16, 1),
    "point": ((7, 6), (1, 1), (2, 3), (1, 1), "valid", 3, 4, 1),
    "convolved": ((7, 7), (2, 2), (1, 1), (1, 1), "same", 128, 257, 1),
    "strides": ((9, 8), (4, 5), (2, 3), (1, 1), "same", 3, 4, 1),
    "line": ((13,), (5,), (3,), (1,), "same", 3, 4, 1),
    "not kept": ((13, 13), (3, 3), (2, 2), (1, 1), "same", 64, 257, 1),
    "groups": ((7, 6), (3, 2), (2, 1), (1, 1), "same", 4, 6, 2),
    "volume": ((4, 3, 5), (2, 2, 3), (1, 2, 1), (1, 1, 1), "same", 2, 3, 1),
}


class Example:
    """A batch of inputs and cotangents, with its gradients by definition."""

    def __init__(self, kind, num_rows=4):
        spatial, *settings, channels, filters, self.groups = KINDS[kind]
        kernel_size, strides, dilation_rate, padding = settings
        layer = types.SimpleNamespace(
            kernel_size=kernel_size,
            strides=strides,
            dilation_rate=dilation_rate,
            padding=padding,
        )
        # The one kind without padding has a kernel of one place.
        lengths = [-(-n // s) for n, s in zip(spatial, strides, strict=True)]
        self.places = windows.find_windows(layer, spatial, lengths)
        self.shape = (*kernel_size, channels // self.groups, filters)
        self.inputs = exactness.normal(0, num_rows, *spatial, channels)
        self.cotangent = exactness.normal(1, num_rows, *lengths, filters)

    def term(self):
        return filter_gradient.filter_term(
            self.places,
            self.inputs,
            self.cotangent,
            self.shape,
            groups=self.groups,
        )

    def gradients(self):
        """Return the sum over outputs, one place and one output at a time."""
        places = self.places
        spatial = self.inputs.shape[1:-1]
        inputs, cotangent = (
            np.split(a.astype("float64"), self.groups, axis=-1)
            for a in (self.inputs, self.cotangent)
        )
        total = np.zeros((len(self.inputs), *self.shape))
        by_group = np.split(total, self.groups, axis=-1)
        kernel = itertools.product(*map(range, places.kernel_size))
        outputs = itertools.product(*map(range, places.num_outputs))
        for k, t in itertools.product(kernel, list(outputs)):
            seen = tuple(
                a * s + b * d - before
                for a, b, s, d, (before, _) in zip(
                    t,
                    k,
                    places.strides,
                    places.dilation_rate,
                    places.padding,
                    strict=True,
                )
            )
            if any(not 0 <= i < n for i, n in zip(seen, spatial, strict=True)):
                continue
            for out, x, g in zip(by_group, inputs, cotangent, strict=True):
                out[(slice(None), *k)] += np.einsum(
                    "bi,bo->bio",
                    x[(slice(None), *seen)],
                    g[(slice(None), *t)],
                )
        return total


def norms_of(gradients):
    return np.sum(gradients.reshape(len(gradients), -1) ** 2, axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_norms_sum_and_gradients(kind):
    example = Example(kind)
    expected = example.gradients()
    term = example.term()
    np.testing.assert_allclose(term.squared_norms(), norms_of(expected), 1e-5)
    factors = np.array([0.5, 0.0, 2.0, 1.0], "float32")
    total = np.tensordot(factors, expected, axes=1)
    np.testing.assert_allclose(term.weighted_sum(factors), total, 1e-4, 1e-4)
    np.testing.assert_allclose(term.instantiate(), expected, 1e-4, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_joined_rows_have_the_gradient_of_their_sum(kind):
    example = Example(kind)
    expected = example.gradients().reshape(2, 2, *example.shape).sum(axis=1)
    term = example.term().joined(2)
    np.testing.assert_allclose(term.squared_norms(), norms_of(expected), 1e-5)
    total = np.tensordot(np.array([0.5, 2.0]), expected, axes=1)
    factors = np.array([0.5, 2.0], "float32")
    np.testing.assert_allclose(term.weighted_sum(factors), total, 1e-4, 1e-4)
    kept = term.weighted_sum(factors, np.array([False, True]))
    np.testing.assert_allclose(kept, 2.0 * expected[1], 1e-4, 1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_row_stays_alone(kind, value):
    example = Example(kind)
    expected = example.gradients()
    example.inputs[1] = value
    example.cotangent[1] = value
    term = example.term()
    rest = np.array([True, False, True, True])
    norms = np.asarray(term.squared_norms())
    assert not np.isfinite(norms[1])
    np.testing.assert_allclose(norms[rest], norms_of(expected)[rest], 1e-5)
    total = term.weighted_sum(np.ones(4, "float32"), rest)
    np.testing.assert_allclose(total, expected[rest].sum(0), 1e-4, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(kind):
    example = Example(kind, num_rows=0)
    term = example.term()
    assert term.squared_norms().shape == (0,)
    total = np.asarray(term.weighted_sum(np.ones(0, "float32")))
    np.testing.assert_array_equal(total, np.zeros(example.shape))
    assert term.instantiate().shape == (0, *example.shape)


def test_form():
    forms = {kind: type(Example(kind).term()) for kind in KINDS}
    assert forms.pop("convolved") is filter_gradient._ConvolvedTerm
    assert forms.pop("not kept") is filter_gradient._ConvolvedTerm
    assert forms.pop("outer product") is gradient_terms.OuterProduct
    assert forms.pop("point") is gradient_terms.OuterProduct
    assert set(forms.values()) == {gradient_terms.Instantiated}


@pytest.mark.parametrize("kind", ["kept", "strides", "line", "not kept"])
def test_the_loop_over_examples_is_the_same(kind, monkeypatch):
    monkeypatch.setattr(filter_gradient, "_LONG", 0)
    example = Example(kind)
    expected = example.gradients()
    term = example.term()
    np.testing.assert_allclose(term.squared_norms(), norms_of(expected), 1e-5)
    np.testing.assert_allclose(term.instantiate(), expected, 1e-4, 1e-4)


def test_a_large_kernel_holds_no_gradients():
    example = Example("convolved")
    cost = example.term().cost()
    assert cost.stored == 0
    assert cost.multiplications >= 49 * np.prod(example.shape)
