# SPDX-License-Identifier: Apache-2.0
"""Scales: from released gradients alone, never inf, noise of the same size."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_privacy.optimizers import preconditioner

SHAPES = [(6, 4), (4,), (2, 3, 5), (), (1, 7)]
GRANULARITIES = ["variables", "axes", "entries"]
EVERY_GRANULARITY = pytest.mark.parametrize("granularity", GRANULARITIES)


def make(shapes=SHAPES, **settings):
    variables = [keras.Variable(np.zeros(s), dtype="float32") for s in shapes]

    def add_variable(shape, *, dtype, name):
        return keras.Variable(
            np.zeros(shape), dtype=dtype, trainable=False, name=name
        )

    return preconditioner.Preconditioner(
        preconditioner.GradientScaling(**settings), variables, add_variable
    )


def make_gradients(seed, shapes=SHAPES):
    """Returns gradients whose entries differ in size by orders."""
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=s) * np.exp(2 * rng.normal(size=s))).astype("f4")
        for s in shapes
    ]


def update(state, gradients):
    state.update([tf.constant(g, tf.float32) for g in gradients])


def whole_scales(state):
    """Returns each scale as a float64 array of its variable's shape."""
    return [
        np.asarray(s.multiply(tf.ones(s.shape)), np.float64)
        for s in state.make_scales()
    ]


def factor_by_hand(moment, mean, seen, damping):
    ratio = seen * moment / mean + 1 - seen
    return np.sqrt((1 + damping) / (ratio + damping))


def scales_by_hand(steps, granularity, decay, damping):
    """Returns the scales after these lists of gradients, in float64."""
    ages = np.arange(len(steps) - 1, -1, -1)
    weights = decay**ages / np.sum(decay**ages)
    seen = 1 - decay ** len(steps)
    moments = [
        np.tensordot(weights, np.square(np.stack(past).astype("f8")), 1)
        for past in zip(*steps, strict=True)
    ]
    everything = np.concatenate([m.ravel() for m in moments]).mean()
    scales = []
    for moment in moments:
        if granularity == "entries":
            scales.append(factor_by_hand(moment, everything, seen, damping))
            continue
        scale = factor_by_hand(moment.mean(), everything, seen, damping)
        scale = np.full(moment.shape, scale)
        if granularity == "axes":
            for axis in range(moment.ndim):
                others = tuple(i for i in range(moment.ndim) if i != axis)
                along = moment.mean(axis=others, keepdims=True)
                scale *= factor_by_hand(along, moment.mean(), seen, damping)
        scales.append(scale)
    return scales


@EVERY_GRANULARITY
@pytest.mark.parametrize("compiled", [False, True])
def test_scales_are_the_formula(granularity, compiled):
    state = make(granularity=granularity, decay=0.8, damping=0.2)
    step = tf.function(state.update) if compiled else state.update
    steps = [make_gradients(seed) for seed in range(5)]
    for gradients in steps:
        step([tf.constant(g) for g in gradients])
    expected = scales_by_hand(steps, granularity, 0.8, 0.2)
    for got, scale in zip(whole_scales(state), expected, strict=True):
        np.testing.assert_allclose(got, scale, 1e-4)


@EVERY_GRANULARITY
def test_noise_of_all_entries_together_stays(granularity):
    """The mean of 1 / D^2 is 1, at any share of the average seen."""
    state = make(granularity=granularity, decay=0.9, damping=0.01)
    for seed in range(4):
        parts = [s.ravel() ** -2.0 for s in whole_scales(state)]
        flat = np.concatenate(parts)
        assert flat.mean() == pytest.approx(1.0, rel=1e-4)
        assert (np.ptp(flat) > 0.1) == (seed > 0)
        update(state, make_gradients(seed))


@EVERY_GRANULARITY
def test_scales_start_at_one(granularity):
    for scale in whole_scales(make(granularity=granularity)):
        np.testing.assert_array_equal(scale, 1.0)


