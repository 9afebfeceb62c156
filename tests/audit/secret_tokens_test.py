# SPDX-License-Identifier: Apache-2.0
"""Tests of secrets as tokens."""

import numpy as np
import pytest

from tf_privacy.audit import secret_tokens

DIGITS = tuple("0123456789")
PARTS = (("no ",), DIGITS, ("-",), DIGITS, (".",))
WORDS = ("apple", "pear", "plum")


def encode_characters(text):
    return [1, *(ord(c) for c in text), 2]


def encode_words(text):
    table = {word: i for i, word in enumerate(("is", "it", *WORDS))}
    return np.array([table[word] for word in text.split()])


def encode_pairs(text):
    """Returns one token for two digits that stand side by side, as BPE may."""
    tokens, place = [], 0
    while place < len(text):
        width = 2 if text[place : place + 2].isdigit() else 1
        width = min(width, len(text) - place)
        tokens.append(hash_text(text[place : place + width]))
        place += width
    return tokens


def hash_text(text):
    return sum(ord(c) * 256**i for i, c in enumerate(text))


def merge_sevens(text):
    """Returns characters, but for two sevens that are one token."""
    return [ord(c) for c in text.replace("77", "\x01")]


def test_prefix_fixed_text_and_end_stay():
    space = secret_tokens.make_space(PARTS, encode=encode_characters)
    digits = tuple(map(ord, DIGITS))
    assert space.prefix == (1, *map(ord, "no "))
    assert space.choices == (digits, (ord("-"),), digits, (ord("."),), (2,))
    assert space.size == 100


def test_words_are_one_token_each():
    parts = (("it is ",), WORDS, (" ",), WORDS)
    space = secret_tokens.make_space(parts, encode=encode_words)
    assert space.prefix == (1, 0)
    assert space.choices == ((2, 3, 4), (2, 3, 4))
    got = secret_tokens.encode_secrets(
        ["it is plum apple", "it is pear pear"],
        space=space,
        encode=encode_words,
    )
    np.testing.assert_array_equal(got, [[4, 2], [3, 3]])


def test_context_comes_before_the_secret():
    space = secret_tokens.make_space(
        PARTS, encode=encode_characters, context="x\n"
    )
    assert space.prefix == (1, *map(ord, "x\nno "))
    got = secret_tokens.encode_secrets(
        ["no 1-2."], space=space, encode=encode_characters, context="x\n"
    )
    np.testing.assert_array_equal(got, [[*map(ord, "1-2."), 2]])


def test_secret_that_comes_first_needs_a_context():
    def encode(text):
        return [ord(c) for c in text]

    with pytest.raises(ValueError, match="context must give at least one"):
        secret_tokens.make_space((DIGITS,), encode=encode)
    space = secret_tokens.make_space((DIGITS,), encode=encode, context="\n")
    assert space.prefix == (10,) and space.size == 10


@pytest.mark.parametrize(
    "encode, message",
    [
        (encode_pairs, "encode must give each hole a token of its own"),
        (lambda t: [len(t), *range(len(t))], "encode must give each word of a"),
        (lambda t: [1] * int(t[3]), "encode must"),
        (lambda t: [ord(c) // 2 for c in t], "encode must give each word of a"),
    ],
)
def test_encodings_that_do_not_keep_step_are_refused(encode, message):
    parts = (("no ",), DIGITS, DIGITS, (".",))
    with pytest.raises(ValueError, match=message):
        secret_tokens.make_space(parts, encode=encode)


def test_rare_merges_are_found():
    # One secret in a hundred; missed with probability 0.99^3000 < 1e-13.
    parts = (("no ",), DIGITS, DIGITS, (".",))
    with pytest.raises(ValueError, match="encode must give each (hole|word)"):
        secret_tokens.make_space(parts, encode=merge_sevens, num_checked=3000)


@pytest.mark.parametrize(
    "encode", [lambda t: [[1]], lambda t: [0.5], lambda t: [], lambda t: "ab"]
)
def test_what_is_no_list_of_tokens_is_refused(encode):
    with pytest.raises(ValueError, match="encode must return a list of whole"):
        secret_tokens.make_space(PARTS, encode=encode)


def test_num_checked_must_be_positive():
    with pytest.raises(ValueError, match="num_checked must be"):
        secret_tokens.make_space(PARTS, encode=encode_words, num_checked=0)


@pytest.mark.parametrize("secret", ["No 1-2.", "no 1-2", "no 1-22."])
def test_secrets_with_another_prefix_or_length_are_refused(secret):
    space = secret_tokens.make_space(PARTS, encode=encode_characters)
    with pytest.raises(ValueError, match="secrets must be encoded to the spac"):
        secret_tokens.encode_secrets(
            [secret], space=space, encode=encode_characters
        )


def test_secrets_that_are_not_in_the_space_are_refused():
    space = secret_tokens.make_space(PARTS, encode=encode_characters)
    with pytest.raises(ValueError, match="secrets must be in the space"):
        secret_tokens.encode_secrets(
            ["no 1-x."], space=space, encode=encode_characters
        )
