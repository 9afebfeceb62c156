# SPDX-License-Identifier: Apache-2.0
"""What the audit needs of a language model: the probability of a next token."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import secret_space

# Far above the round-off of float16 outputs, far below what nats taken for bits
# or a mean taken for a sum would give.
_MAX_TOTAL = 1.01


class TokenModel(Protocol):
    """A model that gives each token a probability, given those before it.

    A black box with probabilities will do: neither method needs its weights.
    All bits are -log2 of a probability: >= 0, and inf for a token that cannot
    come.
    """

    def compute_next_bits(self, tokens: np.ndarray) -> np.ndarray:
        """Returns -log2 P(token | tokens before it), of every token.

        Args:
            tokens: `[B, L]` int; sequences of one length.

        Returns:
            `[B, V]` float64, bits; sum over V of 2^-bits is at most 1.
        """

    def compute_bits(self, tokens: np.ndarray, *, num_given: int) -> np.ndarray:
        """Returns the summed bits of what follows the first tokens.

        result[b] = sum over i >= num_given of
            -log2 P(tokens[b, i] | tokens[b, :i])

        Args:
            tokens: `[B, L]` int.
            num_given: Tokens taken as known; in [1, L].

        Returns:
            `[B]` float64, bits.
        """


def check_model(model: TokenModel, space: secret_space.SecretSpace) -> None:
    """Refuses a model whose numbers after the prefix are no probabilities.

    A loss in nats, a mean instead of a sum, or a score without normalisation
    would make every floor and every bracket false.

    Args:
        model: The model.
        space: Gives the prefix, and the tokens that must exist.

    Raises:
        TypeError: If the model is no `TokenModel`.
        ValueError: If the probabilities sum to more than 1, or a choice of the
            space is not among the model's tokens.
    """
    if not hasattr(model, "compute_next_bits"):
        raise TypeError(
            "model must have compute_next_bits and compute_bits. Received: "
            f"{type(model).__name__}. Pass a Keras model through "
            "make_language_model."
        )
    tokens = space.prepend_prefix(np.zeros((1, 0), dtype=np.int32))
    bits = np.asarray(model.compute_next_bits(tokens), dtype=np.float64)
    largest = max(max(c) for c in space.choices)
    if bits.ndim != 2 or bits.shape[0] != 1 or bits.shape[1] <= largest:
        raise ValueError(
            "model must return bits [batch, vocabulary] that cover the space's "
            f"tokens, up to {largest}. Received: shape {bits.shape}. Encode "
            "the choices with the model's own tokenizer."
        )
    total = float(np.sum(np.exp2(-bits)))
    if not total <= _MAX_TOTAL:
        raise ValueError(
            "model must return -log2 of probabilities, which sum to 1. "
            f"Received: a sum of {total:.6g} after the prefix. Divide nats by "
            "log(2), and give it the softmax of logits."
        )


def compute_child_bits(
    model: TokenModel,
    space: secret_space.SecretSpace,
    secrets: np.ndarray,
) -> np.ndarray:
    """Returns the bits of each choice at the next position.

    Args:
        model: The model.
        space: The space.
        secrets: `[B, D]` int; first D tokens of secrets, D < L.

    Returns:
        `[B, C]` float64; C choices in the order of `space.choices[D]`.

    Raises:
        ValueError: If the model returns NaN or less than 0.
    """
    choices = np.array(space.choices[secrets.shape[1]])
    bits = model.compute_next_bits(space.prepend_prefix(secrets))
    return _check_bits(np.asarray(bits)[:, choices])


def compute_secret_bits(
    model: TokenModel,
    space: secret_space.SecretSpace,
    secrets: np.ndarray,
    *,
    batch_size: int = 256,
) -> np.ndarray:
    """Returns the bits of secrets, summed token by token.

    It goes the way of the tree walk, so that both round alike.

    Args:
        model: The model.
        space: The space.
        secrets: `[S, L]` int; in the space.
        batch_size: The most sequences in one call; >= 1.

    Returns:
        `[S]` float64, bits.

    Raises:
        ValueError: If the model returns NaN or less than 0.
    """
    total = np.zeros(len(secrets))
    for start in range(0, len(secrets), batch_size):
        rows = secrets[start : start + batch_size]
        for position, choices in enumerate(space.choices):
            bits = compute_child_bits(model, space, rows[:, :position])
            chosen = rows[:, position, np.newaxis] == np.array(choices)
            total[start : start + batch_size] += bits[chosen]
    return total


def compute_bits_in_batches(
    model: TokenModel,
    space: secret_space.SecretSpace,
    secrets: np.ndarray,
    *,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Returns the bits of arbitrarily many secrets, by `model.compute_bits`.

    The fast way where a causal model scores all positions at once.

    Args:
        model: The model.
        space: The space.
        secrets: `[S, L]` int; in the space.
        batch_size: The most sequences in one call; >= 1.
        progress: Called with the number done and S, after each batch.

    Returns:
        `[S]` float64, bits.

    Raises:
        ValueError: If the model returns NaN or less than 0.
    """
    batch_size = _checks.check_integer("batch_size", batch_size, at_least=1)
    count = len(secrets)
    total = np.zeros(count)
    for start in range(0, count, batch_size):
        rows = secrets[start : start + batch_size]
        bits = model.compute_bits(
            space.prepend_prefix(rows), num_given=len(space.prefix)
        )
        total[start : start + batch_size] = _check_bits(bits)
        if progress is not None:
            progress(min(count, start + batch_size), count)
    return total


def _check_bits(bits) -> np.ndarray:
    """Returns the model's bits as float64 once they are >= 0 or inf."""
    bits = np.asarray(bits, dtype=np.float64)
    good = bits >= 0.0
    if not np.all(good):
        raise ValueError(
            "model must return bits >= 0. Received: "
            f"{bits[~good][0]}. A NaN has no place in a ranking; its weights "
            "may have diverged."
        )
    return bits
