# SPDX-License-Identifier: Apache-2.0
"""Tests of ranks estimated from secrets that the model draws."""

import math

import numpy as np
import pytest

from tests.audit import token_models
from tf_privacy.audit import importance_sampling


def estimate(model, space, thresholds, *, seed=0, num_samples=400, **kwargs):
    return importance_sampling.estimate_ranks_by_importance(
        model,
        space,
        thresholds=thresholds,
        num_samples=num_samples,
        rng=np.random.default_rng(seed),
        **kwargs,
    )


def make_case(*, repeats=2, **kwargs):
    """Returns a model, a space, and the sorted bits of all its secrets."""
    model = token_models.make_markov_model(np.random.default_rng(0), 5)
    space = token_models.secret_space.SecretSpace(
        prefix=(0,),
        choices=((0, 1, 2), (1, 3), (4, 0, 2, 3)) * repeats,
        **kwargs,
    )
    secrets = token_models.list_secrets(space)
    bits = token_models.compute_bits_slowly(model, space, secrets)
    return model, space, np.sort(bits)


@pytest.mark.parametrize("filtered", [False, True])
def test_mean_weight_is_the_rank(filtered):
    # 40,000 draws; 6 of its own standard errors (false alarm 2e-9).
    kwargs = {}
    if filtered:
        kwargs = {"accepts": lambda s: s[:, 0] <= s[:, 2], "num_accepted": 480}
    model, space, bits = make_case(**kwargs)
    assert len(bits) == space.size
    ranks = np.array([3, 30, 200, 430])
    found = estimate(model, space, bits[ranks - 1] + 1e-9, num_samples=40_000)
    got = np.exp2(found.log2_ranks)
    errors = got * found.relative_errors
    assert np.all(np.abs(got - ranks) <= 6 * errors)
    assert np.all(found.relative_errors < 0.3)


def test_limits_cover_as_often_as_they_say():
    # 2000 runs of 60 draws; a count below by 5 standard deviations is refused.
    model, space, bits = make_case(repeats=1)
    ranks = [1, 12]
    thresholds = bits[np.array(ranks) - 1] + 1e-9
    covered = np.zeros(2)
    for seed in range(2000):
        found = estimate(
            model, space, thresholds, seed=seed, num_samples=60, confidence=0.8
        )
        inside = found.log2_lower <= np.log2(ranks)
        covered += inside & (np.log2(ranks) <= found.log2_upper)
        assert np.all(found.log2_lower <= found.log2_ranks)
        assert np.all(found.log2_ranks <= found.log2_upper)
    assert np.all(covered >= 2000 * 0.8 - 5 * math.sqrt(2000 * 0.16))


def test_rank_of_a_memorised_secret_in_1e16_is_found():
    secret = np.arange(16) % 10
    model = token_models.MemorizingModel(secret, trust=0.8)
    space = token_models.make_space(10, 16)
    bits = -16 * math.log2(0.8)
    found = estimate(model, space, [bits + 1e-6], num_samples=2000)
    assert found.log2_ranks[0] == pytest.approx(0.0, abs=0.5)
    assert found.log2_lower[0] == 0.0
    assert found.log2_upper[0] < 2.0


def test_no_hit_is_not_rank_1():
    # A secret that the model draws once in 2^20: nothing is seen of it.
    model = token_models.MemorizingModel(np.zeros(6, int), trust=0.1)
    space = token_models.make_space(10, 6)
    found = estimate(model, space, [19.0], num_samples=100)
    assert found.log2_ranks[0] == pytest.approx(19.0 - math.log2(101))
    assert found.relative_errors[0] == math.inf
    assert found.log2_lower[0] == 0.0
    assert 13.0 < found.log2_upper[0] < 19.0


def test_dead_ends_weigh_nothing():
    # After token 1 nothing of the format can follow.
    model = token_models.MarkovModel(
        [[0.25, 0.25, 0.5], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    )
    space = token_models.make_space(2, 3)
    secrets = token_models.list_secrets(space)
    bits = token_models.compute_bits_slowly(model, space, secrets)
    assert np.sum(np.isfinite(bits)) == 2
    found = estimate(model, space, [10.0], num_samples=4000)
    error = 2 * found.relative_errors[0]
    assert 2.0 ** found.log2_ranks[0] == pytest.approx(2.0, abs=6 * error)


def test_many_bits_do_not_overflow():
    model = token_models.MarkovModel([[2.0**-40, 1 - 2.0**-40]] * 2)
    space = token_models.make_space(2, 50)
    found = estimate(model, space, [2000.0], num_samples=50)
    assert np.all(np.isfinite(found.log2_ranks))
    assert 0.0 <= found.log2_lower[0] <= found.log2_upper[0] <= 2000.0


def test_text_and_errors():
    model, space, bits = make_case()
    assert "relative error" in str(estimate(model, space, [bits[5]]))
    for bad in (-1.0, float("nan"), math.inf):
        with pytest.raises(ValueError, match="thresholds must be finite"):
            estimate(model, space, [1.0, bad])
    with pytest.raises(ValueError, match="num_samples must be"):
        estimate(model, space, [1.0], num_samples=1)
    with pytest.raises(ValueError, match="confidence must be"):
        estimate(model, space, [1.0], confidence=0.0)
