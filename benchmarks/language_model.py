# SPDX-License-Identifier: Apache-2.0
"""A decoder-only language model of GPT-2's architecture, random weights.

KerasHub's `GPT2Backbone`, where KerasHub is installed; else the same from
layers of Keras. The embedding of the tokens is also the head. 12 layers of
width 768 over 50257 tokens are the smallest GPT-2, 124 million parameters.
"""

import dataclasses
import functools
import importlib

import keras
import numpy as np
from keras import layers
from keras import ops

_HEAD_WIDTH = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How large the model is.

    Attributes:
        layers: Decoder layers.
        width: Features of a token; of several heads of 64 features, or of one
            smaller head.
        vocabulary: Different tokens.
        sequence: Tokens of an example, which is also the longest one.
        dropout: Probability of leaving a feature out.
    """

    layers: int = 12
    width: int = 768
    vocabulary: int = 50257
    sequence: int = 128
    dropout: float = 0.1

    @property
    def num_heads(self) -> int:
        """Attention heads of a layer."""
        return max(1, self.width // _HEAD_WIDTH)


def has_keras_hub() -> bool:
    """Returns whether KerasHub is installed, with all that it needs."""
    try:
        importlib.import_module("keras_hub")
    except ImportError:
        return False
    return True


def make_model(
    size: Size, *, lora_rank: int = 0, keras_hub: bool | None = None
):
    """Returns a model from tokens to the logits of the token that follows.

    Args:
        size: How large it is.
        lora_rank: 0, or the rank of the adaptation of each layer's queries and
            values: then nothing else is trained, but for their biases.
        keras_hub: Whether it is made by KerasHub; None where it is installed.

    Returns:
        A built `keras.Model` of `{"token_ids", "padding_mask"}`, both
        `[B, sequence]` int32, to `[B, sequence, vocabulary]` float32.
    """
    if has_keras_hub() if keras_hub is None else keras_hub:
        return _make_with_keras_hub(size, lora_rank)
    return _make_with_keras(size, lora_rank)


def make_batch(rng, size: Size, num_rows: int):
    """Returns rows of made-up text and, as targets, the tokens that follow.

    Args:
        rng: A NumPy generator.
        size: The model's.
        num_rows: Rows; >= 0.

    Returns:
        `(x, y)` of int32 arrays, as the model takes them.
    """
    # Low tokens are frequent, as in text.
    ranks = rng.random((num_rows, size.sequence + 1)) ** 4
    tokens = (ranks * size.vocabulary).astype(np.int32)
    inputs = np.ascontiguousarray(tokens[:, :-1])
    x = {"token_ids": inputs, "padding_mask": np.ones_like(inputs)}
    return x, np.ascontiguousarray(tokens[:, 1:])


def make_loss():
    """Returns the mean over a row's tokens of the cross-entropy."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _make_with_keras_hub(size, lora_rank):
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=size.vocabulary,
        num_layers=size.layers,
        num_heads=size.num_heads,
        hidden_dim=size.width,
        intermediate_dim=4 * size.width,
        max_sequence_length=size.sequence,
        dropout=size.dropout,
    )
    if lora_rank:
        backbone.enable_lora(lora_rank)
    # Not GPT2CausalLM: its `fit` takes text or arrays, and no data set that
    # draws its own batches.
    logits = backbone.token_embedding(backbone.output, reverse=True)
    return keras.Model(backbone.input, logits)


class _Positions(layers.Layer):
    """Returns a trained vector for each position, for all rows."""

    def build(self, input_shape):
        """Creates the table."""
        self.table = self.add_weight(
            shape=input_shape[1:], name="embeddings", initializer=_normal(0.02)
        )

    def call(self, inputs):
        """Returns the table as often as there are rows."""
        return ops.broadcast_to(self.table, ops.shape(inputs))


def _normal(stddev):
    return keras.initializers.RandomNormal(stddev=stddev)


def _make_with_keras(size, lora_rank):
    shape = (size.sequence,)
    tokens = keras.Input(shape, dtype="int32", name="token_ids")
    padding = keras.Input(shape, dtype="int32", name="padding_mask")
    embedding = layers.ReversibleEmbedding(
        size.vocabulary, size.width, embeddings_initializer=_normal(0.01)
    )
    x = embedding(tokens)
    x = layers.Dropout(size.dropout)(x + _Positions()(x))
    for _ in range(size.layers):
        x = _add_decoder_layer(x, padding, size)
    x = layers.LayerNormalization(epsilon=1e-5)(x)
    logits = embedding(x, reverse=True)
    inputs = {"token_ids": tokens, "padding_mask": padding}
    model = keras.Model(inputs, logits)
    if lora_rank:
        _adapt(model, lora_rank)
    return model


def _add_decoder_layer(x, padding, size):
    normalize = functools.partial(layers.LayerNormalization, epsilon=1e-5)
    dense = functools.partial(layers.Dense, kernel_initializer=_normal(0.02))
    attention = layers.MultiHeadAttention(
        size.num_heads,
        size.width // size.num_heads,
        dropout=size.dropout,
        kernel_initializer=_normal(0.02),
    )
    normed = normalize()(x)
    mask = ops.cast(padding, "bool")[:, None, :]
    attended = attention(
        normed, normed, attention_mask=mask, use_causal_mask=True
    )
    x = x + layers.Dropout(size.dropout)(attended)
    gelu = functools.partial(keras.activations.gelu, approximate=True)
    hidden = dense(4 * size.width, activation=gelu)(normalize()(x))
    hidden = dense(size.width)(hidden)
    return x + layers.Dropout(size.dropout)(hidden)


def _adapt(model, rank):
    """Trains queries and values alone, by low-rank adaptation."""
    adapted = []
    for layer in model.layers:
        if isinstance(layer, layers.MultiHeadAttention):
            adapted += [layer.query_dense, layer.value_dense]
    for layer in model.layers:
        layer.trainable = False
    for layer in adapted:
        layer.trainable = True
        layer.enable_lora(rank)
