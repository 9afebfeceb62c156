# SPDX-License-Identifier: Apache-2.0
"""One step: noise once, divided by the expected size, counted, or refused.

Random bounds have a false-alarm probability of at most 1e-6 and detect a
standard deviation that is wrong by 2%.
"""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tf_privacy
from tests import normality
from tf_privacy.training import ledger as training_ledger

SHAPE = (400, 500)
POISSON = tf_privacy.PoissonSampling(num_examples=64, sampling_probability=0.25)


def make_optimizer(inner=None, **changes):
    settings = {
        "l2_norm_clip": 0.5,
        "noise_multiplier": 3.0,
        "expected_batch_size": 16.0,
        **changes,
    }
    inner = inner or keras.optimizers.SGD(1.0)
    return tf_privacy.DPOptimizer(inner, **settings)


def make_sum(variables, gradients=None, l2_norm_clip=0.5):
    if gradients is None:
        gradients = [np.zeros(v.shape, np.float32) for v in variables]
    return tf_privacy.ClippedSum(
        gradients=tuple(tf.constant(g) for g in gradients),
        variables=tuple(variables),
        l2_sensitivity=l2_norm_clip,
    )


def make_variable(shape=(3,), dtype="float32"):
    return keras.Variable(np.zeros(shape), dtype=dtype)


def value_of(variable):
    return np.array(keras.ops.convert_to_numpy(variable.value))


def check_uncorrelated(a, b):
    a, b = (v.astype(np.float64).ravel() for v in (a, b))
    correlation = a @ b / np.sqrt((a @ a) * (b @ b))
    assert abs(correlation) < stats.norm.isf(
        normality.FALSE_ALARM / 2
    ) / np.sqrt(a.size)


@pytest.mark.parametrize("compiled", [False, True])
def test_update_is_noise_over_the_expected_batch_size(compiled):
    """Standard deviation: noise_multiplier * l2_norm_clip / expected size."""
    optimizer = make_optimizer()
    variables = [make_variable(SHAPE), make_variable(SHAPE)]
    clipped = make_sum(variables)

    def step():
        optimizer.apply(clipped)

    step()
    if compiled:
        step = tf.function(step)
    updates, before = [], [value_of(v) for v in variables]
    for _ in range(3):
        step()
        after = [value_of(v) for v in variables]
        updates += [a - b for a, b in zip(after, before, strict=True)]
        before = after
    for i, update in enumerate(updates):
        normality.check_stddev(update, 3.0 * 0.5 / 16.0)
        for other in updates[:i]:
            check_uncorrelated(update, other)
    assert int(optimizer.iterations) == optimizer.ledger.num_steps() == 4


def test_the_sum_is_divided_and_data_independent_gradients_are_not():
    variables = [make_variable(), make_variable((2, 2))]
    optimizer = make_optimizer(noise_multiplier=1e-9, l2_norm_clip=0.5)
    gradients = [np.full(3, 0.2, "f"), np.full((2, 2), -0.1, "f")]
    extra = [None, tf.ones((2, 2))]
    optimizer.apply(
        make_sum(variables, gradients), data_independent_gradients=extra
    )
    np.testing.assert_allclose(value_of(variables[0]), -0.2 / 16, rtol=1e-5)
    np.testing.assert_allclose(value_of(variables[1]), 0.1 / 16 - 1, rtol=1e-5)


def test_data_independent_gradients_must_be_aligned():
    optimizer = make_optimizer()
    variable = make_variable()
    with pytest.raises(ValueError):
        optimizer.apply(
            make_sum([variable]), data_independent_gradients=[None, None]
        )
    assert optimizer.ledger.num_steps() == 0
    assert not value_of(variable).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_variables_of_any_precision_move_by_the_noise(dtype):
    variable = make_variable(SHAPE, dtype)
    make_optimizer().apply(make_sum([variable]))
    moved = value_of(variable).astype(np.float64)
    assert np.isfinite(moved).all()
    # Rounding to the 8 bits of bfloat16 adds less than 1e-5 of the variance.
    normality.check_stddev(moved, 3.0 * 0.5 / 16.0)


