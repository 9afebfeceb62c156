# SPDX-License-Identifier: Apache-2.0
"""Small token models in numpy, whose every probability is known."""

import itertools

import numpy as np

from tf_privacy.audit import secret_space


class MarkovModel:
    """The next token depends on the last one: `probabilities[last, next]`."""

    def __init__(self, probabilities):
        self.probabilities = np.asarray(probabilities, dtype=np.float64)
        self.evaluations = 0
        self.batches = []

    def compute_next_bits(self, tokens):
        self.evaluations += len(tokens)
        self.batches.append(tokens.shape)
        with np.errstate(divide="ignore"):
            return -np.log2(self.probabilities[tokens[:, -1]])

    def compute_bits(self, tokens, *, num_given):
        total = np.zeros(len(tokens))
        for i in range(num_given, tokens.shape[1]):
            with np.errstate(divide="ignore"):
                total -= np.log2(
                    self.probabilities[tokens[:, i - 1], tokens[:, i]]
                )
        return total


class TreeModel:
    """The next token depends on all tokens after the first: no ties."""

    def __init__(self, rng, size, length, *, concentration=0.5):
        self.evaluations = 0
        self._size = size
        self._probabilities = [
            rng.dirichlet(np.full(size, concentration), size=size**depth)
            for depth in range(length)
        ]

    def compute_next_bits(self, tokens):
        self.evaluations += len(tokens)
        place = np.zeros(len(tokens), dtype=int)
        for column in tokens[:, 1:].T:
            place = place * self._size + column
        return -np.log2(self._probabilities[tokens.shape[1] - 1][place])


class MemorizingModel:
    """Uniform over the digits, but for a secret that it continues.

    As long as all digits so far are those of the secret, the next one of the
    secret has probability `trust`; the others share the rest.
    """

    def __init__(self, secret, *, trust, prefix_length=1):
        self.secret = np.asarray(secret)
        self.trust = trust
        self.prefix_length = prefix_length

    def compute_next_bits(self, tokens):
        so_far = tokens[:, self.prefix_length :]
        place = so_far.shape[1]
        knows = np.all(so_far == self.secret[:place], axis=1)
        probabilities = np.full((len(tokens), 10), 0.1)
        probabilities[knows] = (1.0 - self.trust) / 9.0
        probabilities[knows, self.secret[place]] = self.trust
        return -np.log2(probabilities)

    def compute_bits(self, tokens, *, num_given):
        total = np.zeros(len(tokens))
        for i in range(num_given, tokens.shape[1]):
            bits = self.compute_next_bits(tokens[:, :i])
            total += bits[np.arange(len(tokens)), tokens[:, i]]
        return total


def make_markov_model(rng, size, *, concentration=0.5):
    return MarkovModel(rng.dirichlet(np.full(size, concentration), size=size))


def make_space(size, length, **kwargs):
    return secret_space.SecretSpace(
        prefix=(0,), choices=(tuple(range(size)),) * length, **kwargs
    )


def list_secrets(space):
    """Returns every secret of a small space, by brute force."""
    combinations = np.array(list(itertools.product(*space.choices)))
    if space.accepts is None:
        return combinations
    return combinations[space.accepts(combinations)]


def compute_bits_slowly(model, space, secrets):
    """Returns bits in exact float sums, one secret and token at a time."""
    result = []
    for secret in secrets:
        tokens, total = list(space.prefix), 0.0
        for token in secret:
            bits = model.compute_next_bits(np.array([tokens]))[0, token]
            total += float(bits)
            tokens.append(int(token))
        result.append(total)
    return np.array(result)
