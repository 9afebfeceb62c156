# SPDX-License-Identifier: Apache-2.0
"""Tests of LiRA against golden numbers, scipy and the best possible attack."""

import json
import pathlib
import time

import mpmath
import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import lira
from tf_privacy.audit import roc

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "audit.json").read_text()
)["lira"]
# The golden shadow scores: four models with each example, four without.
SHADOW = np.concatenate(
    [np.transpose(GOLDEN["stat_in"]), np.transpose(GOLDEN["stat_out"])]
)
IS_MEMBER = np.repeat([[True], [False]], 4, axis=0) & np.ones((8, 3), bool)
TARGET = np.array(GOLDEN["stat_target"])
BOTH = [lira.compute_lira_scores, lira.compute_offline_lira_scores]


def call(function, target=TARGET, shadow=SHADOW, member=IS_MEMBER, **kwargs):
    kwargs.setdefault("variance", "per_example")
    return function(target, shadow_scores=shadow, is_member=member, **kwargs)


def draw(num_models, num_examples, seed, gap=1.0):
    """Returns scores of models and a target: N(mean, std), + gap if member."""
    rng = np.random.default_rng(seed)
    means = rng.normal(scale=5.0, size=num_examples)
    stds = rng.uniform(0.5, 2.0, size=num_examples)
    member = rng.random((num_models + 1, num_examples)) < 0.5
    scores = means + stds * (rng.normal(size=member.shape) + gap * member)
    return scores, member, means, stds


@pytest.mark.parametrize(
    "variance, name",
    [
        ("per_example", "llr_online_mean_per_example_var"),
        ("pooled", "llr_online_mean_fixed_var"),
    ],
)
def test_golden_online(variance, name):
    got = call(lira.compute_lira_scores, variance=variance)
    np.testing.assert_allclose(got, GOLDEN[name], atol=1e-8)


def test_golden_offline():
    got = call(lira.compute_offline_lira_scores)
    np.testing.assert_allclose(got, GOLDEN["offline_log_P[Z<=t]"], atol=1e-8)


@pytest.mark.parametrize("variance", lira.VARIANCES)
def test_unequal_numbers_of_models_against_a_loop(variance):
    scores, member, _, _ = draw(num_models=9, num_examples=30, seed=1)
    in_, out = [], []
    for n in range(30):
        in_.append(scores[1:, n][member[1:, n]])
        out.append(scores[1:, n][~member[1:, n]])
    kept = [n for n in range(30) if min(len(in_[n]), len(out[n])) > 1]
    std_in, std_out = (
        np.sqrt(np.mean([np.var(each[n]) for n in kept])) for each in (in_, out)
    )
    online, offline = [], []
    for n in kept:
        if variance == "per_example":
            std_in, std_out = np.std(in_[n]), np.std(out[n])
        phi = scores[0, n]
        online.append(
            stats.norm.logpdf(phi, np.mean(in_[n]), std_in)
            - stats.norm.logpdf(phi, np.mean(out[n]), std_out)
        )
        offline.append(stats.norm.logcdf(phi, np.mean(out[n]), std_out))
    data = (scores[0, kept], scores[1:, kept], member[1:, kept])
    for function, want in zip(BOTH, (online, offline), strict=True):
        got = call(function, *data, variance=variance)
        np.testing.assert_allclose(got, want, rtol=1e-9)


@pytest.mark.parametrize("function", BOTH)
def test_augmentations_are_averaged(function):
    views = [(TARGET, SHADOW), (TARGET + 0.1, SHADOW * 2.0)]
    each = [call(function, *view) for view in views]
    target = np.stack([view[0] for view in views])
    shadow = np.stack([view[1] for view in views], axis=1)
    got = call(function, target, shadow)
    np.testing.assert_allclose(got, np.mean(each, axis=0), rtol=1e-12)