def test_two_optimizers_have_noise_of_their_own():
    moved = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        tf.random.set_seed(0)
        optimizer, variable = make_optimizer(), make_variable((1000,))
        optimizer.apply(make_sum([variable]))
        moved.append(value_of(variable))
    assert np.mean(moved[0] == moved[1]) < 0.01


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy])
def test_a_copied_optimizer_has_noise_of_its_own(make_copy):
    optimizer = make_optimizer()
    variable = make_variable((1000,))
    moved = []
    for each in (optimizer, make_copy(optimizer)):
        before = value_of(variable)
        each.apply(make_sum([variable]))
        moved.append(value_of(variable) - before)
    assert np.mean(moved[0] == moved[1]) < 0.01


def test_a_fixed_seed_is_not_private():
    with pytest.warns(UserWarning, match="^seed=3 fixes the noise"):
        optimizer = make_optimizer(seed=3)
    optimizer.apply(make_sum([make_variable()]))
    statement = training_ledger.make_statement(
        optimizer.ledger.entries(), delta=1e-5
    )
    assert not statement.is_private
    assert statement.epsilon == float("inf")


# What a step is to the accountant.


def test_a_step_is_counted_as_what_the_caller_says():
    optimizer = make_optimizer()
    clipped = make_sum([make_variable()])
    optimizer.apply(clipped)
    optimizer.apply(clipped, sampling=POISSON)
    optimizer.apply(clipped, sampling=POISSON)
    (user, one), (poisson, two) = optimizer.ledger.entries()
    assert (one, two) == (1, 2)
    assert user.sampling_probability is None and user.num_examples is None
    assert poisson.sampling_probability == 0.25
    assert poisson.num_examples == 64
    for kind in (user, poisson):
        assert kind.noise_multiplier == 3.0
        assert kind.l2_norm_clip == 0.5
        assert kind.expected_batch_size == 16.0
        assert not kind.fixed_seed


@pytest.mark.parametrize("sampling", [0.25, "poisson", True])
def test_a_sampling_must_be_a_sampling(sampling):
    optimizer = make_optimizer()
    with pytest.raises(TypeError, match="^sampling must be"):
        optimizer.apply(make_sum([make_variable()]), sampling=sampling)
    assert optimizer.ledger.num_steps() == 0


def test_the_first_step_may_be_compiled():
    optimizer = make_optimizer(keras.optimizers.Adam(0.1))
    variable = make_variable()

    @tf.function
    def step():
        optimizer.apply(make_sum([variable]), sampling=POISSON)

    for _ in range(5):
        step()
    (entry,) = optimizer.ledger.entries()
    assert entry == (optimizer.step_kind(POISSON), 5)
    assert int(optimizer.iterations) == 5


def test_steps_in_a_compiled_loop_are_all_counted():
    optimizer = make_optimizer()
    variable = make_variable(SHAPE)
    clipped = make_sum([variable])
    optimizer.apply(clipped)
    start = value_of(variable)

    @tf.function
    def run():
        for _ in tf.range(7):
            optimizer.apply(clipped)

    run()
    assert optimizer.ledger.num_steps() == int(optimizer.iterations) == 8
    normality.check_stddev(
        value_of(variable) - start, np.sqrt(7) * 3.0 * 0.5 / 16.0
    )


# What is not a step.


@pytest.mark.parametrize(
    "gradients",
    [[tf.ones(3)], [np.ones(3)], tf.ones(3), [], None, [(tf.ones(3), None)]],
)
def test_raw_gradients_are_refused(gradients):
    optimizer, variable = make_optimizer(), make_variable()
    with pytest.raises(TypeError, match="^grads must be a ClippedSum"):
        optimizer.apply(gradients, [variable])
    with pytest.raises(TypeError, match="^optimizer.apply_gradients must not"):
        optimizer.apply_gradients(gradients)
    with pytest.raises(TypeError, match="^optimizer.stateless_apply must not"):
        optimizer.stateless_apply([], gradients, [variable])
    assert optimizer.ledger.num_steps() == 0
    assert not value_of(variable).any()


