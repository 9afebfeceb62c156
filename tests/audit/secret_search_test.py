# SPDX-License-Identifier: Apache-2.0
"""Tests of extraction: the likeliest secrets, and the proof that they are."""

import math
import time

import numpy as np
import pytest

from tests.audit import token_models
from tf_privacy.audit import secret_search

SECRET = np.array([4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3])


def search(model, space, **kwargs):
    return secret_search.search_secrets(
        model, space, **{"max_evaluations": 10**6, **kwargs}
    )


def sort_secrets(model, space):
    """Returns all secrets and their bits by brute force, likeliest first."""
    secrets = token_models.list_secrets(space)
    bits = token_models.compute_bits_slowly(model, space, secrets)
    order = np.argsort(bits, kind="stable")
    return [tuple(s) for s in secrets[order].tolist()], bits[order]


def make_case(seed=0, size=3, length=5, **kwargs):
    model = token_models.TreeModel(np.random.default_rng(seed), size, length)
    return model, token_models.make_space(size, length, **kwargs)


@pytest.mark.parametrize("max_batch_size", [1, 2, 256])
@pytest.mark.parametrize("num_secrets", [1, 7, 243])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_search_gives_the_sorted_list(seed, num_secrets, max_batch_size):
    model, space = make_case(seed)
    secrets, bits = sort_secrets(model, space)
    result = search(
        model, space, num_secrets=num_secrets, max_batch_size=max_batch_size
    )
    assert result.secrets == tuple(secrets[:num_secrets])
    np.testing.assert_array_equal(result.bits, bits[:num_secrets])
    assert result.is_optimal


@pytest.mark.parametrize("seed", range(5))
def test_one_at_a_time_expands_only_what_the_proof_needs(seed):
    # Every prefix of fewer bits than the best secret has to be looked at, and
    # no other is.
    model, space = make_case(seed)
    _, bits = sort_secrets(model, space)
    needed = 1
    for depth in range(1, space.length):
        part = token_models.make_space(3, depth)
        prefixes = token_models.list_secrets(part)
        found = token_models.compute_bits_slowly(model, part, prefixes)
        needed += int(np.sum(found < bits[0]))
    result = search(model, space, max_batch_size=1)
    assert result.evaluations == needed
    assert model.evaluations >= needed
    batched = search(model, space, max_batch_size=256)
    assert needed <= batched.evaluations <= 121


def test_filter_is_respected():
    accepts = lambda s: s.sum(axis=1) % 4 == 1
    count = int(np.sum(accepts(token_models.list_secrets(make_case()[1]))))
    model, space = make_case(accepts=accepts, num_accepted=count)
    secrets, bits = sort_secrets(model, space)
    for num_secrets in (1, 5):
        result = search(model, space, num_secrets=num_secrets)
        assert result.secrets == tuple(secrets[:num_secrets])
        np.testing.assert_array_equal(result.bits, bits[:num_secrets])
        assert result.is_optimal
    # Asked for more than there are, it finds all.
    everything = search(model, space, num_secrets=1000)
    assert len(everything.secrets) == count
    assert everything.is_optimal
    assert everything.open_bits == math.inf


def test_choices_out_of_order_come_back_as_tokens():
    model, _ = make_case(size=4)
    space = token_models.secret_space.SecretSpace(
        prefix=(1,), choices=((3, 1), (2,), (0, 3, 2))
    )
    secrets, bits = sort_secrets(model, space)
    assert search(model, space, num_secrets=6).secrets == tuple(secrets)
    beam = secret_search.beam_search(model, space, beam_width=6, num_secrets=6)
    assert beam.secrets == tuple(secrets)
    np.testing.assert_array_equal(beam.bits, bits)


def test_secret_of_probability_0_is_not_found():
    model = token_models.MarkovModel([[0.5, 0.5, 0.0]] * 3)
    space = token_models.make_space(3, 2)
    result = search(model, space, num_secrets=9)
    assert sorted(result.secrets) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert result.is_optimal


