# SPDX-License-Identifier: Apache-2.0
"""Tests of the search for layers through which one example touches another."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras import ops

from tests import models
from tests.clipping import exactness
from tf_privacy.clipping import row_independence

Apply = exactness.Apply
NUMBERS = exactness.normal(0, 8, 5)
IMAGES = exactness.normal(1, 8, 4, 4, 2)
TOKENS = np.random.default_rng(0).integers(0, 6, (8, 4)).astype("int32")


def of_numbers(layer):
    """Returns a model on numbers with a layer in its middle."""
    return exactness.stack(layers.Dense(4), layer, layers.Dense(3))


def of_tokens(*middle):
    """Returns a model on tokens, whose inputs have no gradient."""
    return exactness.stack(
        layers.Embedding(6, 4),
        *middle,
        layers.Flatten(),
        layers.Dense(3),
        shape=(4,),
        dtype="int32",
    )


@tf.custom_gradient
def mix_backward(inputs):
    """Returns its input; its gradient holds a part of every row."""

    def gradient(upstream):
        return upstream + tf.reduce_mean(upstream, axis=0, keepdims=True)

    return tf.identity(inputs), gradient


def contrast(inputs):
    """Returns each row as a mean of all rows that are like it."""
    products = ops.matmul(inputs, ops.transpose(inputs))
    return ops.matmul(ops.softmax(products), inputs)


def spare_first(inputs):
    """Mixes every row but the first."""
    rest = inputs[1:] - ops.mean(inputs[1:], axis=0, keepdims=True)
    return ops.concatenate([inputs[:1], rest], axis=0)


def first_into_last(inputs):
    """Puts the first row's values into the last row."""
    return ops.concatenate([inputs[:-1], inputs[:1]], axis=0)


def by_batch_size(inputs):
    """Divides by the number of examples, which one example changes."""
    return inputs / ops.cast(ops.shape(inputs)[0], inputs.dtype)


def by_position(inputs):
    """Adds a row's position in the batch, which an earlier one changes."""
    positions = ops.arange(ops.shape(inputs)[0])
    return inputs + ops.cast(positions, inputs.dtype)[:, None]


MIXING = {
    "subtract_mean": lambda x: x - ops.mean(x, axis=0, keepdims=True),
    "only_mean": lambda x: 0 * x + ops.mean(x, axis=0, keepdims=True),
    "faint": lambda x: x - 1e-6 * ops.mean(x, axis=0, keepdims=True),
    "sort": lambda x: ops.sort(x, axis=0),
    "softmax": lambda x: ops.softmax(x, axis=0),
    "roll": lambda x: ops.roll(x, 1, axis=0),
    "flip": lambda x: ops.flip(x, axis=0),
    "cumsum": lambda x: ops.cumsum(x, axis=0),
    "largest": lambda x: x / ops.max(ops.abs(x)),
    "normalize": lambda x: ops.normalize(x, axis=0),
    "contrast": contrast,
    "mix_backward": mix_backward,
    "spare_first": spare_first,
    "first_into_last": first_into_last,
    "by_batch_size": by_batch_size,
    "by_position": by_position,
}


@pytest.mark.parametrize("name", MIXING)
def test_mixing_is_refused_with_the_name_of_the_layer(name):
    model = of_numbers(Apply(MIXING[name], name=name))
    with pytest.raises(ValueError, match=f"(?s)model must.*{name}"):
        row_independence.check_model(model, NUMBERS)


@pytest.mark.parametrize("name", MIXING)
def test_mixing_is_refused_where_inputs_have_no_gradient(name):
    def on_rows(inputs):
        flat = ops.reshape(inputs, (-1, 16))
        return ops.reshape(MIXING[name](flat), (-1, 4, 4))

    model = of_tokens(Apply(on_rows))
    with pytest.raises(ValueError, match="model must"):
        row_independence.check_model(model, TOKENS)


