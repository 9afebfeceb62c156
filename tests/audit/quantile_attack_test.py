# SPDX-License-Identifier: Apache-2.0
"""Tests of thresholds by quantile regression."""

import itertools

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import quantile_attack


def calibrate(scores, features, seed=0, **kwargs):
    kwargs = {"false_positive_rate": 0.1, **kwargs}
    return quantile_attack.calibrate_quantile_attack(
        scores, features=features, rng=np.random.default_rng(seed), **kwargs
    )


def compute_pinball(left, level):
    return np.sum(np.where(left > 0, level * left, (level - 1) * left))


@pytest.mark.parametrize("level", [0.3, 0.75, 0.9])
def test_fit_is_the_best_of_all_lines_through_two_points(level):
    # Some line through two of the points has the least pinball loss.
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=25) * 1e3 + 5e3, rng.normal(size=25)
    (slope,), intercept = quantile_attack._fit_quantile(
        y, x[:, None], level=level
    )
    best = np.inf
    for i, j in itertools.combinations(range(25), 2):
        line = (y[j] - y[i]) / (x[j] - x[i])
        left = y - y[i] - line * (x - x[i])
        best = min(best, compute_pinball(left, level))
    got = compute_pinball(y - intercept - slope * x, level)
    assert got == pytest.approx(best, rel=1e-9)


def test_thresholds_follow_the_features():
    # score = 2 x + N(0, 1): the 90% quantile is 2 x + 1.2816.
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4000, 1))
    attack = calibrate(2 * x[:, 0] + rng.normal(size=4000), x)
    assert attack.coefficients[0] == pytest.approx(2.0, abs=0.25)
    assert attack.intercept == pytest.approx(stats.norm.ppf(0.9), abs=0.25)
    got = attack.compute_scores([5.0], features=[[1.0]])
    want = 5.0 - attack.coefficients[0] - attack.intercept
    assert got[0] == pytest.approx(want)
    assert str(attack).startswith("Quantile attack on 1 features from 4000 non")


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_false_positive_rate_holds_however_bad_the_model(noise):
    # 20 non-members and curved scores. Each run's false positive is a coin of
    # at most 0.1; without the shift it is one of 0.25.
    rng = np.random.default_rng(3)
    assert stats.binom.sf(150, 1000, 0.1) < 1e-6
    alarms = 0
    for seed in range(1000):
        x = rng.exponential(size=(21, 2))
        y = x[:, 0] ** 3 + noise * rng.standard_t(2, size=21)
        attack = calibrate(y[:20], x[:20], seed)
        alarms += attack.compute_scores(y[20:], features=x[20:])[0] > 0
    assert alarms <= 150


def test_false_positive_rate_is_not_wasted():
    rng = np.random.default_rng(4)
    x, new = rng.normal(size=(4000, 3)), rng.normal(size=(20_000, 3))
    y = x.sum(axis=1) + rng.normal(size=4000)
    attack = calibrate(y, x, false_positive_rate=0.05)
    fresh = new.sum(axis=1) + rng.normal(size=20_000)
    rate = np.mean(attack.compute_scores(fresh, features=new) > 0)
    # Deviation of the threshold's rate over 2000 held out: 0.0049.
    assert 0.05 - 5 * 0.0052 < rate < 0.05 + 5 * 0.0052


def test_one_constant_feature_gives_one_threshold():
    scores = np.arange(99.0)
    ones = np.ones((99, 1))
    above = calibrate(scores, ones).compute_scores(scores, features=ones) > 0
    assert np.all(np.diff(above.astype(int)) >= 0)
    assert 0.01 < above.mean() < 0.25


def test_constant_feature_changes_nothing():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(200, 1)), rng.normal(size=200)
    wide = np.hstack([x, np.full((200, 1), 7.0)])
    want = calibrate(y, x).compute_scores(y, features=x)
    got = calibrate(y, wide).compute_scores(y, features=wide)
    np.testing.assert_allclose(got, want, atol=1e-9)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"scores": np.full(40, np.nan)}, ValueError, "non_member_scores must"),
        (
            {"features": np.zeros((39, 1))},
            ValueError,
            "features must be of shap",
        ),
        (
            {"features": np.full((40, 1), np.inf)},
            ValueError,
            "features must be",
        ),
        ({"features": np.zeros(40)}, ValueError, "features must be of shape"),
        (
            {"false_positive_rate": 0.0},
            ValueError,
            "false_positive_rate must be",
        ),
        (
            {"false_positive_rate": 1.0},
            ValueError,
            "false_positive_rate must be",
        ),
        (
            {"false_positive_rate": 0.01},
            ValueError,
            "non_member_scores must be at least 200",
        ),
        ({"scores": ["a"] * 40}, TypeError, "non_member_scores must be real"),
    ],
)
def test_bad_arguments_are_refused(change, error, message):
    arguments = {"scores": np.arange(40.0), "features": np.ones((40, 1))}
    with pytest.raises(error, match=f"^{message}"):
        calibrate(**{**arguments, **change})


def test_features_of_another_width_are_refused():
    attack = calibrate(np.arange(40.0), np.ones((40, 1)))
    with pytest.raises(ValueError, match="^features must be of shape"):
        attack.compute_scores([1.0], features=[[1.0, 2.0]])


@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_above_a_threshold_that_all_scores_equal(seed):
    # A score is one number for each class: no example exceeds its class's.
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, 400)
    scores, features = np.array([0.1, 0.8, 0.4])[classes], np.eye(3)[classes]
    attack = quantile_attack.calibrate_quantile_attack(
        scores, features=features, false_positive_rate=0.01, rng=rng
    )
    # In batches of any size: the same threshold to the last digit.
    for size in (1, 7, 400):
        found = [
            attack.compute_scores(
                scores[start : start + size],
                features=features[start : start + size],
            )
            for start in range(0, 400, size)
        ]
        assert np.mean(np.concatenate(found) > 0.0) <= 0.01
