# SPDX-License-Identifier: Apache-2.0
"""Tests of whether training fits noise."""

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import random_fit

NAN = float("nan")
Y = np.random.default_rng(0).integers(10, size=4000)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_labels_are_drawn_anew_in_a_share_of_rows(fraction):
    before = Y.copy()
    y, is_changed = random_fit.randomize_labels(
        Y, fraction=fraction, num_classes=10, rng=np.random.default_rng(1)
    )
    np.testing.assert_array_equal(Y, before)
    assert y.dtype == Y.dtype
    assert is_changed.sum() == fraction * 4000
    np.testing.assert_array_equal(y[~is_changed], Y[~is_changed])


def test_new_labels_are_uniform_and_tell_nothing_of_the_old():
    y, is_changed = random_fit.randomize_labels(
        Y, fraction=1.0, num_classes=10, rng=np.random.default_rng(2)
    )
    table = np.zeros((10, 10))
    np.add.at(table, (Y, y), 1)
    assert is_changed.all()
    assert stats.chisquare(table.sum(axis=0)).pvalue > 1e-6
    assert stats.chi2_contingency(table).pvalue > 1e-6
    # A class that the data lack is drawn too.
    y, _ = random_fit.randomize_labels(
        Y, fraction=0.5, num_classes=11, rng=np.random.default_rng(3)
    )
    assert 10 in y


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"y": [0, 10]}, ValueError, "y must be"),
        ({"y": [-1, 0]}, ValueError, "y must be"),
        ({"y": [[0, 1]]}, ValueError, "y must be"),
        ({"y": [0.5]}, ValueError, "y must be"),
        ({"fraction": 1.1}, ValueError, "fraction must be"),
        ({"fraction": NAN}, ValueError, "fraction must be"),
        ({"num_classes": 1}, ValueError, "num_classes must be"),
    ],
)
def test_labels_are_checked(change, error, message):
    values = {"y": Y, "fraction": 0.5, "num_classes": 10} | change
    y = values.pop("y")
    with pytest.raises(error, match=f"^{message}"):
        random_fit.randomize_labels(y, **values, rng=np.random.default_rng())


def test_noise_inputs_have_the_mean_and_variance_of_the_data():
    x = np.random.default_rng(4).gamma(2.0, 3.0, (2000, 5, 4))
    x = x.astype(np.float32)
    before = x.copy()
    noisy, is_changed = random_fit.randomize_inputs(
        x, fraction=0.5, rng=np.random.default_rng(5)
    )
    np.testing.assert_array_equal(x, before)
    assert noisy.dtype == np.float32 and noisy.shape == x.shape
    assert is_changed.sum() == 1000
    np.testing.assert_array_equal(noisy[~is_changed], x[~is_changed])
    scaled = (noisy[is_changed] - x.mean()) / x.std()
    # 20000 normals: five standard errors, for a standard deviation wrong by
    # 3% or a mean wrong by 4% of it; no entry follows another.
    assert stats.kstest(scaled.ravel(), "norm").pvalue > 1e-6
    assert np.std(scaled) == pytest.approx(1.0, abs=5 / np.sqrt(40000))
    assert np.mean(scaled) == pytest.approx(0.0, abs=5 / np.sqrt(20000))
    pairs = np.corrcoef(scaled.reshape(1000, -1), rowvar=False)
    assert np.max(np.abs(pairs - np.eye(20))) < 5.5 / np.sqrt(1000)


@pytest.mark.parametrize(
    "x, fraction, error, message",
    [
        ([[1, 2]], 0.5, TypeError, "x must be floats"),
        ([[1.0, NAN]], 0.5, ValueError, "x must be one or more"),
        ([], 0.5, ValueError, "x must be one or more"),
        ([[1.0]], -0.1, ValueError, "fraction must be"),
    ],
)
def test_inputs_are_checked(x, fraction, error, message):
    with pytest.raises(error, match=f"^{message}"):
        random_fit.randomize_inputs(
            x, fraction=fraction, rng=np.random.default_rng()
        )


def estimate(real, random, **change):
    values = {"num_random_examples": 1000, "num_classes": 10} | change
    return random_fit.estimate_random_fit(
        real_accuracies=real, random_accuracies=random, **values
    )


def test_a_model_that_fits_noise_is_found():
    fit = estimate([0.5, 0.95, 0.99], [0.1, 0.5, 0.9, 1.0])
    assert fit.fits_noise
    assert fit.excess == pytest.approx(0.9)
    assert fit.relative_fit == 1.0
    # All of 1000 right: the lower bound is (alpha / 2)^(1 / 1000).
    assert fit.excess_lower == pytest.approx(0.025**0.001 - 0.1, rel=1e-12)
    assert fit.excess_upper == 0.9
    assert (fit.real_fit_epoch, fit.random_fit_epoch) == (2, 4)
    assert "100% of the way" in str(fit)
    assert "fitted more than luck explains" in str(fit)


def test_a_model_that_guesses_is_not_accused():
    fit = estimate([0.2, 0.8], [0.09, 0.105])
    assert not fit.fits_noise
    assert fit.excess_lower < 0.0 < fit.excess_upper
    assert (fit.real_fit_epoch, fit.random_fit_epoch) == (None, None)
    assert "fitted no more than luck explains" in str(fit)


def test_false_accusations_are_as_rare_as_stated():
    rng = np.random.default_rng(6)
    right = rng.binomial(300, 0.1, size=4000)
    accused = sum(
        estimate(
            [1.0], [n / 300], num_random_examples=300, confidence=0.9
        ).fits_noise
        for n in right
    )
    assert accused <= stats.binom.isf(1e-6, 4000, 0.05)
    # And not by never accusing: a tenth more labels fitted is found.
    assert estimate([1.0], [0.2], num_random_examples=300).fits_noise


@pytest.mark.parametrize(
    "real, random, change, message",
    [
        ([], [0.1], {}, "real_accuracies must hold"),
        ([0.1], [NAN], {}, "random_accuracies must be finite"),
        ([99.0], [0.1], {}, "real_accuracies must be in"),
        ([0.1], [-0.1], {}, "random_accuracies must be in"),
        ([0.1], [0.1], {"num_random_examples": 0}, "num_random_examples must"),
        ([0.1], [0.1], {"num_classes": 1}, "num_classes must"),
        ([0.1], [0.1], {"confidence": 1.0}, "confidence must"),
    ],
)
def test_fits_are_checked(real, random, change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        estimate(real, random, **change)
