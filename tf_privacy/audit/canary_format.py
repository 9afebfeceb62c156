# SPDX-License-Identifier: Apache-2.0
"""Texts with holes, "my pin is {digit:6}", and the secrets that fill them.

All secrets of a format are numbered from 0, in the order of their holes from
left to right: number 42 of "my pin is {digit:6}" is "my pin is 000042". The
numbers are exact at any size, and every secret has exactly one.
"""

import dataclasses
import itertools
import math
import operator
import re
import string
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import secret_space
from tf_privacy.audit import secret_tokens

_ALPHABETS = {
    "digit": string.digits,
    "lower": string.ascii_lowercase,
    "upper": string.ascii_uppercase,
    "letter": string.ascii_letters,
    "alphanumeric": string.ascii_letters + string.digits,
    "hex": string.digits + "abcdef",
}
_COUNT = re.compile("[1-9][0-9]{0,2}")
# Numbers below this fit into int64.
_MAX_GROUP = 2**63
# A space up to this many times the numbers wanted is shuffled as a whole.
_SMALL = 4
# Neighbors with so few fillings together are filled as one.
_MAX_MERGED = 4096


@dataclasses.dataclass(frozen=True)
class CanaryFormat:
    """A text whose holes are filled at random: the randomness space R.

    `{name:count}` is `count` holes (1 if left out), each filled with one word
    of the alphabet `name`: digit, lower, upper, letter, alphanumeric, hex, or
    one of yours, whose words may have several characters. `{{` and `}}` are
    braces. Two fillings never give the same text: a word that begins another
    word of its alphabet, "in" and "into", must be followed by fixed text that
    begins with a character that no word has, or end the format.

    Attributes:
        template: The text; with at least one hole.
        alphabets: Name to its words, two or more distinct ones that are not
            empty; a string stands for its characters. None: the built-in ones.

    Raises:
        TypeError: If the template or a word is not text.
        ValueError: If the template cannot be read, names an unknown alphabet,
            or could give one text in two ways.
    """

    template: str
    alphabets: Mapping[str, Sequence[str]] | None = dataclasses.field(
        default=None, kw_only=True, repr=False, hash=False
    )

    def __post_init__(self):
        given = {
            name: _check_alphabet(name, words)
            for name, words in (self.alphabets or {}).items()
        }
        known = {name: tuple(words) for name, words in _ALPHABETS.items()}
        known.update(given)
        holes = _parse(self.template, known)
        parts = tuple(known.get(name, (text,)) for name, text in holes)
        _check_unique(parts)
        tables = {words: _make_table(words) for words in set(parts)}
        object.__setattr__(self, "alphabets", given)
        object.__setattr__(self, "_parts", parts)
        object.__setattr__(self, "_tables", [tables[words] for words in parts])
        object.__setattr__(self, "_merged", _merge_parts(parts))
        object.__setattr__(self, "_groups", _group_parts(self._merged))

    def __str__(self) -> str:
        return self.template

    @property
    def size(self) -> int:
        """Returns |R|, the exact number of secrets."""
        return math.prod(len(words) for words in self._parts)

    @property
    def log2_size(self) -> float:
        """Returns log2 |R|, the largest possible exposure, in bits."""
        return math.log2(self.size)

    def make_secret(self, index: int) -> str:
        """Returns the secret of a number in [0, size)."""
        (secret,) = self.make_secrets([index])
        return secret

    def make_secrets(self, indices: Iterable[int]) -> list[str]:
        """Returns the secrets of many numbers, in their order.

        Args:
            indices: `[N]` whole numbers in [0, size).

        Returns:
            `[N]` texts.

        Raises:
            TypeError: If an index is not a whole number.
            ValueError: If one is out of range.
        """
        indices = self._check_indices("indices", indices)
        pairs = zip(self._merged, self._split(indices), strict=True)
        columns = [words[digits].tolist() for words, digits in pairs]
        return list(map("".join, zip(*columns, strict=True)))

    def get_index(self, secret: str) -> int:
        """Returns the number of a secret, the inverse of `make_secret`.

        Args:
            secret: A whole text of this format.

        Returns:
            A whole number in [0, size).

        Raises:
            ValueError: If the text is not of this format.
        """
        index, place = 0, 0
        for digits, lengths in self._tables:
            # The longest word that fits is the right one: see _check_unique.
            words = (secret[place : place + length] for length in lengths)
            word = next((word for word in words if word in digits), None)
            if word is None:
                break
            index = index * len(digits) + digits[word]
            place += len(word)
        else:
            if place == len(secret):
                return index
        raise ValueError(
            f"secret must be a text of the format {self.template!r}. Received "
            f"one of {len(secret)} characters that leaves it at character "
            f"{place}. Give the whole text, fixed parts included."
        )

    def sample_indices(
        self,
        num_samples: int,
        *,
        rng: np.random.Generator,
        distinct: bool = True,
        exclude: Iterable[int] = (),
    ) -> list[int]:
        """Returns numbers of random secrets, in the order they were drawn.

        Each is uniform over R without `exclude` and, with `distinct`, without
        those drawn before it: whatever is not allowed is drawn again.

        Args:
            num_samples: N; >= 0.
            rng: Source of the draws.
            distinct: Whether no number may come twice.
            exclude: Numbers that must not come; those of canaries, say.

        Returns:
            `[N]` whole numbers in [0, size), of any size.

        Raises:
            TypeError: If `rng` is no `np.random.Generator`.
            ValueError: If there are not so many numbers.
        """
        num_samples = _checks.check_integer(
            "num_samples", num_samples, at_least=0
        )
        if not isinstance(rng, np.random.Generator):
            raise TypeError(
                "rng must be a np.random.Generator. Received: "
                f"{type(rng).__name__}. Use np.random.default_rng()."
            )
        excluded = set(self._check_indices("exclude", exclude))
        left = self.size - len(excluded)
        if not left >= (num_samples if distinct else min(num_samples, 1)):
            raise ValueError(
                f"num_samples must be at most {left}, the number of secrets "
                f"left. Received: {num_samples}. Take a format with more."
            )
        if self.size <= _SMALL * (num_samples + len(excluded)):
            every = np.arange(self.size)
            every = np.delete(every, np.array(sorted(excluded), dtype=int))
            every = every if distinct else rng.choice(every, size=num_samples)
            return rng.permutation(every)[:num_samples].tolist()
        found = {} if distinct else []
        while len(found) < num_samples:
            drawn = self._draw(num_samples - len(found), rng)
            drawn = [index for index in drawn if index not in excluded]
            if distinct:
                found.update(dict.fromkeys(drawn))
            else:
                found.extend(drawn)
        return list(found)

    def to_secret_space(
        self,
        encode: Callable[[str], Sequence[int]],
        *,
        context: str = "",
        num_checked: int = 1000,
    ) -> secret_space.SecretSpace:
        """Returns the same space in tokens, for exact exposure and search.

        See `secret_tokens.make_space`, which does it.

        Args:
            encode: From the text that the model sees to its tokens, those that
                start or end a text included.
            context: Text before the secret, such as a line break.
            num_checked: Random secrets to compare; >= 1.

        Returns:
            A space of the same size.

        Raises:
            ValueError: If a hole is not one token, or does not stay it.
        """
        return secret_tokens.make_space(
            self._parts,
            encode=encode,
            context=context,
            num_checked=num_checked,
        )

    def _check_indices(self, name: str, indices) -> list[int]:
        try:
            whole = [operator.index(index) for index in indices]
        except TypeError as error:
            raise TypeError(
                f"{name} must be whole numbers, those of secrets. Received: "
                f"{indices!r:.80}. Use get_index for a text."
            ) from error
        least, most = min(whole, default=0), max(whole, default=0)
        if least < 0 or most >= self.size:
            raise ValueError(
                f"{name} must be in [0, {self.size}). Received: "
                f"{least if least < 0 else most}. They are of another format."
            )
        return whole

    def _draw(self, num_samples: int, rng) -> list[int]:
        """Returns independent numbers, uniform over all of R."""
        total = np.zeros(num_samples, dtype=np.int64)
        for i, (size, _) in enumerate(self._groups):
            group = rng.integers(size, size=num_samples)
            total = total.astype(object) * size + group if i else group
        return total.tolist()

    def _split(self, indices: list[int]) -> list[np.ndarray]:
        """Returns which word each merged part takes, `[N]` int64 for each."""
        large = len(self._groups) > 1
        rest = np.array(indices, dtype=object if large else np.int64)
        digits = []
        for size, bases in reversed(self._groups):
            group = (rest % size).astype(np.int64) if large else rest
            rest = rest // size if large else rest
            for base in reversed(bases):
                group, digit = np.divmod(group, base)
                digits.append(digit)
        return digits[::-1]


