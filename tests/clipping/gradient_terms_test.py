# SPDX-License-Identifier: Apache-2.0
"""Tests of the gradient terms against numpy, in float64."""

import numpy as np
import pytest
import tensorflow as tf

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import merged_terms

# Batch, positions, width, depth; whether the norm comes from Gram matrices.
OUTER_SHAPES = [
    (3, 1, 4, 2, None),
    (5, 1, 1, 1, None),
    (1, 1, 7, 3, None),
    (3, 2, 16, 8, True),
    (4, 3, 20, 30, True),
    (2, 5, 64, 64, True),
    (3, 9, 3, 2, False),
    (1, 5, 2, 7, False),
    (2, 3, 1, 1, False),
    (0, 2, 16, 8, True),
    (0, 9, 3, 2, False),
    (0, 1, 3, 2, None),
    (1, 40, 2100, 2000, True),
]
# Batch, positions, rows of the table, depth.
GATHER_SHAPES = [
    (3, 1, 5, 4),
    (4, 6, 3, 2),
    (2, 9, 50, 3),
    (1, 4, 1, 1),
    (0, 4, 5, 2),
]


def make_outer(batch, num_positions, width, depth, *, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(batch, num_positions, width))
    cotangents = rng.normal(size=(batch, num_positions, depth))
    inputs, cotangents = inputs.astype("f4"), cotangents.astype("f4")
    term = gradient_terms.OuterProduct(
        tf.constant(inputs), tf.constant(cotangents), (width, depth)
    )
    expected = np.einsum(
        "btp,btd->bpd", inputs.astype("f8"), cotangents.astype("f8")
    )
    return term, expected, (inputs, cotangents)


def scatter(indices, cotangents, num_rows):
    table = np.zeros((len(indices), num_rows, cotangents.shape[-1]))
    for row, ids in enumerate(indices):
        np.add.at(table[row], ids, cotangents[row].astype("f8"))
    return table


def make_gather(batch, num_positions, num_rows, depth, *, seed=0):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, num_rows, (batch, num_positions))
    cotangents = rng.normal(size=(batch, num_positions, depth)).astype("f4")
    term = gradient_terms.Gather(
        tf.constant(indices, tf.int32), tf.constant(cotangents), num_rows
    )
    expected = scatter(indices, cotangents, num_rows)
    return term, expected, (indices, cotangents)


def squared(stack):
    return np.sum(np.square(stack), axis=tuple(range(1, stack.ndim)))


def assert_is(term, expected, tolerance=1e-5):
    """Checks norms, a weighted sum and the stack of a term."""
    norms = np.sqrt(term.squared_norms().numpy())
    truth = np.sqrt(squared(expected))
    assert np.all(norms >= truth * (1 - 1e-6))
    np.testing.assert_allclose(norms, truth, tolerance)
    factors = np.random.default_rng(9).uniform(0, 1, len(expected))
    total = np.einsum("b,b...->...", factors, expected)
    got = term.weighted_sum(tf.constant(factors, tf.float32)).numpy()
    scale = np.sqrt(np.sum(np.square(total))) + 1e-30
    assert got.shape == total.shape
    assert np.sqrt(np.sum(np.square(got - total))) <= tolerance * scale
    stack = term.instantiate().numpy()
    np.testing.assert_allclose(stack, expected, 1e-4, 1e-5)


@pytest.mark.parametrize("shape", OUTER_SHAPES, ids=str)
def test_outer_product_is_einsum(shape):
    *sizes, gram = shape
    term, expected, _ = make_outer(*sizes)
    if gram is not None:
        assert term._prefers_gram() is gram
    assert_is(term, expected)


@pytest.mark.parametrize("shape", OUTER_SHAPES, ids=str)
def test_sum_is_the_same_whether_or_not_the_stack_was_made(shape):
    *sizes, _ = shape
    factors = tf.constant(np.linspace(0, 1, sizes[0]), tf.float32)
    term, _, _ = make_outer(*sizes)
    before = term.weighted_sum(factors).numpy()
    term.instantiate()
    after = term.weighted_sum(factors).numpy()
    np.testing.assert_allclose(before, after, 1e-4, 1e-5)


@pytest.mark.parametrize("shape", GATHER_SHAPES, ids=str)
def test_gather_is_scatter_add(shape):
    term, expected, _ = make_gather(*shape)
    assert_is(term, expected)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 1, 1), ()], ids=str)
