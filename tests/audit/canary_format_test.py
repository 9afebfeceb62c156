# SPDX-License-Identifier: Apache-2.0
"""Tests of texts with holes."""

import copy
import itertools
import math
import pickle
import time

import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import canary_format
from tf_privacy.audit import secret_tokens

PIN = canary_format.CanaryFormat("my pin is {digit:6}")
WORDS = {"word": ["in", "into", "the", "then"], "name": ["Al", "Bo", "Cy"]}
# Of all chi-square tests of one test function together.
FALSE_ALARM = 1e-6


def make_rng(seed=0):
    return np.random.default_rng(seed)


def encode_characters(text):
    return [2 + ord(c) for c in text]


def list_by_hand(template, **alphabets):
    """Returns all texts, from holes that are written <name>."""
    pieces = template.replace(">", "<").split("<")
    choices = [alphabets.get(piece, [piece]) for piece in pieces]
    return ["".join(words) for words in itertools.product(*choices)]


def test_numbers_are_read_as_written():
    assert PIN.size == 10**6
    assert PIN.log2_size == math.log2(10**6)
    assert PIN.make_secret(42) == "my pin is 000042"
    assert PIN.get_index("my pin is 123456") == 123456
    assert str(PIN) == "my pin is {digit:6}"


@pytest.mark.parametrize(
    "template, by_hand",
    [
        ("{hex}", list_by_hand("<h>", h="0123456789abcdef")),
        ("{{{upper}}}", list_by_hand("{<u>}", u="ABCDEFGHIJKLMNOPQRSTUVWXYZ")),
        ("a{vowel:2}b{digit}", list_by_hand(
            "a<v><v>b<d>", v="aeiou", d="0123456789")),
        ("{word} {word}.", list_by_hand("<w> <w>.", w=WORDS["word"])),
        ("{name}{word}", list_by_hand(
            "<n><w>", n=WORDS["name"], w=WORDS["word"])),
        ("{name:3}", list_by_hand("<n><n><n>", n=WORDS["name"])),
    ],
)  # fmt: skip
def test_every_secret_of_small_formats_has_its_number(template, by_hand):
    text_format = canary_format.CanaryFormat(
        template, alphabets={**WORDS, "vowel": "aeiou"}
    )
    everything = range(text_format.size)
    assert text_format.make_secrets(everything) == by_hand
    assert [text_format.get_index(s) for s in by_hand] == list(everything)


@pytest.mark.parametrize(
    "name, size",
    [
        ("digit", 10),
        ("lower", 26),
        ("upper", 26),
        ("letter", 52),
        ("alphanumeric", 62),
        ("hex", 16),
    ],
)
def test_sizes_of_alphabets(name, size):
    assert canary_format.CanaryFormat(f"{{{name}}}").size == size


def test_sizes_beyond_int64_are_exact():
    text_format = canary_format.CanaryFormat("{alphanumeric:40}-{digit:20}")
    assert text_format.size == 62**40 * 10**20
    last = text_format.size - 1
    assert text_format.make_secret(last) == "9" * 40 + "-" + "9" * 20
    for index in (0, 2**63 - 1, 2**63, 2**64, 3**100, last):
        assert text_format.get_index(text_format.make_secret(index)) == index
    drawn = text_format.sample_indices(2000, rng=make_rng())
    assert all(type(index) is int for index in drawn)
    secrets = text_format.make_secrets(drawn)
    assert [text_format.get_index(s) for s in secrets] == drawn


