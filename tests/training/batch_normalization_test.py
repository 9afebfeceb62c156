# SPDX-License-Identifier: Apache-2.0
"""Models with BatchNormalization come back fit for private training.

Folded, they predict what they predicted; with GroupNormalization they keep
all weights but the moving statistics.
"""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import tf_privacy
from tf_privacy.training import frozen_affine
from tf_privacy.training import models
from tf_privacy.training import private_training

BOTH = pytest.mark.parametrize(
    "make_free",
    [
        tf_privacy.replace_batch_normalization,
        tf_privacy.fold_batch_normalization,
    ],
    ids=["replace", "fold"],
)
SCALE = 0.5  # A global that a Lambda below uses.


def norm(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def batch_norm(**arguments):
    return layers.BatchNormalization(epsilon=0.01, **arguments)


def batch_norms(model):
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, layers.BatchNormalization)
    ]


def trained(model):
    """Gives every weight a value that no initializer gives."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        low, high = (0.5, 2.0) if "variance" in weight.path else (-1.0, 1.0)
        weight.assign(rng.uniform(low, high, weight.shape))
    return model


def halve(inputs):
    """A user's own activation."""
    return inputs * 0.5


class Penalty(keras.regularizers.Regularizer):
    """A user's own regularizer."""

    def __call__(self, x):
        return ops.sum(ops.abs(x))

    def get_config(self):
        return {}


class Shift(layers.Layer):
    """A user's own layer, which Keras has not been told of."""

    def build(self, input_shape):
        self.amount = self.add_weight(shape=(input_shape[-1],), name="amount")

    def call(self, inputs):
        return inputs + self.amount


# Models, each with what it is called on.


def convolutional():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(8, 3, use_bias=False),
            batch_norm(name="first"),
            layers.ReLU(),
            layers.DepthwiseConv2D(3),
            batch_norm(scale=False),
            layers.GlobalAveragePooling2D(),
            batch_norm(center=False, axis=1),
            layers.Dense(2, name="head"),
        ]
    )
    return model, norm(8, 6, 6, 3)


def built_on_data():
    model = keras.Sequential([layers.Dense(16), batch_norm(), Shift()])
    x = norm(4, 5)
    model(x)
    return model, x


def several():
    """Two inputs, two outputs, and layers that are used twice."""
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    dense, shared = layers.Dense(18), batch_norm(name="shared")
    p, q = shared(dense(a)), shared(dense(b))
    outputs = {"sum": layers.Add(name="sum")([p, q]), "q": q}
    return keras.Model({"a": a, "b": b}, outputs), {
        "a": norm(8, 4),
        "b": 2 * norm(8, 4),
    }


def nested():
    """A backbone within a backbone, used twice, in inference."""
    inner = keras.Sequential(
        [layers.Conv1D(8, 2), batch_norm(), layers.Activation(halve)]
    )
    start = keras.Input((None, 3))
    middle = keras.Model(start, inner(start) + 1.0, name="backbone")
    middle.compile("sgd", lambda y, p: ops.mean(p))
    inputs = keras.Input((7, 3))
    x = middle(inputs, training=False) * middle(2.0 * inputs)
    x = layers.GlobalMaxPooling1D()(layers.Dropout(0.5, seed=1)(x))
    return keras.Model(inputs, layers.Dense(2)(x)), norm(8, 7, 3)


def wrapped():
    inputs = keras.Input((3, 4, 5))
    x = layers.TimeDistributed(batch_norm(axis=1), name="direct")(inputs)
    start = keras.Input((4, 5))
    inner = keras.Sequential([layers.Dense(6), batch_norm()])
    outputs = batch_norm()(layers.Masking()(inner(start)), training=False)
    x = layers.TimeDistributed(keras.Model(start, outputs))(x)
    return keras.Model(inputs, layers.Flatten()(x)), norm(8, 3, 4, 5)


def masked():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 8, mask_zero=True)(inputs)
    x = layers.LSTM(4)(batch_norm()(x))
    rows = np.random.default_rng(0).integers(1, 9, (8, 6))
    rows[:, 3:] = 0
    return keras.Model(inputs, x), rows.astype("int32")