def test_instantiated_is_itself(shape):
    rng = np.random.default_rng(0)
    stack = rng.normal(size=(4, *shape)).astype("f4")
    assert_is(gradient_terms.Instantiated(tf.constant(stack)), stack)


@pytest.mark.parametrize("num_positions", [1, 2, 7, 30])
@pytest.mark.parametrize("width, depth", [(16, 8), (2, 3)])
def test_unknown_lengths(num_positions, width, depth):
    _, expected, (inputs, cotangents) = make_outer(
        4, num_positions, width, depth
    )

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None, width)),
            tf.TensorSpec((None, None, depth)),
        ]
    )
    def run(inputs, cotangents):
        term = gradient_terms.OuterProduct(inputs, cotangents, (width, depth))
        return term.squared_norms(), term.weighted_sum(tf.ones(4))

    norms, total = run(inputs, cotangents)
    np.testing.assert_allclose(norms, squared(expected), 1e-5)
    np.testing.assert_allclose(total, expected.sum(axis=0), 1e-4, 1e-5)


@pytest.mark.parametrize("num_positions", [1, 5])
def test_unknown_lengths_of_indices(num_positions):
    _, expected, (indices, cotangents) = make_gather(4, num_positions, 6, 3)

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None), tf.int32),
            tf.TensorSpec((None, None, 3)),
        ]
    )
    def run(indices, cotangents):
        term = gradient_terms.Gather(indices, cotangents, 6)
        return term.squared_norms(), term.weighted_sum(tf.ones(4))

    norms, total = run(indices.astype("i4"), cotangents)
    np.testing.assert_allclose(norms, squared(expected), 1e-5)
    np.testing.assert_allclose(total, expected.sum(axis=0), 1e-4, 1e-5)


def test_no_positions_at_all_give_zeros():
    # A batch of empty sequences.
    for sizes in [(3, 0, 16, 8), (3, 0, 2, 2)]:
        term, expected, _ = make_outer(*sizes)
        np.testing.assert_allclose(
            term.squared_norms(), squared(expected), atol=1e-30
        )
        np.testing.assert_array_equal(
            term.weighted_sum(tf.ones(3)), expected.sum(axis=0)
        )


def merges():
    """Yields (name, terms, stack of their sum)."""
    for seed, (first, second) in enumerate([((1, 3), (4, 2)), ((16, 8),) * 2]):
        width, depth = first if seed else (16, 8)
        a, stack_a, _ = make_outer(3, 1, width, depth, seed=1)
        b, stack_b, _ = make_outer(3, 4, width, depth, seed=2)
        yield f"outer {first} {second}", [a, b], stack_a + stack_b
    a, stack_a, _ = make_gather(3, 1, 6, 4, seed=1)
    b, stack_b, _ = make_gather(3, 5, 6, 4, seed=2)
    yield "gather", [a, b, a], 2 * stack_a + stack_b
    c, stack_c, _ = make_outer(3, 5, 6, 4, seed=3)
    yield "tied", [b, c], stack_b + stack_c
    yield "tied the other way", [c, b], stack_b + stack_c
    d = gradient_terms.Instantiated(tf.constant(stack_a, tf.float32))
    yield "generic too", [c, d, b], stack_a + stack_b + stack_c
    yield "generic twice", [d, d], 2 * stack_a
    yield "alone", [c], stack_c


@pytest.mark.parametrize(
    "terms, expected", [pytest.param(*m[1:], id=m[0]) for m in merges()]
)
def test_merged_terms_are_the_sum(terms, expected):
    assert_is(merged_terms.merge_terms(terms), expected)


def test_opposite_uses_cancel_before_the_norm():
    term, _, (inputs, cotangents) = make_outer(3, 1, 16, 8)
    opposite = gradient_terms.OuterProduct(
        tf.constant(inputs), tf.constant(-cotangents), (16, 8)
    )
    merged = merged_terms.merge_terms([term, opposite])
    ratio = merged.squared_norms() / term.squared_norms()
    assert np.all(ratio.numpy() < 1e-4)


POISONED = [
    *(("outer", s[:4]) for s in OUTER_SHAPES[:9] if s[0] > 1),
    *(("gather", s) for s in GATHER_SHAPES[:3]),
    ("instantiated", (3, 4)),
]