@pytest.mark.parametrize("template", ["{hex:15}", "{bit:63}", "{bit:64}"])
def test_edge_of_int64(template):
    text_format = canary_format.CanaryFormat(template, alphabets={"bit": "01"})
    for index in (0, 1, text_format.size // 2, text_format.size - 1):
        assert text_format.get_index(text_format.make_secret(index)) == index
    drawn = text_format.sample_indices(200, rng=make_rng())
    # All below the middle: 2^-199.
    assert max(drawn) >= text_format.size // 2 > min(drawn)


def test_groups_are_taken_together():
    # One group of 10^18 and one of 10^2: a wrong order or carry shows.
    text_format = canary_format.CanaryFormat("{digit:20}")
    indices = [10**19 + 7, 12345678901234567890, 99]
    assert text_format.make_secrets(indices) == [
        f"{index:020d}" for index in indices
    ]


@pytest.mark.parametrize("num_digits", [4, 5, 6, 7, 8, 9])
def test_every_position_of_the_secrets_is_uniform(num_digits):
    # 39 tests. A generator that favours small digits, as one that sorts and
    # cuts does, is found; so is a digit that comes a third less often.
    text_format = canary_format.CanaryFormat(f"{{digit:{num_digits}}}")
    distinct = num_digits > 4
    indices = text_format.sample_indices(
        10_000, rng=make_rng(num_digits), distinct=distinct
    )
    secrets = text_format.make_secrets(indices)
    assert len(set(secrets)) == 10_000 or not distinct
    for position in range(num_digits):
        digits = [int(secret[position]) for secret in secrets]
        counts = np.bincount(digits, minlength=10)
        assert stats.chisquare(counts).pvalue > FALSE_ALARM / 39
    biased = np.full(10, 1000.0) + np.array([-300, *[300 / 9] * 9])
    assert stats.chisquare(biased).pvalue < FALSE_ALARM / 39


def test_pairs_of_positions_are_uniform_beyond_int64():
    # The first and the last position are in different groups.
    text_format = canary_format.CanaryFormat("{digit:30}")
    indices = text_format.sample_indices(20_000, rng=make_rng())
    secrets = text_format.make_secrets(indices)
    for i, j in ((0, 29), (17, 18), (1, 2)):
        pairs = [int(secret[i] + secret[j]) for secret in secrets]
        counts = np.bincount(pairs, minlength=100)
        assert stats.chisquare(counts).pvalue > FALSE_ALARM / 3


@pytest.mark.parametrize("num_samples", [2, 4])
@pytest.mark.parametrize("exclude", [(), (0, 3)])
def test_ordered_samples_are_equally_likely(num_samples, exclude):
    # Of 6 or 4 numbers; drawn as a shuffle of all.
    text_format = canary_format.CanaryFormat("{x}", alphabets={"x": "abcdef"})
    rng = make_rng()
    left = [i for i in range(6) if i not in exclude]
    counts = dict.fromkeys(itertools.permutations(left, num_samples), 0)
    for _ in range(20_000):
        drawn = text_format.sample_indices(
            num_samples, rng=rng, exclude=exclude
        )
        counts[tuple(drawn)] += 1
    assert stats.chisquare(list(counts.values())).pvalue > FALSE_ALARM / 4


def test_samples_drawn_one_by_one_are_equally_likely():
    # Of 26 numbers, 2 distinct ones that are not the first 3.
    text_format = canary_format.CanaryFormat("{lower}")
    rng = make_rng()
    counts = dict.fromkeys(itertools.permutations(range(3, 26), 2), 0)
    for _ in range(20_000):
        drawn = text_format.sample_indices(2, rng=rng, exclude=range(3))
        counts[tuple(drawn)] += 1
    assert stats.chisquare(list(counts.values())).pvalue > FALSE_ALARM


@pytest.mark.parametrize("exclude", [range(2), range(8)])
def test_samples_with_repeats_are_independent(exclude):
    text_format = canary_format.CanaryFormat("{digit}")
    drawn = text_format.sample_indices(
        30_000, rng=make_rng(), distinct=False, exclude=exclude
    )
    counts = np.bincount(drawn, minlength=10)
    assert not np.any(counts[list(exclude)])
    rest = counts[len(exclude) :]
    assert stats.chisquare(rest).pvalue > FALSE_ALARM / 2
    repeats = np.mean(np.equal(drawn[1:], drawn[:-1]))
    # Six deviations.
    share = 1 / len(rest)
    assert abs(repeats - share) <= 6 * math.sqrt(share * (1 - share) / 3e4)


def test_samples_with_repeats_of_a_large_space():
    text_format = canary_format.CanaryFormat("{digit:3}")
    drawn = text_format.sample_indices(
        200, rng=make_rng(), distinct=False, exclude=range(10)
    )
    # 200 of 990 without a repeat: chance e^-20 or so.
    assert len(drawn) == 200 > len(set(drawn))
    assert min(drawn) >= 10


@pytest.mark.parametrize("template", ["{digit:16}", "{x}{digit:6}"])
def test_a_million_distinct_references_in_seconds(template):
    text_format = canary_format.CanaryFormat(template, alphabets={"x": "ab"})
    canaries = text_format.sample_indices(100, rng=make_rng(1))
    start = time.perf_counter()
    references = text_format.sample_indices(
        10**6, rng=make_rng(), exclude=canaries
    )
    assert time.perf_counter() - start < 5
    assert len(set(references)) == 10**6
    assert not set(references) & set(canaries)
    # Order is random: as many rise as fall, within six deviations.
    rises = np.mean(np.diff(np.array(references)) > 0)
    assert abs(rises - 0.5) < 6 * math.sqrt(1 / 12 / 10**6)


def test_almost_all_of_a_space():
    # 10 * 11 * 9091 = 10^6 + 10 secrets: only ten stay out.
    words = [f"{i:04d}" for i in range(9091)]
    text_format = canary_format.CanaryFormat(
        "{digit}{letter11}{word}",
        alphabets={"letter11": "abcdefghijk", "word": words},
    )
    assert text_format.size == 10**6 + 10
    start = time.perf_counter()
    drawn = text_format.sample_indices(10**6, rng=make_rng())
    assert time.perf_counter() - start < 5
    assert len(set(drawn)) == 10**6 and max(drawn) < 10**6 + 10
    assert drawn != sorted(drawn)


def test_a_million_secrets_in_seconds():
    text_format = canary_format.CanaryFormat("card {digit:16}.")
    indices = text_format.sample_indices(10**6, rng=make_rng())
    start = time.perf_counter()
    secrets = text_format.make_secrets(indices)
    assert time.perf_counter() - start < 5
    assert secrets[:9] == [f"card {i:016d}." for i in indices[:9]]
    assert secrets[-1] == f"card {indices[-1]:016d}."


def test_exactly_all_and_none():
    everything = PIN.sample_indices(PIN.size, rng=make_rng())
    assert sorted(everything) == list(range(PIN.size))
    assert PIN.sample_indices(0, rng=make_rng()) == []
    assert PIN.make_secrets([]) == []
    hidden = range(1, PIN.size)
    assert PIN.sample_indices(1, rng=make_rng(), exclude=hidden) == [0]


def test_same_rng_same_sample_and_array_input():
    first = PIN.sample_indices(5, rng=make_rng(3))
    assert first == PIN.sample_indices(5, rng=make_rng(3))
    assert PIN.make_secrets(np.array(first)) == PIN.make_secrets(first)
    excluded = PIN.sample_indices(5, rng=make_rng(3), exclude=np.array(first))
    assert not set(excluded) & set(first)


def test_copies_are_equal():
    text_format = canary_format.CanaryFormat("{word} x", alphabets=WORDS)
    for copied in (
        copy.deepcopy(text_format),
        pickle.loads(pickle.dumps(text_format)),
        canary_format.CanaryFormat("{word} x", alphabets=dict(WORDS)),
    ):
        assert copied == text_format and hash(copied) == hash(text_format)
        assert copied.make_secret(3) == "then x"
    assert text_format != PIN


@pytest.mark.parametrize(
    "template",
    [
        "{word}{word}",
        "{word:2}",
        "{word}{digit}",
        "{word}o",
        "{word}to{digit}",
        "{bit}{bit}",
    ],
)
def test_ambiguous_formats_are_refused(template):
    with pytest.raises(ValueError, match="template must give each text in one"):
        canary_format.CanaryFormat(
            template, alphabets={**WORDS, "bit": ["0", "00"]}
        )


@pytest.mark.parametrize(
    "template",
    ["{word} {word} {word}", "{word}-{word}!", "{digit:3}{word}", "{name:9}"],
)
def test_formats_that_are_not_ambiguous_are_accepted(template):
    text_format = canary_format.CanaryFormat(template, alphabets=WORDS)
    indices = text_format.sample_indices(16, rng=make_rng())
    secrets = text_format.make_secrets(indices)
    assert [text_format.get_index(secret) for secret in secrets] == indices


@pytest.mark.parametrize(
    "template, message",
    [
        ("my pin", "template must have at least one hole"),
        ("", "template must have at least one hole"),
        ("{{digit}}", "template must have at least one hole"),
        ("{digits}", "template must name known alphabets"),
        ("{}", "template must name known alphabets"),
        ("{digit", "template must have its braces in pairs"),
        ("digit}", "template must have its braces in pairs"),
        ("{digit:0}", "template must give a hole as"),
        ("{digit:-1}", "template must give a hole as"),
        ("{digit:x}", "template must give a hole as"),
        ("{digit:1000}", "template must give a hole as"),
        ("{digit!r}", "template must give a hole as"),
        ("{digit:{n}}", "template must give a hole as"),
    ],
)
def test_bad_templates_are_refused(template, message):
    with pytest.raises(ValueError, match=message):
        canary_format.CanaryFormat(template)


@pytest.mark.parametrize(
    "alphabets, error, message",
    [
        ({"x": "a"}, ValueError, "alphabets must hold two or more distinct"),
        ({"x": "aba"}, ValueError, "alphabets must hold two or more distinct"),
        ({"x": ["a", ""]}, ValueError, "alphabets must hold two or more dist"),
        ({"x": [1, 2]}, TypeError, "alphabets must hold words as text"),
        ({"digit": "01"}, ValueError, "alphabets must have names that are not"),
        ({"x y": "ab"}, ValueError, "alphabets must have identifiers"),
    ],
)
def test_bad_alphabets_are_refused(alphabets, error, message):
    with pytest.raises(error, match=message):
        canary_format.CanaryFormat("{digit}", alphabets=alphabets)


def test_template_must_be_text():
    with pytest.raises(TypeError, match="template must be text"):
        canary_format.CanaryFormat(5)


@pytest.mark.parametrize(
    "secret",
    ["", "my pin is 12345", "my pin is 1234567", "My pin is 123456",
     "my pin is 12345x", "my pin is 12345²"],
)  # fmt: skip
def test_texts_of_another_format_have_no_number(secret):
    with pytest.raises(ValueError, match="secret must be a text of the format"):
        PIN.get_index(secret)


def test_bad_numbers_are_refused():
    for index in (-1, 10**6, 10**30):
        with pytest.raises(ValueError, match="indices must be in"):
            PIN.make_secret(index)
        with pytest.raises(ValueError, match="exclude must be in"):
            PIN.sample_indices(1, rng=make_rng(), exclude=[index])
    for index in (1.0, "1", None, float("nan")):
        with pytest.raises(TypeError, match="indices must be whole numbers"):
            PIN.make_secret(index)


def test_bad_samples_are_refused():
    with pytest.raises(ValueError, match="num_samples must be at most 1000000"):
        PIN.sample_indices(10**6 + 1, rng=make_rng())
    with pytest.raises(ValueError, match="num_samples must be at most 999998"):
        PIN.sample_indices(10**6 - 1, rng=make_rng(), exclude=[0, 1, 1])
    with pytest.raises(ValueError, match="num_samples must be at most 0"):
        PIN.sample_indices(
            1, rng=make_rng(), exclude=range(10**6), distinct=False
        )
    with pytest.raises(ValueError, match="num_samples must be a whole"):
        PIN.sample_indices(-1, rng=make_rng())
    with pytest.raises(TypeError, match="rng must be a np.random.Generator"):
        PIN.sample_indices(1, rng=0)


def test_space_of_characters():
    space = PIN.to_secret_space(encode_characters, context="\n")
    assert space.prefix == tuple(encode_characters("\nmy pin is "))
    assert space.choices == (tuple(encode_characters("0123456789")),) * 6
    assert space.size == PIN.size
    got = secret_tokens.encode_secrets(
        ["my pin is 123456"],
        space=space,
        encode=encode_characters,
        context="\n",
    )
    np.testing.assert_array_equal(got, [encode_characters("123456")])