def test_budget_ends_the_search_honestly():
    unproved = 0
    for seed in range(6):
        model, space = make_case(seed, size=4)
        _, bits = sort_secrets(model, space)
        for budget in (1, 2, 4, 6, 10, 30, 60, 341):
            model.evaluations = 0
            result = search(model, space, max_evaluations=budget, num_secrets=2)
            assert result.evaluations <= budget
            assert model.evaluations == result.evaluations + 1
            if result.is_optimal:
                np.testing.assert_array_equal(result.bits, bits[:2])
            else:
                unproved += 1
                # Whatever is not listed is no likelier than this.
                left = np.setdiff1d(bits, result.bits)
                assert result.open_bits <= left[0] + 1e-12
        assert result.is_optimal
    assert unproved >= 6


def test_memorised_secret_in_1e16_is_extracted():
    model = token_models.MemorizingModel(SECRET, trust=0.6)
    space = token_models.make_space(10, 16)
    start = time.process_time()
    result = search(model, space, max_evaluations=100_000)
    assert time.process_time() - start < 5.0
    assert result.secrets == (tuple(SECRET.tolist()),)
    assert result.bits[0] == pytest.approx(-16 * math.log2(0.6))
    assert result.is_optimal
    assert "proved" in str(result)


def test_batches_double():
    model, space = make_case(size=4, length=8)
    search(model, space, max_batch_size=8, num_secrets=100)
    told = []
    search(
        model,
        space,
        max_batch_size=8,
        num_secrets=100,
        progress=lambda done, _: told.append(done),
    )
    steps = np.diff([0, *told[:6]])
    np.testing.assert_array_equal(steps, [1, 2, 4, 8, 8, 8])


def test_proof_knows_what_memory_made_it_give_up(monkeypatch):
    monkeypatch.setattr(secret_search, "_MAX_OPEN", 12)
    proved = 0
    for seed in range(30):
        model, space = make_case(seed, size=4)
        secrets, bits = sort_secrets(model, space)
        result = search(model, space, num_secrets=3)
        if result.is_optimal:
            proved += 1
            assert result.secrets == tuple(secrets[:3])
        else:
            assert result.open_bits < (result.bits + (math.inf,) * 3)[2]
    assert 0 < proved < 30


def test_beam_is_certified_only_if_it_is_right():
    certified = wrong = 0
    for seed in range(20):
        model, space = make_case(seed, size=4)
        secrets, bits = sort_secrets(model, space)
        for width in (1, 2, 8, 40):
            result = secret_search.beam_search(
                model, space, beam_width=width, batch_size=16
            )
            assert result.evaluations <= width * space.length
            assert result.bits[0] >= bits[0] - 1e-12
            wrong += result.secrets != (secrets[0],)
            if result.is_optimal:
                certified += 1
                assert result.secrets == (secrets[0],)
    assert certified > 20
    assert wrong > 3


def test_wide_beam_is_brute_force():
    model, space = make_case(1)
    secrets, bits = sort_secrets(model, space)
    result = secret_search.beam_search(
        model, space, beam_width=243, num_secrets=243
    )
    assert result.secrets == tuple(secrets)
    np.testing.assert_array_equal(result.bits, bits)
    assert result.is_optimal
    assert result.evaluations == 1 + 3 + 9 + 27 + 81


def test_certificate_is_missing_where_secrets_are():
    # The beam keeps 1 of 3 prefixes, and the filter refuses all below it.
    model = token_models.MarkovModel([[0.6, 0.3, 0.1]] * 3)
    space = token_models.make_space(
        3, 2, accepts=lambda s: s[:, 0] > 0, num_accepted=6
    )
    result = secret_search.beam_search(model, space, beam_width=1)
    assert result.secrets == ()
    assert not result.is_optimal
    assert result.open_bits == pytest.approx(-math.log2(0.3))
    assert "no secret found" in str(result)


def test_bad_arguments_are_refused():
    model, space = make_case()
    for kwargs, name in [
        ({"max_evaluations": 0}, "max_evaluations"),
        ({"num_secrets": 0}, "num_secrets"),
        ({"max_batch_size": 0}, "max_batch_size"),
    ]:
        with pytest.raises(ValueError, match=f"{name} must be"):
            search(model, space, **kwargs)
    for kwargs, name in [
        ({"beam_width": 0}, "beam_width"),
        ({"beam_width": 2, "num_secrets": 3}, "num_secrets"),
    ]:
        with pytest.raises(ValueError, match=f"{name} must be"):
            secret_search.beam_search(model, space, **kwargs)
    broken = token_models.MarkovModel(np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="model must return"):
        search(broken, space)
