# SPDX-License-Identifier: Apache-2.0
"""A Keras language model's bits, for exposure, search and text canaries."""

from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np

from tf_privacy.audit import keras_backend
from tf_privacy.audit import language_model


def make_language_model(
    model: keras.Model,
    *,
    outputs: str,
    pad_token: int | None = None,
    batch_size: int = 256,
) -> language_model.LanguageModel:
    """Returns a Keras language model's bits of the next token.

    The model takes tokens `[B, L]` and returns scores of the next token: after
    all of them, `[B, V]`, or, if it is causal, after each, `[B, L, V]`.

    Args:
        model: A built Keras model of one input.
        outputs: What it returns, "logits" or "probabilities".
        pad_token: Fills up sequences for a model of fixed length; None refuses
            shorter ones.
        batch_size: The most sequences in one call; >= 1.

    Raises:
        ValueError: If the model's shapes do not fit, or it looks ahead.
    """
    input_shape, output_shape = model.input_shape, model.output_shape
    if not (
        isinstance(input_shape, tuple)
        and len(input_shape) == 2
        and isinstance(output_shape, tuple)
        and output_shape[-1] is not None
    ):
        raise ValueError(
            "model must map tokens [batch, length] to scores of the next "
            f"token. Received: a model from {input_shape} to {output_shape}."
        )
    return language_model.LanguageModel(
        keras_backend.load("_call").compile_call(model),
        outputs=outputs,
        vocabulary_size=output_shape[-1],
        context_length=input_shape[1],
        pad_token=pad_token,
        batch_size=batch_size,
    )


def make_text_score(
    encode: Callable[[str], Sequence[int]],
    *,
    outputs: str,
    pad_token: int | None = None,
    batch_size: int = 256,
) -> Callable[[keras.Model, Sequence[str]], np.ndarray]:
    """Returns the `score` of text canaries: minus their bits in the model.

    Bits are of all tokens but the first, given those before.

    Args:
        encode: From a text to its tokens, two at least.
        outputs: What the model returns, "logits" or "probabilities".
        pad_token: As in `make_language_model`.
        batch_size: The most sequences in one call; >= 1.

    Returns:
        A function of a Keras model and `[M]` texts that returns `[M]` float64.
    """

    def score(model, texts):
        bits_of = make_language_model(
            model, outputs=outputs, pad_token=pad_token, batch_size=batch_size
        )
        tokens = [np.asarray(encode(text)) for text in texts]
        lengths = np.array([len(row) for row in tokens])
        scores = np.zeros(len(tokens))
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            batch = np.stack([tokens[row] for row in rows])
            scores[rows] = -bits_of.compute_bits(batch, num_given=1)
        return scores

    return score
