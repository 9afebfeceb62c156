# SPDX-License-Identifier: Apache-2.0
"""A zoo of tiny compiled Keras models, each with a small batch of data.

`CASES` holds deterministic models whose rows do not influence each other, so
that per-example gradients can be checked one row at a time. `DROPOUT_CASES` are
random, and `BATCH_NORM_CASES` mix rows or change their own state in training.

Every trainable weight is moved off its initial value by a little noise, so that
zero biases and unit scales hide no mistake.
"""

import collections.abc
import dataclasses
import tempfile

import keras
import numpy as np
from keras import layers


@dataclasses.dataclass(frozen=True)
class Case:
    """A named recipe for a model and its data.

    `make(seed)` returns a compiled model, x, y, and sample weights or None.
    """

    name: str
    make: collections.abc.Callable


CASES = []
# Joins CASES on that backend of Keras only.
CASES_OF_BACKEND = {"jax": [], "tensorflow": [], "torch": []}
DROPOUT_CASES = []
BATCH_NORM_CASES = []


def _case(cases):
    """Return a decorator which adds a function to `cases` by its name."""

    def register(make):
        cases.append(Case(make.__name__.lstrip("_"), make))
        return make

    return register


def _start(seed):
    """Seed Keras and return a NumPy generator for the data."""
    keras.utils.set_random_seed(seed)
    return np.random.default_rng(seed)


def _normal(rng, *shape):
    """Return float32 data from a standard normal distribution."""
    return rng.normal(size=shape).astype("float32")


def _integers(rng, low, high, *shape):
    """Return int32 data from `low` up to but without `high`."""
    return rng.integers(low, high, size=shape).astype("int32")


def _one_hot(rng, classes, *shape):
    """Return float32 one-hot rows for random classes."""
    return np.eye(classes, dtype="float32")[rng.integers(0, classes, shape)]


def _tokens(rng, vocabulary, lengths, width):
    """Return int32 tokens padded with zeros on the right."""
    tokens = _integers(rng, 1, vocabulary, len(lengths), width)
    return tokens * (np.arange(width) < np.array(lengths)[:, None])


def _ready(rng, model, x, loss, **compile_options):
    """Build, perturb and compile a model, and return it."""
    model(x)
    for variable in model.trainable_variables:
        noise = 0.2 * rng.normal(size=tuple(variable.shape))
        variable.assign_add(noise.astype("float32"))
    model.compile(optimizer="sgd", loss=loss, **compile_options)
    return model


def _sequential(rng, x, y, loss, stack, weight=None, **compile_options):
    """Return a case made of a plain stack of layers."""
    inputs = keras.Input(shape=x.shape[1:], dtype=x.dtype.name)
    model = keras.Sequential([inputs, *stack])
    model = _ready(rng, model, x, loss, **compile_options)
    return model, x, y, weight


# Dense layers and losses.


@_case(CASES)
def _dense_mlp(seed):
    """Make a multilayer perceptron."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _normal(rng, 8, 2)
    stack = [layers.Dense(7, activation="tanh"), layers.Dense(2)]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _dense_no_bias(seed):
    """Make a multilayer perceptron without biases."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _normal(rng, 8, 2)
    stack = [
        layers.Dense(6, use_bias=False, activation="gelu"),
        layers.Dense(2, use_bias=False),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _dense_on_sequence(seed):
    """Make dense layers which work on a time axis too."""
    rng = _start(seed)
    x, y = _normal(rng, 7, 4, 3), _normal(rng, 7, 4, 2)
    stack = [layers.Dense(5, activation="relu"), layers.Dense(2)]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _dense_on_image(seed):
    """Make dense layers on rank 4 inputs, then flattened."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 3, 2, 4), _normal(rng, 6, 1)
    stack = [
        layers.Dense(3, activation="tanh"),
        layers.Flatten(),
        layers.Dense(1),
    ]
    return _sequential(rng, x, y, "mae", stack)


@_case(CASES)
def _dense_softmax(seed):
    """Make a classifier with the softmax within its last dense layer."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _integers(rng, 0, 4, 8)
    stack = [
        layers.Dense(6, activation="softmax"),
        layers.Dense(4, activation="softmax"),
    ]
    return _sequential(rng, x, y, "sparse_categorical_crossentropy", stack)


@_case(CASES)
def _binary_logits(seed):
    """Make a binary classifier on logits with targets of rank 1."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _integers(rng, 0, 2, 8)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    stack = [layers.Dense(4, activation="swish"), layers.Dense(1)]
    return _sequential(rng, x, y, loss, stack)


@_case(CASES)
def _label_smoothing(seed):
    """Make a classifier with smoothed labels."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _one_hot(rng, 3, 8)
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.1
    )
    return _sequential(rng, x, y, loss, [layers.Dense(3)])


@_case(CASES)
def _huber_loss(seed):
    """Make a regression under the Huber loss, on both of its sides."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), 2 * _normal(rng, 8, 3)
    stack = [layers.Dense(4, activation="elu"), layers.Dense(3)]
    return _sequential(rng, x, y, keras.losses.Huber(delta=0.7), stack)


def _quartic_loss(y_true, y_pred):
    """Return a loss per example, summed over the features."""
    error = keras.ops.cast(y_true, y_pred.dtype) - y_pred
    return keras.ops.sum(keras.ops.square(error) + 0.1 * error**4, axis=-1)


@_case(CASES)
def _custom_loss_function(seed):
    """Make a regression under a plain Python loss function."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _normal(rng, 8, 3)
    stack = [layers.Dense(4, activation="tanh"), layers.Dense(3)]
    return _sequential(rng, x, y, _quartic_loss, stack)


@_case(CASES)
def _kernel_regularizer(seed):
    """Make a regression with weight decay in its loss."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _normal(rng, 8, 2)
    stack = [
        layers.Dense(
            4,
            activation="tanh",
            kernel_regularizer=keras.regularizers.L2(0.05),
            bias_regularizer=keras.regularizers.L1(0.02),
        ),
        layers.Dense(2, kernel_regularizer="l2"),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _scalar_output(seed):
    """Make a regression with one rank 1 output for the whole batch."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _normal(rng, 8)
    inputs = keras.Input((5,))
    hidden = layers.Dense(4, activation="tanh")(inputs)
    outputs = keras.ops.squeeze(layers.Dense(1)(hidden), axis=-1)
    model = keras.Model(inputs, outputs)
    return _ready(rng, model, x, "mse"), x, y, None


@_case(CASES)
def _sample_weights(seed):
    """Make a classifier with sample weights, some of them zero."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _integers(rng, 0, 3, 8)
    weight = np.array([1, 0, 2, 0.5, 0, 3, 1, 0.25], "float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    stack = [layers.Dense(4, activation="tanh"), layers.Dense(3)]
    return _sequential(rng, x, y, loss, stack, weight)


@_case(CASES)
def _timestep_weights(seed):
    """Make a sequence regression with a weight for each time step."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 4, 3), _normal(rng, 6, 4, 2)
    weight = rng.integers(0, 3, size=(6, 4)).astype("float32")
    weight[0] = 0
    stack = [layers.Dense(3, activation="tanh"), layers.Dense(2)]
    return _sequential(rng, x, y, "mse", stack, weight)


# Convolutions.


