# SPDX-License-Identifier: Apache-2.0
"""From secrets as text to secrets as tokens, where the two keep in step."""

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import secret_space

_NOT_ALIGNED = (
    "Score whole secrets instead (estimate_exposure_by_sampling), or encode "
    "one character or one word to one token."
)


def make_space(
    parts: Sequence[Sequence[str]],
    *,
    encode: Callable[[str], Sequence[int]],
    context: str = "",
    num_checked: int = 1000,
) -> secret_space.SecretSpace:
    """Returns the tokens of all texts that take one word of each part.

    Every part with a choice must be one token, whatever the others are. Each
    of its words is encoded once, and then as many random texts as asked: if a
    share s of all texts is encoded otherwise (two digits merged into one token,
    say), that is found with probability 1 - (1 - s)^num_checked.

    Args:
        parts: Distinct words of each part, in order; fixed text is a part of
            one word; one part at least has a choice.
        encode: From the text that the model sees to its tokens, those that
            start or end a text included.
        context: Text before the secret, such as a line break.
        num_checked: Random texts to compare; >= 1.

    Returns:
        A space with one secret for each text; all tokens before the first
        choice are its prefix.

    Raises:
        ValueError: If a word is not one token, or does not stay it, or no
            token stands before the first choice: no model predicts a text's
            first token from nothing.
    """
    num_checked = _checks.check_integer("num_checked", num_checked, at_least=1)
    rng = np.random.default_rng()

    def choose():
        return [words[rng.integers(len(words))] for words in parts]

    start = choose()
    tokens = _encode(encode, context + "".join(start))
    places = {}
    for part, words in enumerate(parts):
        if len(words) > 1:
            head = context + "".join(start[:part])
            tail = "".join(start[part + 1 :])
            texts = [head + word + tail for word in words]
            place, choices = _find_place(encode, texts)
            places[part] = place, dict(zip(words, choices, strict=True))
    choices = {place: tuple(of.values()) for place, of in places.values()}
    if len(choices) < len(places):
        raise ValueError(
            "encode must give each hole a token of its own. Received: one "
            f"token for two holes of {''.join(start)!r}. {_NOT_ALIGNED}"
        )
    for _ in range(num_checked):
        chosen = choose()
        wanted = list(tokens)
        for part, (place, token_of) in places.items():
            wanted[place] = token_of[chosen[part]]
        if _encode(encode, context + "".join(chosen)) != tuple(wanted):
            raise ValueError(
                "encode must give each hole one token, whatever fills the "
                f"others. Received: other tokens for {''.join(chosen)!r}. "
                f"{_NOT_ALIGNED}"
            )
    return _join(tokens, choices)


def _join(tokens, choices) -> secret_space.SecretSpace:
    """Returns the space of tokens, some of which have choices."""
    first = min(choices)
    if not first:
        raise ValueError(
            "context must give at least one token before a secret that begins "
            "with a hole. Received: none. Pass context='\\n', or an "
            "encode that puts the token that starts a text first."
        )
    return secret_space.SecretSpace(
        prefix=tokens[:first],
        choices=tuple(
            choices.get(place, (tokens[place],))
            for place in range(first, len(tokens))
        ),
    )


def encode_secrets(
    secrets: Sequence[str],
    *,
    space: secret_space.SecretSpace,
    encode: Callable[[str], Sequence[int]],
    context: str = "",
) -> np.ndarray:
    """Returns the tokens of secrets as the functions on a space want them.

    Args:
        secrets: `[S]` whole texts, S >= 1.
        space: What `make_space` returned.
        encode, context: As given to `make_space`.

    Returns:
        `[S, L]` int32, without the space's prefix.

    Raises:
        ValueError: If a secret does not begin with the prefix or is not in the
            space.
    """
    start = len(space.prefix)
    rows = [_encode(encode, context + secret) for secret in secrets]
    for row in rows:
        whole = len(row) == start + space.length
        if not (whole and row[:start] == space.prefix):
            raise ValueError(
                "secrets must be encoded to the space's prefix and "
                f"{space.length} tokens. Received: {list(row)}. Give the "
                "encode and context that made the space."
            )
    return space.check_secrets([row[start:] for row in rows])


def _encode(encode, text: str) -> tuple[int, ...]:
    tokens = np.asarray(encode(text))
    if tokens.ndim != 1 or not (tokens.size and tokens.dtype.kind in "iu"):
        raise ValueError(
            "encode must return a list of whole numbers, tokens. Received: "
            f"{tokens.dtype} of shape {tokens.shape}. Wrap the tokenizer: one "
            "text in, one flat list out."
        )
    return tuple(tokens.tolist())


def _find_place(encode, texts) -> tuple[int, tuple[int, ...]]:
    """Returns where texts that differ in one word differ in one token."""
    rows = [_encode(encode, text) for text in texts]
    if len({len(row) for row in rows}) == 1:
        columns = list(zip(*rows, strict=True))
        moved = [i for i, c in enumerate(columns) if len(set(c)) > 1]
        if len(moved) == 1 and len(set(columns[moved[0]])) == len(rows):
            return moved[0], columns[moved[0]]
    raise ValueError(
        "encode must give each word of a hole a token of its own, and change "
        f"no other. Received: an encoding of {texts[0]!r} and its like that "
        f"does not. {_NOT_ALIGNED}"
    )
