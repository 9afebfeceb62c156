# SPDX-License-Identifier: Apache-2.0
"""Tests of bits from a function on token sequences."""

import numpy as np
import pytest

from tf_privacy.audit import language_model

SIZE = 5
RNG = np.random.default_rng(7)
# P(next | last token, and the one before).
TABLE = RNG.dirichlet(np.ones(SIZE), size=(SIZE, SIZE))
TOKENS = RNG.integers(0, SIZE, (11, 6))
ALL_OUTPUTS = ["logits", "probabilities"]


def get_probabilities(tokens):
    before = np.pad(tokens, [(0, 0), (1, 0)])[:, :-1]
    return TABLE[before, tokens]


def count_bits(tokens, num_given):
    """The definition, one token at a time."""
    total = np.zeros(len(tokens))
    for row, sequence in enumerate(tokens):
        for i in range(num_given, len(sequence)):
            before = sequence[i - 2] if i > 1 else 0
            p = TABLE[before, sequence[i - 1], sequence[i]]
            total[row] -= np.log2(p)
    return total


def make_call(*, causal, outputs, log=None):
    def call(tokens):
        if log is not None:
            log.append(tokens.shape)
        probabilities = get_probabilities(tokens)
        result = probabilities if causal else probabilities[:, -1]
        # Logits are free up to a constant of each position.
        return result if outputs == "probabilities" else np.log(result) + 3.0

    return call


def make_model(*, causal=True, outputs="logits", log=None, **settings):
    return language_model.LanguageModel(
        make_call(causal=causal, outputs=outputs, log=log),
        outputs=outputs,
        vocabulary_size=SIZE,
        **settings,
    )


@pytest.mark.parametrize("outputs", ALL_OUTPUTS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("num_given", [1, 3, 6])
def test_bits_are_the_sum_over_the_tokens_that_follow(
    outputs, causal, num_given
):
    model = make_model(causal=causal, outputs=outputs, batch_size=4)
    got = model.compute_bits(TOKENS, num_given=num_given)
    np.testing.assert_allclose(got, count_bits(TOKENS, num_given), rtol=1e-12)
    assert np.all(got >= 0.0)


@pytest.mark.parametrize("causal", [True, False])
def test_next_bits_are_those_of_every_token(causal):
    model = make_model(causal=causal, batch_size=3)
    got = model.compute_next_bits(TOKENS)
    expected = -np.log2(TABLE[TOKENS[:, -2], TOKENS[:, -1]])
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    np.testing.assert_allclose((2.0**-got).sum(axis=1), 1.0)


@pytest.mark.parametrize("causal", [True, False])
def test_fixed_length_is_filled_on_the_side_that_does_not_matter(causal):
    # The table reads 0 before the first token: the same as padding in front.
    model = make_model(causal=causal, context_length=6, pad_token=0)
    for length in (1, 3, 6):
        tokens = TOKENS[:, :length]
        free = make_model(causal=causal)
        np.testing.assert_array_equal(
            model.compute_next_bits(tokens), free.compute_next_bits(tokens)
        )
    np.testing.assert_allclose(
        model.compute_bits(TOKENS[:, :4], num_given=2),
        count_bits(TOKENS[:, :4], 2),
    )


@pytest.mark.parametrize("causal", [True, False])
def test_long_sequences_lose_their_first_tokens(causal):
    log = []
    model = make_model(causal=causal, context_length=2, pad_token=0, log=log)
    # Two tokens are all that this table looks at.
    np.testing.assert_allclose(
        model.compute_bits(TOKENS, num_given=2), count_bits(TOKENS, 2)
    )
    assert {length for _, length in log} == {2}


def test_batches_hold_at_most_batch_size():
    log = []
    model = make_model(batch_size=4, log=log)
    model.compute_bits(TOKENS, num_given=1)
    assert [rows for rows, _ in log[1:]] == [4, 4, 3]


def test_no_rows_give_no_bits():
    model = make_model()
    empty = np.zeros((0, 3), dtype=int)
    assert model.compute_bits(empty, num_given=1).shape == (0,)
    assert model.compute_next_bits(empty).shape == (0, SIZE)


def test_zero_probability_is_infinitely_many_bits():
    model = language_model.LanguageModel(
        lambda tokens: np.tile([1.0, 0.0], (len(tokens), 1)),
        outputs="probabilities",
        vocabulary_size=2,
    )
    got = model.compute_next_bits(np.zeros((1, 1), dtype=int))
    np.testing.assert_array_equal(got, [[0.0, np.inf]])


def test_probabilities_called_logits_are_refused():
    with pytest.raises(ValueError, match='outputs must be "probabilities"'):
        language_model.LanguageModel(
            get_probabilities, outputs="logits", vocabulary_size=SIZE
        )


def test_model_that_looks_ahead_is_refused():
    def call(tokens):
        return get_probabilities(tokens[:, ::-1])[:, ::-1]

    with pytest.raises(ValueError, match="model must be causal"):
        language_model.LanguageModel(
            call, outputs="probabilities", vocabulary_size=SIZE
        )


@pytest.mark.parametrize(
    "returned, message",
    [
        (np.zeros((2, SIZE + 1)), "model must return .batch, vocabulary_size"),
        (np.zeros((2, 3, SIZE)), "model must return .batch, vocabulary_size"),
    ],
)
def test_other_shapes_are_refused(returned, message):
    with pytest.raises(ValueError, match=message):
        language_model.LanguageModel(
            lambda tokens: returned, outputs="logits", vocabulary_size=SIZE
        )


@pytest.mark.parametrize(
    "outputs, bad, message",
    [
        ("logits", np.nan, "model must return numbers"),
        ("logits", np.inf, "model must return numbers"),
        ("probabilities", np.nan, "model must return numbers"),
        ("probabilities", 0.7, 'outputs must be "logits"'),
        ("probabilities", -0.2, 'outputs must be "logits"'),
    ],
)
def test_bad_outputs_are_refused(outputs, bad, message):
    values = np.full(SIZE, 1.0 if outputs == "logits" else 1.0 / SIZE)

    def call(tokens):
        result = np.tile(values, (len(tokens), 1))
        # The probe's rows are left alone.
        result[2:, 1] = bad
        return result

    model = language_model.LanguageModel(
        call, outputs=outputs, vocabulary_size=SIZE
    )
    with pytest.raises(ValueError, match=message):
        model.compute_next_bits(np.zeros((4, 2), dtype=int))


@pytest.mark.parametrize(
    "tokens, message",
    [
        (np.zeros((2, 0), dtype=int), "tokens must hold at least one token"),
        (np.zeros(3, dtype=int), "tokens must be whole numbers"),
        (np.zeros((2, 2)), "tokens must be whole numbers"),
        (np.full((2, 2), SIZE), r"tokens must be in \[0, 5\)"),
        (np.full((2, 2), -1), r"tokens must be in \[0, 5\)"),
    ],
)
def test_bad_tokens_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        make_model().compute_next_bits(tokens)


def test_short_sequences_need_a_pad_token():
    model = make_model(context_length=6)
    with pytest.raises(ValueError, match="pad_token must be given"):
        model.compute_next_bits(TOKENS[:, :3])


@pytest.mark.parametrize("num_given", [0, 7, 1.5])
def test_bad_num_given_is_refused(num_given):
    with pytest.raises(ValueError, match="num_given must be"):
        make_model().compute_bits(TOKENS, num_given=num_given)