def _conv1d(seed, **options):
    """Make a small stack of one-dimensional convolutions."""
    rng = _start(seed)
    x, y = _normal(rng, 7, 9, 3), _normal(rng, 7, 2)
    stack = [
        layers.Conv1D(4, 3, activation="tanh", **options),
        layers.Conv1D(3, 2, **options),
        layers.GlobalAveragePooling1D(),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _conv1d_same(seed):
    """Make convolutions with same padding and strides."""
    return _conv1d(seed, padding="same", strides=2)


@_case(CASES)
def _conv1d_valid(seed):
    """Make convolutions with valid padding and no biases."""
    return _conv1d(seed, padding="valid", use_bias=False)


@_case(CASES)
def _conv1d_causal(seed):
    """Make causal dilated convolutions."""
    return _conv1d(seed, padding="causal", dilation_rate=2)


@_case(CASES)
def _conv1d_dilated(seed):
    """Make dilated convolutions with valid padding."""
    return _conv1d(seed, padding="valid", dilation_rate=2)


def _conv2d(seed, make_layer, channels=2, **options):
    """Make a model with one layer, made after the seeding, on small images."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 7, 6, channels), _normal(rng, 6, 2)
    stack = [
        make_layer(**options),
        layers.Activation("tanh"),
        layers.Flatten(),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _conv2d_valid_strides(seed):
    """Make a convolution with valid padding and uneven strides."""
    return _conv2d(
        seed, layers.Conv2D, filters=3, kernel_size=(3, 2), strides=(2, 1)
    )


@_case(CASES)
def _conv2d_same_strides(seed):
    """Make a convolution with same padding and strides."""
    return _conv2d(
        seed,
        layers.Conv2D,
        filters=3,
        kernel_size=3,
        strides=2,
        padding="same",
    )


@_case(CASES)
def _conv2d_dilated(seed):
    """Make a dilated convolution."""
    return _conv2d(
        seed,
        layers.Conv2D,
        filters=3,
        kernel_size=(3, 2),
        dilation_rate=(2, 3),
        padding="same",
    )


@_case(CASES)
def _conv2d_groups(seed):
    """Make a convolution in two groups."""
    return _conv2d(
        seed,
        layers.Conv2D,
        channels=4,
        filters=6,
        kernel_size=3,
        groups=2,
        padding="same",
        use_bias=False,
    )


@_case(CASES)
def _conv2d_pooling(seed):
    """Make an MNIST-like network, with uneven same padding at stride 2."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 10, 10, 1), _integers(rng, 0, 4, 6)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    stack = [
        layers.Conv2D(4, 4, strides=2, padding="same", activation="relu"),
        layers.MaxPooling2D(2, strides=1),
        layers.Conv2D(3, 3, strides=2, padding="same", activation="relu"),
        layers.AveragePooling2D(2, strides=1, padding="same"),
        layers.Flatten(),
        layers.Dense(4),
    ]
    return _sequential(rng, x, y, loss, stack)