def odd():
    """What configurations alone would lose."""
    inputs = keras.Input((4,))
    x = layers.Lambda(lambda t: ops.square(t) * SCALE)(inputs)
    x = layers.Dense(20, activation=halve)(x)
    x = batch_norm(renorm=True, gamma_regularizer=Penalty())(x, training=False)
    outputs = ops.concatenate([Shift()(x), inputs], axis=-1)
    return keras.Model(inputs, outputs), norm(8, 4)


def low_precision(policy):
    def make():
        inputs = keras.Input((5, 4), dtype="float16")
        x = layers.Dense(16, dtype=policy)(inputs)
        outputs = batch_norm(dtype=policy)(x)
        return keras.Model(inputs, outputs), norm(8, 5, 4).astype("float16")

    return make


MODELS = {
    make.__name__: make
    for make in (
        convolutional,
        built_on_data,
        several,
        nested,
        wrapped,
        masked,
        odd,
    )
} | {
    policy: low_precision(policy)
    for policy in ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
}
ALL_MODELS = pytest.mark.parametrize("name", MODELS)
TOLERANCE = {
    "float16": 1e-2,
    "bfloat16": 3e-2,
    "mixed_float16": 2e-3,
    "mixed_bfloat16": 2e-2,
}


def make_model(name):
    model, x = MODELS[name]()
    return trained(model), x


def outputs_of(model, x):
    return [
        np.asarray(value, "float64")
        for value in keras.tree.flatten(model.predict(x, verbose=0))
    ]


@ALL_MODELS
def test_a_folded_model_predicts_what_it_did(name):
    model, x = make_model(name)
    expected = outputs_of(model, x)
    folded = tf_privacy.fold_batch_normalization(model)
    bound = TOLERANCE.get(name, 2e-6)
    for before, after in zip(expected, outputs_of(folded, x), strict=True):
        scale = np.abs(before).max()
        np.testing.assert_allclose(after, before, rtol=0, atol=bound * scale)