@pytest.mark.parametrize("name", ["subtract_mean", "mix_backward"])
def test_mixing_is_refused_under_random_numbers_of_tensorflow(name):
    noise = Apply(lambda x: x + tf.random.normal(tf.shape(x)))
    for model, x in [
        (of_numbers(noise), NUMBERS),
        (of_tokens(noise), TOKENS),
    ]:
        row_independence.check_model(model, x)
    mixing = Apply(MIXING[name], name=name)
    for model, x in [
        (exactness.stack(layers.Dense(4), noise, mixing), NUMBERS),
        (of_tokens(noise, mixing), TOKENS),
    ]:
        with pytest.raises(ValueError, match="model must"):
            row_independence.check_model(model, x)


class MixUp(layers.Layer):
    """Adds a random other row to each row."""

    def __init__(self, seed, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs):
        """Return the sums."""
        order = ops.arange(ops.shape(inputs)[0])
        order = keras.random.shuffle(order, seed=self.seed_generator)
        return inputs + 0.5 * ops.take(inputs, order, axis=0)


@pytest.mark.parametrize("seed", range(8))
def test_random_mixing_is_refused_whatever_the_draw(seed):
    model = of_numbers(MixUp(seed))
    with pytest.raises(ValueError, match="model must"):
        row_independence.check_model(model, NUMBERS)


class MixNowAndThen(MixUp):
    """Adds the mean of all rows in half of the draws."""

    def call(self, inputs):
        """Return the sums."""
        gate = keras.random.uniform((), seed=self.seed_generator) > 0.5
        mean = ops.mean(inputs, axis=0, keepdims=True)
        return inputs + ops.cast(gate, "float32") * mean


@pytest.mark.parametrize("seed", range(8))
def test_mixing_in_some_draws_only_is_refused(seed):
    model = of_numbers(MixNowAndThen(seed))
    with pytest.raises(ValueError, match="model must"):
        row_independence.check_model(model, NUMBERS)


def unmixed(order_of):
    """Returns a layer that works on rows in another order and undoes it."""

    def call(owned, inputs):
        order = order_of(inputs)
        outputs = owned(ops.take(inputs, order, axis=0))
        return ops.take(outputs, ops.argsort(order), axis=0)

    return call


REORDERING = {
    "backwards": unmixed(lambda x: ops.flip(ops.arange(ops.shape(x)[0]))),
    "sorted": unmixed(lambda x: ops.argsort(x[:, 0])),
    "rolled": unmixed(lambda x: ops.roll(ops.arange(ops.shape(x)[0]), 1)),
}


def assert_exact_or_refused(model, x, y):
    try:
        row_independence.check_model(model, x)
    except ValueError as refused:
        assert str(refused).startswith("model must")
    else:
        exactness.assert_exact_or_refused(model, x, y)


@pytest.mark.parametrize("name", REORDERING)
def test_rows_in_another_order_inside_are_not_taken_for_the_batch(name):
    # The outputs are right, but the layer within sees other rows than its
    # place says: what it takes for one example's gradient is another's.
    model = exactness.stack(
        exactness.ApplyWith(exactness.dense(), REORDERING[name]),
        layers.Dense(3),
    )
    assert_exact_or_refused(model, NUMBERS, exactness.normal(3, 8, 3))


def test_folded_axes_as_long_as_the_batch_are_not_taken_for_it():
    # [B, 2, F] -> [2, B, F] -> [B, 2, F]: rows of other examples.
    def fold(owned, inputs):
        batch = ops.shape(inputs)[0]
        folded = ops.reshape(ops.transpose(inputs, (1, 0, 2)), (batch, 2, 5))
        outputs = ops.reshape(owned(folded), (2, batch, 5))
        return ops.transpose(outputs, (1, 0, 2))

    model = exactness.stack(
        exactness.ApplyWith(exactness.dense(), fold),
        layers.Dense(3),
        shape=(2, 5),
    )
    x, y = exactness.normal(2, 8, 2, 5), exactness.normal(3, 8, 2, 3)
    assert_exact_or_refused(model, x, y)


