# SPDX-License-Identifier: Apache-2.0
"""A language model as a `TokenModel`: black box, probabilities only."""

from collections.abc import Callable

import numpy as np
from scipy import special

from tf_privacy import _checks

_OUTPUTS = ("logits", "probabilities")
# Numbers that one call of the model may return.
_MAX_NUMBERS = 2**24
_PROBE_LENGTH = 4
# Round-off of float16 layers is below this, another token's effect above.
_TOLERANCE = 1e-2
_SUM_TOLERANCE = 1e-2


class LanguageModel:
    """Bits of the next token, from a function on batches of token sequences.

    `call` maps tokens `[B, L]` to `[B, V]` (the next token after all of them)
    or to `[B, L, V]` (the next token after each of them: a causal model; that
    it is one is tried out, because a model that looks ahead would give the
    secret away to itself). `make_language_model` makes one of a Keras model.

    A sequence longer than `context_length` loses its first tokens, as in any
    use of such a model. A shorter one is filled up with `pad_token`: at the
    end where the model is causal, which changes nothing; else at the front.

    Args:
        call: `[B, L]` int32 to float; see above.
        outputs: What `call` returns, "logits" or "probabilities".
        vocabulary_size: V; tokens are in [0, V).
        context_length: The one length that `call` takes; None for any.
        pad_token: Fills up to `context_length`; None refuses shorter ones.
        batch_size: The most sequences in one call; >= 1.

    Raises:
        ValueError: If an argument is out of range, or `call` returns another
            shape, or looks ahead.
    """

    def __init__(
        self,
        call: Callable[[np.ndarray], np.ndarray],
        *,
        outputs: str,
        vocabulary_size: int,
        context_length: int | None = None,
        pad_token: int | None = None,
        batch_size: int = 256,
    ):
        self._call = call
        self._outputs = _checks.check_choice("outputs", outputs, _OUTPUTS)
        self.vocabulary_size = _checks.check_integer(
            "vocabulary_size", vocabulary_size, at_least=2
        )
        if context_length is not None:
            context_length = _checks.check_integer(
                "context_length", context_length, at_least=1
            )
        self._context_length = context_length
        if pad_token is not None:
            pad_token = _checks.check_integer(
                "pad_token",
                pad_token,
                at_least=0,
                at_most=self.vocabulary_size - 1,
            )
        self._pad_token = pad_token
        self._batch_size = _checks.check_integer(
            "batch_size", batch_size, at_least=1
        )
        self._is_causal = self._probe()

    def _probe(self) -> bool:
        """Returns whether there is an output for each position.

        Raises:
            ValueError: If the output's shape is neither of the two, or an
                earlier position's output depends on a later token.
        """
        length = self._context_length or _PROBE_LENGTH
        tokens = np.arange(length, dtype=np.int32) % self.vocabulary_size
        tokens = np.stack([tokens, tokens])
        tokens[1, -1] = (tokens[1, -1] + 1) % self.vocabulary_size
        outputs = np.asarray(self._call(tokens))
        self._refuse_probabilities(outputs)
        if outputs.shape == (2, self.vocabulary_size):
            return False
        if outputs.shape != (2, length, self.vocabulary_size):
            raise ValueError(
                "model must return [batch, vocabulary_size] or [batch, length, "
                f"vocabulary_size] for tokens {tokens.shape}. Received: shape "
                f"{outputs.shape} with vocabulary_size "
                f"{self.vocabulary_size}. Give the model that ends in one "
                "score for each token."
            )
        bits = self._to_bits(outputs[:, :-1])
        with np.errstate(invalid="ignore"):
            moved = np.abs(bits[0] - bits[1]) > _TOLERANCE
        if np.any(moved):
            raise ValueError(
                "model must be causal where it returns one output for each "
                "position. Received: a model whose earlier outputs depend on "
                "the last token. Use a causal attention mask, or return the "
                "output after the last token alone."
            )
        return True

    def _refuse_probabilities(self, outputs) -> None:
        """Raises if what is called logits are probabilities."""
        sums = outputs.astype(np.float64).sum(axis=-1)
        normal = np.all(outputs >= 0.0) and np.all(np.abs(sums - 1.0) < 1e-3)
        if self._outputs == "logits" and normal:
            raise ValueError(
                'outputs must be "probabilities" for a model that ends in a '
                'softmax. Received: "logits", and numbers >= 0 that sum to 1. '
                "Their softmax would hide every secret."
            )

    def compute_next_bits(self, tokens) -> np.ndarray:
        """Returns -log2 of the probability of each next token.

        Args:
            tokens: `[B, L]` int; what is known, L >= 1.

        Returns:
            `[B, V]` float64, bits >= 0; inf where the model says 0.

        Raises:
            ValueError: If tokens are out of range, or the model returns NaN.
        """
        tokens = self._check_tokens(tokens)
        step = self._rows_in_a_call(tokens.shape[1])
        pieces = [
            self._to_bits(self._call_last(tokens[start : start + step]))
            for start in range(0, len(tokens), step)
        ]
        return np.concatenate(
            pieces or [np.zeros((0, self.vocabulary_size))], axis=0
        )

    def compute_bits(self, tokens, *, num_given: int) -> np.ndarray:
        """Returns the log-perplexity of what follows the first tokens.

        sum over i >= num_given of -log2 P(tokens[i] | tokens[:i])

        Args:
            tokens: `[B, L]` int.
            num_given: Tokens that are known; in [1, L].

        Returns:
            `[B]` float64, bits >= 0; inf where the model says 0.

        Raises:
            ValueError: If an argument is out of range, or the model returns
                NaN.
        """
        tokens = self._check_tokens(tokens)
        length = tokens.shape[1]
        num_given = _checks.check_integer(
            "num_given", num_given, at_least=1, at_most=length
        )
        fits = self._context_length is None or length <= self._context_length
        if not (self._is_causal and fits):
            return self._sum_step_by_step(tokens, num_given)
        step = self._rows_in_a_call(length)
        total = np.zeros(len(tokens))
        for start in range(0, len(tokens), step):
            rows = tokens[start : start + step]
            outputs = np.asarray(self._call(self._fill(rows)))
            bits = self._to_bits(outputs[:, num_given - 1 : length - 1])
            found = np.take_along_axis(bits, rows[:, num_given:, None], axis=2)
            total[start : start + step] = found.sum(axis=(1, 2))
        return total

    def _sum_step_by_step(self, tokens, num_given) -> np.ndarray:
        total = np.zeros(len(tokens))
        for position in range(num_given, tokens.shape[1]):
            bits = self.compute_next_bits(tokens[:, :position])
            total += bits[np.arange(len(tokens)), tokens[:, position]]
        return total

    def _check_tokens(self, tokens) -> np.ndarray:
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
            raise ValueError(
                "tokens must be whole numbers [batch, length]. Received: "
                f"{tokens.dtype} of shape {tokens.shape}. Sequences of "
                "different lengths go into different calls."
            )
        if tokens.shape[1] == 0:
            raise ValueError(
                "tokens must hold at least one token for each sequence. "
                "Received: length 0. Begin with the token that starts a text."
            )
        if tokens.size and not (
            tokens.min() >= 0 and tokens.max() < self.vocabulary_size
        ):
            raise ValueError(
                f"tokens must be in [0, {self.vocabulary_size}). Received: "
                f"{tokens.min()} to {tokens.max()}. Encode with the model's "
                "own tokenizer."
            )
        return tokens.astype(np.int32)

    def _rows_in_a_call(self, length: int) -> int:
        width = (self._context_length or length) if self._is_causal else 1
        fit = _MAX_NUMBERS // (width * self.vocabulary_size)
        return max(1, min(self._batch_size, fit))

    def _call_last(self, tokens) -> np.ndarray:
        """Returns the outputs `[B, V]` after the last of the tokens."""
        filled = self._fill(tokens)
        outputs = np.asarray(self._call(filled))
        if not self._is_causal:
            return outputs
        last = min(tokens.shape[1], filled.shape[1]) - 1
        return outputs[:, last]

    def _fill(self, tokens) -> np.ndarray:
        """Returns the tokens at the length that the model takes."""
        if self._context_length is None:
            return tokens
        tokens = tokens[:, -self._context_length :]
        missing = self._context_length - tokens.shape[1]
        if not missing:
            return tokens
        if self._pad_token is None:
            raise ValueError(
                "pad_token must be given where sequences are shorter than "
                f"context_length {self._context_length}. Received: None and "
                f"a sequence of {tokens.shape[1]}. Give the token that the "
                "model was trained to see there."
            )
        sides = (0, missing) if self._is_causal else (missing, 0)
        return np.pad(tokens, [(0, 0), sides], constant_values=self._pad_token)

    def _to_bits(self, outputs) -> np.ndarray:
        """Returns -log2 of the probabilities along the last axis."""
        outputs = np.asarray(outputs, dtype=np.float64)
        if self._outputs == "logits":
            with np.errstate(invalid="ignore"):
                log_probabilities = special.log_softmax(outputs, axis=-1)
        else:
            sums = outputs.sum(axis=-1, keepdims=True)
            wrong = (outputs < 0.0) | (np.abs(sums - 1.0) > _SUM_TOLERANCE)
            if np.any(wrong):
                raise ValueError(
                    'outputs must be "logits" where the model returns numbers '
                    "that are no probabilities. Received: "
                    f'"probabilities", and numbers from {outputs.min():g} to '
                    f"{outputs.max():g}."
                )
            with np.errstate(divide="ignore"):
                log_probabilities = np.log(outputs) - np.log(sums)
        if np.any(np.isnan(log_probabilities)):
            raise ValueError(
                "model must return numbers. Received: NaN. Its weights may "
                "have diverged; a NaN has no place in a ranking."
            )
        # Round-off may leave 1 + 1e-16; bits are never negative.
        return np.maximum(-log_probabilities / np.log(2.0), 0.0)