@ALL_MODELS
@BOTH
def test_all_else_is_kept_and_the_original_untouched(name, make_free):
    model, x = make_model(name)
    expected = outputs_of(model, x)
    weights = {w.path: w.numpy() for w in model.weights}
    copy = make_free(model)
    assert not batch_norms(copy) and batch_norms(model)
    assert copy.name == model.name and not copy.compiled
    assert [a.name for a in copy.layers] == [a.name for a in model.layers]
    assert [a.dtype_policy.name for a in copy.layers] == [
        a.dtype_policy.name for a in model.layers
    ]
    assert [t.dtype for t in copy.outputs] == [t.dtype for t in model.outputs]
    assert not {id(w) for w in copy.weights} & {id(w) for w in model.weights}
    # The second is a copy of the first wherever layers are used twice.
    kept = ("kernel", "bias", "embeddings", "amount")
    for old, new in zip(
        [w for w in model.weights if w.name in kept],
        [w for w in copy.weights if w.name in kept],
        strict=True,
    ):
        np.testing.assert_array_equal(old.numpy(), new.numpy())
    for weight in copy.weights:
        weight.assign(ops.zeros_like(weight))
    for weight in model.weights:
        np.testing.assert_array_equal(weight.numpy(), weights[weight.path])
    for before, after in zip(expected, outputs_of(model, x), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", ["convolutional", "several", "wrapped", "odd"])
def test_the_originals_graph_has_no_new_calls(name):
    model, _ = make_model(name)
    calls = [len(layer._inbound_nodes) for layer in model.layers]
    tf_privacy.replace_batch_normalization(model)
    assert [len(layer._inbound_nodes) for layer in model.layers] == calls


@pytest.mark.parametrize("name", [n for n in MODELS if n not in TOLERANCE])
@BOTH
def test_the_copy_mixes_no_examples(name, make_free):
    model, x = make_model(name)
    tf_privacy.check_model(make_free(model), x)


@pytest.mark.parametrize("name", ["convolutional", "nested", "masked"])
@BOTH
def test_the_copy_trains_privately(name, make_free):
    model, x = make_model(name)
    copy = tf_privacy.privatize(make_free(model))
    optimizer = tf_privacy.DPSGD(
        0.1, l2_norm_clip=1.0, noise_multiplier=1.0, expected_batch_size=4
    )
    copy.compile(optimizer, "mse")
    before = [w.numpy() for w in copy.trainable_weights]
    y = np.zeros((8, copy.output_shape[-1]), "float32")
    copy.train_on_batch(x, y)
    assert copy.optimizer.ledger.num_steps() == 1
    for old, new in zip(before, copy.trainable_weights, strict=True):
        assert np.any(old != new.numpy()) and np.all(np.isfinite(new.numpy()))


@pytest.mark.parametrize("name", ["several", "wrapped", "mixed_float16"])
@BOTH
def test_the_copy_is_saved_and_loaded(name, make_free, tmp_path):
    model, x = make_model(name)
    copy = make_free(model)
    copy.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for old, new in zip(
        outputs_of(copy, x), outputs_of(loaded, x), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def test_a_folded_private_model_is_saved_and_loaded(tmp_path):
    """load_model needs no other module to know the layer."""
    assert models.frozen_affine is frozen_affine
    model, x = make_model("convolutional")
    folded = tf_privacy.privatize(tf_privacy.fold_batch_normalization(model))
    folded.save(tmp_path / "model.keras")
    loaded = tf_privacy.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs_of(folded, x), outputs_of(loaded, x))


# What takes the place of a layer.


def only(layer, *shape):
    return trained(keras.Sequential([keras.Input(shape), layer]))


def test_group_normalization_takes_over_all_that_it_can():
    old = batch_norm(
        axis=1,
        name="it",
        trainable=False,
        gamma_regularizer=keras.regularizers.L2(0.3),
        beta_constraint="non_neg",
        dtype="mixed_float16",
    )
    model = only(old, 6, 40)
    new = tf_privacy.replace_batch_normalization(model).get_layer("it")
    assert type(new) is layers.GroupNormalization
    assert (new.axis, new.epsilon, new.groups) == (1, 0.01, 3)
    assert new.dtype_policy.name == "mixed_float16" and not new.trainable
    assert new.gamma_regularizer.l2 == pytest.approx(0.3)
    assert isinstance(new.beta_constraint, keras.constraints.NonNeg)
    np.testing.assert_array_equal(new.gamma.numpy(), old.gamma.numpy())
    np.testing.assert_array_equal(new.beta.numpy(), old.beta.numpy())


def test_group_normalization_computes_its_formula():
    model = only(batch_norm(), 5, 12)
    gamma, beta = (w.numpy() for w in model.layers[0].weights[:2])
    x = norm(3, 5, 12)
    copy = tf_privacy.replace_batch_normalization(model, groups=4)
    groups = x.reshape(3, 5, 4, 3).astype("float64")
    # 15 values to a group are too few: three groups become two of 30.
    groups = x.reshape(3, 5, 3, 4).astype("float64")
    mean = groups.mean((1, 3), keepdims=True)
    expected = (groups - mean) / np.sqrt(
        groups.var((1, 3), keepdims=True) + 0.01
    )
    np.testing.assert_allclose(
        copy.predict(x, verbose=0),
        expected.reshape(x.shape) * gamma + beta,
        atol=1e-5,
    )


def test_folding_computes_its_formula():
    model = only(batch_norm(axis=1), 4, 3)
    gamma, beta, mean, variance = (
        w.numpy().astype("float64") for w in model.weights
    )
    new = tf_privacy.fold_batch_normalization(model).layers[0]
    assert type(new) is frozen_affine.FrozenAffine
    scale = gamma / np.sqrt(variance + 0.01)
    np.testing.assert_allclose(new.scale.numpy(), scale, rtol=1e-6)
    np.testing.assert_allclose(
        new.offset.numpy(), beta - mean * scale, atol=1e-6
    )
    assert not new.trainable_weights
    new.trainable = True
    assert not new.trainable_weights


GROUPS = [
    ((64,), 32, 4),
    ((100,), 32, 5),
    ((10,), 32, 1),
    ((17,), 32, 1),
    ((2,), 32, 1),
    ((64,), 1, 1),
    ((32, 32, 64), 32, 32),
    ((32, 32, 64), 8, 8),
    ((32, 32, 48), 32, 24),
    ((32, 32, 3), 32, 1),
    ((32, 32, 1), 32, 1),
    ((None, None, 64), 32, 32),
    ((None, 1), 32, 1),
    ((None, 7), 32, 1),
    ((1, 1, 1280), 32, 32),
    ((1, 1, 16), 32, 1),
    ((2, 2, 16), 32, 4),
]


@pytest.mark.parametrize("shape, groups, expected", GROUPS)
def test_groups_divide_the_channels_and_are_not_too_small(
    shape, groups, expected
):
    model = only(batch_norm(), *shape)
    copy = tf_privacy.replace_batch_normalization(model, groups=groups)
    assert copy.layers[0].groups == expected
    rows = norm(2, *[5 if size is None else size for size in shape])
    beta = copy.layers[0].beta.numpy()
    assert np.any(np.abs(copy.predict(rows, verbose=0) - beta) > 1e-3)


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1)])
def test_a_single_value_is_not_normalised_in_a_wrapper(shape):
    wrapped = layers.TimeDistributed(batch_norm())
    model = keras.Sequential([keras.Input((3, *shape)), wrapped])
    with pytest.raises(ValueError, match="^model must normalise more than one"):
        tf_privacy.replace_batch_normalization(model)


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1)])
def test_a_single_value_is_not_normalised(shape):
    model = only(batch_norm(), *shape)
    with pytest.raises(ValueError, match="^model must normalise more than one"):
        tf_privacy.replace_batch_normalization(model)
    x = norm(4, *shape)
    np.testing.assert_allclose(
        tf_privacy.fold_batch_normalization(model).predict(x, verbose=0),
        model.predict(x, verbose=0),
        rtol=1e-5,
    )


