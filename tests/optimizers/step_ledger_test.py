# SPDX-License-Identifier: Apache-2.0
"""The ledger: every noisy step is counted, and no count is ever lowered."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tf_privacy.optimizers import step_ledger

SHAPE = step_ledger.StepLedger.table_shape()
MOST = 2**31 - 1
IN_A_GRAPH = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.function"
)


def make_ledger():
    ledger, _ = make_restorable()
    return ledger


def make_restorable():
    """Returns a ledger and the variables of it that a checkpoint restores."""
    variables = {}

    def add_variable(shape, dtype, name):
        variables[name] = keras.Variable(
            np.zeros(shape), dtype=dtype, trainable=False
        )
        return variables[name]

    return step_ledger.StepLedger(add_variable), variables


def restore(variables, saved):
    """Writes behind the back of a ledger, as a checkpoint does."""
    for name, variable in saved.items():
        variables[name].assign(variable.value)


def tracked_of(ledger):
    """Returns what a checkpoint of a ledger holds."""
    other, variables = make_restorable()
    other.merge(ledger.to_numpy())
    other.set_budget(ledger.budget)
    return variables


def value_of(variable):
    return ops.convert_to_numpy(variable.value)


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


@IN_A_GRAPH
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


@IN_A_GRAPH
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
    assert not ledger.allows(ops.convert_to_tensor(-1, "int32"))


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


def test_steps_restored_under_a_budget_close_it_until_it_is_worked_out():
    ledger, variables = make_restorable()
    row = ledger.row_of(POISSON)
    ledger.set_budget((1.0, 1e-5))
    ledger.set_limit(row, 5)
    assert ledger.allows(row)
    other, saved = make_restorable()
    count(other, POISSON, 100)
    restore(variables, saved)
    assert not ledger.allows(row)
    assert ledger.entries() == [(POISSON, 100)]
    ledger.set_limit(row, 2)
    assert ledger.allows(row)
    ledger.count(row)
    assert ledger.remaining(row) == 1
    assert ledger.entries() == [(POISSON, 101)]


def test_more_steps_of_the_same_row_close_it_too():
    ledger, variables = make_restorable()
    row = ledger.row_of(POISSON)
    ledger.set_budget((1.0, 1e-5))
    ledger.set_limit(row, 5)
    newer = np.array(value_of(variables["ledger_counts"]))
    newer[row] += 50
    variables["ledger_counts"].assign(newer)
    assert not ledger.allows(row)
    assert ledger.num_steps() == 50


def test_a_budget_restored_into_a_new_ledger_closes_it():
    ledger, variables = make_restorable()
    row = ledger.row_of(POISSON)
    assert ledger.allows(row)
    variables["budget"].assign(np.array([2.0, 1e-5]).view(np.int32))
    assert ledger.budget == (2.0, 1e-5)
    assert not ledger.allows(row)
    ledger.set_limit(row, 1)
    assert ledger.allows(row)


def test_an_emptied_table_takes_nothing_back():
    ledger, variables = make_restorable()
    row = ledger.row_of(POISSON)
    ledger.set_budget((1.0, 1e-5))
    ledger.set_limit(row, 3)
    for _ in range(3):
        ledger.count(row)
    _, empty = make_restorable()
    restore(variables, empty)
    assert not ledger.allows(row)
    assert ledger.entries() == [(POISSON, 3)]
    assert ledger.budget == (1.0, 1e-5)


# Nothing is rounded, on any backend, and no count turns negative.


def test_digits_that_float32_has_not_are_kept():
    kind = make_kind(
        noise_multiplier=1.1 + 2**-50,
        sampling_probability=1e-300,
        num_examples=2**53 - 1,
        release=float(2**52 - 1),
    )
    ledger = make_ledger()
    count(ledger, kind, 1)
    ledger.set_budget((1 / 3, 1e-12 / 3))
    assert ledger.entries() == [(kind, 1)]
    assert ledger.budget == (1 / 3, 1e-12 / 3)
    other, variables = make_restorable()
    restore(variables, tracked_of(ledger))
    assert other.entries() == [(kind, 1)]
    assert other.budget == (1 / 3, 1e-12 / 3)
    assert np.array_equal(other.to_numpy(), ledger.to_numpy())


@pytest.mark.parametrize(
    ("run", "other_run"),
    [(2**52 - 2, 2**52 - 1), (2**51, 2**51 + 2**31), (0, 2**52 - 1)],
)
def test_runs_are_told_apart_by_every_digit(monkeypatch, run, other_run):
    ledger, variables = make_restorable()
    saved = {}
    for number in (run, other_run):
        monkeypatch.setattr("secrets.randbelow", lambda _, n=number: n)
        other, saved[number] = make_restorable()
        count(other, POISSON, 1)
        other.set_budget((1.0, 1e-5))
        if number == run:
            ledger.merge(other.to_numpy())
    row = ledger.row_of(USER)
    ledger.set_budget((1.0, 1e-5))
    ledger.set_limit(row, 5)
    restore(variables, saved[run])
    assert ledger.allows(row)
    restore(variables, saved[other_run])
    assert not ledger.allows(row)


def test_steps_beyond_two_to_the_24_are_counted_one_by_one():
    ledger = make_ledger()
    row = ledger.row_of(POISSON)
    table = ledger.to_numpy()
    table[row, -1] = 2**24
    ledger.merge(table)
    ledger.set_limit(row, 2)
    ledger.count(row)
    assert ledger.num_steps() == ledger.num_taken() == 2**24 + 1
    assert ledger.allows(row)
    ledger.count(row)
    assert ledger.num_steps() == 2**24 + 2
    assert not ledger.allows(row)
    assert int(ledger.position(row, 3)) == (2**24 + 2) % 3


@pytest.mark.parametrize("limit", [None, 1, 2**40])
def test_a_count_ends_at_the_largest_int32(limit):
    ledger = make_ledger()
    row = ledger.row_of(POISSON)
    table = ledger.to_numpy()
    table[row, -1] = MOST - 1
    ledger.merge(table)
    if limit is not None:
        ledger.set_limit(row, limit)
    assert ledger.remaining(row) == 1
    assert ledger.allows(row)
    ledger.count(row)
    assert ledger.remaining(row) == 0
    assert not ledger.allows(row)
    ledger.count(row)  # Not asked whether it is allowed.
    assert ledger.entries() == [(POISSON, MOST)]


def test_a_restored_count_at_the_largest_int32_is_not_passed():
    ledger, variables = make_restorable()
    row = ledger.row_of(POISSON)
    variables["ledger_counts"].assign(np.full(SHAPE[0], MOST, np.int32))
    assert not ledger.allows(row)
    ledger.count(row)
    assert ledger.entries() == [(POISSON, MOST)]


@pytest.mark.parametrize("value", [2.0**31, 1e300, 0.5])
def test_a_count_that_no_int32_holds_is_refused(value):
    """It must not be taken for fewer steps."""
    other = make_ledger()
    count(other, POISSON, 1)
    table = other.to_numpy()
    table[0, -1] = value
    with pytest.raises(ValueError, match="^ledger must"):
        make_ledger().merge(table)


# A compiled step of JAX is a function of the variables that are listed.


def take_step(ledger, row):
    """Takes a step, or notes that it was refused; returns which."""
    allowed = bool(ledger.allows(row))
    if allowed:
        ledger.count(row)
    else:
        ledger.refuse()
    return allowed


def state_of(ledger, variables):
    return [*ledger.state_variables, *variables.values()]


def prepare(case):
    """Returns a ledger, its variables and a row, in one of some states."""
    ledger, variables = make_restorable()
    row = ledger.row_of(POISSON)
    count(ledger, POISSON, 3)
    if "budget" in case:
        ledger.set_budget((1.0, 1e-5))
    if "limit" in case:
        ledger.set_limit(row, 2)
    if "restored" in case:
        _, other = make_restorable()
        variables["ledger_counts"].assign(np.full(SHAPE[0], 9, np.int32))
    if "keys" in case:
        other, saved = make_restorable()
        count(other, POISSON, 1)
        restore(variables, {"ledger_keys": saved["ledger_keys"]})
    return ledger, variables, row


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("plain", True),
        ("limit", True),
        ("budget", False),
        ("budget limit", True),
        ("restored", True),
        ("budget limit restored", False),
        ("budget limit keys", False),
    ],
)
@pytest.mark.parametrize("other_case", ["plain", "budget limit keys"])
def test_a_step_only_looks_at_the_listed_state(case, expected, other_case):
    """One ledger, given the state of another, takes the other's step."""
    ledger, variables, row = prepare(case)
    stand_in, own_variables, _ = prepare(other_case)
    before = [value_of(v).copy() for v in state_of(stand_in, own_variables)]
    mapping = list(
        zip(
            state_of(stand_in, own_variables),
            [v.value + 0 for v in state_of(ledger, variables)],
            strict=True,
        )
    )
    with keras.StatelessScope(state_mapping=mapping) as scope:
        assert take_step(stand_in, row) == expected
        after = [scope.get_current_value(v) for v, _ in mapping]
    assert take_step(ledger, row) == expected
    for new, variable in zip(after, state_of(ledger, variables), strict=True):
        assert np.array_equal(ops.convert_to_numpy(new), value_of(variable))
    # And it only writes there.
    for old, (variable, _) in zip(before, mapping, strict=True):
        assert np.array_equal(value_of(variable), old)


def test_a_step_writes_only_what_is_small():
    ledger, variables, row = prepare("limit")
    state = state_of(ledger, variables)
    mapping = [(v, v.value + 0) for v in state]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        ledger.count(row)
        ledger.refuse()
        written = [
            v for v, old in mapping if scope.get_current_value(v) is not old
        ]
    assert len(written) == 3
    assert sum(np.prod(v.shape, dtype=int) for v in written) <= 2 * SHAPE[0] + 1
