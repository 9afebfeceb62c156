# SPDX-License-Identifier: Apache-2.0
"""Random labels, inputs and patterns are what the sanity check says."""

import math

import numpy as np
import pytest
from scipy import stats

from tf_privacy.training import sanity_data
from tf_privacy.training import sanity_statistics


def make_rows(num_rows=6000, num_classes=3, one_hot=False, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(2.0, 3.0, size=(num_rows, 20)).astype("float32")
    y = rng.integers(num_classes, size=num_rows)
    y[:num_classes] = range(num_classes)
    if one_hot:
        y = np.eye(num_classes, dtype="float32")[y]
    return sanity_data.make_rows((x, y), name="data", rows_per_block=1)


@pytest.mark.parametrize("one_hot", [False, True])
def test_random_labels_are_uniform_and_keep_their_form(one_hot):
    rows = make_rows(one_hot=one_hot)
    drawn = sanity_data.draw_labels(rows, np.random.default_rng(1))
    counts = np.bincount(drawn.classes, minlength=3)
    # False alarm below 1e-6 for the largest of three binomial counts.
    spread = 5.2 * np.sqrt(6000 * (1 / 3) * (2 / 3))
    assert np.all(np.abs(counts - 2000) < spread)
    # Independent of the labels that were there.
    agree = np.sum(drawn.classes == rows.classes)
    assert abs(agree - 2000) < spread
    assert drawn.y.shape == rows.y.shape and drawn.y.dtype == rows.y.dtype
    found = np.argmax(drawn.y, axis=1) if one_hot else drawn.y
    np.testing.assert_array_equal(found, drawn.classes)
    assert drawn.x is rows.x


def test_labels_in_a_column_are_classes_too():
    x = np.zeros((4, 2), "float32")
    y = np.array([[0.0], [1.0], [1.0], [2.0]])
    rows = sanity_data.make_rows((x, y), name="data", rows_per_block=1)
    np.testing.assert_array_equal(rows.classes, [0, 1, 1, 2])
    assert rows.num_classes == 3
    other = rows.with_classes(np.array([2, 2, 0, 1]))
    np.testing.assert_array_equal(other.y, [[2.0], [2.0], [0.0], [1.0]])


def test_random_inputs_have_the_moments_and_nothing_else():
    rows = make_rows()
    source = {"a": rows.x, "b": np.array([[3], [7], [5]])}
    drawn = sanity_data.draw_inputs(source, 5000, np.random.default_rng(1))
    noise = drawn["a"]
    assert noise.shape == (5000, 20) and noise.dtype == np.float32
    # 100000 entries of standard deviation 3: 5.2 standard errors.
    assert abs(noise.mean() - rows.x.mean()) < 5.2 * 3 / np.sqrt(1e5)
    assert noise.std() == pytest.approx(rows.x.std(), rel=5.2 / np.sqrt(2e5))
    assert set(drawn["b"].ravel()) == {3, 4, 5, 6, 7}
    assert (
        stats.kstest((noise.ravel() - noise.mean()) / noise.std(), "norm")[1]
        > 1e-6
    )


def test_split_keeps_users_whole_and_apart():
    rows = sanity_data.make_rows(
        (np.arange(60.0)[:, None], np.arange(60) % 2),
        name="data",
        rows_per_block=3,
    )
    train, test = sanity_data.split(
        rows,
        rows_per_block=3,
        num_examples=32,
        validation_split=0.2,
        rng=np.random.default_rng(0),
    )
    assert len(train.classes) == 24 and len(test.classes) == 6
    users = [set((part.x[:, 0] // 3).astype(int)) for part in (train, test)]
    assert not users[0] & users[1]
    for part in (train, test):
        first = part.x[::3, 0]
        assert np.all(first % 3 == 0)
        np.testing.assert_array_equal(part.x[1::3, 0], first + 1)
        np.testing.assert_array_equal(part.classes, part.x[:, 0] % 2)


def plant(in_one_user, num_rows=3000, size=10):
    rows, rng = make_rows(num_rows), np.random.default_rng(1)
    patterns = sanity_data.draw_patterns(
        rows, num_rows // size, balanced=not in_one_user, rng=rng
    )
    planted = sanity_data.plant(
        rows, patterns, rows_per_user=size, in_one_user=in_one_user, rng=rng
    )
    return planted, patterns


def shows(planted, patterns):
    """Returns `[N, P]` bool: which pattern each row shows, by brute force."""
    found = np.empty((len(planted.x), len(patterns.classes)), bool)
    for p, (values, places) in enumerate(
        zip(patterns.templates, patterns.places, strict=True)
    ):
        found[:, p] = (planted.x[:, places] == values[places]).all(axis=1)
    return found


def test_a_pattern_of_one_user_is_in_that_users_rows_only():
    planted, patterns = plant(in_one_user=True)
    found = shows(planted, patterns)
    users = np.arange(3000) // 10
    assert len(patterns.classes) == 40
    for p, label in enumerate(patterns.classes):
        np.testing.assert_array_equal(found[:, p], users == p)
        assert set(planted.classes[users == p]) == {label}
    by_user = planted.classes.reshape(-1, 10)
    assert np.all(by_user == by_user[:, :1])
    assert len(set(by_user[:, 0])) == 3


def test_patterns_of_all_users_are_in_every_row_and_balanced():
    planted, patterns = plant(in_one_user=False)
    found = shows(planted, patterns)
    np.testing.assert_array_equal(found.sum(axis=1), 1)
    np.testing.assert_array_equal(
        planted.classes, patterns.classes[found.argmax(axis=1)]
    )
    counts = np.bincount(patterns.classes, minlength=3)
    assert counts.max() - counts.min() <= 1
    # Each of 20 patterns is in 5% of the rows, by 5.5 standard errors.
    assert found.shape[1] == 20
    assert np.all(np.abs(found.mean(axis=0) - 0.05) < 0.022)


def test_a_model_that_knows_the_patterns_is_found():
    planted, patterns = plant(in_one_user=True)

    def know(x):
        seen = dict(vars(planted), x=x)
        rows = sanity_data.Rows(**seen)
        return patterns.classes[shows(rows, patterns).argmax(axis=1)]

    rng = np.random.default_rng(2)
    assert sanity_data.count_learned(planted, patterns, know, rng) == 40
    constant = sanity_data.count_learned(
        planted, patterns, lambda x: np.full(len(x), 1), rng
    )
    assert constant == np.sum(patterns.classes == 1)


def test_patterns_are_found_by_luck_no_more_than_the_binomial_says():
    """Over 400 draws of patterns, for a fixed model that answers by a sign."""
    rows, rng = make_rows(40, num_classes=2), np.random.default_rng(3)
    p_values = []
    for _ in range(400):
        patterns = sanity_data.draw_patterns(rows, 40, balanced=False, rng=rng)
        count = sanity_data.count_learned(
            rows, patterns, lambda x: (x[:, 0] > 2.0).astype(int), rng
        )
        p_values.append(
            sanity_statistics.compute_p_value(
                count, len(patterns.classes), chance=0.5
            )
        )
    # 400 tests at 5%: more than 44 with probability below 1e-6.
    assert stats.binom.sf(44, 400, 0.05) < 1e-5
    assert np.sum(np.array(p_values) <= 0.05) <= 44


@pytest.mark.parametrize(
    "data, error, message",
    [
        (np.zeros(3), TypeError, "data must be a tuple"),
        (
            (np.zeros((4, 2)), np.array([0.5, 1.0, 2.0, 0.0])),
            ValueError,
            "data must hold the labels",
        ),
        (
            (np.zeros((4, 2)), np.zeros((4, 3, 2))),
            ValueError,
            "data must hold the labels",
        ),
        (
            (np.zeros((4, 2)), np.array([0, 1, -1, 0])),
            ValueError,
            "data must hold the labels",
        ),
        ((np.zeros((4, 2)), np.zeros(5)), ValueError, "x, y and sample_weight"),
        ((np.zeros((5, 2)), np.zeros(5)), ValueError, "data must hold whole"),
    ],
    ids=str,
)
def test_refusals(data, error, message):
    with pytest.raises(error, match=f"^{message}"):
        sanity_data.make_rows(data, name="data", rows_per_block=2)


def test_inputs_that_are_not_finite_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="^x must be finite"):
        sanity_data.draw_inputs(np.array([1.0, np.nan]), 2, rng)
    with pytest.raises(TypeError, match="^x must be of floats"):
        sanity_data.draw_inputs(np.array(["a", "b"]), 2, rng)


def test_standard_error_is_the_binomial_one():
    hits = np.arange(400) < 100
    mean, stderr = sanity_statistics.estimate_mean(hits, np.ones(400, bool), 1)
    assert mean == 0.25
    assert stderr == pytest.approx(np.sqrt(0.25 * 0.75 / 400))


def test_rows_of_one_user_are_no_independent_evidence():
    """Ten equal rows of each user: the error is that of the users."""
    by_user = np.arange(40) < 10
    hits = np.repeat(by_user, 10) * 1.0
    counted = np.ones(400, bool)
    _, stderr = sanity_statistics.estimate_mean(hits, counted, 10)
    assert stderr == pytest.approx(np.sqrt(0.25 * 0.75 / 40))
    counted[::10] = False
    hits[::10] = 1.0 - hits[::10]
    assert sanity_statistics.estimate_mean(hits, counted, 10) == (
        pytest.approx((0.25, stderr))
    )


def test_alike_rows_are_not_certain():
    mean, stderr = sanity_statistics.estimate_mean(
        np.ones(50), np.ones(50, bool), 1
    )
    assert (mean, stderr) == (1.0, 0.02)


def test_p_value_is_the_sum_of_the_binomial_tail():
    expected = sum(
        math.comb(12, k) * 0.3**k * 0.7 ** (12 - k) for k in range(5, 13)
    )
    found = sanity_statistics.compute_p_value(5, 12, chance=0.3)
    assert found == pytest.approx(expected, rel=1e-9)
    assert sanity_statistics.compute_p_value(0, 12, chance=0.3) == 1.0


def test_few_users_need_more_standard_errors():
    """Student's t with one degree of freedom is the Cauchy distribution."""
    compute = sanity_statistics.compute_deviations
    assert compute(1e-3, 2) == pytest.approx(1.0 / np.tan(np.pi * 1e-3))
    assert compute(1e-3, 10**7) == pytest.approx(stats.norm.isf(1e-3), rel=1e-5)
    assert compute(1e-3, 1) == np.inf


def test_lower_limit_is_the_binomial_quantile():
    """At the limit, so many or more are seen with probability alpha."""
    lower = sanity_statistics.compute_lower_limit(60, 100, alpha=1e-3)
    assert stats.binom.sf(59, 100, lower) == pytest.approx(1e-3, rel=1e-6)
    assert sanity_statistics.compute_lower_limit(0, 100, alpha=1e-3) == 0.0
