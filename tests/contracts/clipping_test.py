# SPDX-License-Identifier: Apache-2.0
"""What the clipping engine promises, for every model of the zoo.

Each case is traced once, for any number of rows, and run once through the
slow loop over single examples; the properties share both.
"""

import keras
import numpy as np
import pytest

from tests import models
from tests import oracles
from tests.clipping import exactness
from tests.frameworks import framework

_TOLERANCE = 1e-5
_HOSTILE = [np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-30]


def _map(function, *structures):
    return keras.tree.map_structure(function, *structures)


def _flat(arrays):
    return np.concatenate([np.ravel(np.asarray(a, np.float64)) for a in arrays])


def _take(data, rows):
    return _map(lambda array: array[rows], data)


def _join(first, second):
    return _map(lambda a, b: np.concatenate([a, b]), first, second)


class Subject:
    """A case's model behind one traced function, with its slow reference."""

    def __init__(self, case):
        self.model, x, y, weight = case.make(0)
        if weight is None:
            weight = _map(lambda a: np.ones(len(a), "float32"), y)
        weight = framework.fit_weights(weight, self.model(x))
        self.data = (x, y, weight)
        rows = oracles.loop_gradients(self.model, x, y, weight)
        self.rows = np.array([_flat(row) for row in rows])
        self.norms = np.linalg.norm(self.rows, axis=1)
        self.clip = float(np.median(self.norms[self.norms > 0]))
        factors = np.minimum(1.0, self.clip / np.maximum(self.norms, 1e-30))
        self.clipped_rows = self.rows * factors[:, None]
        self._run = exactness.make_clip(
            self.model, *self.data, l2_norm_clip=self.clip
        )

    def run(self, data):
        """Return the clipped sum as one float64 vector, and the norms."""
        gradients, norms = self._run(*data)
        return _flat(gradients), norms

    def total(self, data):
        """Return the clipped sum as one float64 vector."""
        return self.run(data)[0]

    def assert_close(self, actual, expected, tolerance=_TOLERANCE):
        """Check a difference of sums, in units of the clipping norm."""
        error = np.linalg.norm(actual - expected)
        assert error <= tolerance * self.clip


@pytest.fixture(scope="module", params=models.CASES, ids=lambda case: case.name)
def subject(request):
    """Return the case, ready to run; made once for all properties."""
    yield Subject(request.param)
    keras.utils.clear_session()


def test_sum_and_norms_are_those_of_single_examples(subject):
    total, norms = subject.run(subject.data)
    expected = subject.clipped_rows.sum(axis=0)
    assert np.any(subject.norms > subject.clip)
    assert np.any(subject.norms < subject.clip)
    assert oracles.relative_error([total], [expected]) <= _TOLERANCE
    np.testing.assert_allclose(norms, subject.norms, _TOLERANCE, 1e-12)


def test_nothing_is_clipped_below_the_clipping_norm(subject):
    # A gradient is proportional to the sample weight; 2^-10 is exact.
    x, y, weight = subject.data
    total, norms = subject.run((x, y, _map(lambda w: w * 2.0**-10, weight)))
    expected = subject.rows.sum(axis=0) * 2.0**-10
    assert np.all(norms < subject.clip)
    assert oracles.relative_error([total], [expected]) <= _TOLERANCE


def test_removing_a_row_removes_its_own_clipped_gradient(subject):
    full = subject.total(subject.data)
    indices = np.arange(len(subject.rows))
    for row in (0, 2, len(indices) - 1):
        rest = subject.total(_take(subject.data, indices != row))
        moved = np.linalg.norm(full - rest)
        assert moved <= subject.clip * (1 + _TOLERANCE)
        subject.assert_close(full - rest, subject.clipped_rows[row])


def test_order_of_rows_does_not_matter(subject):
    shuffled = np.random.default_rng(0).permutation(len(subject.rows))
    total = subject.total(subject.data)
    subject.assert_close(subject.total(_take(subject.data, shuffled)), total)


def test_a_row_adds_the_same_among_any_others(subject):
    x, y, weight = subject.data
    # Inputs against the targets of another row: other examples altogether.
    backwards = slice(None, None, -1)
    others = (
        _take(x, backwards),
        _map(lambda a: np.roll(a, 1, axis=0), y),
        _map(lambda w: np.roll(w, 2, axis=0) + np.float32(0.5), weight),
    )
    without = subject.total(others)
    for row in (1, 3):
        own = _take(subject.data, slice(row, row + 1))
        added = subject.total(_join(own, others)) - without
        subject.assert_close(added, subject.clipped_rows[row])


def _spoil(structure, row, value, width):
    """Return copies with the first `width` numbers of a row overwritten."""

    def spoil(array):
        if array.dtype.kind != "f":
            return array
        array = array.copy()
        array[row].reshape(-1)[:width] = value
        if array.ndim == 1:
            array[row] = value
        return array

    return _map(spoil, structure)


def _hostile_rows(data, row):
    """Yield (description, data) with one row spoiled in every way."""
    x, y, weight = data
    for value in _HOSTILE:
        for width in (1, None):
            yield (
                f"x {value} {width}",
                (_spoil(x, row, value, width), y, weight),
            )
        yield f"y {value}", (x, _spoil(y, row, value, None), weight)
        yield f"weight {value}", (x, y, _spoil(weight, row, value, None))
    yield (
        "tiny x, huge y",
        (
            _spoil(x, row, 1e-19, None),
            _spoil(y, row, 1e19, None),
            weight,
        ),
    )
    yield (
        "tiny x, huge weight",
        (
            _spoil(x, row, 1e-19, None),
            y,
            _spoil(weight, row, 1e19, None),
        ),
    )


def test_a_hostile_row_moves_the_sum_by_the_clipping_norm_at_most(subject):
    row = 1
    indices = np.arange(len(subject.rows))
    rest = subject.total(_take(subject.data, indices != row))
    for what, data in _hostile_rows(subject.data, row):
        total = subject.total(data)
        assert np.all(np.isfinite(total)), what
        moved = np.linalg.norm(total - rest)
        assert moved <= subject.clip * (1 + _TOLERANCE), what
        # The others are as they were: what it adds, it adds alone. Normalising
        # a constant row amplifies its round-off, which varies with the number
        # of rows: hence the larger tolerance.
        alone = subject.total(_take(data, slice(row, row + 1)))
        subject.assert_close(total - rest, alone, 1e-4)


def test_no_examples_give_zeros(subject):
    total, norms = subject.run(_take(subject.data, slice(0)))
    assert norms.shape == (0,)
    np.testing.assert_array_equal(total, np.zeros_like(total))


def test_one_example_is_itself_clipped(subject):
    for row in (0, 1):
        total, norms = subject.run(_take(subject.data, slice(row, row + 1)))
        subject.assert_close(total, subject.clipped_rows[row])
        assert norms.shape == (1,)