@pytest.mark.parametrize(
    "layer",
    [
        layers.LayerNormalization(axis=0, name="wrong_axis"),
        layers.UnitNormalization(axis=0, name="wrong_axis"),
        layers.Softmax(axis=0, name="wrong_axis"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_normalising_along_the_batch_is_refused(layer):
    try:
        model = exactness.stack(layers.Dense(4), layer, layers.Dense(3))
    except (ValueError, TypeError):
        pytest.skip("Keras itself refuses this axis.")
    with pytest.raises(ValueError, match="(?s)model must.*wrong_axis"):
        row_independence.check_model(model, NUMBERS)


@pytest.mark.parametrize(
    "case",
    [c for c in models.BATCH_NORM_CASES if c.name.startswith("batch_norm")],
    ids=lambda case: case.name,
)
def test_batch_normalisation_is_refused_by_name(case):
    model, x, y, _ = case.make(0)
    name = next(
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, layers.BatchNormalization)
    )
    message = f"(?s)model must hold no BatchNormalization.*{name}"
    for call in (
        lambda: row_independence.check_layers(model),
        lambda: row_independence.check_model(model, x),
        lambda: row_independence.check_model(model),
        lambda: exactness.make_clip(model, x, y)(x, y),
        lambda: exactness.make_clip(model, x, y, graph=False)(x, y),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(
    "name, part",
    [
        ("custom_row_mixing", "subtract_batch_mean"),
        ("spectral_normalization", "spectral_normalization"),
    ],
)
def test_other_mixing_cases_are_refused_by_the_engine(name, part, graph):
    (case,) = [c for c in models.BATCH_NORM_CASES if c.name == name]
    model, x, y, _ = case.make(0)
    with pytest.raises(ValueError, match=f"(?s)model must.*{part}"):
        exactness.make_clip(model, x, y, graph=graph)(x, y)


FINE = [
    "dense_mlp",
    "conv2d_same_strides",
    "masked_lstm_last",
    "masked_causal_transformer",
    "cross_attention",
    "mixed_inputs",
    "folded_time",
    "time_major",
    "model_weights",
]


@pytest.mark.parametrize(
    "case",
    [
        *(c for c in models.CASES if c.name in FINE),
        *models.DROPOUT_CASES,
    ],
    ids=lambda case: case.name,
)
def test_models_that_keep_rows_apart_pass(case):
    model, x, _, _ = case.make(0)
    row_independence.check_model(model, x)


@pytest.mark.parametrize("rows", [1, 2, 7, 30])
def test_any_number_of_example_rows_will_do(rows):
    model = of_numbers(layers.Activation("tanh"))
    row_independence.check_model(model, exactness.normal(0, rows, 5))
    mixing = of_numbers(Apply(MIXING["subtract_mean"]))
    with pytest.raises(ValueError, match="model must"):
        row_independence.check_model(mixing, exactness.normal(0, rows, 5))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_example_rows_need_not_be_good(value):
    x = np.full((8, 5), value, "float32")
    row_independence.check_model(of_numbers(layers.ReLU()), x)
    mixing = of_numbers(Apply(MIXING["subtract_mean"]))
    with pytest.raises(ValueError, match="model must"):
        row_independence.check_model(mixing, x)


def functional(middle):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.Dense(3)(middle(inputs)))
    model.compile(loss="mse")
    return model


@pytest.mark.parametrize("make", [functional, of_numbers])
def test_a_model_that_knows_its_inputs_needs_no_rows(make):
    row_independence.check_model(make(layers.Activation("tanh")))
    with pytest.raises(ValueError, match="model must"):
        row_independence.check_model(
            make(Apply(MIXING["subtract_mean"], name="bad"))
        )


def test_a_model_that_does_not_know_its_inputs_asks_for_rows():
    model = exactness.compiled(models.Affine(), exactness.normal(0, 8, 4))
    with pytest.raises(ValueError, match="x must be given"):
        row_independence.check_model(model)


def test_mixing_is_refused_in_a_traced_function():
    for model, x in [
        (of_numbers(Apply(MIXING["subtract_mean"])), NUMBERS),
        (of_numbers(Apply(MIXING["faint"])), NUMBERS),
        (of_tokens(Apply(MIXING["subtract_mean"])), TOKENS),
    ]:
        y = exactness.normal(1, 8, 3)
        with pytest.raises(ValueError, match="model must hold no layer"):
            exactness.make_clip(model, x, y)(x, y)


@pytest.mark.parametrize("generic", [False, True])
def test_a_model_with_inputs_that_cannot_be_made_up_asks_for_rows(generic):
    # Its one word is 0; made-up words are 0 and 1.
    model = exactness.stack(
        layers.Embedding(1, 3),
        layers.PReLU() if generic else layers.ReLU(),
        layers.Flatten(),
        shape=(1,),
        dtype="int32",
    )
    x, y = np.zeros((8, 1), "int32"), exactness.normal(1, 8, 3)
    with pytest.raises(ValueError, match="model must run on made-up inputs"):
        exactness.make_clip(model, x, y)(x, y)
    row_independence.check_model(model, x)
    exactness.make_clip(model, x, y)(x, y)


class Columns(keras.Model):
    """Two columns of categories, each with its own number of them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.small = layers.Embedding(2, 3)
        self.large = layers.Embedding(100, 3)

    def call(self, inputs):
        """Return the sum of the embeddings."""
        return self.small(inputs[:, 0]) + self.large(inputs[:, 1])


def test_changed_rows_keep_to_the_range_of_their_column():
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 2, 8), rng.integers(50, 100, 8)]
    x = np.stack(columns, axis=1).astype("int32")
    model = exactness.compiled(Columns(), x)
    row_independence.check_model(model, x)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float64"])
def test_inputs_of_any_type(dtype):
    as_numbers = Apply(lambda x: ops.cast(x, "float32"))
    x = np.random.default_rng(0).integers(0, 256, (8, 5)).astype(dtype)
    for middle, fine in [
        (layers.ReLU(), True),
        (Apply(MIXING["subtract_mean"]), False),
    ]:
        model = exactness.stack(
            as_numbers, middle, layers.Dense(3), dtype=dtype
        )
        if fine:
            row_independence.check_model(model, x)
        else:
            with pytest.raises(ValueError, match="model must hold no layer"):
                row_independence.check_model(model, x)


def test_texts():
    texts = keras.Input((1,), dtype="string")
    words = layers.StringLookup(vocabulary=["a", "b", "c"])(texts)
    hidden = layers.Flatten()(layers.Embedding(5, 3)(words))
    model = keras.Model(texts, layers.Dense(2)(hidden))
    x = tf.constant([["a"], ["b"], ["c"], ["a"]])
    row_independence.check_model(model, x)


def test_the_check_changes_nothing():
    for case in models.DROPOUT_CASES:
        model, x, _, _ = case.make(0)
        before = [np.array(v) for v in model.variables]
        row_independence.check_model(model, x)
        for was, variable in zip(before, model.variables, strict=True):
            np.testing.assert_array_equal(was, variable)


def test_a_changed_model_is_checked_again():
    model = of_numbers(layers.ReLU())
    y = exactness.normal(1, 8, 3)
    exactness.make_clip(model, NUMBERS, y, graph=False)(NUMBERS, y)
    model.add(Apply(MIXING["subtract_mean"], name="added_later"))
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="(?s)model must.*added_later"):
        exactness.make_clip(model, NUMBERS, y, graph=False)(NUMBERS, y)