def _check_alphabet(name: str, words) -> tuple[str, ...]:
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            "alphabets must have identifiers as names. Received: "
            f"{name!r}. Use letters, digits and underscores."
        )
    if name in _ALPHABETS:
        raise ValueError(
            "alphabets must have names that are not built in. Received: "
            f"{name!r}. Choose another one."
        )
    words = tuple(words)
    if not all(isinstance(word, str) for word in words):
        raise TypeError(
            f"alphabets must hold words as text. Received: {words!r:.80} for "
            f"{name!r}."
        )
    if len(words) < 2 or len(set(words)) != len(words) or "" in words:
        raise ValueError(
            "alphabets must hold two or more distinct words, none of them "
            f"empty. Received: {words!r:.80} for {name!r}."
        )
    return words


def _parse(template, known) -> list[tuple[str, str]]:
    """Returns holes as (alphabet, "") and fixed texts as ("", text)."""
    if not isinstance(template, str):
        raise TypeError(
            "template must be text with holes. Received: "
            f"{type(template).__name__}. Write 'my pin is {{digit:6}}'."
        )
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"template must have its braces in pairs. Received: {template!r} "
            f"({error}). Write {{{{ and }}}} for braces."
        ) from error
    found, fixed = [], ""
    for text, name, count, conversion in pieces:
        fixed += text
        if name is None:
            continue
        if name not in known:
            raise ValueError(
                "template must name known alphabets: "
                f"{', '.join(known)}. Received: {name!r}. Give others as "
                "alphabets."
            )
        if conversion or (count and not _COUNT.fullmatch(count)):
            raise ValueError(
                "template must give a hole as {name:count}, count from 1 to "
                f"999. Received: {template!r}."
            )
        found += [("", fixed)] if fixed else []
        found += [(name, "")] * int(count or 1)
        fixed = ""
    if not found:
        raise ValueError(
            f"template must have at least one hole. Received: {template!r}. "
            "Write 'my pin is {digit:6}'."
        )
    return [*found, ("", fixed)] if fixed else found