@_case(CASES)
def _conv3d(seed):
    """Make a three-dimensional convolution."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 4, 3, 3, 2), _normal(rng, 6, 2)
    stack = [
        layers.Conv3D(3, 2, padding="same", activation="tanh"),
        layers.GlobalMaxPooling3D(),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _depthwise_conv2d(seed):
    """Make a depthwise convolution with a multiplier."""
    return _conv2d(
        seed,
        layers.DepthwiseConv2D,
        channels=3,
        kernel_size=3,
        depth_multiplier=2,
        padding="same",
    )


@_case(CASES)
def _depthwise_conv1d(seed):
    """Make a strided depthwise convolution in one dimension."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 8, 3), _normal(rng, 6, 2)
    stack = [
        layers.DepthwiseConv1D(3, strides=2, padding="same"),
        layers.Flatten(),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _separable_conv2d(seed):
    """Make a separable convolution."""
    return _conv2d(
        seed,
        layers.SeparableConv2D,
        channels=3,
        filters=4,
        kernel_size=3,
        strides=2,
        padding="same",
    )


@_case(CASES)
def _conv2d_transpose(seed):
    """Make a transposed convolution."""
    return _conv2d(
        seed, layers.Conv2DTranspose, filters=3, kernel_size=3, strides=2
    )


def _convolutions(seed, shape, *make_layers):
    """Make a model of layers, made after the seeding, on inputs of a shape."""
    rng = _start(seed)
    x, y = _normal(rng, 6, *shape), _normal(rng, 6, 2)
    stack = [make() for make in make_layers]
    pool = (
        layers.GlobalAveragePooling1D,
        layers.GlobalAveragePooling2D,
        layers.GlobalAveragePooling3D,
    )[len(shape) - 2]
    stack.append(pool(data_format=stack[-1].data_format))
    return _sequential(rng, x, y, "mse", [*stack, layers.Dense(2)])


@_case(CASES)
def _conv1d_causal_groups(seed):
    """Make strided causal groups, then a strided kernel of one place."""
    return _convolutions(
        seed,
        (9, 4),
        lambda: layers.Conv1D(
            4, 3, strides=2, padding="causal", groups=2, activation="tanh"
        ),
        lambda: layers.Conv1D(3, 1, strides=2),
    )


@_case(CASES)
def _conv2d_groups_strides(seed):
    """Make strided groups with uneven padding and the channels first."""
    return _convolutions(
        seed,
        (4, 7, 6),
        lambda: layers.Conv2D(
            6,
            3,
            strides=2,
            padding="same",
            groups=2,
            data_format="channels_first",
            activation="tanh",
        ),
    )


@_case(CASES)
def _conv2d_few_positions(seed):
    """Make kernels that are large for the number of their positions."""
    return _convolutions(
        seed,
        (4, 4, 8),
        lambda: layers.Conv2D(16, 3, activation="tanh"),
        lambda: layers.Conv2D(24, 2, padding="same", use_bias=False),
    )


@_case(CASES)
def _conv2d_large_kernel(seed):
    """Make a kernel too large for a copy of it for each example."""
    return _convolutions(
        seed, (6, 6, 32), lambda: layers.Conv2D(256, 4, padding="same")
    )


@_case(CASES)
def _conv3d_strides(seed):
    """Make strided and dilated three-dimensional convolutions."""
    return _convolutions(
        seed,
        (5, 4, 3, 2),
        lambda: layers.Conv3D(3, 2, strides=2, padding="same"),
        lambda: layers.Conv3D(
            2, 2, dilation_rate=2, padding="same", use_bias=False
        ),
    )


@_case(CASES)
def _depthwise_conv1d_dilated(seed):
    """Make dilated depthwise convolutions, one with strides too."""
    return _convolutions(
        seed,
        (9, 3),
        lambda: layers.DepthwiseConv1D(
            3, dilation_rate=2, depth_multiplier=2, activation="tanh"
        ),
        lambda: layers.DepthwiseConv1D(
            2, strides=2, dilation_rate=2, padding="same", use_bias=False
        ),
    )


@_case(CASES)
def _depthwise_conv2d_large(seed):
    """Make depthwise convolutions on images of some size."""
    return _convolutions(
        seed,
        (21, 20, 8),
        lambda: layers.DepthwiseConv2D(5, padding="same", activation="tanh"),
        lambda: layers.DepthwiseConv2D(
            3, strides=2, padding="same", depth_multiplier=2
        ),
    )


@_case(CASES)
def _depthwise_conv2d_channels_first(seed):
    """Make a strided depthwise convolution with the channels first."""
    return _convolutions(
        seed,
        (3, 7, 6),
        lambda: layers.DepthwiseConv2D(
            3, strides=2, padding="same", data_format="channels_first"
        ),
    )


@_case(CASES)
def _separable_conv1d(seed):
    """Make separable convolutions, dilated and strided."""
    return _convolutions(
        seed,
        (9, 3),
        lambda: layers.SeparableConv1D(
            4, 3, dilation_rate=2, depth_multiplier=2, activation="tanh"
        ),
        lambda: layers.SeparableConv1D(
            3, 2, strides=2, dilation_rate=2, padding="same", use_bias=False
        ),
    )


@_case(CASES)
def _separable_conv2d_channels_first(seed):
    """Make a strided separable convolution with the channels first."""
    return _convolutions(
        seed,
        (3, 7, 6),
        lambda: layers.SeparableConv2D(
            4,
            3,
            strides=2,
            padding="same",
            depth_multiplier=2,
            data_format="channels_first",
            activation="tanh",
        ),
    )


@_case(CASES)
def _conv1d_transpose(seed):
    """Make transposed convolutions with paddings of their outputs."""
    return _convolutions(
        seed,
        (4, 3),
        lambda: layers.Conv1DTranspose(
            4, 3, strides=3, output_padding=1, activation="tanh"
        ),
        lambda: layers.Conv1DTranspose(
            2, 3, strides=2, padding="same", output_padding=1, use_bias=False
        ),
    )


@_case(CASES)
def _conv2d_transpose_same(seed):
    """Make transposed convolutions, one of strides beyond its kernel."""
    return _convolutions(
        seed,
        (3, 2, 3),
        lambda: layers.Conv2DTranspose(
            2, 3, strides=2, padding="same", activation="tanh"
        ),
        lambda: layers.Conv2DTranspose(3, 2, strides=(3, 1), use_bias=False),
    )


@_case(CASES)
def _conv3d_transpose(seed):
    """Make a transposed convolution in three dimensions."""
    return _convolutions(
        seed,
        (2, 3, 2, 2),
        lambda: layers.Conv3DTranspose(3, 2, strides=2, padding="same"),
    )


@_case(CASES)
def _lora_conv1d(seed):
    """Make causal, dilated and adapted convolutions."""
    return _convolutions(
        seed,
        (9, 3),
        lambda: layers.Conv1D(
            4,
            3,
            padding="causal",
            dilation_rate=2,
            lora_rank=2,
            lora_alpha=3,
            activation="tanh",
        ),
        lambda: layers.Conv1D(3, 2, use_bias=False, lora_rank=1),
    )


@_case(CASES)
def _lora_conv2d_groups(seed):
    """Make strided and adapted convolutions, in one and in two groups."""
    return _convolutions(
        seed,
        (7, 6, 3),
        lambda: layers.Conv2D(
            4, 3, strides=2, padding="same", lora_rank=2, activation="tanh"
        ),
        lambda: layers.Conv2D(4, 2, groups=2, lora_rank=3, lora_alpha=2),
    )


@_case(CASES)
def _prelu(seed):
    """Make parametric rectifiers, whole and with shared axes."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 5, 3), _normal(rng, 6, 2)
    stack = [
        layers.Dense(4),
        layers.PReLU(shared_axes=[1]),
        layers.Flatten(),
        layers.PReLU(),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


# Embeddings and recurrent layers.


@_case(CASES)
def _embedding_mean(seed):
    """Make mean-pooled embeddings of tokens which repeat within a row."""
    rng = _start(seed)
    x, y = _integers(rng, 0, 5, 8, 9), _integers(rng, 0, 3, 8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    stack = [
        layers.Embedding(6, 4),
        layers.GlobalAveragePooling1D(),
        layers.Dense(3),
    ]
    return _sequential(rng, x, y, loss, stack)


@_case(CASES)
def _embedding_masked_mean(seed):
    """Make embeddings whose mean leaves the padding out."""
    rng = _start(seed)
    x = _tokens(rng, 6, [5, 2, 1, 4, 3, 5], 5)
    y = _normal(rng, 6, 1)
    stack = [
        layers.Embedding(6, 4, mask_zero=True),
        layers.GlobalAveragePooling1D(),
        layers.Dense(1),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _masked_lstm_last(seed):
    """Make a masked LSTM whose last output is a plain prediction."""
    rng = _start(seed)
    x = _tokens(rng, 6, [5, 2, 1, 4, 3, 5], 5)
    y = _integers(rng, 0, 2, 6, 1)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    stack = [
        layers.Embedding(6, 3, mask_zero=True),
        layers.LSTM(4),
        layers.Dense(1),
    ]
    return _sequential(rng, x, y, loss, stack)


@_case(CASES)
def _masked_lstm_sequence(seed):
    """Make a masked LSTM whose loss is masked too."""
    rng = _start(seed)
    x = _tokens(rng, 6, [5, 2, 1, 4, 3, 5], 5)
    y = _normal(rng, 6, 5, 2)
    stack = [
        layers.Embedding(6, 3, mask_zero=True),
        layers.LSTM(4, return_sequences=True),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _lstm_language_model(seed):
    """Make a masked language model with one row of nothing but padding."""
    rng = _start(seed)
    x = _tokens(rng, 7, [5, 2, 0, 4, 3, 5], 5)
    y = _integers(rng, 0, 7, 6, 5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    stack = [
        layers.Embedding(7, 3, mask_zero=True),
        layers.LSTM(4, return_sequences=True),
        layers.Dense(7),
    ]
    return _sequential(rng, x, y, loss, stack)


@_case(CASES)
def _masked_and_weighted(seed):
    """Make a masked sequence loss with sample weights on top."""
    rng = _start(seed)
    x = _tokens(rng, 7, [5, 2, 1, 4, 3, 5], 5)
    y = _integers(rng, 0, 7, 6, 5)
    weight = np.array([1, 0, 2, 0.5, 0, 3], "float32")[:, None]
    stack = [
        layers.Embedding(7, 3, mask_zero=True),
        layers.GRU(4, return_sequences=True),
        layers.Dense(7, activation="softmax"),
    ]
    loss = "sparse_categorical_crossentropy"
    return _sequential(rng, x, y, loss, stack, weight)


def _recurrent(seed, make_layer):
    """Make a recurrent layer, made after the seeding, on a sequence."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 4, 3), _normal(rng, 6, 2)
    return _sequential(rng, x, y, "mse", [make_layer(), layers.Dense(2)])


@_case(CASES)
def _gru(seed):
    """Make a gated recurrent unit in its usual form."""
    return _recurrent(seed, lambda: layers.GRU(3))


@_case(CASES)
def _gru_reset_before(seed):
    """Make a gated recurrent unit which resets before its product."""
    return _recurrent(seed, lambda: layers.GRU(3, reset_after=False))


@_case(CASES)
def _bidirectional_lstm(seed):
    """Make two LSTMs which read from both ends."""
    return _recurrent(seed, lambda: layers.Bidirectional(layers.LSTM(3)))


@_case(CASES)
def _simple_rnn(seed):
    """Make a simple recurrent layer with a prediction at each step."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 4, 3), _normal(rng, 6, 4, 2)
    stack = [
        layers.SimpleRNN(4, return_sequences=True),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _rnn_cells(seed):
    """Make stacked recurrent cells in one layer."""
    return _recurrent(
        seed, lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)])
    )


@_case(CASES)
def _time_distributed(seed):
    """Make a dense layer and a convolution applied at each time step."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 3, 5, 2), _normal(rng, 6, 3, 2)
    stack = [
        layers.TimeDistributed(layers.Conv1D(3, 2, activation="tanh")),
        layers.TimeDistributed(layers.Flatten()),
        layers.TimeDistributed(layers.Dense(2)),
    ]
    return _sequential(rng, x, y, "mse", stack)


# Normalisation.


@_case(CASES)
def _layer_normalization(seed):
    """Make layer normalisations with and without scale and centre."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _normal(rng, 8, 2)
    stack = [
        layers.LayerNormalization(),
        layers.Dense(6),
        layers.LayerNormalization(scale=False),
        layers.Dense(5, activation="tanh"),
        layers.LayerNormalization(center=False),
        layers.Dense(4),
        layers.LayerNormalization(center=False, scale=False),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _layer_normalization_axes(seed):
    """Make a layer normalisation over several axes of an image."""
    return _conv2d(seed, layers.LayerNormalization, channels=3, axis=[1, 3])


@_case(CASES)
def _rms_normalization(seed):
    """Make root mean square and unit normalisations of a sequence."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 4, 3), _normal(rng, 6, 4, 2)
    stack = [
        layers.Dense(4),
        layers.RMSNormalization(),
        layers.Dense(3),
        layers.UnitNormalization(),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _group_normalization(seed):
    """Make a convolutional network with group normalisation."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 6, 5, 2), _integers(rng, 0, 3, 6)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    stack = [
        layers.Conv2D(4, 3, padding="same"),
        layers.GroupNormalization(groups=2),
        layers.ReLU(),
        layers.Conv2D(3, 2),
        layers.GroupNormalization(groups=-1),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3),
    ]
    return _sequential(rng, x, y, loss, stack)


# Einsum layers and attention.


@_case(CASES)
def _einsum_dense_matrix(seed):
    """Make plain matrix products out of einsum layers."""
    rng = _start(seed)
    x, y = _normal(rng, 7, 4), _normal(rng, 7, 2)
    stack = [
        layers.EinsumDense("ab,bc->ac", 5, bias_axes="c", activation="tanh"),
        layers.EinsumDense("ab,bc->ac", 2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _einsum_dense_ellipsis(seed):
    """Make an einsum layer with an ellipsis on a sequence."""
    rng = _start(seed)
    x, y = _normal(rng, 7, 3, 4), _normal(rng, 7, 3, 2)
    stack = [
        layers.EinsumDense(
            "...x,xy->...y", 5, bias_axes="y", activation="tanh"
        ),
        layers.EinsumDense("...x,xy->...y", 2, bias_axes="y"),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _einsum_dense_heads(seed):
    """Make einsum layers which split a feature into heads and join them."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 3, 4), _normal(rng, 6, 3, 2)
    stack = [
        layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"),
        layers.Activation("tanh"),
        layers.EinsumDense("abde,dec->abc", (None, 4), bias_axes="c"),
        layers.EinsumDense("abc,cde->abde", (None, 2, 2), bias_axes="e"),
        layers.EinsumDense("abde,de->abd", (None, 2)),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _einsum_dense_time(seed):
    """Make einsum layers with weights and biases on the time axis."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 3, 4), _normal(rng, 6, 2)
    stack = [
        layers.EinsumDense("abc,bcd->abd", (3, 5), bias_axes="bd"),
        layers.Activation("tanh"),
        layers.EinsumDense("abc,bd->adc", (2, 5), bias_axes="d"),
        layers.EinsumDense("abc,bc->ab", 2, bias_axes="b"),
    ]
    return _sequential(rng, x, y, "mse", stack)


class TokenAndPosition(layers.Layer):
    """Adds to token embeddings those of positions, which have no batch axis."""

    def __init__(self, vocabulary, length, width, mask_zero=False, **kwargs):
        super().__init__(**kwargs)
        self.tokens = layers.Embedding(vocabulary, width, mask_zero=mask_zero)
        self.positions = layers.Embedding(length, width)

    def compute_mask(self, inputs, mask=None):
        """Return the mask of the token embedding."""
        return self.tokens.compute_mask(inputs)

    def call(self, inputs):
        """Return the sum of the embeddings."""
        positions = self.positions(keras.ops.arange(inputs.shape[-1]))
        return self.tokens(inputs) + positions


class Block(layers.Layer):
    """A transformer block with normalisation first."""

    def __init__(self, width, heads, causal=False, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.causal = causal
        self.attention_norm = layers.LayerNormalization()
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.feed_forward_norm = layers.LayerNormalization()
        self.expand = layers.Dense(2 * width, activation="gelu")
        self.contract = layers.Dense(width)

    def call(self, inputs):
        """Return the block's output, with two residual connections."""
        hidden = self.attention_norm(inputs)
        inputs = inputs + self.attention(
            hidden, hidden, use_causal_mask=self.causal
        )
        hidden = self.expand(self.feed_forward_norm(inputs))
        return inputs + self.contract(hidden)


@_case(CASES)
def _transformer(seed):
    """Make a transformer classifier with position embeddings."""
    rng = _start(seed)
    x, y = _integers(rng, 0, 7, 6, 5), _integers(rng, 0, 3, 6)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    stack = [
        TokenAndPosition(7, 5, 4),
        Block(4, 2),
        layers.GlobalAveragePooling1D(),
        layers.Dense(3),
    ]
    return _sequential(rng, x, y, loss, stack)


@_case(CASES)
def _masked_causal_transformer(seed):
    """Make a causal transformer language model with a masked loss."""
    rng = _start(seed)
    x = _tokens(rng, 7, [5, 2, 1, 4, 3, 5], 5)
    y = _integers(rng, 0, 7, 6, 5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    stack = [
        TokenAndPosition(7, 5, 4, mask_zero=True),
        Block(4, 2, causal=True),
        layers.Dense(7),
    ]
    return _sequential(rng, x, y, loss, stack)


@_case(CASES)
def _cross_attention(seed):
    """Make cross, grouped and additive attention over two sequences."""
    rng = _start(seed)
    x = [_normal(rng, 6, 3, 4), _normal(rng, 6, 5, 4)]
    y = _normal(rng, 6, 2)
    query, value = keras.Input((3, 4)), keras.Input((5, 4))
    hidden = layers.MultiHeadAttention(2, 3, value_dim=2)(query, value)
    hidden = layers.GroupQueryAttention(2, 4, 2)(hidden, value)
    hidden = layers.AdditiveAttention()([hidden, value])
    hidden = layers.Attention(use_scale=True)([hidden, value])
    outputs = layers.Dense(2)(layers.Flatten()(hidden))
    model = keras.Model([query, value], outputs)
    return _ready(rng, model, x, "mse"), x, y, None


# Sharing, nesting and freezing.


@_case(CASES)
def _shared_layer(seed):
    """Make a functional model which uses one layer twice in a row."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 4), _normal(rng, 8, 2)
    shared = layers.Dense(4, activation="tanh")
    inputs = keras.Input((4,))
    hidden = shared(shared(inputs))
    model = keras.Model(inputs, layers.Dense(2)(hidden + inputs))
    return _ready(rng, model, x, "mse"), x, y, None


@_case(CASES)
def _shared_shapes(seed):
    """Make one dense layer shared by inputs of different ranks."""
    rng = _start(seed)
    x = (_normal(rng, 6, 3), _normal(rng, 6, 4, 3))
    y = _normal(rng, 6, 1)
    shared = layers.Dense(3, activation="tanh")
    flat, sequence = keras.Input((3,)), keras.Input((4, 3))
    pooled = layers.GlobalAveragePooling1D()(shared(sequence))
    outputs = layers.Dense(1)(layers.multiply([shared(flat), pooled]))
    model = keras.Model((flat, sequence), outputs)
    return _ready(rng, model, x, "mse"), x, y, None


class TiedLanguageModel(keras.Model):
    """A language model whose output projection is its embedding matrix."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = layers.Embedding(7, 4)
        self.recurrent = layers.GRU(4, return_sequences=True)

    def call(self, inputs):
        """Return logits over the vocabulary."""
        hidden = self.recurrent(self.embedding(inputs))
        return keras.ops.matmul(
            hidden, keras.ops.transpose(self.embedding.embeddings)
        )


@_case(CASES)
def _tied_weights(seed):
    """Make a language model with tied weights in its own call."""
    rng = _start(seed)
    x, y = _integers(rng, 0, 7, 6, 4), _integers(rng, 0, 7, 6, 4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return _ready(rng, TiedLanguageModel(), x, loss), x, y, None


@_case(CASES)
def _reversible_embedding(seed):
    """Make a language model tied by a reversible embedding."""
    rng = _start(seed)
    x, y = _integers(rng, 0, 7, 6, 4), _integers(rng, 0, 7, 6, 4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    embedding = layers.ReversibleEmbedding(7, 4)
    inputs = keras.Input((4,), dtype="int32")
    hidden = layers.Dense(4, activation="tanh")(embedding(inputs))
    model = keras.Model(inputs, embedding(hidden, reverse=True))
    return _ready(rng, model, x, loss), x, y, None


@_case(CASES)
def _reversible_embedding_untied(seed):
    """Make a reversible embedding with two matrices, which drops its mask."""
    rng = _start(seed)
    x = _tokens(rng, 7, [4, 2, 1, 4, 3, 4], 4)
    y = _integers(rng, 0, 7, 6, 4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    embedding = layers.ReversibleEmbedding(
        7, 4, tie_weights=False, mask_zero=True, logit_soft_cap=2.0
    )
    inputs = keras.Input((4,), dtype="int32")
    hidden = layers.Dense(4, activation="tanh")(embedding(inputs))
    model = keras.Model(inputs, embedding(hidden, reverse=True))
    return _ready(rng, model, x, loss), x, y, None


@_case(CASES)
def _siamese(seed):
    """Make a siamese network, one encoder for two inputs."""
    rng = _start(seed)
    x = [_normal(rng, 8, 4), _normal(rng, 8, 4)]
    y = _integers(rng, 0, 2, 8, 1)
    encoder = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, activation="tanh"),
            layers.Dense(3, activation="tanh"),
        ]
    )
    left, right = keras.Input((4,)), keras.Input((4,))
    distance = keras.ops.abs(encoder(left) - encoder(right))
    outputs = layers.Dense(1, activation="sigmoid")(distance)
    model = keras.Model([left, right], outputs)
    return _ready(rng, model, x, "binary_crossentropy"), x, y, None


@_case(CASES)
def _nested_models(seed):
    """Make a sequential model in a functional one in a sequential one."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 4), _normal(rng, 8, 2)
    innermost = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, activation="tanh"), layers.Dense(4)]
    )
    inputs = keras.Input((4,))
    skipped = layers.Dense(4, use_bias=False)(inputs)
    middle = keras.Model(inputs, innermost(skipped) + inputs)
    return _sequential(rng, x, y, "mse", [middle, layers.Dense(2)])


@_case(CASES)
def _frozen_layers(seed):
    """Make a network with frozen layers between trained ones."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 4), _normal(rng, 8, 2)
    frozen = keras.Sequential([layers.Dense(4, activation="tanh")])
    frozen.trainable = False
    stack = [
        layers.Dense(5, activation="tanh"),
        layers.Dense(4, trainable=False),
        frozen,
        layers.LayerNormalization(trainable=False),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _frozen_start(seed):
    """Make a network frozen after its build, from its input on."""
    model, x, y, weight = _dense_mlp(seed)
    model.layers[0].trainable = False
    model.compile(optimizer="sgd", loss="mse")
    return model, x, y, weight


class Branching(keras.Model):
    """A model whose call loops in Python and reuses layers at will."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encode = layers.Dense(4, activation="tanh")
        self.steps = [layers.Dense(4) for _ in range(2)]
        self.unused = layers.Dense(3)
        self.decode = layers.Dense(2)

    def call(self, inputs, training=False):
        """Return predictions, with an output which leads nowhere."""
        hidden = self.encode(inputs)
        for step in self.steps * 2:
            hidden = hidden + keras.ops.tanh(step(hidden))
        self.unused(hidden)
        return self.decode(hidden)


@_case(CASES)
def _unused_output(seed):
    """Make a subclassed model with weights which have no gradient."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 4), _normal(rng, 8, 2)
    return _ready(rng, Branching(), x, "mse"), x, y, None


# Several inputs and outputs.


@_case(CASES)
def _two_inputs_two_outputs(seed):
    """Make two inputs and two outputs with a dictionary of losses."""
    rng = _start(seed)
    x = {"first": _normal(rng, 8, 4), "second": _normal(rng, 8, 3)}
    y = {"number": _normal(rng, 8, 1), "label": _integers(rng, 0, 3, 8)}
    first = keras.Input((4,), name="first")
    second = keras.Input((3,), name="second")
    joined = layers.concatenate([first, second])
    hidden = layers.Dense(5, activation="tanh")(joined)
    number = layers.Dense(1, name="number")(hidden)
    label = layers.Dense(3, activation="softmax", name="label")(hidden)
    model = keras.Model(
        {"first": first, "second": second}, {"number": number, "label": label}
    )
    losses = {"number": "mse", "label": "sparse_categorical_crossentropy"}
    options = {"loss_weights": {"number": 0.5, "label": 2.0}}
    return _ready(rng, model, x, losses, **options), x, y, None


@_case(CASES)
def _two_outputs_weighted(seed):
    """Make two listed outputs with their own sample weights."""
    rng = _start(seed)
    x = _normal(rng, 6, 4)
    y = [_normal(rng, 6, 1), _normal(rng, 6, 3)]
    weight = [
        np.array([1, 0, 2, 0, 0.5, 1], "float32"),
        np.array([0, 0, 1, 3, 1, 1], "float32"),
    ]
    inputs = keras.Input((4,))
    hidden = layers.Dense(4, activation="tanh")(inputs)
    model = keras.Model(
        inputs, [layers.Dense(1)(hidden), layers.Dense(3)(hidden)]
    )
    return _ready(rng, model, x, ["mse", "mae"]), x, y, weight


@_case(CASES)
def _mixed_inputs(seed):
    """Make a dictionary of inputs with numbers and categories."""
    rng = _start(seed)
    x = {
        "numbers": _normal(rng, 8, 3),
        "city": _integers(rng, 0, 5, 8),
        "tags": _integers(rng, 0, 6, 8, 4),
        "flag": _integers(rng, 0, 2, 8, 1),
    }
    y = _integers(rng, 0, 2, 8, 1)
    inputs = {
        "numbers": keras.Input((3,), name="numbers"),
        "city": keras.Input((), dtype="int32", name="city"),
        "tags": keras.Input((4,), dtype="int32", name="tags"),
        "flag": keras.Input((1,), dtype="int32", name="flag"),
    }
    features = [
        inputs["numbers"],
        layers.Embedding(5, 2)(inputs["city"]),
        layers.Flatten()(layers.Embedding(6, 2)(inputs["tags"])),
        keras.ops.cast(inputs["flag"], "float32"),
    ]
    hidden = layers.Dense(4, activation="tanh")(layers.concatenate(features))
    outputs = layers.Dense(1, activation="sigmoid")(hidden)
    model = keras.Model(inputs, outputs)
    return _ready(rng, model, x, "binary_crossentropy"), x, y, None


# Custom layers and models with weights of their own.


class Bilinear(layers.Layer):
    """A layer with several weights of its own, one of them a scalar."""

    def build(self, input_shape):
        """Create the weights."""
        width = input_shape[-1]
        self.tensor = self.add_weight(shape=(width, width, 3), name="tensor")
        self.kernel = self.add_weight(shape=(width, 3), name="kernel")
        self.offset = self.add_weight(shape=(3,), name="offset")
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs):
        """Return quadratic functions of the inputs."""
        square = keras.ops.einsum("bi,ijk,bj->bk", inputs, self.tensor, inputs)
        line = keras.ops.einsum("bi,ik->bk", inputs, self.kernel)
        return self.scale * square + line + self.offset


@_case(CASES)
def _custom_weights(seed):
    """Make a custom layer with weights in einsums."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 4), _normal(rng, 8, 2)
    stack = [Bilinear(), layers.Activation("tanh"), layers.Dense(2)]
    return _sequential(rng, x, y, "mse", stack)


class Gated(layers.Layer):
    """A layer which mixes its own weight with a sublayer's output."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(width, activation="tanh")
        self.gate = self.add_weight(shape=(width,), name="gate")

    def call(self, inputs):
        """Return the gated output, plus a term from the raw kernel."""
        product = self.gate * self.dense(inputs)
        return product + 0.1 * keras.ops.mean(self.dense.kernel, axis=0)


@_case(CASES)
def _custom_gate(seed):
    """Make a custom layer with a weight and a sublayer in one call."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 4), _normal(rng, 8, 2)
    return _sequential(rng, x, y, "mse", [Gated(5), Gated(2)])


class Affine(keras.Model):
    """A subclassed model with weights of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(3, activation="tanh")
        self.kernel = self.add_weight(shape=(3, 2), name="kernel")
        self.temperature = self.add_weight(
            shape=(), initializer="ones", name="temperature"
        )

    def call(self, inputs):
        """Return predictions."""
        product = keras.ops.matmul(self.hidden(inputs), self.kernel)
        return product * keras.ops.exp(self.temperature)


@_case(CASES)
def _model_weights(seed):
    """Make a subclassed model which owns weights directly."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 4), _normal(rng, 8, 2)
    return _ready(rng, Affine(), x, "mse"), x, y, None


class PrefixTokens(layers.Layer):
    """Puts learned vectors, the same for each row, before a sequence."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, input_shape):
        """Create the vectors."""
        shape = (1, self.count, input_shape[-1])
        self.prefix = self.add_weight(shape=shape, name="prefix")

    def call(self, inputs):
        """Return the longer sequence."""
        size = keras.ops.shape(inputs)[0]
        prefix = keras.ops.repeat(self.prefix, size, axis=0)
        return keras.ops.concatenate([prefix, inputs], axis=1)


@_case(CASES)
def _prefix_tokens(seed):
    """Make a vision-like transformer with learned class tokens."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 3, 4), _normal(rng, 6, 2)
    stack = [
        PrefixTokens(2),
        Block(4, 2),
        layers.Lambda(lambda hidden: hidden[:, 0], output_shape=(4,)),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


class FoldTime(layers.Layer):
    """Runs a dense layer with the time axis folded into the batch axis."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.dense = layers.Dense(width, activation="tanh")

    def call(self, inputs):
        """Return the unfolded output."""
        time, features = inputs.shape[1:]
        folded = keras.ops.reshape(inputs, (-1, features))
        return keras.ops.reshape(self.dense(folded), (-1, time, self.width))


@_case(CASES)
def _folded_time(seed):
    """Make a sublayer which sees more rows than the batch has."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 3, 4), _normal(rng, 6, 3, 2)
    stack = [FoldTime(4), layers.Dense(2)]
    return _sequential(rng, x, y, "mse", stack)


class TimeMajor(layers.Layer):
    """Runs a dense layer with the time axis before the batch axis."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(width, activation="tanh")

    def call(self, inputs):
        """Return the output with the batch axis first again."""
        swapped = keras.ops.transpose(inputs, (1, 0, 2))
        return keras.ops.transpose(self.dense(swapped), (1, 0, 2))


@_case(CASES)
def _time_major(seed):
    """Make a sublayer whose first axis is time, as long as the batch."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 6, 4), _normal(rng, 6, 6, 2)
    return _sequential(rng, x, y, "mse", [TimeMajor(3), layers.Dense(2)])


# Low-rank adaptation, and embeddings used in both directions.


def _adapted(layer, input_shape, rank=2, alpha=3):
    """Return a built layer with frozen weights and low-rank changes to them.

    The scale, alpha over rank, is not one.
    """
    layer.build(input_shape)
    layer.enable_lora(rank, lora_alpha=alpha)
    return layer


@_case(CASES)
def _lora_dense(seed):
    """Make adapted dense layers on vectors and on a sequence."""
    rng = _start(seed)
    x, y = _normal(rng, 7, 3, 4), _normal(rng, 7, 2)
    stack = [
        _adapted(layers.Dense(5, activation="tanh"), (None, 3, 4)),
        layers.Flatten(),
        _adapted(layers.Dense(2, use_bias=False), (None, 15), rank=1),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _lora_einsum_dense(seed):
    """Make adapted einsum layers; the kernel's last axis is of each kind."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 3, 4), _normal(rng, 6, 3)
    stack = [
        _adapted(
            layers.EinsumDense("abc,cde->abde", (3, 2, 3), bias_axes="de"),
            (None, 3, 4),
        ),
        layers.Activation("tanh"),
        _adapted(layers.EinsumDense("abde,fde->abf", (3, 4)), (None, 3, 2, 3)),
        _adapted(
            layers.EinsumDense("abc,bcd->abd", (3, 5), bias_axes="bd"),
            (None, 3, 4),
        ),
        _adapted(
            layers.EinsumDense("...c,cd->...d", 4, activation="tanh"),
            (None, 3, 5),
        ),
        _adapted(layers.EinsumDense("abc,cb->ab", (3,)), (None, 3, 4)),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _lora_embedding(seed):
    """Make an adapted embedding of tokens which repeat within a row."""
    rng = _start(seed)
    x, y = _integers(rng, 0, 5, 8, 6), _normal(rng, 8, 1)
    stack = [
        _adapted(layers.Embedding(6, 4), None),
        layers.GlobalAveragePooling1D(),
        layers.Dense(1),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _lora_reversible_embedding(seed):
    """Make an adapted table used in both directions."""
    rng = _start(seed)
    x, y = _integers(rng, 0, 7, 6, 4), _integers(rng, 0, 7, 6, 4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    embedding = _adapted(layers.ReversibleEmbedding(7, 4), None)
    inputs = keras.Input((4,), dtype="int32")
    hidden = layers.Dense(4, activation="tanh")(embedding(inputs))
    model = keras.Model(inputs, embedding(hidden, reverse=True))
    return _ready(rng, model, x, loss), x, y, None


@_case(CASES)
def _reversible_embedding_mask(seed):
    """Make a reversible embedding whose mask reaches the loss."""
    rng = _start(seed)
    x = _tokens(rng, 7, [4, 2, 1, 4, 3, 4], 4)
    y = _normal(rng, 6, 4, 2)
    stack = [layers.ReversibleEmbedding(7, 3, mask_zero=True), layers.Dense(2)]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _embedding_negative(seed):
    """Make an embedding of indices which count from the table's end too."""
    rng = _start(seed)
    x, y = _integers(rng, -5, 5, 8, 6), _normal(rng, 8, 1)
    stack = [
        layers.Embedding(5, 3),
        layers.GlobalAveragePooling1D(),
        layers.Dense(1),
    ]
    return _sequential(rng, x, y, "mse", stack)


# Trained scales.


@_case(CASES)
def _attention_scales(seed):
    """Make the trained scales of attention, masked and causal."""
    rng = _start(seed)
    x = [_normal(rng, 6, 3, 4), _tokens(rng, 7, [4, 2, 1, 4, 3, 4], 4)]
    y = _normal(rng, 6, 2)
    query, tokens = keras.Input((3, 4)), keras.Input((4,), dtype="int32")
    value = layers.Embedding(7, 4, mask_zero=True)(tokens)
    hidden = layers.Attention(score_mode="concat")([query, value])
    hidden = layers.Attention(use_scale=True, score_mode="concat")(
        [hidden, value]
    )
    hidden = layers.Attention(use_scale=True)(
        [hidden, hidden], use_causal_mask=True
    )
    hidden, scores = layers.AdditiveAttention()(
        [hidden, value, layers.Dense(4)(value)], return_attention_scores=True
    )
    hidden = layers.concatenate([layers.Flatten()(h) for h in (hidden, scores)])
    model = keras.Model([query, tokens], layers.Dense(2)(hidden))
    return _ready(rng, model, x, "mse"), x, y, None


@_case(CASES)
def _grouped_attention(seed):
    """Make a gated grouped attention with a window, and a masked one."""
    rng = _start(seed)
    x = [_normal(rng, 6, 4, 4), _integers(rng, 0, 2, 6, 4, 4)]
    x[1] = x[1] | np.eye(4, dtype="int32")
    y = _normal(rng, 6, 4, 2)
    inputs = keras.Input((4, 4))
    mask = keras.Input((4, 4), dtype="int32")
    hidden = layers.GroupQueryAttention(
        2, 4, 2, use_gate=True, sliding_window=2
    )(inputs, inputs, use_causal_mask=True)
    hidden = layers.GroupQueryAttention(2, 2, 1, use_bias=False)(
        hidden, inputs, use_causal_mask=True
    )
    hidden, scores = layers.MultiHeadAttention(2, 2)(
        hidden, inputs, attention_mask=mask, return_attention_scores=True
    )
    scores = layers.Permute((2, 1, 3))(scores)
    hidden = layers.concatenate([hidden, layers.Reshape((4, 8))(scores)])
    model = keras.Model([inputs, mask], layers.Dense(2)(hidden))
    return _ready(rng, model, x, "mse"), x, y, None


@_case(CASES)
def _prelu_image(seed):
    """Make parametric rectifiers of images, with and without shared axes."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 3, 2, 2), _normal(rng, 6, 2)
    stack = [
        layers.PReLU(shared_axes=[1, 2]),
        layers.PReLU(shared_axes=[1, 2, 3]),
        layers.PReLU(),
        layers.Flatten(),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _rms_normalization_axes(seed):
    """Make root mean square normalisations over several axes."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 3, 3, 4), _normal(rng, 6, 2)
    stack = [
        layers.RMSNormalization(axis=[2, 3]),
        layers.RMSNormalization(axis=[-2, -1]),
        layers.LayerNormalization(rms_scaling=True),
        layers.LayerNormalization(rms_scaling=True, axis=[1, 3]),
        layers.Flatten(),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _trained_spectrogram(seed):
    """Make short-time Fourier transforms with trained kernels."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 16, 1), _normal(rng, 6, 2)
    stack = [
        layers.STFTSpectrogram(
            mode="psd", frame_length=5, frame_step=3, fft_length=8
        ),
        layers.Flatten(),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


# Cells, and layers around layers.


@_case(CASES)
def _bidirectional_merges(seed):
    """Make layers which read from both ends, merged in each way."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 4, 3), _normal(rng, 6, 2)
    inputs = keras.Input((4, 3))
    hidden = layers.Bidirectional(
        layers.GRU(3, return_sequences=True), merge_mode="mul"
    )(inputs)
    hidden = layers.Bidirectional(
        layers.SimpleRNN(2, return_sequences=True), merge_mode="sum"
    )(hidden)
    hidden = layers.Bidirectional(
        layers.LSTM(2, return_sequences=True),
        merge_mode="ave",
        backward_layer=layers.LSTM(
            2, return_sequences=True, go_backwards=True, activation="relu"
        ),
    )(hidden)
    merged = layers.Bidirectional(layers.LSTM(2), merge_mode=None)(hidden)
    model = keras.Model(inputs, layers.Dense(2)(layers.concatenate(merged)))
    return _ready(rng, model, x, "mse"), x, y, None


def _masked_cells(seed, cells, **options):
    """Make cells in one layer on masked sequences, one of them empty."""
    rng = _start(seed)
    x = _tokens(rng, 6, [5, 2, 0, 4, 3, 5], 5)
    y = _normal(rng, 6, 2)
    inputs = keras.Input((5,), dtype="int32")
    hidden = layers.Embedding(6, 3, mask_zero=True)(inputs)
    hidden = layers.RNN(cells(), **options)(hidden)
    if options.get("return_state"):
        hidden = layers.concatenate(keras.tree.flatten(hidden))
    model = keras.Model(inputs, layers.Dense(2)(hidden))
    return _ready(rng, model, x, "mse"), x, y, None


@_case(CASES)
def _masked_stacked_cells(seed):
    """Make stacked cells of all kinds which read backwards."""
    return _masked_cells(
        seed,
        lambda: [
            layers.GRUCell(3),
            layers.LSTMCell(2),
            layers.SimpleRNNCell(3),
        ],
        go_backwards=True,
    )


@_case(CASES)
def _masked_cell_states(seed):
    """Make stacked cells whose states are outputs too."""
    return _masked_cells(
        seed,
        lambda: [
            layers.SimpleRNNCell(2),
            layers.GRUCell(2, reset_after=False),
        ],
        return_state=True,
    )


@_case(CASES)
def _rnn_single_cell(seed):
    """Make single cells in a layer, one of which gives sequences."""
    rng = _start(seed)
    x = _tokens(rng, 6, [5, 2, 1, 4, 3, 5], 5)
    y = _normal(rng, 6, 2)
    stack = [
        layers.Embedding(6, 3, mask_zero=True),
        layers.RNN(
            layers.LSTMCell(3), return_sequences=True, zero_output_for_mask=True
        ),
        layers.RNN(layers.SimpleRNNCell(3)),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


class StepByStep(layers.Layer):
    """Calls a recurrent cell at each step, in a Python loop."""

    def __init__(self, cell, **kwargs):
        super().__init__(**kwargs)
        self.cell = cell

    def build(self, input_shape):
        """Build the cell for one step."""
        self.cell.build((input_shape[0], input_shape[2]))

    def call(self, inputs):
        """Return the last output."""
        states = self.cell.get_initial_state(keras.ops.shape(inputs)[0])
        for step in range(inputs.shape[1]):
            output, states = self.cell(inputs[:, step], states)
        return output


def _by_hand(seed, make_cell):
    """Make a recurrent cell which a custom layer calls."""
    return _recurrent(seed, lambda: StepByStep(make_cell()))


@_case(CASES)
def _lstm_cell_by_hand(seed):
    """Make a cell with two states in a custom loop."""
    return _by_hand(seed, lambda: layers.LSTMCell(3))


@_case(CASES)
def _gru_cell_by_hand(seed):
    """Make a gated cell in a custom loop."""
    return _by_hand(seed, lambda: layers.GRUCell(3))


@_case(CASES)
def _stacked_cells_by_hand(seed):
    """Make stacked cells in a custom loop."""
    return _by_hand(
        seed,
        lambda: layers.StackedRNNCells(
            [
                layers.GRUCell(2, reset_after=False),
                layers.SimpleRNNCell(2, use_bias=False),
            ]
        ),
    )


class Gates(layers.Layer):
    """Gates at two steps; one row of them looks like a bias to Keras."""

    def build(self, input_shape):
        """Create the weight."""
        width = input_shape[-1]
        self.kernel = self.add_weight(shape=(width, 2 * width), name="kernel")

    def call(self, inputs):
        """Return the gated state."""
        state = inputs
        for _ in range(2):
            sums = keras.ops.add(
                keras.ops.matmul(inputs, self.kernel),
                keras.ops.matmul(state, self.kernel),
            )
            gate, value = keras.ops.split(sums, 2, axis=1)
            state = keras.ops.sigmoid(gate) * keras.ops.tanh(value)
        return state


@_case(CASES)
def _custom_gates(seed):
    """Make a custom layer whose sums Keras takes for biases."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 3), _normal(rng, 6, 2)
    return _sequential(rng, x, y, "mse", [Gates(), layers.Dense(2)])


class Residual(layers.Wrapper):
    """Adds its input to the output of the layer it wraps."""

    def call(self, inputs):
        """Return the sum."""
        return inputs + self.layer(inputs)


@_case(CASES)
def _wrapper(seed):
    """Make wrapped layers, one wrapper within another."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 4), _normal(rng, 8, 2)
    inner = Residual(layers.Dense(4, activation="tanh"))
    return _sequential(rng, x, y, "mse", [Residual(inner), layers.Dense(2)])


@_case(CASES)
def _time_distributed_layers(seed):
    """Make a convolution, a normalisation and an LSTM at each time step."""
    rng = _start(seed)
    x, y = _normal(rng, 5, 3, 4, 4, 2), _normal(rng, 5, 3, 2)
    stack = [
        layers.TimeDistributed(layers.Conv2D(2, 2, activation="tanh")),
        layers.TimeDistributed(layers.GroupNormalization(1)),
        layers.TimeDistributed(layers.TimeDistributed(layers.Dense(3))),
        layers.TimeDistributed(layers.Reshape((3, 9))),
        layers.TimeDistributed(layers.LSTM(2)),
        layers.TimeDistributed(keras.Sequential([layers.Dense(2)])),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _pipeline(seed):
    """Make layers in a pipeline."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 4), _normal(rng, 8, 2)
    within = [layers.Dense(3, activation="tanh"), layers.Dense(2)]
    return _sequential(rng, x, y, "mse", [layers.Pipeline(within)])


@_case(CASES_OF_BACKEND["tensorflow"])
def _saved_model_layer(seed):
    """Make a trained layer out of a saved model, unknown to Keras within."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 4), _normal(rng, 8, 2)
    saved = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with tempfile.TemporaryDirectory() as folder:
        saved.export(folder, verbose=False)
        stack = [layers.TFSMLayer(folder), layers.Dense(2)]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES_OF_BACKEND["jax"])
def _jax_layer(seed):
    """Make a trained layer out of a function of JAX."""
    from jax import numpy as jnp

    rng = _start(seed)
    x, y = _normal(rng, 8, 4), _normal(rng, 8, 2)

    def call(params, inputs):
        return jnp.tanh(inputs @ params["kernel"])

    layer = layers.JaxLayer(call, params={"kernel": _normal(rng, 4, 3)})
    return _sequential(rng, x, y, "mse", [layer, layers.Dense(2)])


@_case(CASES_OF_BACKEND["torch"])
def _torch_module(seed):
    """Make a trained layer out of a module of PyTorch."""
    import torch

    rng = _start(seed)
    x, y = _normal(rng, 8, 4), _normal(rng, 8, 2)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh())
    stack = [layers.TorchModuleWrapper(module), layers.Dense(2)]
    return _sequential(rng, x, y, "mse", stack)


def _conv_lstm(seed, make_layer, *size):
    """Make a convolutional LSTM on a short film of the given size."""
    rng = _start(seed)
    x, y = _normal(rng, 4, 3, *size, 2), _normal(rng, 4, 2)
    stack = [make_layer(), layers.Flatten(), layers.Dense(2)]
    return _sequential(rng, x, y, "mse", stack)


@_case(CASES)
def _conv_lstm1d(seed):
    """Make a one-dimensional convolutional LSTM, read backwards."""
    return _conv_lstm(
        seed, lambda: layers.ConvLSTM1D(2, 3, go_backwards=True), 5
    )


@_case(CASES)
def _conv_lstm2d(seed):
    """Make a two-dimensional convolutional LSTM with strides."""
    return _conv_lstm(
        seed,
        lambda: layers.ConvLSTM2D(
            2, 2, strides=2, padding="same", return_sequences=True
        ),
        4,
        3,
    )


@_case(CASES)
def _conv_lstm3d(seed):
    """Make a three-dimensional convolutional LSTM without biases."""
    return _conv_lstm(
        seed, lambda: layers.ConvLSTM3D(2, 2, use_bias=False), 3, 2, 3
    )


CASES += CASES_OF_BACKEND[keras.backend.backend()]


# Random models.


@_case(DROPOUT_CASES)
def _dropout_dense(seed):
    """Make a multilayer perceptron with dropout."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _normal(rng, 8, 2)
    stack = [
        layers.Dense(16, activation="tanh"),
        layers.Dropout(0.5),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(DROPOUT_CASES)
def _dropout_spatial(seed):
    """Make a convolution with whole channels dropped."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 7, 3), _normal(rng, 6, 2)
    stack = [
        layers.Conv1D(8, 3, activation="tanh"),
        layers.SpatialDropout1D(0.4),
        layers.GlobalAveragePooling1D(),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(DROPOUT_CASES)
def _dropout_lstm(seed):
    """Make an LSTM with dropout on its inputs and its state."""
    return _recurrent(
        seed, lambda: layers.LSTM(5, dropout=0.3, recurrent_dropout=0.3)
    )


# Models which mix rows or change their own state.


@_case(BATCH_NORM_CASES)
def _batch_norm_trainable(seed):
    """Make a network with trained batch normalisation."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _normal(rng, 8, 2)
    stack = [layers.Dense(4), layers.BatchNormalization(), layers.Dense(2)]
    return _sequential(rng, x, y, "mse", stack)


@_case(BATCH_NORM_CASES)
def _batch_norm_frozen(seed):
    """Make a network with frozen batch normalisation, which mixes no rows."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _normal(rng, 8, 2)
    frozen = layers.BatchNormalization(trainable=False)
    stack = [layers.Dense(4), frozen, layers.Dense(2)]
    case = _sequential(rng, x, y, "mse", stack)
    for variable in frozen.variables:
        variable.assign(rng.uniform(0.5, 1.5, 4).astype("float32"))
    return case


@_case(BATCH_NORM_CASES)
def _batch_norm_affine_free(seed):
    """Make batch normalisation without trainable weights."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _normal(rng, 8, 2)
    stack = [
        layers.Dense(4),
        layers.BatchNormalization(center=False, scale=False),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(BATCH_NORM_CASES)
def _batch_norm_nested(seed):
    """Make batch normalisation deep within inner models."""
    rng = _start(seed)
    x, y = _normal(rng, 6, 6, 5, 2), _normal(rng, 6, 2)
    block = keras.Sequential(
        [
            layers.Conv2D(3, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    )
    outer = keras.Sequential([block, layers.GlobalAveragePooling2D()])
    return _sequential(rng, x, y, "mse", [outer, layers.Dense(2)])


class SubtractBatchMean(layers.Layer):
    """Mixes rows without any weight or state."""

    def call(self, inputs):
        """Return the inputs less their mean over the batch."""
        return inputs - keras.ops.mean(inputs, axis=0, keepdims=True)


@_case(BATCH_NORM_CASES)
def _custom_row_mixing(seed):
    """Make a custom layer which mixes rows."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _normal(rng, 8, 2)
    stack = [
        layers.Dense(4, activation="tanh"),
        SubtractBatchMean(),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)


@_case(BATCH_NORM_CASES)
def _spectral_normalization(seed):
    """Make a layer which rewrites its own kernel in training."""
    rng = _start(seed)
    x, y = _normal(rng, 8, 5), _normal(rng, 8, 2)
    stack = [
        layers.SpectralNormalization(layers.Dense(4, activation="tanh")),
        layers.Dense(2),
    ]
    return _sequential(rng, x, y, "mse", stack)
