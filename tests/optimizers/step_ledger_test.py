# SPDX-License-Identifier: Apache-2.0
"""The ledger: every noisy step is counted, and no count is ever lowered."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_privacy.optimizers import step_ledger

SHAPE = step_ledger.StepLedger.table_shape()


def make_ledger():
    table = keras.Variable(np.zeros(SHAPE), dtype="float64", trainable=False)
    budget = keras.Variable(np.zeros(2), dtype="float64", trainable=False)
    return step_ledger.StepLedger(table, budget)


def make_kind(**changes):
    settings = {
        "noise_multiplier": 1.1,
        "sampling_probability": 8 / 60000,
        "num_examples": 60000,
        "l2_norm_clip": 0.3,
        "expected_batch_size": 8.0,
        "fixed_seed": False,
    }
    return step_ledger.StepKind(**{**settings, **changes})


POISSON = make_kind()
USER = make_kind(sampling_probability=None, num_examples=None)


def count(ledger, kind, num_steps):
    row = ledger.row_of(kind)
    for _ in range(num_steps):
        ledger.count(row)


def test_a_new_ledger_is_empty():
    ledger = make_ledger()
    assert ledger.entries() == []
    assert ledger.num_steps() == ledger.num_refused() == 0


@pytest.mark.parametrize(
    "kind",
    [
        POISSON,
        USER,
        make_kind(fixed_seed=True),
        make_kind(noise_multiplier=1 / 3, l2_norm_clip=1e-7),
        make_kind(sampling_probability=1.0, num_examples=1),
    ],
)
def test_a_kind_of_step_comes_back_as_it_was(kind):
    ledger = make_ledger()
    count(ledger, kind, 3)
    assert ledger.entries() == [(kind, 3)]
    restored = make_ledger()
    restored.merge(ledger.to_numpy())
    assert restored.entries() == [(kind, 3)]


def test_kinds_are_counted_apart_and_in_order():
    ledger = make_ledger()
    count(ledger, POISSON, 2)
    count(ledger, USER, 5)
    count(ledger, POISSON, 1)
    ledger.row_of(make_kind(l2_norm_clip=9.0))  # No step: not listed.
    assert ledger.entries() == [(POISSON, 3), (USER, 5)]
    assert ledger.num_steps() == 8
    assert dict(ledger.entries())[USER] == 5


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 1.1000001},
        {"sampling_probability": 1e-3},
        {"num_examples": 59999},
        {"l2_norm_clip": 0.31},
        {"expected_batch_size": 9.0},
        {"fixed_seed": True},
    ],
)
def test_any_difference_makes_another_kind(change):
    ledger = make_ledger()
    assert ledger.row_of(POISSON) != ledger.row_of(make_kind(**change))


def test_steps_are_counted_within_a_compiled_loop():
    ledger = make_ledger()
    row = ledger.row_of(POISSON)

    @tf.function
    def run(n):
        for _ in tf.range(n):
            ledger.count(row)

    run(1)
    run(1000)
    assert ledger.entries() == [(POISSON, 1001)]


def test_a_row_can_be_made_while_a_function_is_traced():
    """A custom loop may take its very first step in a `tf.function`."""
    ledger = make_ledger()
    count(ledger, USER, 2)

    @tf.function
    def step():
        ledger.count(ledger.row_of(POISSON))

    for _ in range(3):
        step()
    assert ledger.entries() == [(USER, 2), (POISSON, 3)]


def test_a_limit_is_exact():
    ledger = make_ledger()
    row = ledger.row_of(POISSON)
    assert ledger.allows(row)
    ledger.set_limit(row, 2)
    for left in (2, 1):
        assert ledger.remaining(row) == left
        assert ledger.allows(row)
        ledger.count(row)
    assert ledger.remaining(row) == 0
    assert not ledger.allows(row)
    ledger.set_budget(None)
    assert ledger.allows(row)


def test_a_limit_of_one_row_closes_all_others():
    ledger = make_ledger()
    count(ledger, USER, 1)
    row = ledger.row_of(POISSON)
    ledger.set_limit(row, 5)
    assert ledger.allows(row)
    assert not ledger.allows(ledger.row_of(USER))
    assert not ledger.allows(ledger.row_of(make_kind(l2_norm_clip=7.0)))


def test_no_row_allows_no_step():
    ledger = make_ledger()
    ledger.row_of(POISSON)
    assert not ledger.allows(-1)
    assert not ledger.allows(tf.constant(-1))


def test_refusals_are_reported_once():
    ledger = make_ledger()
    ledger.refuse()
    ledger.refuse()
    assert ledger.num_refused() == 2
    assert ledger.take_refused() == 2
    assert ledger.take_refused() == ledger.num_refused() == 0


def test_merging_a_ledger_twice_changes_nothing():
    ledger, saved = make_ledger(), make_ledger()
    count(ledger, POISSON, 2)
    count(saved, POISSON, 3)
    for _ in range(3):
        ledger.merge(saved.to_numpy())
    assert ledger.entries() == [(POISSON, 5)]


def test_an_older_copy_takes_nothing_back():
    ledger = make_ledger()
    count(ledger, POISSON, 2)
    older = ledger.to_numpy()
    count(ledger, POISSON, 3)
    count(ledger, USER, 4)
    ledger.merge(older)
    assert ledger.entries() == [(POISSON, 5), (USER, 4)]


def test_an_older_copy_of_another_run_takes_nothing_back():
    ledger, other = make_ledger(), make_ledger()
    count(other, POISSON, 2)
    older = other.to_numpy()
    count(other, POISSON, 3)
    ledger.merge(other.to_numpy())
    ledger.merge(older)
    assert ledger.entries() == [(POISSON, 5)]


def test_a_newer_copy_is_taken_in():
    """As when a process that crashed has counted on, and saved."""
    ledger = make_ledger()
    count(ledger, POISSON, 2)
    twin = make_ledger()
    twin.merge(ledger.to_numpy())
    newer = twin.to_numpy()
    newer[0, -1] += 10
    ledger.merge(newer)
    assert ledger.entries() == [(POISSON, 12)]


def test_runs_of_different_objects_add_up():
    """Two continuations of one file share its steps and add their own."""
    first = make_ledger()
    count(first, POISSON, 10)
    one, two = make_ledger(), make_ledger()
    for ledger, num_steps in ((one, 3), (two, 4)):
        ledger.merge(first.to_numpy())
        count(ledger, POISSON, num_steps)
    one.merge(two.to_numpy())
    assert one.entries() == [(POISSON, 17)]


def test_rows_stay_right_after_a_merge():
    ledger, other = make_ledger(), make_ledger()
    count(ledger, POISSON, 1)
    count(other, USER, 2)
    count(other, POISSON, 2)
    ledger.merge(other.to_numpy())
    count(ledger, POISSON, 1)
    count(ledger, USER, 1)
    assert dict(ledger.entries()) == {POISSON: 4, USER: 3}


@pytest.mark.parametrize(
    "table",
    [
        np.zeros((3, 3)),
        np.full(SHAPE, np.nan),
        np.full(SHAPE, np.inf),
        np.zeros(0),
    ],
)
def test_what_is_no_ledger_is_refused(table):
    with pytest.raises(ValueError, match="^ledger must be a finite table"):
        make_ledger().merge(table)


def test_negative_counts_are_refused():
    """Such a row would take steps of others back."""
    other = make_ledger()
    count(other, POISSON, 1)
    table = other.to_numpy()
    table[0, -1] = -5.0
    ledger = make_ledger()
    count(ledger, POISSON, 7)
    with pytest.raises(ValueError, match="^ledger must"):
        ledger.merge(table)


def test_too_many_kinds_are_refused_and_none_is_lost():
    ledger = make_ledger()
    capacity = SHAPE[0]
    for i in range(capacity):
        ledger.count(ledger.row_of(make_kind(num_examples=i + 1)))
    with pytest.raises(ValueError, match="^a ledger must hold at most"):
        ledger.row_of(make_kind(num_examples=capacity + 1))
    other = make_ledger()
    count(other, POISSON, 1)
    with pytest.raises(ValueError, match="^a ledger must hold at most"):
        ledger.merge(other.to_numpy())
    assert ledger.num_steps() == capacity


def test_a_copy_of_the_table_is_a_copy():
    ledger = make_ledger()
    count(ledger, POISSON, 2)
    ledger.to_numpy()[:] = 0.0
    assert ledger.num_steps() == 2


# A checkpoint writes the tracked variables behind the ledger's back.


def make_restorable():
    table = keras.Variable(np.zeros(SHAPE), dtype="float64", trainable=False)
    budget = keras.Variable(np.zeros(2), dtype="float64", trainable=False)
    return step_ledger.StepLedger(table, budget), table, budget


def test_steps_restored_under_a_budget_close_it_until_it_is_worked_out():
    ledger, table, _ = make_restorable()
    row = ledger.row_of(POISSON)
    ledger.set_budget((1.0, 1e-5))
    ledger.set_limit(row, 5)
    assert ledger.allows(row)
    other = make_ledger()
    count(other, POISSON, 100)
    table.assign(other.to_numpy())
    assert not ledger.allows(row)
    assert ledger.entries() == [(POISSON, 100)]
    ledger.set_limit(row, 2)
    assert ledger.allows(row)
    ledger.count(row)
    assert ledger.remaining(row) == 1
    assert ledger.entries() == [(POISSON, 101)]


def test_more_steps_of_the_same_row_close_it_too():
    ledger, table, _ = make_restorable()
    row = ledger.row_of(POISSON)
    ledger.set_budget((1.0, 1e-5))
    ledger.set_limit(row, 5)
    newer = ledger.to_numpy()
    newer[row, -1] += 50
    table.assign(newer)
    assert not ledger.allows(row)
    assert ledger.num_steps() == 50


def test_a_budget_restored_into_a_new_ledger_closes_it():
    ledger, _, budget = make_restorable()
    row = ledger.row_of(POISSON)
    assert ledger.allows(row)
    budget.assign(np.array([2.0, 1e-5]))
    assert ledger.budget == (2.0, 1e-5)
    assert not ledger.allows(row)
    ledger.set_limit(row, 1)
    assert ledger.allows(row)


def test_an_emptied_table_takes_nothing_back():
    ledger, table, budget = make_restorable()
    row = ledger.row_of(POISSON)
    ledger.set_budget((1.0, 1e-5))
    ledger.set_limit(row, 3)
    for _ in range(3):
        ledger.count(row)
    table.assign(np.zeros(SHAPE))
    budget.assign(np.zeros(2))
    assert not ledger.allows(row)
    assert ledger.entries() == [(POISSON, 3)]
    assert ledger.budget == (1.0, 1e-5)
