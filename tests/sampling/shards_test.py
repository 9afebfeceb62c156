# SPDX-License-Identifier: Apache-2.0
"""Shards of a draw have each of its units once."""

import numpy as np
import pytest

import tf_privacy


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [0, 1, 2, 6, 7, 50])
def test_each_unit_is_in_one_shard(count, size):
    units = np.arange(size) * 10
    parts = [
        tf_privacy.Shard(index=i, count=count).take(units) for i in range(count)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), units)
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    "name, settings",
    [
        ("index", {"index": 2, "count": 2}),
        ("index", {"index": -1, "count": 2}),
        ("index", {"index": float("nan"), "count": 2}),
        ("count", {"index": 0, "count": 0}),
        ("count", {"index": 0, "count": 1.5}),
    ],
)
def test_what_is_no_shard_is_refused(name, settings):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        tf_privacy.Shard(**settings)