def poisoned(kind, shape, value):
    """Returns a term with one number spoiled in row 1, and the clean stack."""
    rng = np.random.default_rng(0)
    if kind == "instantiated":
        stack = rng.normal(size=shape).astype("f4")
        clean = stack.copy()
        stack[1, 2] = value
        yield gradient_terms.Instantiated(tf.constant(stack)), clean
        return
    if kind == "gather":
        _, clean, (indices, cotangents) = make_gather(*shape)
        cotangents[1, -1, 0] = value
        yield (
            gradient_terms.Gather(
                tf.constant(indices, tf.int32),
                tf.constant(cotangents),
                shape[2],
            ),
            clean,
        )
        return
    for side in (0, 1):
        _, clean, arrays = make_outer(*shape)
        arrays[side][1, -1, 0] = value
        yield (
            gradient_terms.OuterProduct(
                *map(tf.constant, arrays), clean.shape[1:]
            ),
            clean,
        )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("kind, shape", POISONED, ids=str)
def test_a_row_that_overflows_is_seen_and_left_out(kind, shape, value):
    for term, clean in poisoned(kind, shape, value):
        finite = np.isfinite(term.squared_norms().numpy())
        keep = np.arange(len(clean)) != 1
        np.testing.assert_array_equal(finite, keep)
        factors = np.linspace(0.5, 1.0, len(clean)) * keep
        total = term.weighted_sum(
            tf.constant(factors, tf.float32), tf.constant(finite)
        )
        expected = np.einsum("b,b...->...", factors, clean)
        np.testing.assert_allclose(total, expected, 1e-4, 1e-5)


