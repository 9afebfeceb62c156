# SPDX-License-Identifier: Apache-2.0
"""A step with a query, a schedule or correlated noise: noised and counted.

Random bounds have a false-alarm probability of at most 1e-6 and detect a
standard deviation that is wrong by 2%.
"""

import copy
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tf_privacy
from tests import normality
from tf_privacy import accounting
from tf_privacy.training import ledger as training_ledger

SHAPE = (400, 500)
QUANTILE = tf_privacy.QuantileClipping(l2_norm_clip=0.5, count_stddev=4.0)
POISSON = tf_privacy.PoissonSampling(num_examples=64, sampling_probability=0.25)


def make_optimizer(**changes):
    settings = {
        "l2_norm_clip": 0.5,
        "noise_multiplier": 3.0,
        "expected_batch_size": 16.0,
        **changes,
    }
    return tf_privacy.DPOptimizer(keras.optimizers.SGD(1.0), **settings)


def make_sum(variable, *, query_sum=None, l2_norm_clip=0.5, scale=1.0):
    has_query = query_sum is not None
    return tf_privacy.ClippedSum(
        gradients=(tf.zeros(variable.shape),),
        variables=(variable,),
        l2_sensitivity=l2_norm_clip,
        query_sum=tf.constant(query_sum, tf.float32) if has_query else None,
        query_sensitivity=0.5 if has_query else None,
        scale=scale if has_query else None,
    )


def value_of(variable):
    return np.array(keras.ops.convert_to_numpy(variable.value))


def take_steps(optimizer, clipped, num_steps, *, compiled=False):
    """Returns the update of each step."""

    def step():
        optimizer.apply(clipped)

    updates, before = [], value_of(clipped.variables[0])
    for number in range(num_steps):
        step()
        if compiled and not number:
            step = tf.function(step)
        after = value_of(clipped.variables[0])
        updates.append(after - before)
        before = after
    return updates


@pytest.mark.parametrize("noise_multiplier", [0.5, 3.0, 7.9])
def test_gradients_and_count_together_have_the_stated_noise(noise_multiplier):
    optimizer = make_optimizer(
        l2_norm_clip=QUANTILE, noise_multiplier=noise_multiplier
    )
    variable = keras.Variable(np.zeros(SHAPE))
    (update,) = take_steps(optimizer, make_sum(variable, query_sum=0.0), 1)
    # The accountant's own formula of both releases, at what the gradients had.
    own = 1.0 / np.sqrt(noise_multiplier**-2.0 - (2 * 4.0) ** -2.0)
    normality.check_stddev(update, own * 0.5 / 16.0)
    joint = accounting.AdaptiveClipping(own * (1 + 1e-6), 4.0)
    effective = joint.effective_noise_multiplier
    assert noise_multiplier <= effective < noise_multiplier * (1 + 2e-6)
    ((kind, _),) = optimizer.ledger.entries()
    assert kind.noise_multiplier == noise_multiplier
    assert kind.query_stddev == 8.0
    assert kind.moving_clip


def test_the_count_is_noised_by_count_stddev():
    """From the clips of 300 steps, each with noise of its own."""
    optimizer = make_optimizer(l2_norm_clip=QUANTILE)
    variable = keras.Variable(np.zeros(3))

    @tf.function
    def step():
        scale = optimizer.current_clip.scale
        optimizer.apply(make_sum(variable, query_sum=-0.5, scale=scale))
        return optimizer.current_clip.scale

    optimizer.apply(make_sum(variable, query_sum=-0.5))
    scales = np.array([float(step()) for _ in range(300)])
    counts = np.diff(np.log(scales)) / -0.2 * 16.0
    result = stats.kstest(counts, stats.norm(-0.5, 4.0).cdf)
    assert result.pvalue > normality.FALSE_ALARM
    z = np.corrcoef(counts[1:], counts[:-1])[0, 1] * np.sqrt(298)
    assert abs(z) < 5
    assert abs(np.std(counts) - 4.0) < 5 * 4.0 / np.sqrt(2 * 298)


def test_noise_follows_the_clip_in_force():
    optimizer = make_optimizer(l2_norm_clip=QUANTILE, noise_multiplier=1.0)
    variable = keras.Variable(np.zeros(SHAPE))
    own = 1.0 / np.sqrt(1.0 - 1.0 / 64.0)
    for _ in range(3):
        clip = float(optimizer.clip_logs()["l2_norm_clip"])
        scale = optimizer.current_clip.scale
        clipped = make_sum(variable, query_sum=-8.0, scale=scale)
        (update,) = take_steps(optimizer, clipped, 1)
        normality.check_stddev(update, own * clip / 16.0)
    assert clip > 0.55


