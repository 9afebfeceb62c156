# SPDX-License-Identifier: Apache-2.0
"""Selected rows: counted within their bound, noised, the others untouched.

Random bounds have a false-alarm probability of at most 1e-6 and detect a
standard deviation that is wrong by 2%.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_privacy
from tests import normality
from tf_privacy import accounting
from tf_privacy.clipping import engine
from tf_privacy.clipping import microbatches
from tf_privacy.clipping import moving_clips
from tf_privacy.clipping import row_selection as selection_module
from tf_privacy.clipping import styles

RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, 30, (16, 5)).astype("int32")
USERS = RNG.integers(0, 7, (16, 1)).astype("int32")
Y = RNG.normal(size=(16, 1)).astype("float32")
CLIP = moving_clips.CurrentClip.of(
    styles.FlatClipping(l2_norm_clip=1.0), 1.0, selects_rows=True
)
HIGH = tf_privacy.RowSelection(threshold=1e6, budget_fraction=0.1)
SELECTION = tf_privacy.RowSelection(threshold=1.0, budget_fraction=0.1)


def make_model(*, num_words=30, num_users=7, width=4):
    words = keras.Input((5,), dtype="int32")
    users = keras.Input((1,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()
    both = keras.layers.Concatenate()(
        [
            pooled(keras.layers.Embedding(num_words, width)(words)),
            pooled(keras.layers.Embedding(num_users, 3)(users)),
        ]
    )
    model = keras.Model([words, users], keras.layers.Dense(1)(both))
    model.compile("sgd", "mse")
    return model


def count_by_hand(words, users, *, num_words=30, num_users=7):
    counts = np.zeros(num_words), np.zeros(num_users)
    for own_words, own_users in zip(words, users, strict=True):
        rows = set(own_words), set(own_users)
        size = sum(map(len, rows))
        for count, own in zip(counts, rows, strict=True):
            count[list(own)] += 1.0 / np.sqrt(size)
    return counts


def clip(model, rows, **options):
    step = tf_privacy.clipped_gradients(
        model,
        [WORDS[rows], USERS[rows]],
        Y[rows],
        l2_norm_clip=CLIP,
        **options,
    )
    return step.clipped_sum


def counts_of(clipped):
    return [np.array(c) for c in clipped.row_counts if c is not None]


@pytest.mark.parametrize("way", ["whole", "pieces", "compiled"])
def test_rows_are_counted_once_for_each_unit(way):
    model = make_model()
    if way == "whole":
        clipped = clip(model, slice(None))
    else:
        clipped = microbatches.sum_over_microbatches(
            model,
            ([WORDS, USERS], Y, None),
            engine.ClipSettings(style=CLIP),
            units_per_piece=5,
            compiled=way == "compiled",
            observe=lambda step, piece, counted: None,
        )
    expected = count_by_hand(WORDS, USERS)
    for count, by_hand in zip(counts_of(clipped), expected, strict=True):
        np.testing.assert_allclose(count, by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["whole", "pieces"])
def test_tables_of_nested_models_keep_their_counts(way):
    def embed(inputs, num_rows):
        pooled = keras.layers.GlobalAveragePooling1D()
        return pooled(keras.layers.Embedding(num_rows, 3)(inputs))

    inner_inputs = [keras.Input((2,), dtype="int32") for _ in range(2)]
    inner_outputs = [embed(inner_inputs[0], 20), embed(inner_inputs[1], 50)]
    inner = keras.Model(inner_inputs, inner_outputs)
    inputs = [keras.Input((2,), dtype="int32") for _ in range(3)]
    outputs = [*inner(inputs[:2]), embed(inputs[2], 9)]
    joined = keras.layers.Concatenate()(outputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(joined))
    model.compile("sgd", "mse")
    # Each input looks up one row, which says which table it belongs to.
    data = [np.full((6, 2), row, "int32") for row in (19, 49, 8)]
    settings = engine.ClipSettings(style=CLIP)
    if way == "whole":
        prepared = engine.prepare_data((data, Y[:6], None), settings)
        clipped = engine.clip_prepared(model, prepared, settings).clipped_sum
    else:
        clipped = microbatches.sum_over_microbatches(
            model,
            (data, Y[:6], None),
            settings,
            units_per_piece=4,
            compiled=False,
            observe=lambda step, piece, counted: None,
        )
    for variable, counts in zip(
        clipped.variables, clipped.row_counts, strict=True
    ):
        if counts is None:
            continue
        assert len(counts) == variable.shape[0]
        assert np.flatnonzero(np.array(counts)).tolist() == [len(counts) - 1]
    assert len(counts_of(clipped)) == 3


def test_units_of_several_examples_count_once():
    clipped = clip(make_model(), slice(None), examples_per_unit=4)
    expected = count_by_hand(WORDS.reshape(4, -1), USERS.reshape(4, -1))
    for count, by_hand in zip(counts_of(clipped), expected, strict=True):
        np.testing.assert_allclose(count, by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [None, np.nan, np.inf])
def test_one_unit_moves_all_counts_by_at_most_one(bad):
    model = make_model()
    y = Y.copy()
    if bad is not None:
        y[3] = bad
    data = [WORDS, USERS]

    def counts(keep):
        clipped = tf_privacy.clipped_gradients(
            model,
            [d[keep] for d in data],
            y[keep],
            l2_norm_clip=CLIP,
        ).clipped_sum
        return np.concatenate(counts_of(clipped))

    everyone = np.arange(16)
    moved = counts(everyone) - counts(np.delete(everyone, 3))
    length = np.linalg.norm(moved)
    assert length == pytest.approx(0.0 if bad is not None else 1.0, abs=1e-5)


def make_optimizer(inner=None, **changes):
    settings = {
        "l2_norm_clip": 0.5,
        "noise_multiplier": 2.0,
        "expected_batch_size": 16.0,
        "row_selection": SELECTION,
        **changes,
    }
    return tf_privacy.DPOptimizer(
        inner or keras.optimizers.SGD(1.0), **settings
    )


def make_sum(variables, row_counts):
    return tf_privacy.ClippedSum(
        gradients=tuple(tf.zeros(v.shape) for v in variables),
        variables=tuple(variables),
        l2_sensitivity=0.5,
        row_counts=row_counts,
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("fraction", [0.1, 0.9])
def test_selected_rows_and_dense_weights_are_noised(compiled, fraction):
    optimizer = make_optimizer(
        row_selection=tf_privacy.RowSelection(
            threshold=1e6, budget_fraction=fraction
        )
    )
    table = keras.Variable(np.zeros((1000, 300)))
    dense = keras.Variable(np.zeros((400, 500)))
    counts = np.where(np.arange(1000) < 700, 2e6, 0.0).astype("float32")
    clipped = make_sum([table, dense], (tf.constant(counts), None))

    def step():
        optimizer.apply(clipped)

    step()
    if compiled:
        step = tf.function(step)
        table.assign(np.zeros((1000, 300)))
        dense.assign(np.zeros((400, 500)))
        step()
    moved = np.array(table.value)
    assert not moved[700:].any()
    # The part that the counts leave, and not the other way round.
    stddev = 2.0 / np.sqrt(1.0 - fraction) * 0.5 / 16.0
    normality.check_stddev(moved[:700], stddev)
    normality.check_stddev(np.array(dense.value), stddev)


@pytest.mark.parametrize("fraction", [0.1, 0.9])
def test_counts_are_noised_by_their_part(fraction):
    """A threshold of one standard deviation lets 15.87% of the rows pass."""
    stddev = 2.0 / np.sqrt(fraction)
    optimizer = make_optimizer(
        row_selection=tf_privacy.RowSelection(
            threshold=stddev, budget_fraction=fraction
        )
    )
    table = keras.Variable(np.zeros((200_000, 1)))
    optimizer.apply(make_sum([table], (tf.zeros(200_000),)))
    passed = np.mean(np.array(table.value) != 0.0)
    # A stddev off by 2% moves the rate by 0.0048; 5 deviations are 0.0041.
    assert abs(passed - 0.158655) < 0.0041


def test_both_parts_together_have_the_stated_noise():
    optimizer = make_optimizer()
    own = optimizer._noise.compute_gradient_multiplier(0, 16.0)
    selection = 2.0 / np.sqrt(0.1)
    together = (own**-2 + selection**-2) ** -0.5
    assert 2.0 <= together < 2.0 * (1 + 1e-5)


@pytest.mark.parametrize(
    "inner",
    [keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.Adagrad],
)
def test_fit_with_any_optimizer(inner, tmp_path):
    model = tf_privacy.privatize(make_model())
    model.compile(
        tf_privacy.DPOptimizer(
            inner(0.1),
            l2_norm_clip=0.5,
            noise_multiplier=1.0,
            microbatch_size=3,
            row_selection=HIGH,
        ),
        "mse",
    )
    before = [np.array(w) for w in model.get_weights()]
    model.fit([WORDS, USERS], Y, batch_size=8, epochs=1, verbose=0)
    after = model.get_weights()
    assert all(np.isfinite(w).all() for w in after)
    # No row of a table passes the threshold; the dense weights always move.
    moved = [(a != b).any() for a, b in zip(before, after, strict=True)]
    assert moved == [False, False, True, True]
    statement = model.privacy_statement(1e-5)
    expected = accounting.compute_epsilon(
        noise_multiplier=1.0,
        sampling_probability=0.5,
        num_steps=2,
        delta=1e-5,
    )
    assert statement.epsilon == expected
    assert "0.1 of the budget" in " ".join(str(statement).split())
    model.save(tmp_path / "model.keras")
    restored = tf_privacy.load_model(tmp_path / "model.keras")
    assert restored.optimizer.row_selection == HIGH


def test_what_cannot_be_selected_is_refused():
    dense = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="^model must have a trainable"):
        tf_privacy.clipped_gradients(
            dense,
            np.zeros((2, 2), "f"),
            Y[:2],
            l2_norm_clip=CLIP,
            loss=lambda y, p, w: keras.ops.mean((y - p) ** 2, -1),
        )
    table = keras.Variable(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="^grads must hold the counts of rows"):
        make_optimizer().apply(make_sum([table], ()))
    with pytest.raises(ValueError, match="^grads must hold the counts of rows"):
        make_optimizer(row_selection=None).apply(
            make_sum([table], (tf.zeros(4),))
        )
    tree = tf_privacy.TreeNoise(
        noise_multiplier=1.0, num_steps=4, min_separation=1
    )
    with pytest.raises(ValueError, match="^row_selection must be None"):
        make_optimizer(noise_multiplier=tree)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"threshold": np.nan}, "threshold must be"),
        ({"budget_fraction": 0.0}, "budget_fraction must be"),
        ({"budget_fraction": 1.0}, "budget_fraction must be"),
    ],
)
def test_a_selection_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        tf_privacy.RowSelection(
            **{"threshold": 1.0, "budget_fraction": 0.1, **arguments}
        )


def test_first_occurrences_are_marked():
    indices = tf.constant([[3, 1, 3, 3, 1], [0, 0, 0, 0, 0]])
    marked = selection_module._mark_first(indices)
    assert np.array(marked).sum(axis=1).tolist() == [2.0, 1.0]
    for row, marks in zip(np.array(indices), np.array(marked), strict=True):
        assert sorted(row[marks > 0]) == sorted(set(row))
