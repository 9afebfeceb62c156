# SPDX-License-Identifier: Apache-2.0
"""Tests of the loop over single examples, against book-keeping."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import models
from tests import oracles
from tf_privacy.clipping import engine
from tf_privacy.clipping import single_examples
from tf_privacy.clipping import styles

NAMES = ["dense_mlp", "embedding_masked_mean", "two_outputs_weighted"]
CASES = [c for c in models.CASES if c.name in NAMES]


def as_tensors(structure):
    return keras.tree.map_structure(
        lambda a: None if a is None else tf.constant(a), structure
    )


def loop(model, data, l2_norm_clip, *, graph):
    """Returns gradients and norms from the loop."""

    def run(x, y, weight):
        return single_examples.loop_clipped_sum(
            model,
            (x, y, weight),
            None,
            loss=engine.compiled_loss(model),
            style=styles.FlatClipping(l2_norm_clip=l2_norm_clip),
            rows_per_unit=1,
            unscale=1.0,
        )

    if graph:
        run = tf.function(run, autograph=False)
    gradients, y_pred, squared = run(*as_tensors(data))
    return [np.array(g) for g in gradients], y_pred, np.sqrt(squared)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_gives_what_the_oracle_gives(case, graph):
    model, x, y, weight = case.make(0)
    _, norms = oracles.loop_clipped_sum(model, x, y, weight, l2_norm_clip=1.0)
    l2_norm_clip = float(np.median(norms))
    expected, _ = oracles.loop_clipped_sum(
        model, x, y, weight, l2_norm_clip=l2_norm_clip
    )
    got, y_pred, got_norms = loop(
        model, (x, y, weight), l2_norm_clip, graph=graph
    )
    assert oracles.relative_error(got, expected) <= 1e-5
    np.testing.assert_allclose(got_norms, norms, 1e-5, 1e-6)
    keras.tree.assert_same_structure(y_pred, model(x))


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_hostile_row_adds_nothing_or_the_clipping_norm(value, graph):
    model, x, y, _ = CASES[0].make(0)
    rest, _, _ = loop(model, (x[1:], y[1:], None), 0.3, graph=graph)
    for spoiled in (x, y):
        spoiled = spoiled.copy()
        spoiled[0] = value
        data = (
            (spoiled, y, None)
            if spoiled.shape == x.shape
            else (
                x,
                spoiled,
                None,
            )
        )
        total, _, norms = loop(model, data, 0.3, graph=graph)
        moved = oracles.global_norm(
            [a - b for a, b in zip(total, rest, strict=True)]
        )
        assert moved <= 0.3 * (1 + 1e-5)
        assert np.all(np.isfinite(norms[1:]))
        assert np.all([np.all(np.isfinite(g)) for g in total])


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(rows, graph):
    model, x, y, _ = CASES[0].make(0)
    total, _, norms = loop(model, (x[:rows], y[:rows], None), 0.3, graph=graph)
    assert norms.shape == (rows,)
    assert oracles.global_norm(total) == pytest.approx(0.3 * rows, rel=1e-5)