def test_a_query_that_takes_all_is_refused():
    loud = tf_privacy.QuantileClipping(l2_norm_clip=0.5, count_stddev=1.5)
    optimizer = make_optimizer(l2_norm_clip=loud)
    variable = keras.Variable(np.zeros(3))
    with pytest.raises(ValueError, match="^the noise on the clip's query"):
        optimizer.apply(make_sum(variable, query_sum=0.0))
    assert not value_of(variable).any()
    assert optimizer.ledger.num_steps() == 0


def test_the_default_query_costs_little():
    for size, noise in [(4.0, 1.0), (256.0, 0.5), (256.0, 30.0)]:
        for style in (tf_privacy.QuantileClipping, tf_privacy.MeanNormClipping):
            optimizer = make_optimizer(
                l2_norm_clip=style(l2_norm_clip=1.0),
                noise_multiplier=noise,
                expected_batch_size=size,
            )
            own = optimizer._noise.compute_gradient_multiplier(0, size)
            assert noise < own < 1.022 * noise


def test_a_sum_without_the_query_is_refused():
    optimizer = make_optimizer(l2_norm_clip=QUANTILE)
    variable = keras.Variable(np.zeros(3))
    with pytest.raises(ValueError, match="^grads must be clipped at the clip"):
        optimizer.apply(make_sum(variable))
    with pytest.raises(ValueError, match="^grads must be clipped at the clip"):
        make_optimizer().apply(make_sum(variable, query_sum=1.0))
    clipped = dataclasses.replace(make_sum(variable), scale=1.0)
    with pytest.raises(ValueError, match="^grads must hold the query"):
        optimizer.apply(clipped)


def test_the_clip_is_saved_and_restored(tmp_path):
    model = tf_privacy.DPSequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(
        tf_privacy.DPAdam(0.1, l2_norm_clip=QUANTILE, noise_multiplier=1.0),
        "mse",
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 3)), rng.normal(size=(64, 2))
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0).history
    logs = {k: float(v) for k, v in model.optimizer.clip_logs().items()}
    assert set(logs) == {"l2_norm_clip", "clipped_fraction"}
    assert history["l2_norm_clip"][-1] == pytest.approx(logs["l2_norm_clip"])
    assert logs["l2_norm_clip"] != 0.5
    model.save(tmp_path / "model.keras")
    restored = tf_privacy.load_model(tmp_path / "model.keras")
    assert restored.optimizer.clipping_style == QUANTILE
    again = {k: float(v) for k, v in restored.optimizer.clip_logs().items()}
    assert again == logs
    assert restored.privacy_statement(1e-5).epsilon == (
        model.privacy_statement(1e-5).epsilon
    )


def test_epsilon_is_that_of_a_fixed_clip():
    entries = []
    for clip in (0.5, QUANTILE):
        optimizer = make_optimizer(l2_norm_clip=clip)
        query = 0.0 if clip is QUANTILE else None
        clipped = make_sum(keras.Variable(np.zeros(3)), query_sum=query)
        for _ in range(5):
            optimizer.apply(clipped, sampling=POISSON)
        entries.append(optimizer.ledger.entries())
    fixed, moving = (
        training_ledger.make_statement(each, delta=1e-5) for each in entries
    )
    assert fixed.epsilon == moving.epsilon
    assert "noised query" in str(moving)
    assert "noised query" not in str(fixed)


SCHEDULE = tf_privacy.NoiseSchedule(
    boundaries=(2, 3), multipliers=(3.0, 2.0, 1.0)
)


@pytest.mark.parametrize("compiled", [False, True])
def test_each_stretch_has_its_noise_and_its_count(compiled):
    optimizer = make_optimizer(noise_multiplier=SCHEDULE)
    clipped = make_sum(keras.Variable(np.zeros(SHAPE)))
    updates = take_steps(optimizer, clipped, 5, compiled=compiled)
    expected = [3.0, 3.0, 2.0, 1.0, 1.0]
    for update, noise in zip(updates, expected, strict=True):
        normality.check_stddev(update, noise * 0.5 / 16.0)
    counts = [(k.noise_multiplier, n) for k, n in optimizer.ledger.entries()]
    assert counts == [(3.0, 2), (2.0, 1), (1.0, 2)]