def test_trainable_is_kept_at_every_level():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(16, name="a")])
    inner.add(batch_norm(name="b"))
    model = keras.Sequential([inner, layers.Dense(2, name="c")])
    inner.trainable = False
    inner.layers[0].trainable = True
    for make_free in (
        tf_privacy.replace_batch_normalization,
        tf_privacy.fold_batch_normalization,
    ):
        copy = make_free(model)
        flags = [copy, copy.layers[0], *copy.layers[0].layers, copy.layers[1]]
        assert [f.trainable for f in flags] == [True, False, True, False, True]
        assert len(copy.trainable_weights) == len(model.trainable_weights)


def test_a_mask_passes_the_new_layers():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 16, mask_zero=True)(inputs)
    model = keras.Model(inputs, batch_norm()(x))
    for make_free in (
        tf_privacy.replace_batch_normalization,
        tf_privacy.fold_batch_normalization,
    ):
        layer = make_free(model).layers[-1]
        rows = ops.convert_to_tensor(norm(2, 6, 16))
        rows._keras_mask = ops.ones((2, 6), "bool")
        assert layer(rows)._keras_mask is rows._keras_mask


def test_a_table_learnt_from_data_is_kept():
    lookup = layers.IntegerLookup()
    lookup.adapt(np.array([7, 7, 42]))
    inputs = keras.Input((2,), dtype="int64")
    x = layers.Embedding(5, 16)(lookup(inputs))
    model = trained(keras.Model(inputs, batch_norm()(x)))
    x = np.array([[7, 42], [42, 3]])
    np.testing.assert_allclose(
        tf_privacy.fold_batch_normalization(model).predict(x, verbose=0),
        model.predict(x, verbose=0),
        atol=1e-5,
    )


@BOTH
def test_a_model_without_batch_normalization_is_copied(make_free):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    copy = make_free(model)
    assert copy.layers[0] is not model.layers[0]
    for old, new in zip(model.weights, copy.weights, strict=True):
        np.testing.assert_array_equal(old.numpy(), new.numpy())


# Private models, and models of a user's own class.


@BOTH
def test_a_private_model_stays_private(make_free):
    stack = [keras.Input((4,)), layers.Dense(16), batch_norm()]
    copy = make_free(tf_privacy.DPSequential(stack))
    assert type(copy) is tf_privacy.DPSequential
    inputs = keras.Input((4,))
    copy = make_free(tf_privacy.DPModel(inputs, batch_norm()(inputs)))
    assert isinstance(copy, tf_privacy.DPModel)


