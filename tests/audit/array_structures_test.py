# SPDX-License-Identifier: Apache-2.0
"""Tests of structures of arrays."""

import json

import numpy as np
import pytest

from tf_privacy.audit import array_structures

NESTED = ({"a": np.arange(3), "b": (np.ones((3, 2)),)}, np.zeros(3))


def test_leaves_are_named_as_in_python():
    x = NESTED
    leaves = array_structures.flatten(NESTED, name="x")
    assert list(leaves) == ["x[0]['a']", "x[0]['b'][0]", "x[1]"]
    for name, leaf in leaves.items():
        assert eval(name, {"x": x}) is leaf
    assert array_structures.flatten(5, name="x") == {"x": 5}
    assert array_structures.flatten((), name="x") == {}


def test_rebuild_is_the_inverse_of_flatten():
    leaves = iter(array_structures.flatten(NESTED, name="").values())
    got = array_structures.rebuild(NESTED, leaves)
    assert list(got[0]) == ["a", "b"] and isinstance(got[0]["b"], tuple)
    assert got[0]["a"] is NESTED[0]["a"] and got[1] is NESTED[1]


def test_skeleton_goes_through_json():
    skeleton = array_structures.make_skeleton(NESTED)
    assert skeleton == ({"a": None, "b": (None,)}, None)
    read = json.loads(json.dumps(skeleton))
    assert array_structures.rebuild(read, iter("xyz")) == (
        {"a": "x", "b": ("y",)},
        "z",
    )


@pytest.mark.parametrize("rows", [[2, 0, 2], slice(1, 3), [True, False, True]])
def test_rows_are_taken_of_every_array(rows):
    got = array_structures.take_rows(NESTED, np.arange(3)[rows])
    np.testing.assert_array_equal(got[0]["a"], np.arange(3)[rows])
    assert got[0]["b"][0].shape == (len(got[1]), 2)


def test_what_is_like_an_array_becomes_one():
    class Tensor:
        shape = (2,)
        ndim = 1

        def __array__(self, dtype=None, copy=None):
            return np.arange(2)

    (got,) = array_structures.check_arrays("x", (Tensor(),))
    assert isinstance(got, np.ndarray)
    array = np.zeros(2)
    assert array_structures.check_arrays("x", array) is array


@pytest.mark.parametrize("leaf", [[1, 2], "ab", 3.0, None, np.float32(1)])
def test_what_is_no_array_is_refused(leaf):
    with pytest.raises(TypeError, match=r"x\['a'\] must be an array"):
        array_structures.check_arrays("x", {"a": leaf})


def test_nothing_and_other_keys_are_refused():
    with pytest.raises(ValueError, match="x must hold an array"):
        array_structures.check_arrays("x", ())
    with pytest.raises(TypeError, match="x must have text as keys"):
        array_structures.check_arrays("x", {1: np.zeros(2)})


def test_lengths_must_be_one():
    assert array_structures.count_rows(x=NESTED, y=np.zeros(3)) == 3
    with pytest.raises(ValueError, match="x and y must hold arrays of one len"):
        array_structures.count_rows(x=NESTED, y=np.zeros(4))
