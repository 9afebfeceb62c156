# SPDX-License-Identifier: Apache-2.0
"""Tests of exact ranks by a walk of the prefix tree."""

import time

import numpy as np
import pytest

from tests.audit import token_models
from tf_privacy.audit import prefix_tree

EXACT = {"max_evaluations": 10**6, "tie_tolerance": 0.0}


def compute_ranks(model, space, secrets, **kwargs):
    return prefix_tree.compute_exact_ranks(
        model, space, secrets=secrets, **{**EXACT, **kwargs}
    )


def count_ranks(model, space, secrets):
    """Returns ranks by brute force, in sums of the same order."""
    everything = token_models.compute_bits_slowly(
        model, space, token_models.list_secrets(space)
    )
    bits = token_models.compute_bits_slowly(model, space, secrets)
    return np.sum(everything <= bits[:, np.newaxis], axis=1).tolist()


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rank_is_that_of_brute_force(seed, batch_size):
    rng = np.random.default_rng(seed)
    model = token_models.make_markov_model(rng, 4)
    space = token_models.make_space(4, 5)
    secrets = space.sample(15, rng=rng)
    results = compute_ranks(model, space, secrets, batch_size=batch_size)
    wanted = count_ranks(model, space, secrets)
    assert [r.rank for r in results] == wanted
    assert [r.rank_lower for r in results] == wanted
    assert [r.rank_upper for r in results] == wanted


def test_ties_all_count():
    # Probabilities are powers of 2, so that bits and ties are exact.
    model = token_models.MarkovModel([[0.5, 0.25, 0.25]] * 3)
    space = token_models.make_space(3, 4)
    secrets = token_models.list_secrets(space)
    results = compute_ranks(model, space, secrets)
    wanted = count_ranks(model, space, secrets)
    assert [r.rank for r in results] == wanted
    # 1 of 4 bits, 8 of 5, 24 of 6, 32 of 7, 16 of 8.
    assert sorted(set(wanted)) == [1, 9, 33, 65, 81]


def test_uniform_model_gives_everything_the_last_rank():
    model = token_models.MarkovModel(np.full((3, 3), 1 / 3))
    space = token_models.make_space(3, 4)
    (result,) = compute_ranks(model, space, [[0, 1, 2, 0]], tie_tolerance=1e-4)
    assert result.rank == 81


def test_filter_is_asked_at_the_leaves():
    space = token_models.make_space(
        4, 5, accepts=lambda s: s.sum(axis=1) % 3 == 0, num_accepted=342
    )
    secrets = token_models.list_secrets(space)
    assert len(secrets) == space.size
    model = token_models.make_markov_model(np.random.default_rng(3), 4)
    results = compute_ranks(model, space, secrets)
    assert [r.rank for r in results] == count_ranks(model, space, secrets)


def test_fixed_text_and_narrow_positions_count_once():
    space = token_models.secret_space.SecretSpace(
        prefix=(1, 0), choices=((2, 0), (3,), (1, 2, 3, 0), (3,))
    )
    model = token_models.make_markov_model(np.random.default_rng(4), 4)
    secrets = token_models.list_secrets(space)
    results = compute_ranks(model, space, secrets)
    assert sorted(r.rank for r in results) == list(range(1, 9))
    assert [r.rank for r in results] == count_ranks(model, space, secrets)


def test_limits_hold_for_every_budget():
    rng = np.random.default_rng(5)
    for seed in range(4):
        model = token_models.make_markov_model(rng, 4, concentration=0.3)
        space = token_models.make_space(4, 5)
        secrets = space.sample(8, rng=np.random.default_rng(seed))
        wanted = count_ranks(model, space, secrets)
        widths = []
        for budget in (0, 1, 2, 3, 5, 10, 30, 100, 200, 341):
            for batch_size in (1, 4):
                results = compute_ranks(
                    model,
                    space,
                    secrets,
                    max_evaluations=budget,
                    batch_size=batch_size,
                )
                for result, rank in zip(results, wanted, strict=True):
                    assert 1 <= result.rank_lower <= rank <= result.rank_upper
                    assert result.rank in (None, rank)
                    assert result.rank_upper <= space.size
            widths.append(sum(r.rank_upper - r.rank_lower for r in results))
        # 341 is the whole tree; a larger budget tells no less, but for luck.
        assert widths[-1] == 0
        assert widths[0] > widths[4] > widths[7]


def test_limits_without_any_walk_are_the_floor():
    model = token_models.make_markov_model(np.random.default_rng(6), 4)
    space = token_models.make_space(4, 5)
    secrets = space.sample(30, rng=np.random.default_rng(0))
    for result in compute_ranks(model, space, secrets, max_evaluations=0):
        assert result.rank_lower == 1
        most = min(2.0**result.bits, space.size)
        assert most - 1 <= result.rank_upper <= most * (1 + 1e-8)


def test_unlikely_secret_costs_a_likely_one_nothing():
    secret = np.arange(16) % 10
    model = token_models.MemorizingModel(secret, trust=0.8)
    space = token_models.make_space(10, 16)
    other = (secret + 5) % 10
    likely, unlikely = prefix_tree.compute_exact_ranks(
        model,
        space,
        secrets=np.array([secret, other]),
        max_evaluations=2000,
    )
    assert likely.rank == 1
    assert unlikely.rank is None
    assert likely.evaluations < unlikely.evaluations
    assert likely.evaluations < 200