@pytest.mark.parametrize(
    "shape", [(2, 1, 16, 8), (2, 2, 16, 8), (2, 5, 64, 64), (2, 4, 3, 2)]
)
@pytest.mark.parametrize(
    "scales",
    [
        (1e-25, 1e19),
        (1e-20, 1e18),
        (1.05e-19, 1e18),
        (1e-19, 1e15),
        (1e-30, 1e10),
        (1e-12, 1e12),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_underflow_never_hides_a_norm(shape, scales, swapped):
    # A square below 1e-38 is flushed to zero although its product with the
    # other factor's square is not small.
    first, second = scales[::-1] if swapped else scales
    _, _, (inputs, cotangents) = make_outer(*shape)
    inputs = (np.abs(inputs) * first).astype("f4")
    cotangents = (np.abs(cotangents) * second).astype("f4")
    truth = squared(
        np.einsum("btp,btd->bpd", inputs.astype("f8"), cotangents.astype("f8"))
    )
    term = gradient_terms.OuterProduct(
        tf.constant(inputs), tf.constant(cotangents), shape[2:]
    )
    norms = np.sqrt(term.squared_norms().numpy().astype("f8"))
    # Not finite is safe: such a row is left out.
    seen = np.where(np.isfinite(norms), norms, np.inf)
    assert np.min(seen / np.sqrt(truth)) >= 1 - 1e-6


@pytest.mark.parametrize(
    "num_positions, width, depth", [(2, 16, 8), (3, 24, 24), (5, 4, 3)]
)
def test_positions_of_any_size_hide_no_norm(num_positions, width, depth):
    # Tiny inputs under a huge cotangent beside inputs that are not tiny.
    rng = np.random.default_rng(0)
    worst = np.inf
    for _ in range(20):
        shape = (64, num_positions, 1)
        inputs = 10.0 ** rng.uniform(-25, 5, size=shape)
        cotangents = 10.0 ** rng.uniform(-5, 18, size=shape)
        inputs = inputs * rng.normal(size=(64, num_positions, width))
        cotangents = cotangents * rng.normal(size=(64, num_positions, depth))
        inputs, cotangents = inputs.astype("f4"), cotangents.astype("f4")
        truth = squared(
            np.einsum(
                "btp,btd->bpd", inputs.astype("f8"), cotangents.astype("f8")
            )
        )
        term = gradient_terms.OuterProduct(
            tf.constant(inputs), tf.constant(cotangents), (width, depth)
        )
        got = term.squared_norms().numpy().astype("f8")
        got = np.where(np.isfinite(got), got, np.inf)
        worst = min(worst, np.sqrt(np.min(got / truth)))
    assert worst >= 1 - 1e-5


def opposed(rng, batch, num_positions, depth, constant):
    """Returns cotangents of size 1e4 whose sum is next to nothing, or less."""
    shape = (batch, num_positions, depth)
    values = np.ones(shape) if constant else rng.normal(size=shape)
    values = values * rng.uniform(1, 2, size=(batch, 1, 1))
    values[:, -1] = -values[:, :-1].sum(axis=1)
    rest = 10.0 ** rng.uniform(-7, 0.5, size=(batch, 1))
    values[:, -1] *= 1 + rest
    return (1e4 * values).astype("f4")


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    "num_positions, width, depth",
    [
        (2, 8, 8),
        (2, 64, 64),
        (2, 512, 512),
        (3, 64, 1024),
        (4, 64, 64),
        (2, 64, 4096),
    ],
)
def test_cancellation_never_hides_a_norm(num_positions, width, depth, constant):
    # Equal inputs at all positions under nearly opposite cotangents: the Gram
    # sum is of numbers far larger than itself.
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(10):
        inputs = np.abs(rng.normal(size=(64, 1, width))).astype("f4")
        inputs = inputs.repeat(num_positions, axis=1)
        cotangents = opposed(rng, 64, num_positions, depth, constant)
        # All inputs are equal, so the gradient is one outer product.
        total = cotangents.astype("f8").sum(axis=1)
        truth = squared(inputs[:, 0].astype("f8")) * squared(total)
        term = gradient_terms.OuterProduct(
            tf.constant(inputs), tf.constant(cotangents), (width, depth)
        )
        assert term._prefers_gram()
        got = term.squared_norms().numpy().astype("f8")
        worst = max(worst, np.sqrt(np.max(truth / got)))
    assert worst <= 1 + 1e-6


@pytest.mark.parametrize("depth", [1, 8, 64, 512])
def test_cancellation_never_hides_the_norm_of_a_table(depth):
    rng = np.random.default_rng(0)
    worst = 0.0
    for constant in (False, True):
        for num_positions in (2, 3, 6):
            cotangents = opposed(rng, 256, num_positions, depth, constant)
            total = cotangents.astype("f8").sum(axis=1)
            term = gradient_terms.Gather(
                tf.ones((256, num_positions), tf.int32),
                tf.constant(cotangents),
                3,
            )
            got = term.squared_norms().numpy().astype("f8")
            worst = max(worst, np.sqrt(np.max(squared(total) / got)))
    assert worst <= 1 + 1e-6


def ratio_to_truth(term, stack_norms):
    got = np.sqrt(term.squared_norms().numpy().astype("f8"))
    return np.min(got / stack_norms)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("entries", [1000, 10**5, 10**6 + 3, 2**22])
def test_round_off_of_many_entries_hides_no_norm(entries, constant):
    # A running sum in float32 loses what is small beside it.
    rng = np.random.default_rng(0)
    rows = (
        np.full((2, entries), 0.1)
        if constant
        else rng.normal(size=(2, entries))
    )
    rows = rows.astype("f4")
    norms = np.linalg.norm(rows.astype("f8"), axis=1)
    term = gradient_terms.Instantiated(tf.constant(rows))
    assert ratio_to_truth(term, norms) >= 1 - 1e-5
    one = gradient_terms.OuterProduct(
        tf.constant(rows[:, None]), tf.ones((2, 1, 1)), (entries, 1)
    )
    assert ratio_to_truth(one, norms) >= 1 - 1e-5


@pytest.mark.parametrize("num_positions", [100, 700])
def test_round_off_of_many_positions_hides_no_norm(num_positions):
    rng = np.random.default_rng(0)
    steps = 0.3 + 0.1 * rng.normal(size=(2, num_positions, 3))
    steps = steps.astype("f4")
    norms = np.linalg.norm(steps.astype("f8").sum(axis=1), axis=1)
    table = gradient_terms.Gather(
        tf.zeros((2, num_positions), tf.int32), tf.constant(steps), 4
    )
    assert ratio_to_truth(table, norms) >= 1 - 1e-5
    inputs = np.full((2, num_positions, 2100), 0.1, "f4")
    depth = rng.normal(size=(2000,)) * 0.1
    cotangents = (steps[..., :1] * depth).astype("f4")
    outer = gradient_terms.OuterProduct(
        tf.constant(inputs), tf.constant(cotangents), (2100, 2000)
    )
    assert outer._prefers_gram()
    total = cotangents.astype("f8").sum(axis=1)
    norms = np.linalg.norm(total, axis=1) * np.sqrt(2100.0)
    norms = norms * float(np.float32(0.1))
    assert ratio_to_truth(outer, norms) >= 1 - 1e-5


def test_norms_of_ordinary_rows_are_not_raised():
    # The allowances for underflow and round-off cost no accuracy.
    for shape in [(20, 1, 30, 20), (20, 4, 30, 20), (20, 30, 4, 5)]:
        term, expected, _ = make_outer(*shape)
        norms = np.sqrt(term.squared_norms().numpy())
        np.testing.assert_allclose(norms, np.sqrt(squared(expected)), 1e-5)
