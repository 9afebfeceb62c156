# SPDX-License-Identifier: Apache-2.0
"""The six models whose private step is timed against their ordinary step."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import layers
from keras import ops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """A model, how to make a batch for it, and its target.

    Attributes:
        make_model: Returns a new model with the same kind of weights.
        make_batch: `make_batch(rng, batch_size) -> (x, y)`.
        loss: A Keras loss.
        batch_size: The batch size that the target is stated for.
        target: Private step over ordinary step, at most.
        optimizers: The optimizers to time it with, "sgd" or "adam".
    """

    make_model: Callable
    make_batch: Callable
    loss: Callable
    batch_size: int
    target: float
    optimizers: tuple[str, ...] = ("sgd",)


def _classes():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _make_images(*shape):
    def make_batch(rng, batch_size):
        x = rng.normal(size=(batch_size, *shape)).astype("float32")
        return x, rng.integers(0, 10, batch_size).astype("int32")

    return make_batch


def _make_mlp():
    return keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(512, activation="relu"),
            layers.Dense(512, activation="relu"),
            layers.Dense(10),
        ]
    )


def _make_mnist_cnn():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 8, 2, padding="same", activation="relu"),
            layers.MaxPooling2D(2, 1),
            layers.Conv2D(32, 4, 2, padding="valid", activation="relu"),
            layers.MaxPooling2D(2, 1),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10),
        ]
    )


def _make_cifar_cnn():
    stack = [keras.Input((32, 32, 3))]
    for filters in (32, 64, 128):
        for _ in range(2):
            stack.append(layers.Conv2D(filters, 3, padding="same"))
            stack.append(layers.GroupNormalization(8))
            stack.append(layers.Activation("relu"))
        stack.append(layers.MaxPooling2D(2))
    stack += [
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dense(10),
    ]
    return keras.Sequential(stack)


class _Positions(layers.Layer):
    """Adds a trained vector for each position."""

    def build(self, input_shape):
        """Creates the table."""
        self.table = self.add_weight(shape=input_shape[1:], name="table")

    def call(self, inputs):
        """Returns inputs plus the table."""
        return inputs + self.table


def _make_transformer(length, width):
    inputs = keras.Input((length,), dtype="int32")
    x = _Positions()(layers.Embedding(10000, width)(inputs))
    for _ in range(2):
        attended = layers.MultiHeadAttention(4, width // 4)(x, x)
        x = layers.LayerNormalization()(x + attended)
        hidden = layers.Dense(4 * width, activation="gelu")(x)
        x = layers.LayerNormalization()(x + layers.Dense(width)(hidden))
    pooled = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(10)(pooled))


def _make_tokens(rng, batch_size, *, length):
    x = rng.integers(0, 10000, (batch_size, length)).astype("int32")
    return x, rng.integers(0, 10, batch_size).astype("int32")


def _make_lstm():
    return keras.Sequential(
        [
            keras.Input((64,), dtype="int32"),
            layers.Embedding(96, 64),
            layers.LSTM(128, return_sequences=True),
            layers.LSTM(128, return_sequences=True),
            layers.Dense(96),
        ]
    )


def _make_characters(rng, batch_size):
    text = rng.integers(0, 96, (batch_size, 65)).astype("int32")
    return text[:, :-1], text[:, 1:]


def _make_recommender():
    users = keras.Input((1,), dtype="int32")
    items = keras.Input((1,), dtype="int32")
    user = layers.Flatten()(layers.Embedding(100_000, 32)(users))
    item = layers.Flatten()(layers.Embedding(100_000, 32)(items))
    score = ops.sum(user * item, axis=-1, keepdims=True)
    return keras.Model([users, items], layers.Dense(1)(score))


def _make_ratings(rng, batch_size):
    ids = rng.integers(0, 100_000, (2, batch_size, 1)).astype("int32")
    return [ids[0], ids[1]], rng.normal(size=(batch_size, 1)).astype("float32")


def make_transformer_workload(*, length: int = 128, width: int = 128):
    """Returns the transformer's workload at another size.

    Args:
        length: Tokens of a sequence.
        width: Features of a token; a multiple of 4.

    Returns:
        A `Workload`.
    """
    return Workload(
        make_model=functools.partial(_make_transformer, length, width),
        make_batch=functools.partial(_make_tokens, length=length),
        loss=_classes,
        batch_size=64,
        target=1.3,
    )


WORKLOADS = {
    "mlp": Workload(
        make_model=_make_mlp,
        make_batch=_make_images(784),
        loss=_classes,
        batch_size=256,
        target=1.4,
    ),
    "mnist_cnn": Workload(
        make_model=_make_mnist_cnn,
        make_batch=_make_images(28, 28, 1),
        loss=_classes,
        batch_size=256,
        target=2.0,
    ),
    "cifar_cnn": Workload(
        make_model=_make_cifar_cnn,
        make_batch=_make_images(32, 32, 3),
        loss=_classes,
        batch_size=256,
        target=1.6,
    ),
    "transformer": make_transformer_workload(),
    "lstm": Workload(
        make_model=_make_lstm,
        make_batch=_make_characters,
        loss=_classes,
        batch_size=256,
        target=2.0,
    ),
    "recommender": Workload(
        make_model=_make_recommender,
        make_batch=_make_ratings,
        loss=keras.losses.MeanSquaredError,
        batch_size=256,
        target=1.5,
        # The ordinary SGD step changes only the rows that a batch looks up;
        # Adam's changes all of them.
        optimizers=("sgd", "adam"),
    ),
}


def make_rng():
    """Returns the generator of the benchmark's made-up batches."""
    return np.random.default_rng(0)
