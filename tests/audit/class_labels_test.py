# SPDX-License-Identifier: Apache-2.0
"""Tests of the forms of class labels."""

import numpy as np
import pytest

from tf_privacy.audit import class_labels

CLASSES = np.array([2, 0, 1, 2])
FORMS = [
    CLASSES,
    CLASSES.astype(np.uint8)[:, None],
    CLASSES.astype(np.float32),
    np.eye(3, dtype=np.float32)[CLASSES],
    np.eye(3, dtype=bool)[CLASSES],
]


@pytest.mark.parametrize("y", FORMS)
def test_encoding_is_the_inverse_of_decoding(y):
    classes = class_labels.decode_classes(y, num_classes=3)
    np.testing.assert_array_equal(classes, CLASSES)
    encoded = class_labels.encode_classes(classes, like=y, num_classes=3)
    assert encoded.dtype == y.dtype and encoded.shape == y.shape
    np.testing.assert_array_equal(encoded, y)


def test_two_classes_may_be_bool_and_columns():
    y = np.array([[True], [False]])
    classes = class_labels.decode_classes(y, num_classes=2)
    np.testing.assert_array_equal(classes, [1, 0])
    encoded = class_labels.encode_classes(classes, like=y, num_classes=2)
    np.testing.assert_array_equal(encoded, y)


@pytest.mark.parametrize(
    "y",
    [
        np.array([0, 3]),
        np.array([0, -1]),
        np.array([0.5, 1.0]),
        np.array([0.0, np.nan]),
        np.array(["a", "b"]),
        np.array([[1, 1, 0]]),
        np.array([[0, 0, 0]]),
        np.array([[0.2, 0.5, 0.3]]),
    ],
)
def test_other_values_are_refused(y):
    with pytest.raises(ValueError, match="y must hold classes from 0 to 2"):
        class_labels.decode_classes(y, num_classes=3)


@pytest.mark.parametrize("shape", [(), (4, 2), (4, 3, 1), (4, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="y must be of shape"):
        class_labels.decode_classes(np.zeros(shape), num_classes=3)


def test_types_too_small_for_the_classes_are_refused():
    y = np.zeros(3, dtype=np.int8)
    with pytest.raises(ValueError, match="y must be of a type that holds 300"):
        class_labels.encode_classes(np.array([299]), like=y, num_classes=300)
