# SPDX-License-Identifier: Apache-2.0
"""A loop of the user's own: the same steps as `fit`, and all counted."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tf_privacy
from tests import oracles
from tf_privacy.training import ledger as training_ledger

DELTA = 1e-5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype("float32")
Y = RNG.normal(size=(32, 1)).astype("float32")
POISSON = tf_privacy.PoissonSampling(num_examples=32, sampling_probability=0.25)


def make_net():
    keras.utils.set_random_seed(1)
    layer = keras.layers.Dense(1, kernel_regularizer="l2")
    return keras.Sequential([keras.Input((4,)), layer])


def make_optimizer(**changes):
    settings = {
        "learning_rate": 0.1,
        "l2_norm_clip": 0.5,
        "noise_multiplier": 1.0,
        "expected_batch_size": 8,
        **changes,
    }
    return tf_privacy.DPSGD(**settings)


def squared_error(y, y_pred, sample_weight):
    del sample_weight
    return keras.ops.square(y - y_pred)


def make_step(model, optimizer, loss=squared_error, **arguments):
    def step(x, y):
        clipped = tf_privacy.clipped_gradients(
            model, x, y, l2_norm_clip=optimizer.l2_norm_clip, loss=loss
        )
        optimizer.apply(
            clipped.clipped_sum,
            data_independent_gradients=tf_privacy.regularizer_gradients(model),
            **arguments,
        )
        return clipped.norms

    return step


def epsilon_of(optimizer):
    return training_ledger.make_statement(
        optimizer.ledger.entries(), delta=DELTA
    ).epsilon


def expected_epsilon(num_steps, sampling_probability):
    return tf_privacy.compute_epsilon(
        noise_multiplier=1.0,
        sampling_probability=sampling_probability,
        num_steps=num_steps,
        delta=DELTA,
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "sampling, probability", [(None, 1.0), (POISSON, 0.25)]
)
def test_every_step_is_counted(compiled, sampling, probability):
    """A plain Keras model, never compiled; batches of any size."""
    model, optimizer = make_net(), make_optimizer()
    step = make_step(model, optimizer, sampling=sampling)
    if compiled:
        step = tf.function(step, reduce_retracing=True)
    dataset = tf_privacy.PoissonDataset(X, Y, expected_batch_size=8)
    sizes = [8, 0, 3]
    for size in sizes:
        step(tf.constant(X[:size]), tf.constant(Y[:size]))
    for i in range(3 if compiled else 1):
        step(*map(tf.constant, dataset[i]))
        sizes.append(None)
    assert optimizer.ledger.num_steps() == len(sizes)
    assert int(optimizer.iterations) == len(sizes)
    expected = expected_epsilon(len(sizes), probability)
    assert epsilon_of(optimizer) == pytest.approx(expected, rel=1e-9)
    assert np.isfinite(model.get_weights()[0]).all()


def test_without_noise_a_step_is_the_clipped_one():
    """The sum of clipped gradients over 8, then the regulariser's gradient."""
    model = make_net()
    optimizer = make_optimizer(noise_multiplier=1e-9)
    start = model.get_weights()
    total, norms = oracles.loop_clipped_sum(
        model,
        X[:8],
        Y[:8],
        l2_norm_clip=0.5,
        loss=lambda y, y_pred: tf.reduce_sum((y - y_pred) ** 2, axis=1),
    )
    penalty = oracles.loop_regularizer_gradients(model)
    measured = make_step(model, optimizer)(X[:8], Y[:8])
    assert (norms > 0.5).any()
    np.testing.assert_allclose(measured, norms, rtol=1e-4)
    expected = [-0.1 * (t / 8 + p) for t, p in zip(total, penalty, strict=True)]
    moved = [a - b for a, b in zip(model.get_weights(), start, strict=True)]
    assert oracles.relative_error(moved, expected) < 1e-4


