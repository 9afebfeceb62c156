# SPDX-License-Identifier: Apache-2.0
"""Tests of scoring secrets with a token model."""

import numpy as np
import pytest

from tests.audit import token_models
from tf_privacy.audit import token_model


def make_case(seed=0, count=7):
    rng = np.random.default_rng(seed)
    model = token_models.make_markov_model(rng, 4)
    space = token_models.make_space(4, 5)
    return model, space, space.sample(count, rng=rng)


def test_both_ways_give_the_sum_of_each_token_s_bits():
    model, space, secrets = make_case()
    wanted = token_models.compute_bits_slowly(model, space, secrets)
    for score in (
        token_model.compute_secret_bits,
        token_model.compute_bits_in_batches,
    ):
        for batch_size in (1, 3, 7, 100):
            got = score(model, space, secrets, batch_size=batch_size)
            np.testing.assert_allclose(got, wanted, rtol=1e-13)


def test_choices_in_another_order_give_the_same():
    rng = np.random.default_rng(1)
    model = token_models.make_markov_model(rng, 4)
    space = token_models.secret_space.SecretSpace(
        prefix=(2,), choices=((3, 1), (0,), (2, 0, 1))
    )
    secrets = space.sample(20, rng=rng)
    got = token_model.compute_secret_bits(model, space, secrets)
    wanted = token_models.compute_bits_slowly(model, space, secrets)
    np.testing.assert_allclose(got, wanted, rtol=1e-13)


def test_batches_are_no_larger_than_asked_and_progress_is_told():
    model, space, secrets = make_case(count=7)
    told = []
    token_model.compute_bits_in_batches(
        model,
        space,
        secrets,
        batch_size=3,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(3, 7), (6, 7), (7, 7)]
    token_model.compute_secret_bits(model, space, secrets, batch_size=3)
    assert max(rows for rows, _ in model.batches) == 3


def test_no_secrets_give_no_bits():
    model, space, _ = make_case()
    none = np.zeros((0, 5), dtype=np.int32)
    got = token_model.compute_bits_in_batches(model, space, none)
    assert got.shape == (0,)


class Scaled:
    """A model whose bits are multiplied, as nats or a mean would be."""

    def __init__(self, model, factor):
        self.model = model
        self.factor = factor

    def compute_next_bits(self, tokens):
        return self.factor * self.model.compute_next_bits(tokens)

    def compute_bits(self, tokens, *, num_given):
        bits = self.model.compute_bits(tokens, num_given=num_given)
        return self.factor * bits


def test_nats_are_told_from_bits():
    model, space, _ = make_case()
    token_model.check_model(model, space)
    with pytest.raises(ValueError, match="model must return -log2"):
        token_model.check_model(Scaled(model, np.log(2.0)), space)


def test_model_without_the_space_s_tokens_is_refused():
    model, _, _ = make_case()
    with pytest.raises(ValueError, match="model must return bits .batch, voc"):
        token_model.check_model(model, token_models.make_space(5, 2))


@pytest.mark.parametrize("factor", [float("nan"), -1.0])
def test_what_is_no_bits_is_refused(factor):
    model, space, secrets = make_case()
    broken = Scaled(model, factor)
    for score in (
        token_model.compute_secret_bits,
        token_model.compute_bits_in_batches,
    ):
        with pytest.raises(ValueError, match="model must return bits >= 0"):
            score(broken, space, secrets)
    with pytest.raises(ValueError, match="model must return -log2"):
        token_model.check_model(broken, space)


def test_probability_0_is_infinite_bits():
    model = token_models.MarkovModel([[0.0, 1.0], [0.5, 0.5]])
    space = token_models.make_space(2, 2)
    got = token_model.compute_secret_bits(
        model, space, np.array([[0, 1], [1, 1]])
    )
    np.testing.assert_array_equal(got, [np.inf, 1.0])