def _check_unique(parts) -> None:
    """Raises unless reading from left to right, longest word first, is right.

    Where no word begins another, one word at most fits. Else the fixed text
    that follows ends the word, because no longer word contains its beginning.
    """
    for part, words in enumerate(parts[:-1]):
        ordered = sorted(words)
        begins = next(
            (a for a, b in itertools.pairwise(ordered) if b.startswith(a)), None
        )
        following = parts[part + 1]
        ends = len(following) == 1 and following[0][0] not in set(
            itertools.chain.from_iterable(words)
        )
        if begins is not None and not ends:
            raise ValueError(
                "template must give each text in one way. Received: an "
                f"alphabet where {begins!r} begins another word, and nothing "
                "that marks its end. Write {name} {name} with a space, or "
                "another character that no word has."
            )


def _make_table(words) -> tuple[dict[str, int], list[int]]:
    """Returns each word's digit, and the words' lengths, longest first."""
    digits = {word: digit for digit, word in enumerate(words)}
    return digits, sorted({len(word) for word in words}, reverse=True)


def _merge_parts(parts) -> list[np.ndarray]:
    """Returns longer and fewer parts, each an array of its words as objects."""
    merged = [[""]]
    for words in parts:
        if len(merged[-1]) * len(words) > _MAX_MERGED:
            merged.append([""])
        merged[-1] = [start + word for start in merged[-1] for word in words]
    return [np.array(words, dtype=object) for words in merged]


def _group_parts(parts) -> list[tuple[int, list[int]]]:
    """Returns runs of parts, (number of fillings, bases), that fit int64."""
    groups = [(1, [])]
    for words in parts:
        size, bases = groups[-1]
        if size * len(words) > _MAX_GROUP:
            size, bases = 1, []
            groups.append((size, bases))
        groups[-1] = (size * len(words), [*bases, len(words)])
    return groups
