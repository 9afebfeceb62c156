# SPDX-License-Identifier: Apache-2.0
"""Tests of RMIA against its definition, pair by pair, in exact fractions."""

import fractions
import time

import numpy as np
import pytest

from tf_privacy.audit import rmia
from tf_privacy.audit import roc

BOTH = [rmia.compute_rmia_scores, rmia.compute_offline_rmia_scores]


def draw(num_models=5, num_examples=40, size=30, seed=0):
    """Returns arguments of random confidences, multiples of 1/64."""
    rng = np.random.default_rng(seed)
    member = rng.permuted(
        np.arange(num_models)[:, None] < np.full(num_examples, 2), axis=0
    )

    def confidences(*shape):
        return rng.integers(1, 65, size=shape) / 64

    return {
        "target_scores": confidences(num_examples),
        "shadow_scores": confidences(num_models, num_examples),
        "is_member": member,
        "population_target_scores": confidences(size),
        "population_shadow_scores": confidences(num_models, size),
    }


def call(function, arguments, **kwargs):
    arguments = {**arguments, **kwargs}
    return function(arguments.pop("target_scores"), **arguments)


def compute_by_pairs(arguments, *, a, gamma):
    """Returns the shares by the definition; online where `a` is None."""

    def exact(values):
        return [fractions.Fraction(float(each)) for each in values]

    def mean(values):
        return sum(exact(values)) / len(values)

    def stretch(p):
        return p if a is None else ((1 + a) * p + 1 - a) / 2

    shadow, member = arguments["shadow_scores"], arguments["is_member"]
    p_x = []
    for scores, is_in in zip(shadow.T, member.T, strict=True):
        p_out = mean(scores[~is_in])
        p_x.append(
            (mean(scores[is_in]) + p_out) / 2 if a is None else stretch(p_out)
        )
    p_z = [stretch(mean(z)) for z in arguments["population_shadow_scores"].T]
    x = zip(exact(arguments["target_scores"]), p_x, strict=True)
    x = [score / p for score, p in x]
    z = zip(exact(arguments["population_target_scores"]), p_z, strict=True)
    z = [score / p for score, p in z]
    return [sum(each / other > gamma for other in z) / len(z) for each in x]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("a", [0.0, 0.25, 1.0, None])
def test_definition_pair_by_pair(a, gamma, seed):
    arguments = draw(seed=seed)
    want = compute_by_pairs(
        arguments, a=a if a is None else fractions.Fraction(a), gamma=gamma
    )
    if a is None:
        got = call(rmia.compute_rmia_scores, arguments, gamma=gamma)
    else:
        got = call(
            rmia.compute_offline_rmia_scores, arguments, a=a, gamma=gamma
        )
    np.testing.assert_array_equal(got, want)


def test_one_shadow_model_by_hand():
    # p(x) = (1.3 * 0.5 + 0.7) / 2 = 0.675, ratio 0.9 / 0.675 = 4/3; the
    # population's are 0.8 / 0.61, 1.0 / 0.675 and 0.2 / 1.0: two are below.
    got = rmia.compute_offline_rmia_scores(
        [0.9],
        shadow_scores=[[0.5]],
        is_member=[[False]],
        population_target_scores=[0.8, 1.0, 0.2],
        population_shadow_scores=[[0.4, 0.5, 1.0]],
        a=0.3,
    )
    np.testing.assert_array_equal(got, [2 / 3])


def test_equal_ratios_do_not_win():
    same = np.full(4, 0.7)
    for function in BOTH:
        got = function(
            same,
            shadow_scores=[same, same],
            is_member=[[True] * 4, [False] * 4],
            population_target_scores=same,
            population_shadow_scores=[same, same],
        )
        np.testing.assert_array_equal(got, np.zeros(4))


def test_offline_uses_no_score_of_models_trained_on_the_example():
    arguments = draw()
    function = rmia.compute_offline_rmia_scores
    changed = np.where(arguments["is_member"], 0.0, arguments["shadow_scores"])
    np.testing.assert_array_equal(
        call(function, arguments, shadow_scores=changed),
        call(function, arguments),
    )


@pytest.mark.parametrize("function", BOTH)
def test_difficulty_of_examples_is_taken_out(function):
    # Confidences spread widely between examples; members gain a little.
    rng = np.random.default_rng(3)
    hardness = rng.uniform(-4.0, 2.0, size=4000)
    member = rng.random((5, 4000)) < 0.5
    member[1], member[2] = ~member[3], ~member[4]
    noise = rng.normal(scale=0.3, size=member.shape)
    p = 1 / (1 + np.exp(-hardness - member - noise))
    z = rng.uniform(-4.0, 2.0, size=2000)
    z = 1 / (1 + np.exp(-z - rng.normal(scale=0.3, size=(5, 2000))))
    got = function(
        p[0],
        shadow_scores=p[1:],
        is_member=member[1:],
        population_target_scores=z[0],
        population_shadow_scores=z[1:],
    )
    auc = roc.compute_roc(got[member[0]], got[~member[0]]).auc
    raw = roc.compute_roc(p[0][member[0]], p[0][~member[0]]).auc
    # They differ by 0.08 or more; the deviation is below 0.013.
    assert auc > raw + 0.02


@pytest.mark.parametrize("function", BOTH)
@pytest.mark.parametrize(
    "name, value, error, message",
    [
        ("target_scores", np.full(40, 1.5), ValueError, "target_scores must b"),
        (
            "target_scores",
            np.full(40, np.nan),
            ValueError,
            "target_scores must",
        ),
        ("target_scores", np.zeros((2, 20)), ValueError, "target_scores must"),
        (
            "shadow_scores",
            np.full((5, 39), 0.5),
            ValueError,
            "shadow_scores mu",
        ),
        (
            "shadow_scores",
            np.full((5, 40), -1.0),
            ValueError,
            "shadow_scores m",
        ),
        (
            "is_member",
            np.ones((5, 40), bool),
            ValueError,
            "is_member must have",
        ),
        ("is_member", np.ones((5, 40)), TypeError, "is_member must be True or"),
        ("population_target_scores", [], ValueError, "population_target_score"),
        (
            "population_shadow_scores",
            np.full((4, 30), 0.5),
            ValueError,
            "population_shadow_scores must be of shape",
        ),
        ("gamma", 0.0, ValueError, "gamma must be a finite number > 0"),
        ("gamma", np.nan, ValueError, "gamma must be"),
    ],
)
def test_bad_arguments_are_refused(function, name, value, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call(function, draw(), **{name: value})


@pytest.mark.parametrize("a", [-0.1, 1.1, np.nan])
def test_bad_slope_is_refused(a):
    with pytest.raises(ValueError, match="^a must be"):
        call(rmia.compute_offline_rmia_scores, draw(), a=a)


def test_no_confidence_anywhere_is_refused():
    zeros = np.zeros((5, 40))
    with pytest.raises(ValueError, match="^shadow_scores must give every exam"):
        call(rmia.compute_rmia_scores, draw(), shadow_scores=zeros)
    with pytest.raises(ValueError, match="^shadow_scores must give every exam"):
        call(
            rmia.compute_offline_rmia_scores,
            draw(),
            shadow_scores=zeros,
            a=1.0,
        )


def test_hundred_thousand_examples_and_population_take_less_than_a_second():
    arguments = draw(num_models=4, num_examples=100_000, size=100_000)
    start = time.process_time()
    call(rmia.compute_offline_rmia_scores, arguments)
    assert time.process_time() - start < 1.0