def test_a_budget_on_a_schedule_ends_with_the_last_step_that_fits():
    optimizer = make_optimizer(noise_multiplier=SCHEDULE)
    clipped = make_sum(keras.Variable(np.zeros(3)))
    budget = tf_privacy.PrivacyBudget(6.0, 1e-5)
    fit = budget.limit(optimizer, sampling=POISSON)
    assert fit > 4
    for _ in range(fit):
        optimizer.apply(clipped, sampling=POISSON)
    with pytest.raises(tf_privacy.PrivacyBudgetError):
        optimizer.apply(clipped, sampling=POISSON)
    assert optimizer.ledger.num_steps() == fit

    def spent(num_steps):
        return accounting.compute_epsilon_of(
            [
                accounting.SampledGaussianSteps(
                    noise_multiplier=noise,
                    sampling_probability=0.25,
                    num_steps=count,
                )
                for noise, count in [(3.0, 2), (2.0, 1), (1.0, num_steps - 3)]
            ],
            delta=1e-5,
        )

    assert spent(fit) <= 6.0 < spent(fit + 1)


TREE = tf_privacy.TreeNoise(noise_multiplier=3.0, num_steps=4, min_separation=2)


@pytest.mark.parametrize("compiled", [False, True])
def test_correlated_noise_takes_itself_back(compiled):
    """After 4 steps the sum has the noise of one node, improved from below."""
    optimizer = make_optimizer(noise_multiplier=TREE)
    clipped = make_sum(keras.Variable(np.zeros(SHAPE)))
    updates = take_steps(optimizer, clipped, 8, compiled=compiled)
    for tree in (updates[:4], updates[4:]):
        total = np.sum(tree, axis=0)
        normality.check_stddev(total, np.sqrt(4 / 7) * 3.0 * 0.5 / 16.0)
    ((kind, count),) = optimizer.ledger.entries()
    assert (kind.family, kind.steps_per_release, count) == ("tree", 4, 8)


def test_releases_are_counted_in_full_and_by_the_object_that_made_them():
    clipped = make_sum(keras.Variable(np.zeros(3)))
    one, other = (make_optimizer(noise_multiplier=TREE) for _ in range(2))
    for _ in range(5):
        one.apply(clipped)
    other.inherit(one.ledger.to_numpy())
    other.apply(clipped)
    statement = training_ledger.make_statement(
        other.ledger.entries(), delta=1e-5
    )
    # 2 of the first object, the second of them broken off, and 1 more.
    release = accounting.Gaussian(3.0 / TREE.sensitivity)
    expected = accounting.compute_epsilon_of(
        [accounting.SelfComposed(release, 3)], delta=1e-5
    )
    assert statement.epsilon == pytest.approx(expected, rel=1e-9)
    assert statement.neighboring_relation.value == "zero_out_one"
    assert "at least 2 apart" in " ".join(str(statement).split())
    with pytest.raises(ValueError, match="^neighboring_relation must be"):
        training_ledger.make_statement(
            other.ledger.entries(),
            delta=1e-5,
            neighboring_relation=accounting.NeighboringRelation[
                "ADD_OR_REMOVE_ONE"
            ],
        )


def test_correlated_noise_is_not_amplified_by_sampling():
    optimizer = make_optimizer(noise_multiplier=TREE)
    clipped = make_sum(keras.Variable(np.zeros(3)))
    with pytest.raises(ValueError, match="^TreeNoise must get data in a fixed"):
        optimizer.apply(clipped, sampling=POISSON)
    everywhere = tf_privacy.TreeNoise(
        noise_multiplier=3.0, num_steps=4, min_separation=1
    )
    optimizer = make_optimizer(noise_multiplier=everywhere)
    optimizer.apply(clipped, sampling=POISSON)
    ((kind, _),) = optimizer.ledger.entries()
    assert kind.sampling_probability is None


