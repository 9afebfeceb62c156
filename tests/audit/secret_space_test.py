# SPDX-License-Identifier: Apache-2.0
"""Tests of the randomness space."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import secret_space

DIGITS = tuple(range(10))


def make_space(length=3, **kwargs):
    kwargs = {"prefix": (7,), "choices": (DIGITS,) * length, **kwargs}
    return secret_space.SecretSpace(**kwargs)


def passes_luhn(secrets):
    digits = np.asarray(secrets).astype(int)
    doubled = digits[:, -2::-2] * 2
    total = digits[:, -1::-2].sum(axis=1)
    total += (doubled // 10 + doubled % 10).sum(axis=1)
    return total % 10 == 0


def make_luhn_space(length):
    return make_space(
        length, accepts=passes_luhn, num_accepted=10 ** (length - 1)
    )


def test_size_is_exact_and_counts_fixed_text_once():
    space = make_space(choices=((1, 2, 3), (5,), (0, 9)))
    assert (space.length, space.size) == (3, 6)
    assert space.log2_size == math.log2(6)


def test_size_beyond_floats_is_exact():
    space = make_space(400)
    assert space.size == 10**400
    assert space.log2_size == pytest.approx(400 * math.log2(10), rel=1e-14)


def test_filter_gives_the_size():
    space = make_luhn_space(16)
    assert space.size == 10**15
    assert space.num_combinations == 10**16


def test_lists_and_arrays_become_tuples():
    space = secret_space.SecretSpace(prefix=[1, 2], choices=[np.arange(3), [4]])
    assert space.prefix == (1, 2)
    assert space.choices == ((0, 1, 2), (4,))
    assert hash(space) == hash(space)


def test_prefix_is_prepended_to_whole_and_partial_secrets():
    space = make_space(prefix=(8, 9))
    got = space.prepend_prefix(np.array([[1, 2], [3, 4]]))
    np.testing.assert_array_equal(got, [[8, 9, 1, 2], [8, 9, 3, 4]])
    root = space.prepend_prefix(np.zeros((1, 0), dtype=int))
    np.testing.assert_array_equal(root, [[8, 9]])


def test_every_position_is_uniform():
    # Four tests at 1e-7; a generator that leaves out a digit, or
    # draws it a tenth less often, is found.
    space = make_space(4)
    sample = space.sample(80_000, rng=np.random.default_rng(0))
    for column in sample.T:
        counts = np.bincount(column, minlength=10)
        assert stats.chisquare(counts).pvalue > 1e-7
    biased = np.full(10, 8000) - np.array([800, *[-800 / 9] * 9])
    assert stats.chisquare(biased).pvalue < 1e-7


def test_filtered_sample_is_uniform_over_the_accepted():
    space = make_luhn_space(3)
    sample = space.sample(20_000, rng=np.random.default_rng(1))
    assert sample.shape == (20_000, 3)
    assert np.all(passes_luhn(sample))
    counts = np.bincount(sample @ [100, 10, 1], minlength=1000)
    every = np.array(list(itertools.product(DIGITS, repeat=3)))
    accepted = counts[passes_luhn(every)]
    assert accepted.size == 100
    assert stats.chisquare(accepted).pvalue > 1e-7


def test_samples_of_none_and_one():
    rng = np.random.default_rng(0)
    for space in (make_space(), make_luhn_space(3)):
        assert space.sample(0, rng=rng).shape == (0, 3)
        assert space.sample(1, rng=rng).shape == (1, 3)


@pytest.mark.parametrize("wrong", [80, 120, 1000])
def test_wrong_number_of_accepted_is_refuted_by_a_sample(wrong):
    space = make_space(accepts=passes_luhn, num_accepted=wrong)
    with pytest.raises(ValueError, match="num_accepted must be the number"):
        space.sample(20_000, rng=np.random.default_rng(0))


def test_filter_that_accepts_too_rarely_ends(monkeypatch):
    monkeypatch.setattr(secret_space, "_MAX_DRAWS", 3)
    monkeypatch.setattr(secret_space, "_MAX_DRAW", 1000)
    space = make_space(
        40,
        accepts=lambda s: np.zeros(len(s), dtype=bool),
        num_accepted=1,
    )
    with pytest.raises(ValueError, match="num_accepted must be a share"):
        space.sample(1, rng=np.random.default_rng(0))


def test_secrets_of_the_space_are_accepted():
    got = make_space().check_secrets([[1, 2, 3], [9, 9, 9]])
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, [[1, 2, 3], [9, 9, 9]])


@pytest.mark.parametrize(
    "secrets, message",
    [
        ([[1, 2, 3], [1, 2, 10]], r"secrets must be in the space. .*row 1"),
        ([[1, 2]], "secrets must be whole numbers"),
        ([1, 2, 3], "secrets must be whole numbers"),
        ([[1.0, 2.0, 3.0]], "secrets must be whole numbers"),
        (np.zeros((0, 3), int), "secrets must be whole numbers"),
    ],
)
def test_secrets_outside_are_refused(secrets, message):
    with pytest.raises(ValueError, match=message):
        make_space().check_secrets(secrets)


def test_secret_with_a_wrong_checksum_is_refused():
    space = make_luhn_space(3)
    good = [[0, 0, 0], [1, 8, 2]]
    np.testing.assert_array_equal(space.check_secrets(good), good)
    with pytest.raises(ValueError, match=r"secrets must be in .*row 1"):
        space.check_secrets([[0, 0, 0], [1, 8, 3]])


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"choices": ()}, "choices must hold at least one position"),
        ({"choices": ((1,), ())}, "choices must hold one or more"),
        ({"choices": ((1, 1),)}, "choices must hold one or more"),
        ({"choices": ((-1, 1),)}, "choices must hold tokens"),
        ({"choices": ((0.5, 1),)}, "choices must hold tokens"),
        ({"prefix": (float("nan"),)}, "prefix must hold tokens"),
        ({"prefix": ((1, 2),)}, "prefix must hold tokens"),
        ({"accepts": passes_luhn}, "num_accepted must be given"),
        ({"num_accepted": 10}, "num_accepted must be given"),
        (
            {"accepts": passes_luhn, "num_accepted": 0},
            "num_accepted must be a whole number",
        ),
        (
            {"accepts": passes_luhn, "num_accepted": 1001},
            "num_accepted must be a whole number",
        ),
    ],
)
def test_bad_space_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_space(**kwargs)


@pytest.mark.parametrize(
    "accepts", [lambda s: np.ones(len(s)), lambda s: np.ones((1, 3), bool)]
)
def test_filter_that_returns_no_bools_is_refused(accepts):
    space = make_space(accepts=accepts, num_accepted=1000)
    with pytest.raises(ValueError, match="accepts must return"):
        space.find_accepted(np.zeros((2, 3), np.int32))
