# SPDX-License-Identifier: Apache-2.0
"""Tests of one logical batch in pieces: the same sum, in bounded memory."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests import models
from tests import oracles
from tests.frameworks import framework
from tf_privacy.clipping import engine
from tf_privacy.clipping import microbatches
from tf_privacy.clipping import styles

CASES = {case.name: case for case in models.CASES}
CLIP = 0.5


def settings(**changes):
    style = styles.FlatClipping(l2_norm_clip=CLIP)
    return engine.ClipSettings(**{"style": style, **changes})


def in_pieces(model, size, *, compiled=False, observe=None, **changes):
    """Return a function from data to the sum, in pieces of `size` units."""

    def run(*parts):
        return microbatches.sum_over_microbatches(
            model,
            (*parts, None, None)[:3],
            settings(**changes),
            units_per_piece=size,
            compiled=compiled,
            observe=observe or (lambda step, piece, counted: None),
        ).gradients

    return run


def make_images(num_rows=7):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_rows, 6, 6, 2)).astype("float32")
    y = rng.integers(0, 3, num_rows).astype("int32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3, activation="tanh"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss=loss)
    return model, x, y


@pytest.mark.parametrize(
    "name, graph",
    [
        ("dense_mlp", True),
        ("dense_mlp", False),
        ("two_outputs_weighted", False),
        ("mixed_inputs", False),
    ],
)
def test_microbatches_add_up_to_the_batch(name, graph):
    model, *data = CASES[name].make(0)
    present = [part for part in data if part is not None]

    def traced(size):
        run = in_pieces(model, size)
        if graph:
            signature = framework.any_rows(present)
            return tf.function(run, autograph=False, input_signature=signature)
        return run

    runs = [traced(size) for size in ((1, 3, 7, 12) if graph else (3,))]
    for rows in (7, 1, 0):
        some = keras.tree.map_structure(
            lambda a, rows=rows: None if a is None else a[:rows], data
        )
        expected, _ = oracles.loop_clipped_sum(model, *some, l2_norm_clip=CLIP)
        some = [part for part in some if part is not None]
        for run in runs:
            assert oracles.relative_error(run(*some), expected) <= 1e-6


@pytest.mark.parametrize("rows", [0, 1, 4, 7])
def test_compiled_pieces_of_fixed_shape_pad_with_what_does_not_count(rows):
    model, x, y = make_images()
    x[3] = np.inf
    run = tf.function(
        in_pieces(model, 4, compiled=True),
        autograph=False,
        input_signature=framework.any_rows([x, y]),
    )
    expected, _ = oracles.loop_clipped_sum(
        model, x[:rows], y[:rows], l2_norm_clip=CLIP
    )
    assert oracles.relative_error(run(x[:rows], y[:rows]), expected) <= 1e-5


def test_pieces_are_consecutive_units_and_all_rows_are_observed():
    model, x, y = make_images(8)
    for compiled in (False, True):
        seen = []
        in_pieces(
            model,
            3,
            compiled=compiled,
            observe=lambda step, piece, counted, seen=seen: seen.append(
                (step, piece)
            ),
        )(x, y)
        assert [len(piece[0]) for _, piece in seen] == [3, 3, 2]
        for part, whole in ((0, x), (1, y)):
            together = np.concatenate([piece[part] for _, piece in seen])
            np.testing.assert_array_equal(together, whole)
        norms = np.concatenate([step.norms for step, _ in seen])
        _, expected = oracles.loop_clipped_sum(model, x, y, l2_norm_clip=CLIP)
        np.testing.assert_allclose(norms, expected, 1e-5)
        y_pred = np.concatenate([step.y_pred for step, _ in seen])
        np.testing.assert_allclose(y_pred, model(x), 1e-4, 1e-5)


@pytest.mark.parametrize("size", [0, -1, 2.5, "most"])
def test_a_microbatch_has_at_least_one_row(size):
    with pytest.raises((ValueError, TypeError), match="microbatch_size must"):
        microbatches.check_microbatch_size(size)


def find(model, x, expected_batch_size, **changes):
    options = {"microbatch_size": "auto", "memory_limit": None, **changes}
    return microbatches.find_units_per_piece(
        model,
        x,
        options.pop("settings", settings()),
        expected_batch_size=expected_batch_size,
        **options,
    )


def test_auto_takes_the_whole_batch_where_it_fits():
    model, x, _ = make_images()
    assert find(model, x, 64) is None
    assert find(model, x, 64, microbatch_size=None) is None


def test_auto_fits_the_memory_limit():
    model, x, _ = make_images()
    sizes = [find(model, x, 1e5, memory_limit=m) for m in (1, 1e5, 1e6, 3e6)]
    assert sizes[0] == 1
    assert sizes == sorted(set(sizes))
    # Twice the memory, about twice the rows.
    assert 2.5 <= sizes[3] / sizes[2] <= 3.5


def test_a_given_size_counts_rows_and_keeps_units_whole():
    model, x, _ = make_images()
    units = settings(examples_per_unit=4)
    for rows, expected in ((1, 1), (4, 1), (11, 2), (12, 3)):
        found = find(model, x, 9, microbatch_size=rows, settings=units)
        assert found == expected


def test_both_ways_of_a_piece_are_timed():
    model, x, y = make_images()
    times = microbatches.measure_compiled(
        model, (x, y, None), settings(), num_units=4
    )
    assert set(times) == {False, True}
    assert all(seconds > 0.0 for seconds in times.values())


@pytest.mark.parametrize("jit_compile", [True, False])
def test_what_the_user_says_of_compilation_is_done(jit_compile):
    model, x, y = make_images()
    chosen = microbatches.choose_compiled(
        model,
        (x, y, None),
        settings(),
        jit_compile=jit_compile,
        units_per_piece=4,
    )
    assert chosen is jit_compile


def test_dropout_differs_from_piece_to_piece():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((50,)), layers.Dropout(0.5), layers.Dense(1)]
    )
    model.compile("sgd", loss="mse")
    seen = []
    x, y = np.ones((8, 50), "float32"), np.ones((8, 1), "float32")
    in_pieces(
        model, 2, observe=lambda step, piece, counted: seen.append(step.y_pred)
    )(x, y)
    rows = np.concatenate(seen)
    assert len(np.unique(rows)) == len(rows)