@pytest.mark.parametrize("compiled", [False, True])
def test_a_release_that_is_started_counts_as_one(compiled):
    once = tf_privacy.TreeNoise(
        noise_multiplier=2.0,
        num_steps=10,
        min_separation=1,
        max_participations=1,
    )
    optimizer = make_optimizer(noise_multiplier=once)
    clipped = make_sum(keras.Variable(np.zeros(3)))

    def step():
        optimizer.apply(clipped)

    step()
    if compiled:
        step = tf.function(step)
    for _ in range(3):
        optimizer.start_release()
        for _ in range(6):
            step()
    assert [n for _, n in optimizer.ledger.entries()] == [1, 6, 6, 6]
    assert np.isfinite(value_of(clipped.variables[0])).all()


def test_a_release_cannot_be_started_within_a_compiled_function():
    optimizer = make_optimizer(noise_multiplier=TREE)
    with pytest.raises(RuntimeError, match="^start_release must be called"):
        tf.function(optimizer.start_release, autograph=False)()


def test_a_schedule_may_come_back_to_a_level():
    schedule = tf_privacy.NoiseSchedule(
        boundaries=(2, 4), multipliers=(4.0, 6.0, 4.0)
    )
    optimizer = make_optimizer(noise_multiplier=schedule)
    clipped = make_sum(keras.Variable(np.zeros(3)))
    budget = tf_privacy.PrivacyBudget(6.0, 1e-5)
    fit = budget.limit(optimizer, sampling=POISSON)
    assert fit > 6
    for _ in range(fit):
        optimizer.apply(clipped, sampling=POISSON)
    assert [n for _, n in optimizer.ledger.entries()] == [fit - 2, 2]


def test_a_schedule_that_jumps_gets_no_more_than_the_budget():
    schedule = tf_privacy.NoiseSchedule(
        boundaries=(100,), multipliers=(20.0, 2.0)
    )
    optimizer = make_optimizer(noise_multiplier=schedule)
    clipped = make_sum(keras.Variable(np.zeros(3)))
    budget = tf_privacy.PrivacyBudget(2.0, 1e-5)
    budget.limit(optimizer, sampling=POISSON)
    steps = training_ledger.FurtherSteps(optimizer, sampling=POISSON)
    for _ in range(3):
        optimizer.inner_optimizer.iterations.assign(100)
        for _ in range(3):
            optimizer.apply(clipped, sampling=POISSON)
        steps.limit()
    while steps.remaining():
        optimizer.apply(clipped, sampling=POISSON)
    curve, ran = steps.make_curve(delta=1e-5)
    stated = training_ledger.make_statement(
        optimizer.ledger.entries(), delta=1e-5
    ).epsilon
    assert curve.compute_epsilon(ran) == pytest.approx(stated)
    assert stated <= 2.0


def test_a_budget_counts_whole_releases():
    optimizer = make_optimizer(noise_multiplier=TREE)
    release = accounting.Gaussian(3.0 / TREE.sensitivity)
    two = accounting.compute_epsilon_of(
        [accounting.SelfComposed(release, 2)], delta=1e-5
    )
    budget = tf_privacy.PrivacyBudget(two * 1.01, 1e-5)
    assert budget.limit(optimizer) == 8


def test_a_query_beside_correlated_noise_is_paid_for_by_participations():
    optimizer = make_optimizer(l2_norm_clip=QUANTILE, noise_multiplier=TREE)
    own = optimizer._noise.compute_gradient_multiplier(0, 16.0)
    total = (TREE.sensitivity / own) ** 2 + TREE.num_participations / 8.0**2
    assert TREE.num_participations == 2
    stated = (TREE.sensitivity / 3.0) ** 2
    assert stated * (1 - 1e-5) < total <= stated


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy])
def test_a_copied_optimizer_begins_a_release_of_its_own(make_copy):
    optimizer = make_optimizer(noise_multiplier=TREE)
    clipped = make_sum(keras.Variable(np.zeros(SHAPE)))
    (update,) = take_steps(optimizer, clipped, 1)
    other = make_copy(optimizer)
    assert other.noise_style == TREE
    # The first step of a tree has the noise of one leaf, and of its own.
    (own,) = take_steps(other, clipped, 1)
    normality.check_stddev(own, 3.0 * 0.5 / 16.0)
    z = np.corrcoef(own.ravel(), update.ravel())[0, 1] * np.sqrt(own.size)
    assert abs(z) < 5
    # The copy took over the step of the first, which is another release.
    assert [n for _, n in other.ledger.entries()] == [1, 1]
    with pytest.raises(TypeError, match="must not be copied"):
        make_copy(optimizer._noise._generator)