def test_work_is_shared_between_secrets():
    model = token_models.make_markov_model(np.random.default_rng(7), 4)
    space = token_models.make_space(4, 6)
    secrets = space.sample(40, rng=np.random.default_rng(0))
    results = compute_ranks(model, space, secrets)
    # The walk expands no prefix twice: 1 + 4 + ... + 4^5 at most.
    assert max(r.evaluations for r in results) - secrets.size <= 1365
    alone = [compute_ranks(model, space, [s])[0].rank for s in secrets]
    assert [r.rank for r in results] == alone


def test_space_of_1e16_is_counted_in_a_second():
    # Next to the secret come the nine that differ in the last digit alone:
    # after any earlier mistake the digits left are uniform, and cost more.
    secret = np.array([4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3])
    model = token_models.MemorizingModel(secret, trust=0.7)
    space = token_models.make_space(10, 16)
    near = secret.copy()
    near[-1] = 4
    start = time.process_time()
    first, second = compute_ranks(
        model, space, np.array([secret, near]), tie_tolerance=1e-6
    )
    assert time.process_time() - start < 5.0
    assert (first.rank, second.rank) == (1, 10)


def test_round_off_between_batches_is_a_tie():
    class Noisy(token_models.MarkovModel):
        def compute_next_bits(self, tokens):
            bits = super().compute_next_bits(tokens)
            return bits * (1 + 1e-7 * len(tokens) % 7e-7)

    model = Noisy([[0.5, 0.25, 0.25]] * 3)
    space = token_models.make_space(3, 4)
    secrets = token_models.list_secrets(space)
    results = compute_ranks(model, space, secrets, tie_tolerance=1e-4)
    exact = token_models.MarkovModel(model.probabilities)
    assert [r.rank for r in results] == count_ranks(exact, space, secrets)


def test_secret_of_probability_0_has_the_last_rank():
    model = token_models.MarkovModel([[0.5, 0.5, 0.0]] * 3)
    space = token_models.make_space(3, 2)
    never, best = compute_ranks(model, space, [[2, 0], [0, 0]])
    assert (never.rank, best.rank) == (9, 4)
    assert never.bits == np.inf


def test_limits_hold_where_memory_ends(monkeypatch):
    monkeypatch.setattr(prefix_tree, "_MAX_WAITING_TOKENS", 20)
    rng = np.random.default_rng(8)
    model = token_models.make_markov_model(rng, 4, concentration=0.3)
    space = token_models.make_space(4, 5)
    secrets = space.sample(20, rng=rng)
    results = compute_ranks(model, space, secrets)
    wanted = count_ranks(model, space, secrets)
    assert any(r.rank is None for r in results)
    for result, rank in zip(results, wanted, strict=True):
        assert result.rank_lower <= rank <= result.rank_upper
        assert result.rank in (None, rank)


def test_budget_and_batches_are_kept():
    model = token_models.make_markov_model(np.random.default_rng(9), 4)
    space = token_models.make_space(4, 6)
    told = []
    secrets = space.sample(1, rng=np.random.default_rng(0))
    (result,) = compute_ranks(
        model,
        space,
        secrets,
        max_evaluations=50,
        batch_size=16,
        progress=lambda done, total: told.append((done, total)),
    )
    # One more looks at the probabilities after the prefix.
    assert model.evaluations == result.evaluations + 1 == 57
    assert max(rows for rows, _ in model.batches) <= 16
    assert told[-2:] == [(50, 50), (50, 50)]


def test_wrong_number_of_accepted_is_found_out():
    space = token_models.make_space(
        3, 3, accepts=lambda s: s[:, 0] > 0, num_accepted=5
    )
    model = token_models.MarkovModel(np.full((3, 3), 1 / 3))
    with pytest.raises(ValueError, match="num_accepted must be the number"):
        compute_ranks(model, space, [[1, 1, 1]], tie_tolerance=1e-4)


def test_bad_arguments_are_refused():
    model = token_models.make_markov_model(np.random.default_rng(0), 3)
    space = token_models.make_space(3, 3)
    for kwargs, name in [
        ({"max_evaluations": -1}, "max_evaluations"),
        ({"batch_size": 0}, "batch_size"),
        ({"tie_tolerance": -1e-9}, "tie_tolerance"),
        ({"tie_tolerance": float("nan")}, "tie_tolerance"),
    ]:
        with pytest.raises(ValueError, match=f"{name} must be"):
            compute_ranks(model, space, [[0, 0, 0]], **kwargs)
    with pytest.raises(ValueError, match="secrets must be in the space"):
        compute_ranks(model, space, [[0, 0, 3]])
    broken = token_models.MarkovModel(np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="model must return -log2"):
        compute_ranks(broken, space, [[0, 0, 0]])


def test_text_says_what_is_known():
    fields = {"bits": 17.46, "rank_lower": 26, "evaluations": 31812}
    exact = prefix_tree.RankResult(rank=26, rank_upper=26, **fields)
    assert str(exact) == "rank 26, 17.46 bits, 31,812 evaluations"
    limits = prefix_tree.RankResult(rank=None, rank_upper=9000, **fields)
    assert str(limits).startswith("rank between 26 and 9,000, ")