@pytest.mark.parametrize("clip", [0.4999, 0.5 * (1 + 1e-6), 5.0, 1e-3])
def test_a_sum_with_another_clip_is_refused(clip):
    optimizer = make_optimizer()
    clipped = make_sum([make_variable()], l2_norm_clip=clip)
    with pytest.raises(ValueError, match="^l2_norm_clip of the ClippedSum"):
        optimizer.apply(clipped)
    assert optimizer.ledger.num_steps() == 0


def test_other_variables_than_the_sums_are_refused():
    optimizer, variable = make_optimizer(), make_variable()
    with pytest.raises(ValueError, match="^trainable_variables must be"):
        optimizer.apply(make_sum([variable]), [make_variable()])
    optimizer.apply(make_sum([variable]), [variable])


def test_a_step_without_a_divisor_is_refused():
    optimizer = make_optimizer(expected_batch_size=None)
    with pytest.raises(ValueError, match="^expected_batch_size must be set"):
        optimizer.apply(make_sum([make_variable()]))
    optimizer.set_expected_batch_size(4)
    optimizer.apply(make_sum([make_variable()]))


def test_the_divisor_is_set_once():
    optimizer = make_optimizer(expected_batch_size=None)
    optimizer.set_expected_batch_size(4)
    optimizer.set_expected_batch_size(4.0)
    for other in (5, 4.001, 3.999):
        with pytest.raises(ValueError, match="^expected_batch_size must stay"):
            optimizer.set_expected_batch_size(other)
    assert optimizer.expected_batch_size == 4.0
    with pytest.raises(AttributeError):
        optimizer.expected_batch_size = 5.0


# Arguments.

NO_NUMBERS = [np.nan, np.inf, -np.inf, 0, 0.0, -1.0]
NO_TYPES = [True, "1.0", None, [1.0], 1j]


@pytest.mark.parametrize("name", ["l2_norm_clip", "noise_multiplier"])
def test_privacy_parameters_are_checked(name):
    for value in NO_NUMBERS:
        with pytest.raises(ValueError, match=f"^{name} must be a finite"):
            make_optimizer(**{name: value})
    for value in NO_TYPES:
        with pytest.raises(TypeError, match=f"^{name} must be a finite"):
            make_optimizer(**{name: value})


@pytest.mark.parametrize(
    "l2_norm_clip, noise_multiplier",
    [(1e-45, 1.0), (2e-38, 0.3), (1.0, 1e-40), (1e39, 1.0), (1e30, 1e30)],
)
def test_noise_that_float32_cannot_hold_is_refused(
    l2_norm_clip, noise_multiplier
):
    """A standard deviation of 6e-39 is flushed to 0 and a clipped gradient of
    2e-38 is not: it would be released as it is."""
    with pytest.raises(ValueError, match="^(l2_norm_clip|noise_mult|stddev)"):
        make_optimizer(
            l2_norm_clip=l2_norm_clip, noise_multiplier=noise_multiplier
        )


def test_the_divisor_is_checked():
    optimizer = make_optimizer(expected_batch_size=None)
    for value in NO_NUMBERS:
        with pytest.raises(ValueError, match="^expected_batch_size must be a"):
            make_optimizer(expected_batch_size=value)
        with pytest.raises(ValueError, match="^expected_batch_size must be a"):
            optimizer.set_expected_batch_size(value)
    for value in (True, "8", [8]):
        with pytest.raises(TypeError, match="^expected_batch_size must be a"):
            make_optimizer(expected_batch_size=value)


@pytest.mark.parametrize(
    "value, error",
    [
        (0, ValueError),
        (-3, ValueError),
        (1.5, ValueError),
        (np.nan, ValueError),
        (True, TypeError),
        ("4", TypeError),
    ],
)
def test_the_microbatch_size_is_checked(value, error):
    with pytest.raises(error, match="^microbatch_size must be"):
        make_optimizer(microbatch_size=value)