@pytest.mark.parametrize("function", BOTH)
def test_scores_do_not_depend_on_unit_or_origin(function):
    want = call(function)
    got = call(function, 3.0 * TARGET + 7.0, 3.0 * SHADOW + 7.0)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_many_models_approach_the_best_attack_there_is():
    # Normal scores one deviation apart: no attack has an AUC above
    # Phi(1 / sqrt(2)) = 0.76025. Its deviation at 20,000 + 20,000 is 0.0024.
    scores, member, means, stds = draw(256, 40_000, seed=2)
    got = call(lira.compute_lira_scores, scores[0], scores[1:], member[1:])
    auc = roc.compute_roc(got[member[0]], got[~member[0]]).auc
    best = stats.norm.cdf(1.0 / np.sqrt(2.0))
    assert best - 0.01 - 5 * 0.0024 < auc < best + 5 * 0.0024
    raw = roc.compute_roc(scores[0][member[0]], scores[0][~member[0]]).auc
    assert auc > raw + 0.1


def test_offline_far_below_the_mean_is_exact():
    shadow = np.array([[-1.0], [1.0]])
    member = np.zeros((2, 1), dtype=bool)
    for z in (-1e3, -40.0, 8.0, 30.0):
        got = call(lira.compute_offline_lira_scores, [z], shadow, member)
        with mpmath.workdps(400):
            want = float(mpmath.log(mpmath.erfc(-z / mpmath.sqrt(2)) / 2))
        assert got[0] == pytest.approx(want, rel=1e-10)


def test_offline_uses_no_score_of_models_trained_on_the_example():
    changed = np.where(IS_MEMBER, 1e6, SHADOW)
    np.testing.assert_array_equal(
        call(lira.compute_offline_lira_scores, shadow=changed),
        call(lira.compute_offline_lira_scores),
    )


def test_pooled_works_with_one_model_on_a_side_where_per_example_cannot():
    shadow = np.array([[0.0, 1.0], [1.0, 1.5], [0.5, 3.0]])
    member = np.array([[True, False], [False, True], [True, False]])
    data = ([0.5, 1.5], shadow, member)
    with pytest.raises(
        ValueError, match="^shadow_scores must differ .* 1 mode"
    ):
        call(lira.compute_lira_scores, *data)
    # In: variances 1/16 and 0; out: 0 and 1; means 0.25, 1.5 and 1.0, 2.0.
    got = call(lira.compute_lira_scores, *data, variance="pooled")
    std_in, std_out = np.sqrt(1 / 32), np.sqrt(1 / 2)
    want = stats.norm.logpdf([0.5, 1.5], [0.25, 1.5], std_in)
    want -= stats.norm.logpdf([0.5, 1.5], [1.0, 2.0], std_out)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("function", BOTH)
def test_example_without_models_on_one_side_is_named(function):
    member = IS_MEMBER.copy()
    member[:, 1] = True
    with pytest.raises(ValueError, match="^is_member must have each .* 1, 1 s"):
        call(function, member=member)


def test_online_needs_models_trained_on_the_example():
    member = IS_MEMBER.copy()
    member[:, 2] = False
    call(lira.compute_offline_lira_scores, member=member)
    with pytest.raises(
        ValueError, match="^is_member must have each example in"
    ):
        call(lira.compute_lira_scores, member=member)


@pytest.mark.parametrize("function", BOTH)
@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"target": [1.0, np.nan, 2.0]}, ValueError, "target_scores must be f"),
        ({"target": 1.0}, ValueError, r"target_scores must be \[N\]"),
        ({"target": [1.0, 2.0]}, ValueError, "shadow_scores must be of shape"),
        ({"target": ["a", "b", "c"]}, TypeError, "target_scores must be real"),
        (
            {"shadow": np.full((8, 3), np.inf)},
            ValueError,
            "shadow_scores must be fini",
        ),
        ({"member": IS_MEMBER[:3]}, ValueError, "is_member must be of shape"),
        ({"member": IS_MEMBER * 1}, TypeError, "is_member must be True or Fal"),
        ({"variance": "fixed"}, ValueError, "variance must be one of"),
        ({"shadow": SHADOW * 0.0}, ValueError, "shadow_scores must differ"),
        (
            {"shadow": SHADOW * 0.0, "variance": "pooled"},
            ValueError,
            "shadow_scores must differ",
        ),
    ],
)
def test_bad_arguments_are_refused(function, change, error, message):
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(error, match=f"^{message}"),
    ):
        call(function, **change)


def test_hundred_thousand_examples_take_less_than_a_second():
    scores, member, _, _ = draw(16, 100_000, seed=3)
    member[1:9], member[9:] = True, False
    start = time.process_time()
    call(lira.compute_lira_scores, scores[0], scores[1:], member[1:])
    assert time.process_time() - start < 1.0
