# SPDX-License-Identifier: Apache-2.0
"""Terms of scaled gradients against scaled gradients, one example at a time."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import oracles
from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import merged_terms
from tf_privacy.clipping import plan_check
from tf_privacy.clipping import scaling
from tf_privacy.clipping import taps
from tf_privacy.clipping import unit_losses
from tf_privacy.clipping.backend import backend

GRANULARITIES = ["number", "axes", "entries", "mixed"]
EVERY_GRANULARITY = pytest.mark.parametrize("granularity", GRANULARITIES)


def make_scale(shape, granularity, seed=0):
    """Returns a Scale and the float64 array that it stands for."""
    rng = np.random.default_rng(seed)
    one = (1,) * len(shape)
    along = [
        tuple(n if i == axis else 1 for i, n in enumerate(shape))
        for axis in range(len(shape))
    ]
    shapes = {
        "number": [one],
        "axes": [*along, one],
        "entries": [tuple(shape)],
        "mixed": [one, tuple(shape), *along],
    }[granularity]
    factors = [np.exp(rng.normal(size=s)).astype("f4") for s in shapes]
    whole = np.ones(shape)
    for factor in factors:
        whole = whole * factor
    scale = scaling.Scale(
        shape=tuple(shape), factors=tuple(tf.constant(f) for f in factors)
    )
    return scale, whole


def make_outer(batch, positions, shape, split, seed=0):
    """Returns an outer product of a variable of that shape, and its stack."""
    rng = np.random.default_rng(seed)
    width, depth = int(np.prod(shape[:split])), int(np.prod(shape[split:]))
    a = rng.normal(size=(batch, positions, width)).astype("f4")
    g = rng.normal(size=(batch, positions, depth)).astype("f4")
    term = gradient_terms.OuterProduct(tf.constant(a), tf.constant(g), shape)
    stack = np.einsum("btp,btd->bpd", a.astype("f8"), g.astype("f8"))
    return term, stack.reshape(batch, *shape)


def make_gather(batch, positions, shape, seed=0):
    rng = np.random.default_rng(seed)
    num_rows, depth = shape
    indices = rng.integers(0, num_rows, (batch, positions))
    g = rng.normal(size=(batch, positions, depth)).astype("f4")
    stack = np.zeros((batch, *shape))
    for row, ids in enumerate(indices):
        np.add.at(stack[row], ids, g[row].astype("f8"))
    term = gradient_terms.Gather(
        tf.constant(indices, tf.int32), tf.constant(g), num_rows
    )
    return term, stack


def make_terms():
    """Yields (name, term, its stack, whether it keeps its form by axes)."""
    yield "rank one", *make_outer(4, 1, (5, 3), 1), True
    yield "gram", *make_outer(4, 2, (16, 8), 1), True
    yield "instantiated product", *make_outer(3, 9, (3, 2), 1), True
    yield "heads", *make_outer(3, 2, (6, 4, 5), 1), True
    yield "heads together", *make_outer(3, 2, (4, 5, 6), 2), True
    yield "axes of length 1", *make_outer(3, 2, (1, 4, 1, 6), 2), True
    yield "bias", *make_outer(3, 1, (1, 6), 1), True
    yield "no rows", *make_outer(0, 2, (16, 8), 1), True
    yield "look-up", *make_gather(4, 6, (3, 5)), True
    yield "one look-up", *make_gather(4, 1, (7, 2)), True
    lookup, a = make_gather(3, 5, (6, 4), seed=1)
    product, b = make_outer(3, 3, (6, 4), 1, seed=2)
    yield "tied", merged_terms.LookupSum(lookup, product), a + b, True
    stack = np.random.default_rng(3).normal(size=(4, 2, 3, 4))
    whole = gradient_terms.Instantiated(tf.constant(stack, tf.float32))
    yield "instantiated", whole, stack, True
    term, stack = make_outer(3, 2, (4, 5, 6), 2)
    turned = gradient_terms.Rearranged(
        term, lambda t: tf.transpose(t, (0, 3, 1, 2))
    )
    yield "rearranged", turned, stack.transpose(0, 3, 1, 2), False
    number = gradient_terms.Instantiated(tf.constant([3.0, -2.0]))
    yield "a number", number, np.array([3.0, -2.0]), True


TERMS = {name: rest for name, *rest in make_terms()}


def assert_is(term, expected):
    """Checks norms, sums with and without rows left out, and the stack."""
    batch = len(expected)
    truth = np.sqrt(
        (expected.reshape(batch, int(np.prod(expected.shape[1:]))) ** 2).sum(
            axis=1
        )
    )
    norms = np.sqrt(term.squared_norms().numpy())
    assert np.all(norms >= truth * (1 - 1e-6))
    np.testing.assert_allclose(norms, truth, 1e-5)
    factors = np.random.default_rng(9).uniform(0, 1, batch)
    keep = np.arange(batch) % 2 == 0
    for kept, rows in [(None, np.ones(batch)), (tf.constant(keep), keep)]:
        total = np.einsum("b,b...->...", factors * rows, expected)
        got = term.weighted_sum(tf.constant(factors, tf.float32), kept)
        np.testing.assert_allclose(got, total, 1e-4, 1e-4)
    np.testing.assert_allclose(term.instantiate(), expected, 1e-4, 1e-4)


@EVERY_GRANULARITY
@pytest.mark.parametrize("name", TERMS)
def test_scaled_term_is_the_scaled_gradients(name, granularity):
    term, stack, _ = TERMS[name]
    scale, whole = make_scale(stack.shape[1:], granularity)
    assert_is(scaling.scale_term(term, scale), stack * whole)


@pytest.mark.parametrize("name", [n for n, t in TERMS.items() if t[2]])
def test_scales_along_axes_keep_the_form(name):
    """No gradient is made for its norm that was not made without scales."""
    term, stack, _ = TERMS[name]
    scale, _ = make_scale(stack.shape[1:], "axes")
    scaled = scaling.scale_term(term, scale)
    assert type(scaled) is type(term)
    assert scaled.cost() == term.cost()


@EVERY_GRANULARITY
@pytest.mark.parametrize(
    "name", [n for n, t in TERMS.items() if len(t[1]) == 4]
)
def test_joined_units(name, granularity):
    term, stack, _ = TERMS[name]
    scale, whole = make_scale(stack.shape[1:], granularity)
    sums = stack.reshape(2, 2, *stack.shape[1:]).sum(axis=1) * whole
    assert_is(scaling.scale_term(term, scale).joined(2), sums)
    assert_is(scaling.scale_term(term.joined(2), scale), sums)


def test_joined_and_merged_products_stay_scaled():
    """Shared weights: what is put together later is not left unscaled."""
    scale, whole = make_scale((16, 8), "entries")
    parts = [make_outer(4, 2, (16, 8), 1, seed=seed) for seed in (1, 2)]
    scaled = [scaling.scale_term(term, scale) for term, _ in parts]
    total = (parts[0][1] + parts[1][1]) * whole
    assert_is(scaled[0].merged(scaled[1]), total)
    assert_is(scaled[0].joined(1), parts[0][1] * whole)


@pytest.mark.parametrize("positions, pieces", [(1, 1), (3, 5)])
def test_large_products_are_made_in_pieces(positions, pieces):
    """As many entries as one unit holds at a time are in its cost."""
    shape = (1100, 1000)
    term, stack = make_outer(2, positions, shape, 1)
    scale, whole = make_scale(shape, "entries")
    scaled = scaling.scale_term(term, scale)
    most = 2 * np.prod(shape) / (pieces - 1) if pieces > 1 else 0
    assert scaled.cost().stored <= most
    truth = ((stack * whole) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(scaled.squared_norms(), truth, 1e-5)
    np.testing.assert_allclose(
        scaled.weighted_sum(tf.constant([0.5, 2.0])),
        (np.array([0.5, 2.0])[:, None, None] * stack * whole).sum(axis=0),
        1e-4,
        1e-3,
    )


def test_costs_of_entries():
    costs = {}
    for name, (term, stack, _) in TERMS.items():
        scale, _ = make_scale(stack.shape[1:], "entries")
        costs[name] = scaling.scale_term(term, scale).cost()
    assert costs["rank one"].stored == 0
    assert costs["rank one"].multiplications == 15
    assert costs["look-up"] == TERMS["look-up"][0].cost()
    # The gradients and the scaled ones.
    assert costs["instantiated product"].stored == 2 * 6
    assert costs["gram"].stored == 2 * 16 * 8
    assert costs["rearranged"].stored >= 4 * 5 * 6


def test_a_unit_cannot_hide_in_an_underflow():
    """Tiny inputs with huge cotangents, whose squares leave float32."""
    a = np.full((1, 1, 4), 1e-21, "f4")
    g = np.full((1, 1, 3), 1e19, "f4")
    term = gradient_terms.OuterProduct(tf.constant(a), tf.constant(g), (4, 3))
    for granularity in GRANULARITIES:
        scale, whole = make_scale((4, 3), granularity)
        truth = np.sqrt(np.sum((whole * 1e-2) ** 2))
        norms = scaling.scale_term(term, scale).squared_norms().numpy()
        assert np.sqrt(norms[0]) >= truth * (1 - 1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@EVERY_GRANULARITY
def test_what_is_not_finite_stays_with_its_unit(bad, granularity):
    for positions in (1, 2):
        rng = np.random.default_rng(0)
        a = rng.normal(size=(3, positions, 16)).astype("f4")
        g = rng.normal(size=(3, positions, 8)).astype("f4")
        a[1, 0, 2] = bad
        scale, whole = make_scale((16, 8), granularity)
        scaled = scaling.scale_term(
            gradient_terms.OuterProduct(
                tf.constant(a), tf.constant(g), (16, 8)
            ),
            scale,
        )
        finite = np.isfinite(scaled.squared_norms().numpy())
        np.testing.assert_array_equal(finite, [True, False, True])
        got = scaled.weighted_sum(tf.constant([1.0, 0.0, 1.0]), finite)
        stack = np.einsum("btp,btd->bpd", a[::2], g[::2]).sum(axis=0)
        np.testing.assert_allclose(got, stack * whole, 1e-4, 1e-4)


@EVERY_GRANULARITY
def test_multiply_and_divide(granularity):
    scale, whole = make_scale((3, 4), granularity)
    array = np.random.default_rng(5).normal(size=(3, 4)).astype("f4")
    np.testing.assert_allclose(scale.multiply(array), array * whole, 1e-5)
    back = scale.divide(scale.multiply(array))
    np.testing.assert_allclose(back, array, 1e-5)
    assert scale.is_number == (granularity == "number")


@pytest.mark.parametrize("shape", [(3,), (4, 1), (1, 1, 1), (3, 5)], ids=str)
def test_factors_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="^factors must have"):
        scaling.Scale(shape=(3, 4), factors=(tf.ones(shape),))


def test_terms_without_a_scale_stay():
    first, second = TERMS["gram"][0], TERMS["look-up"][0]
    scale, _ = make_scale((16, 8), "axes")
    scaled = scaling.scale_terms({1: first, 2: second}, {1: scale})
    assert scaled[2] is second
    assert scaled[1] is not first


def make_model():
    """Tied table, convolution, heads, shared layer, norm: every term."""
    tokens = keras.Input((6,), dtype="int32")
    table = keras.layers.ReversibleEmbedding(11, 8)
    x = table(tokens)
    x = keras.layers.Conv1D(8, 3, padding="same", activation="relu")(x)
    x = keras.layers.MultiHeadAttention(2, 4)(x, x)
    shared = keras.layers.Dense(8, activation="tanh")
    x = shared(shared(keras.layers.LayerNormalization()(x)))
    outputs = table(x, reverse=True)
    model = keras.Model(tokens, outputs)
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


@EVERY_GRANULARITY
def test_norms_of_a_model_are_those_of_the_slow_loop(granularity):
    keras.utils.set_random_seed(0)
    model = make_model()
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 11, (2, 4, 6)).astype("i4")
    variables = model.trainable_variables
    pairs = [
        make_scale(v.shape, granularity, seed=i)
        for i, v in enumerate(variables)
    ]
    scales = {
        id(v): scale for v, (scale, _) in zip(variables, pairs, strict=True)
    }
    plan = plan_check.confirmed_plan(model, tf.constant(x))
    recorders = []

    def forward(tap):
        recorder = taps.TapRecorder(plan, tap, variables)
        recorders.append(recorder)
        y_pred = recorder.run(model, tf.constant(x))
        losses = unit_losses.compute_unit_losses(
            lambda y, y_pred, w: model.compute_loss(None, y, y_pred, w),
            tf.constant(y),
            y_pred,
            None,
            scale=1.0,
        )
        return tf.reduce_sum(losses), None

    _, cotangents = backend.pull_back(forward)
    terms = taps.collect_terms(
        recorders[0].records, cotangents, 1.0, variables, rows_per_unit=1
    )
    scaled = scaling.scale_terms(terms, scales)
    norms = sum(scaled[id(v)].squared_norms() for v in variables)
    rows = [
        [g * whole for g, (_, whole) in zip(row, pairs, strict=True)]
        for row in oracles.loop_gradients(model, x, y)
    ]
    expected = [oracles.global_norm(row) for row in rows]
    np.testing.assert_allclose(np.sqrt(norms), expected, 2e-5)
    factors = tf.constant([0.1, 0.5, 0.0, 1.0])
    for i, variable in enumerate(variables):
        total = sum(
            f * r[i] for f, r in zip(factors.numpy(), rows, strict=True)
        )
        got = scaled[id(variable)].weighted_sum(factors)
        np.testing.assert_allclose(got, total, 1e-3, 1e-5)
