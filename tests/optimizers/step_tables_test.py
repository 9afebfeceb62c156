# SPDX-License-Identifier: Apache-2.0
"""Two tables of counted steps become one, and no step is forgotten."""

import numpy as np
import pytest

from tf_privacy.optimizers import step_tables


def make_table(*lines, capacity=4):
    table = np.zeros((capacity, 3))
    table[: len(lines)] = np.reshape(lines, (-1, 3))
    return table


def test_the_larger_count_stands_and_new_rows_follow():
    table = make_table((1, 5, 10), (2, 5, 7))
    other = make_table((2, 5, 9), (3, 5, 1), (1, 5, 4), (1, 6, 2))
    both = step_tables.union(table, other)
    expected = make_table((1, 5, 10), (2, 5, 9), (3, 5, 1), (1, 6, 2))
    assert np.array_equal(both, expected)


def test_a_row_that_comes_twice_is_taken_once():
    other = make_table((1, 5, 2), (1, 5, 3))
    both = step_tables.union(make_table(), other)
    assert np.array_equal(both, make_table((1, 5, 3)))


def test_neither_table_is_changed():
    table, other = make_table((1, 5, 1)), make_table((1, 5, 2), (2, 5, 1))
    step_tables.union(table, other)
    step_tables.union(table, table)[:] = 0.0
    assert np.array_equal(table, make_table((1, 5, 1)))
    assert np.array_equal(other, make_table((1, 5, 2), (2, 5, 1)))


def test_a_line_goes_into_the_first_free_row():
    table = make_table((1, 5, 1))
    assert step_tables.append(table, (2, 5, 0)) == 1
    assert np.array_equal(table, make_table((1, 5, 1), (2, 5, 0)))


def test_a_full_table_refuses_and_stays():
    table = make_table((1, 5, 1), capacity=1)
    with pytest.raises(ValueError, match="^a ledger must hold at most 1 kinds"):
        step_tables.append(table, (2, 5, 0))
    with pytest.raises(ValueError, match="^a ledger must hold at most 1 kinds"):
        step_tables.union(table, make_table((2, 5, 1), capacity=1))
    assert np.array_equal(table, make_table((1, 5, 1), capacity=1))