def test_pieces_of_one_batch_make_one_step():
    """Two sums add up before the noise, which is drawn once."""
    model = make_net()
    optimizer = make_optimizer(noise_multiplier=1e-9)
    start = model.get_weights()
    pieces = [
        tf_privacy.clipped_gradients(
            model,
            X[i : i + 4],
            Y[i : i + 4],
            l2_norm_clip=0.5,
            loss=squared_error,
        ).clipped_sum
        for i in (0, 4)
    ]
    optimizer.apply(pieces[0] + pieces[1])
    moved = [a - b for a, b in zip(model.get_weights(), start, strict=True)]
    assert optimizer.ledger.num_steps() == 1
    whole = make_net()
    step = tf_privacy.clipped_gradients(
        whole, X[:8], Y[:8], l2_norm_clip=0.5, loss=squared_error
    )
    expected = [-0.1 / 8 * np.asarray(g) for g in step.clipped_sum.gradients]
    assert oracles.relative_error(moved, expected) < 1e-4


@pytest.mark.parametrize("compiled", [False, True])
def test_noise_is_drawn_anew_at_every_step(compiled):
    """20,000 values: a standard deviation wrong by 5% fails."""
    model = keras.Sequential(
        [keras.Input((100,)), keras.layers.Dense(200, use_bias=False)]
    )
    optimizer = make_optimizer()
    step = make_step(model, optimizer)
    if compiled:
        step = tf.function(step)
    x, y = tf.zeros((2, 100)), tf.zeros((2, 200))
    seen = [model.get_weights()[0].ravel()]
    for _ in range(3):
        step(x, y)
        seen.append(model.get_weights()[0].ravel())
    updates = np.diff(seen, axis=0) / (0.1 * 0.5 / 8)
    bounds = stats.chi2.ppf([0.5e-6, 1 - 0.5e-6], 20_000) / 20_000
    limit = stats.norm.isf(0.5e-6) / np.sqrt(20_000)
    for i, update in enumerate(updates):
        assert bounds[0] < np.mean(update**2) < bounds[1]
        for other in updates[:i]:
            assert abs(np.mean(update * other)) < limit


def test_a_loop_and_fit_share_one_ledger():
    model = tf_privacy.privatize(make_net())
    optimizer = make_optimizer()
    model.compile(optimizer, "mse")
    model.fit(X, Y, verbose=0)
    make_step(model, optimizer, loss=None)(X[:8], Y[:8])
    make_step(model, optimizer, loss=None, sampling=POISSON)(X[:8], Y[:8])
    (poisson, five), (user, one) = optimizer.ledger.entries()
    assert (five, one) == (5, 1)
    assert poisson.sampling_probability == 0.25
    assert user.sampling_probability is None
    statement = model.privacy_statement(DELTA)
    assert statement.num_steps == int(optimizer.iterations) == 6
    assert statement.epsilon > expected_epsilon(1, 1.0)


def test_gradients_of_a_tape_are_refused():
    model, optimizer = make_net(), make_optimizer()
    start = model.get_weights()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(X) - Y) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    pairs = zip(gradients, model.trainable_variables, strict=True)
    with pytest.raises(TypeError, match="^optimizer.apply_gradients must not"):
        optimizer.apply_gradients(pairs)
    with pytest.raises(TypeError, match="^grads must be a ClippedSum"):
        optimizer.apply(gradients, model.trainable_variables)
    np.testing.assert_array_equal(start[0], model.get_weights()[0])


def test_sums_of_different_models_do_not_add_up():
    one, two = make_net(), make_net()
    sums = [
        tf_privacy.clipped_gradients(
            model, X[:2], Y[:2], l2_norm_clip=0.5, loss=squared_error
        ).clipped_sum
        for model in (one, two)
    ]
    with pytest.raises(ValueError, match="^other must be a ClippedSum"):
        sums[0] + sums[1]
    with pytest.raises(TypeError):
        sums[0] + 1.0


@pytest.mark.parametrize("clip", [0.4, 1.0])
def test_a_clip_that_is_not_the_optimizers_is_refused(clip):
    model, optimizer = make_net(), make_optimizer()
    step = tf_privacy.clipped_gradients(
        model, X[:2], Y[:2], l2_norm_clip=clip, loss=squared_error
    )
    with pytest.raises(ValueError, match="^l2_norm_clip of the ClippedSum"):
        optimizer.apply(step.clipped_sum)