@pytest.mark.parametrize(
    "inner", ["sgd", None, keras.optimizers.SGD, lambda: None]
)
def test_the_inner_optimizer_must_be_one(inner):
    with pytest.raises(TypeError, match="^inner_optimizer must be a keras"):
        tf_privacy.DPOptimizer(inner, l2_norm_clip=1.0, noise_multiplier=1.0)


@pytest.mark.parametrize(
    "make, start",
    [
        (
            lambda: keras.optimizers.SGD(gradient_accumulation_steps=2),
            "gradient_accumulation_steps must be None",
        ),
        (
            lambda: keras.optimizers.Adam(loss_scale_factor=2.0),
            "loss_scale_factor must be None",
        ),
        (
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
            "inner_optimizer must be a plain optimizer",
        ),
        (make_optimizer, "inner_optimizer must be a plain optimizer"),
    ],
)
def test_inner_optimizers_that_change_gradients_are_refused(make, start):
    with pytest.raises(ValueError, match=f"^{start}"):
        make_optimizer(make())


# Keras's interface.


def test_the_learning_rate_is_the_inner_ones():
    optimizer, variable = make_optimizer(), make_variable()
    assert float(optimizer.learning_rate) == 1.0
    optimizer.learning_rate = 0.0
    assert float(optimizer.inner_optimizer.learning_rate) == 0.0
    optimizer.apply(make_sum([variable]))
    assert not value_of(variable).any()


def test_the_state_of_the_inner_optimizer_is_listed():
    optimizer, variable = (
        make_optimizer(keras.optimizers.Adam()),
        make_variable(),
    )
    optimizer.build([variable])
    listed = {id(v) for v in optimizer.variables}
    assert {id(v) for v in optimizer.inner_optimizer.variables} <= listed


# The budget.


def limited(num_steps, inner=None):
    """Returns an optimizer that may take so many more steps, and its sum."""
    optimizer = make_optimizer(inner)
    clipped = make_sum([make_variable()])
    optimizer.set_budget((1.0, 1e-5))
    row = optimizer.ledger.row_of(optimizer.step_kind())
    optimizer.ledger.set_limit(row, num_steps)
    return optimizer, clipped


def state_of(optimizer, clipped):
    inner = optimizer.inner_optimizer.variables
    return [value_of(v) for v in [*clipped.variables, *inner]]


@pytest.mark.parametrize("compiled", [False, True])
def test_past_its_budget_a_step_changes_nothing(compiled):
    inner = keras.optimizers.Adam(0.1, use_ema=True, weight_decay=0.1)
    optimizer, clipped = limited(2, inner)

    def step():
        optimizer.apply(clipped)

    if compiled:
        step = tf.function(step)
    step()
    step()
    before = state_of(optimizer, clipped)
    for _ in range(3):
        if compiled:
            step()
            with pytest.raises(
                tf_privacy.PrivacyBudgetError, match="^a noisy step must fit"
            ):
                optimizer.check_budget()
        else:
            with pytest.raises(
                tf_privacy.PrivacyBudgetError, match="^a noisy step must fit"
            ):
                step()
    for a, b in zip(before, state_of(optimizer, clipped), strict=True):
        np.testing.assert_array_equal(a, b)
    assert optimizer.ledger.num_steps() == 2
    optimizer.check_budget()


def test_a_kind_of_step_that_was_not_planned_for_is_refused():
    optimizer, clipped = limited(2)
    with pytest.raises(tf_privacy.PrivacyBudgetError):
        optimizer.apply(clipped, sampling=POISSON)
    assert optimizer.ledger.num_steps() == 0


def test_the_budget_can_be_read_and_taken_off():
    optimizer, clipped = limited(0)
    assert optimizer.budget == (1.0, 1e-5)
    optimizer.set_budget(None)
    assert optimizer.budget is None
    optimizer.apply(clipped)
    assert optimizer.ledger.num_steps() == 1


# What is saved.


def saved_state(optimizer):
    store = {}
    optimizer.save_own_variables(store)
    return store


