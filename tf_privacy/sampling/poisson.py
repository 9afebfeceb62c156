# SPDX-License-Identifier: Apache-2.0
"""Poisson sampling: every example joins every batch by its own coin."""

import dataclasses
import math
import secrets
import threading

import numpy as np

from tf_privacy import _checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoissonSampling:
    """Each of `num_examples` joins each batch with `sampling_probability`.

    The coins of different examples and of different batches are independent;
    batches are of random size and may be empty. This, and not shuffling, is
    what the accountant's amplification by sampling is proved for.

    Attributes:
        num_examples: Examples, or units of several, in the training set; >= 1;
            taken as public.
        sampling_probability: Chance that one of them joins one batch; (0, 1].
        examples_per_unit: Consecutive examples that join a batch together.
    """

    num_examples: int
    sampling_probability: float
    examples_per_unit: int = 1

    def __post_init__(self):
        num_examples = _checks.check_integer(
            "num_examples", self.num_examples, at_least=1
        )
        object.__setattr__(self, "num_examples", num_examples)
        _checks.check_sampling_probability(self.sampling_probability)
        examples_per_unit = _checks.check_integer(
            "examples_per_unit", self.examples_per_unit, at_least=1
        )
        object.__setattr__(self, "examples_per_unit", examples_per_unit)

    @property
    def expected_batch_size(self) -> float:
        """The mean size of a batch, num_examples * sampling_probability."""
        return self.num_examples * self.sampling_probability

    def bound_batch_size(self, probability: float) -> int:
        """Returns a size that batches exceed with at most a probability.

        Args:
            probability: In (0, 1).

        Source: Bennett's inequality; P(n >= m + u m) <= exp(-m h(u)) for a
            mean of m, with h(u) = (1 + u) log(1 + u) - u.
        """
        _checks.check_real("probability", probability, above=0.0, below=1.0)
        mean, size = self.expected_batch_size, 0
        while size < self.num_examples:
            # The least size beyond which all are that rare.
            ratio = (size + 1) / mean
            rate = mean * (ratio * math.log(ratio) - ratio + 1.0)
            if ratio > 1.0 and rate >= -math.log(probability):
                break
            size += 1
        return size

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Returns the indices of one batch's units, `[n]` int64, sorted.

        The size is Binomial(num_examples, sampling_probability) and, given
        its size, every subset is equally likely: the same law as one coin for
        each example, at the cost of the batch and not of the data set.

        Args:
            rng: From `make_rng`, or a `CoinStream`.
        """
        size = rng.binomial(self.num_examples, self.sampling_probability)
        indices = rng.choice(
            self.num_examples, size=size, replace=False, shuffle=False
        )
        return np.sort(indices.astype(np.int64))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoinState:
    """Where a stream of coins stands; a secret, like the coins themselves.

    Whoever has it knows who joins which batch, and what sampling adds to the
    guarantee is lost for the steps that follow it, and for those before.

    Attributes:
        key: Two words in [0, 2**64).
        position: Batches that were drawn before; >= 0.
    """

    key: tuple[int, int] = dataclasses.field(repr=False)
    position: int

    def __post_init__(self):
        key = tuple(_check_word("key", word) for word in self.key)
        if len(key) != 2:
            raise ValueError(
                f"key must be two words. Received: {len(key)} of them. Use a "
                "state that CoinStream.get_state() returned."
            )
        object.__setattr__(self, "key", key)
        object.__setattr__(
            self, "position", _check_word("position", self.position)
        )


def _check_word(name, value) -> int:
    return _checks.check_integer(name, value, at_least=0, at_most=2**64 - 1)


class CoinStream:
    """One generator of coins after the other, each for a single batch.

    The n-th generator is Philox with this stream's key and the counter
    n * 2**128: no two of them share a value, and the key and a position say
    where the stream goes on. It may be used by several threads.

    Args:
        seed: As for `make_rng`.
    """

    def __init__(self, seed: int | None = None):
        words = _make_sequence(seed).generate_state(2, np.uint64)
        self._key = tuple(int(word) for word in words)
        self._position = 0
        self._lock = threading.Lock()

    def take(self) -> tuple[np.random.Generator, int]:
        """Returns the next batch's generator, and the position after it."""
        with self._lock:
            position = self._position
            self._position += 1
        bits = np.random.Philox(
            key=np.array(self._key, np.uint64), counter=[0, 0, position, 0]
        )
        return np.random.Generator(bits), position + 1

    def get_state(self, position: int | None = None) -> CoinState:
        """Returns where the stream stands, or stood.

        Args:
            position: From `take`; None for where it stands now.
        """
        with self._lock:
            now = self._position
        return CoinState(
            key=self._key, position=now if position is None else position
        )

    def set_state(self, state: CoinState) -> None:
        """Goes on from a state as the stream did that it came from.

        Coins that were used for a step that was released must not be used for
        another one: the two are not independent draws, and the accountant
        composes them as if they were.

        Args:
            state: From `get_state`.
        """
        with self._lock:
            self._key, self._position = state.key, state.position


def make_rng(seed: int | None = None) -> np.random.Generator:
    """Returns a generator of coins from the operating system's entropy.

    Args:
        seed: None for real coins. An int fixes them for tests: whoever knows
            it knows who was in which batch, and the amplification is lost.
    """
    return np.random.Generator(np.random.Philox(_make_sequence(seed)))


def _make_sequence(seed) -> np.random.SeedSequence:
    entropy = secrets.randbits(256) if seed is None else seed
    return np.random.SeedSequence(entropy)
