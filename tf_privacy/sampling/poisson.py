# SPDX-License-Identifier: Apache-2.0
"""Poisson sampling: every example joins every batch by its own coin."""

import dataclasses
import secrets

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

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Returns the indices of one batch's units, `[n]` int64, sorted.

        The size is Binomial(num_examples, sampling_probability) and, given
        its size, every subset is equally likely: the same law as one coin for
        each example, at the cost of the batch and not of the data set.

        Args:
            rng: From `make_rng`.
        """
        size = rng.binomial(self.num_examples, self.sampling_probability)
        indices = rng.choice(
            self.num_examples, size=size, replace=False, shuffle=False
        )
        return np.sort(indices.astype(np.int64))


def make_rng(seed: int | None = None) -> np.random.Generator:
    """Returns a generator of coins from the operating system's entropy.

    Args:
        seed: None for real coins. An int fixes them for tests: whoever knows
            it knows who was in which batch, and the amplification is lost.
    """
    entropy = secrets.randbits(256) if seed is None else seed
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence(entropy))
    )