@BOTH
@pytest.mark.parametrize("is_nested", [False, True])
def test_what_was_spent_on_the_weights_is_not_forgotten(make_free, is_nested):
    model = tf_privacy.DPSequential([keras.Input((4,)), layers.Dense(3)])
    optimizer = tf_privacy.DPSGD(
        0.1, l2_norm_clip=1.0, noise_multiplier=1.0, expected_batch_size=4
    )
    model.compile(optimizer, "mse")
    x, y = norm(8, 4), np.ones((8, 3), "float32")
    model.fit(x, y, verbose=0)
    steps = model.optimizer.ledger.num_steps()
    model.add(batch_norm())
    if is_nested:
        copy = make_free(keras.Sequential([model, layers.Dense(3)])).layers[0]
    else:
        copy = make_free(model)
    assert isinstance(copy, private_training.PrivateTraining)
    copy.compile(tf_privacy.DPSGD.from_config(optimizer.get_config()), "mse")
    assert copy.optimizer.ledger.num_steps() == steps > 0


class OwnGraph(keras.Model):
    """A functional model of a user's own class."""

    def __init__(self):
        inputs = keras.Input((4,))
        super().__init__(inputs, batch_norm()(layers.Dense(16)(inputs)))


@BOTH
def test_a_functional_model_of_an_own_class_becomes_a_plain_one(make_free):
    copy = make_free(OwnGraph())
    assert not isinstance(copy, OwnGraph) and not batch_norms(copy)
    copy = make_free(tf_privacy.DPModel(copy.input, batch_norm()(copy.output)))
    assert isinstance(copy, tf_privacy.DPModel)


class OwnCall(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.norm = batch_norm()

    def call(self, inputs):
        return self.norm(inputs)


class OwnCallAndGraph(OwnGraph):
    def call(self, inputs):
        return super().call(inputs) + 1.0


class Holder(layers.Layer):
    """Makes its BatchNormalization itself."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.parts = [batch_norm(name="hidden")]

    def build(self, input_shape):
        self.parts[0].build(input_shape)

    def call(self, inputs):
        return self.parts[0](inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


class OwnNorm(layers.BatchNormalization):
    """May compute something else."""


class Undescribed(layers.Layer):
    def __init__(self, table):
        super().__init__(name="undescribed")
        self.table = table

    def call(self, inputs):
        return inputs


class Tied(layers.Layer):
    """Uses another layer's weight."""

    def __init__(self, kernel=None, **arguments):
        super().__init__(**arguments)
        self.kernel = kernel

    def build(self, input_shape):
        if self.kernel is None:
            self.kernel = self.add_weight(shape=(4, 4))

    def call(self, inputs):
        return inputs @ self.kernel

    def get_config(self):
        return layers.Layer.get_config(self)


def make_tied():
    inputs = keras.Input((4,))
    dense = layers.Dense(4, use_bias=False)
    x = batch_norm()(dense(inputs))
    return keras.Model(inputs, Tied(dense.kernel)(x))


def uses_a_variable():
    inputs = keras.Input((4,))
    dense = layers.Dense(4)
    return keras.Model(inputs, ops.matmul(dense(inputs), dense.kernel))


def with_weight_outside():
    model = OwnGraph()
    model.extra = model.add_weight(shape=(2,))
    return model


def on_data(model):
    model(norm(4, 4))
    return model


def stacked(layer):
    return keras.Sequential([keras.Input((4,)), layers.Dense(4), layer])


REFUSED = {
    "own_call": (lambda: on_data(OwnCall()), "functional.*OwnCall.*call"),
    "own_call_and_graph": (OwnCallAndGraph, "functional.*OwnCallAndGraph"),
    "not_built": (
        lambda: keras.Sequential([batch_norm()]),
        "functional or sequential and know its inputs",
    ),
    "holder": (lambda: stacked(Holder(name="h")), "hidden.*within 'h'.*Holder"),
    "nested_own_call": (lambda: stacked(OwnCall(name="o")), "within 'o'"),
    "wrapped_holder": (
        lambda: keras.Sequential(
            [keras.Input((3, 4)), layers.TimeDistributed(Holder())]
        ),
        "within 'time_distributed",
    ),
    "subclass": (lambda: stacked(OwnNorm(name="own")), "'own' .OwnNorm"),
    "undescribed": (
        lambda: stacked(Undescribed(np.zeros(3))),
        "get_config.*'undescribed' .Undescribed",
    ),
    "tied": (make_tied, "hold each weight in one layer"),
    "variable": (uses_a_variable, "a call with the variable.*kernel"),
    "outside": (with_weight_outside, "hold each weight in one layer"),
}


@pytest.mark.parametrize("name", REFUSED)
@BOTH
def test_what_cannot_be_copied_is_refused(name, make_free):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"(?s)^model must.*{message}"):
        make_free(make())