@EVERY_GRANULARITY
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-18, 1e18, 1e25, np.inf])
def test_scales_are_finite_whatever_was_released(granularity, size):
    damping = 1e-4
    state = make(granularity=granularity, decay=0.0, damping=damping)
    gradients = [size * np.ones(s) for s in SHAPES]
    gradients[0][0, 0] = 3.0
    for _ in range(2):
        update(state, gradients)
        for scale, shape in zip(whole_scales(state), SHAPES, strict=True):
            most = {"entries": 1, "variables": 1}.get(
                granularity, 1 + len(shape)
            )
            bound = (1 + 1 / damping) ** (most / 2) * (1 + 1e-5)
            assert np.all(scale > 0) and np.all(scale <= bound)
    update(state, make_gradients(0))
    assert all(np.isfinite(s).all() for s in whole_scales(state))


def test_large_gradients_are_scaled_down():
    state = make([(2, 3)], granularity="entries", decay=0.0, damping=1e-6)
    update(state, [[[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]]])
    (scale,) = whole_scales(state)
    np.testing.assert_allclose(scale[0] / scale[0, 2], [4, 2, 1], 1e-4)


def test_axes_catch_rows_and_columns():
    """A table of rare and frequent rows, as an embedding's gradient is."""
    rows, columns = np.array([1.0, 10.0, 100.0]), np.array([1.0, 3.0])
    gradient = np.outer(rows, columns)
    states = [
        make([(3, 2)], granularity=g, decay=0.0, damping=1e-6)
        for g in ("axes", "entries")
    ]
    for state in states:
        update(state, [gradient])
    axes, entries = (whole_scales(state)[0] for state in states)
    np.testing.assert_allclose(axes, entries, 1e-2)


@EVERY_GRANULARITY
def test_delay_averages_before_it_squares(granularity):
    """Three steps count as one with their mean gradient; no more in between."""
    delayed = make(granularity=granularity, decay=0.7, update_every=3)
    direct = make(granularity=granularity, decay=0.7)
    for first in (0, 3):
        steps = [make_gradients(first + i) for i in range(3)]
        before = whole_scales(delayed)
        for gradients in steps[:2]:
            update(delayed, gradients)
        for a, b in zip(before, whole_scales(delayed), strict=True):
            np.testing.assert_array_equal(a, b)
        update(delayed, steps[2])
        update(direct, [np.mean(g, 0) for g in zip(*steps, strict=True)])
        both = zip(whole_scales(delayed), whole_scales(direct), strict=True)
        for a, b in both:
            np.testing.assert_allclose(a, b, 1e-4)


@pytest.mark.parametrize("every", [1, 2])
def test_state_can_be_moved(every):
    """Scales and later updates are those of the state that was saved."""
    first, second = (make(update_every=every) for _ in range(2))
    for seed in range(3):
        update(first, make_gradients(seed))
    store = {}
    first.save(store)
    second.load({})
    second.load(store)
    for state in (first, second):
        update(state, make_gradients(3))
    both = zip(whole_scales(first), whole_scales(second), strict=True)
    for a, b in both:
        np.testing.assert_array_equal(a, b)
        assert not np.all(a == 1.0)


def test_axes_need_little_memory():
    """Vectors, not a copy of the weights."""
    sizes = {
        granularity: sum(
            int(np.prod(v.shape))
            for v in make([(100, 50)], granularity=granularity).variables
        )
        for granularity in GRANULARITIES
    }
    assert sizes == {"variables": 3, "axes": 152, "entries": 5002}


def test_settings_survive_json():
    settings = preconditioner.GradientScaling(
        granularity="entries", decay=0.5, damping=0.25, update_every=7
    )
    config = json.loads(
        json.dumps(keras.saving.serialize_keras_object(settings))
    )
    assert keras.saving.deserialize_keras_object(config) == settings


@pytest.mark.parametrize(
    "name, value",
    [
        ("granularity", "rows"),
        ("decay", 1.0),
        ("decay", float("nan")),
        ("damping", 0.0),
        ("damping", float("inf")),
        ("update_every", 0),
        ("update_every", 1.5),
    ],
)
def test_arguments_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        preconditioner.GradientScaling(**{name: value})