def test_only_the_ledger_and_the_budget_are_saved():
    """The key of the noise must be in no file."""
    optimizer = make_optimizer()
    optimizer.apply(make_sum([make_variable()]))
    assert set(saved_state(optimizer)) == {"ledger", "budget"}


def test_an_older_file_takes_no_step_back():
    optimizer, clipped = make_optimizer(), make_sum([make_variable()])
    optimizer.apply(clipped)
    older = saved_state(optimizer)
    optimizer.apply(clipped)
    optimizer.load_own_variables(older)
    assert optimizer.ledger.num_steps() == 2
    optimizer.apply(clipped)
    assert optimizer.ledger.num_steps() == 3


def test_a_loaded_budget_binds_steps_of_a_kind_that_ran_before():
    """The usual way to build an optimizer before loading is to take a step."""
    spent, clipped = limited(1)
    spent.apply(clipped)
    variable = make_variable()
    optimizer, clipped = make_optimizer(), make_sum([variable])
    optimizer.apply(clipped)
    optimizer.load_own_variables(saved_state(spent))
    assert optimizer.budget == (1.0, 1e-5)
    before = value_of(variable)
    with pytest.raises(tf_privacy.PrivacyBudgetError):
        optimizer.apply(clipped)
    np.testing.assert_array_equal(before, value_of(variable))


def test_a_tensorflow_checkpoint_takes_no_step_back(tmp_path):
    """`tf.train.Checkpoint` restores variables behind the optimizer's back."""
    optimizer, clipped = make_optimizer(), make_sum([make_variable()])
    optimizer.apply(clipped)
    checkpoint = tf.train.Checkpoint(optimizer=optimizer)
    path = checkpoint.save(str(tmp_path / "old"))
    for _ in range(3):
        optimizer.apply(clipped)
    checkpoint.restore(path)
    assert optimizer.ledger.num_steps() == 4
    optimizer.apply(clipped)
    assert optimizer.ledger.num_steps() == 5


def test_a_tensorflow_checkpoint_brings_its_steps_along(tmp_path):
    optimizer, clipped = make_optimizer(), make_sum([make_variable()])
    for _ in range(3):
        optimizer.apply(clipped)
    path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "c"))
    other, clipped = make_optimizer(), make_sum([make_variable()])
    other.build(list(clipped.variables))
    tf.train.Checkpoint(optimizer=other).restore(path)
    other.apply(clipped)
    assert other.ledger.num_steps() == 4


@pytest.mark.parametrize("budget_first", [False, True])
def test_a_tensorflow_checkpoint_takes_no_budget_off(budget_first, tmp_path):
    """Older than the budget, or than the steps that were taken within it."""
    optimizer, clipped = make_optimizer(), make_sum([make_variable()])
    optimizer.build(list(clipped.variables))
    checkpoint = tf.train.Checkpoint(optimizer=optimizer)
    row = optimizer.ledger.row_of(optimizer.step_kind())

    def set_budget():
        optimizer.set_budget((1.0, 1e-5))
        optimizer.ledger.set_limit(row, 2)

    if budget_first:
        set_budget()
    path = checkpoint.save(str(tmp_path / "old"))
    if not budget_first:
        set_budget()
    optimizer.apply(clipped)
    optimizer.apply(clipped)
    checkpoint.restore(path)
    assert optimizer.budget == (1.0, 1e-5)
    before = state_of(optimizer, clipped)
    with pytest.raises(tf_privacy.PrivacyBudgetError):
        optimizer.apply(clipped)
    for a, b in zip(before, state_of(optimizer, clipped), strict=True):
        np.testing.assert_array_equal(a, b)
    assert optimizer.ledger.num_steps() == 2


def test_a_step_under_a_strategy_that_did_not_make_it_is_refused():
    optimizer, clipped = make_optimizer(), make_sum([make_variable()])
    optimizer.build(list(clipped.variables))
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with pytest.raises(ValueError, match="^optimizer must be made in the sc"):
        strategy.run(lambda: optimizer.apply(clipped))
    assert optimizer.ledger.num_steps() == 0