def in_training(layer):
    inputs = keras.Input((16,))
    return keras.Model(inputs, layer(inputs, training=True))


def in_training_within_a_wrapper(layer):
    inputs = keras.Input((3, 16))
    return keras.Model(
        inputs, layers.TimeDistributed(in_training(layer))(inputs)
    )


@pytest.mark.parametrize(
    "make, is_nested",
    [
        (in_training, False),
        (in_training, True),
        (in_training_within_a_wrapper, False),
    ],
)
def test_folding_refuses_a_layer_that_never_uses_its_statistics(
    make, is_nested
):
    layer = batch_norm()
    if is_nested:
        layer = keras.Sequential([keras.Input((16,)), layer])
    model = make(layer)
    with pytest.raises(ValueError, match="^model must leave the training arg"):
        tf_privacy.fold_batch_normalization(model)
    copy = tf_privacy.replace_batch_normalization(model)
    assert copy.predict(norm(2, *model.input_shape[1:])).shape[0] == 2
    layer.trainable = False  # Then training=True changes nothing.
    tf_privacy.fold_batch_normalization(model)


@pytest.mark.parametrize("model", [None, "model", layers.Dense(3), OwnCall])
@BOTH
def test_what_is_no_model_is_refused(model, make_free):
    with pytest.raises(TypeError, match="^model must be a keras.Model"):
        make_free(model)


@pytest.mark.parametrize("groups", [0, -1])
def test_groups_below_one_are_refused(groups):
    with pytest.raises(ValueError, match="^groups must be >= 1"):
        tf_privacy.replace_batch_normalization(OwnGraph(), groups=groups)


@pytest.mark.parametrize("groups", [None, 2.0, True, "8"])
def test_groups_that_are_no_int_are_refused(groups):
    with pytest.raises(TypeError, match="^groups must be an int"):
        tf_privacy.replace_batch_normalization(OwnGraph(), groups=groups)


def test_the_axis_of_the_batch_is_refused():
    model = keras.Sequential(
        [keras.Input(batch_shape=(4, 3)), layers.BatchNormalization(axis=0)]
    )
    with pytest.raises(ValueError, match="^model must normalise the channels"):
        tf_privacy.replace_batch_normalization(model)


def test_the_refusal_of_batch_normalization_names_the_remedy():
    with pytest.raises(ValueError, match="replace_batch_normalization"):
        tf_privacy.privatize(OwnGraph())


@pytest.fixture
def float64():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def test_an_application_of_keras_is_folded(float64):
    """MobileNet: 27 layers of BatchNormalization.

    In float64, as each layer multiplies the rounding errors before it.
    """
    model = keras.applications.MobileNet(
        weights=None,
        input_shape=(32, 32, 3),
        alpha=0.25,
        classes=5,
        classifier_activation=None,
    )
    rng = np.random.default_rng(0)
    for layer in batch_norms(model):
        layer.momentum = 0.0
        layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
        layer.beta.assign(rng.normal(size=layer.beta.shape))
    x = norm(4, 32, 32, 3)
    model(x, training=True)  # Statistics with which the rows differ.
    folded = tf_privacy.fold_batch_normalization(model)
    before, after = np.array(model(x)), np.array(folded(x))
    assert len(batch_norms(model)) == 27 and not batch_norms(folded)
    assert np.ptp(before, axis=0).min() > 1e-2
    np.testing.assert_allclose(
        after, before, rtol=0, atol=1e-9 * np.abs(before).max()
    )
    tf_privacy.privatize(tf_privacy.replace_batch_normalization(model))
