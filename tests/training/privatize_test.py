# SPDX-License-Identifier: Apache-2.0
"""A privatized model is the same model, and trains in no other way."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_privacy
from tf_privacy.training import private_training

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = np.ones((12, 1), "float32")


def make_optimizer(**changes):
    settings = {
        "l2_norm_clip": 1.0,
        "noise_multiplier": 1.0,
        "expected_batch_size": 4,
        **changes,
    }
    return tf_privacy.DPSGD(0.1, **settings)


class Net(keras.Model):
    """A user's own model."""

    def __init__(self, units=3, **arguments):
        super().__init__(**arguments)
        self.units = units
        self.hidden = keras.layers.Dense(units)
        self.head = keras.layers.Dense(1)

    def call(self, inputs):
        return self.head(self.hidden(inputs))

    def describe(self):
        """A method of the user's."""
        return f"{self.units} units"

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def sequential(*layers):
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])


def functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(1)(inputs))


def subclassed():
    model = Net()
    model(X)
    return model


KINDS = [
    (sequential, tf_privacy.DPSequential),
    (functional, tf_privacy.DPModel),
    (subclassed, Net),
]
EVERY_KIND = pytest.mark.parametrize("make, kind", KINDS)


@EVERY_KIND
def test_it_is_the_same_object_with_the_same_weights(make, kind):
    model = make()
    before = model.predict(X, verbose=0)
    weights = [id(v) for v in model.weights]
    original = type(model)
    assert tf_privacy.privatize(model) is model
    assert isinstance(model, kind)
    assert isinstance(model, original)
    assert isinstance(model, private_training.PrivateTraining)
    assert [id(v) for v in model.weights] == weights
    np.testing.assert_array_equal(before, model.predict(X, verbose=0))
    model.summary(print_fn=lambda text, **_: None)


@EVERY_KIND
def test_privatizing_twice_is_privatizing_once(make, kind):
    model = tf_privacy.privatize(make())
    private = type(model)
    assert type(tf_privacy.privatize(model)) is private
    assert type(tf_privacy.privatize(make())) is private


def test_a_users_model_keeps_its_methods():
    assert tf_privacy.privatize(subclassed()).describe() == "3 units"


def test_private_classes_build_private_models():
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(1)(inputs)
    for model in (
        tf_privacy.DPModel(inputs, outputs),
        tf_privacy.DPModel(inputs=inputs, outputs=outputs),
        tf_privacy.DPSequential([inputs, keras.layers.Dense(1)]),
    ):
        assert isinstance(model, private_training.PrivateTraining)
        assert tf_privacy.privatize(model) is model
        assert model(X).shape == (12, 1)


# Clones and copies by configuration.


def recloned(model):
    return keras.models.clone_model(
        model, clone_function=lambda a: type(a).from_config(a.get_config())
    )


def from_config(model):
    return type(model).from_config(model.get_config())


def from_json(model):
    return keras.models.model_from_json(
        model.to_json(), custom_objects={"Net": Net}
    )


def from_keras(model):
    return keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(model), custom_objects={"Net": Net}
    )


@EVERY_KIND
@pytest.mark.parametrize(
    "copy", [keras.models.clone_model, from_config, from_json, from_keras]
)
def test_a_copy_is_private_or_does_not_train(make, kind, copy):
    """`clone_model` makes a plain Sequential of any Sequential; compiled as
    the original was, it refuses."""
    model = tf_privacy.privatize(make())
    model.compile(make_optimizer(), "mse")
    with keras.saving.custom_object_scope({"Net": Net}):
        other = copy(model)
    assert other is not model
    if isinstance(other, private_training.PrivateTraining):
        assert isinstance(other, kind)
        return
    before = other.get_weights()
    with pytest.raises(TypeError):
        other.fit(X, Y, verbose=0)
    for a, b in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_functional_clone_with_a_function_is_private():
    model = tf_privacy.privatize(functional())
    assert isinstance(recloned(model), tf_privacy.DPModel)


# What is refused, and how.


@pytest.mark.parametrize(
    "model", [None, "model", Net, keras.layers.Dense(1), lambda x: x]
)
def test_what_is_no_model_is_refused(model):
    with pytest.raises(TypeError, match="^model must be a keras.Model"):
        tf_privacy.privatize(model)


class OwnStep(Net):
    def train_step(self, data):
        return {}


class OwnLoss(Net):
    def compute_loss(self, *arguments, **named):
        return 0.0


class Inherits(OwnStep):
    pass


@pytest.mark.parametrize(
    "model_class, method",
    [
        (OwnStep, "train_step"),
        (OwnLoss, "compute_loss"),
        (Inherits, "train_step"),
    ],
)
def test_an_own_step_or_loss_is_refused(model_class, method):
    start = f"^model must not define its own {method}"
    with pytest.raises(ValueError, match=start):
        tf_privacy.privatize(model_class())


def private_subclass(base, **methods):
    return type("Own", (base,), {"call": Net.call, **methods})


@pytest.mark.parametrize("base", [tf_privacy.DPModel, tf_privacy.DPSequential])
@pytest.mark.parametrize(
    "method, function",
    [
        ("train_step", OwnStep.train_step),
        ("compute_loss", OwnLoss.compute_loss),
    ],
)
def test_a_subclass_with_an_own_step_or_loss_is_refused(base, method, function):
    """It would train on raw gradients, or not on the loss that it defines,
    and print a statement all the same."""
    with pytest.raises(ValueError, match="must not define its own"):
        model = private_subclass(base, **{method: function})()
        model.compile(make_optimizer(), "mse")


def normalized(trainable=True, affine=True, nested=False):
    layer = keras.layers.BatchNormalization(
        trainable=trainable, center=affine, scale=affine
    )
    if nested:
        inner = keras.Sequential([keras.layers.Dense(3), layer])
        layer = keras.Sequential([keras.Sequential([inner])])
    return layer


NORMALIZED = [
    {},
    {"trainable": False},
    {"affine": False},
    {"nested": True},
    {"nested": True, "trainable": False, "affine": False},
]


@pytest.mark.parametrize("options", NORMALIZED)
def test_batch_normalization_is_refused_anywhere(options):
    with pytest.raises(ValueError, match="^model must hold no BatchNormal"):
        tf_privacy.privatize(sequential(normalized(**options)))
    layers = [keras.Input((4,)), normalized(**options), keras.layers.Dense(1)]
    model = tf_privacy.DPSequential(layers)
    with pytest.raises(ValueError, match="^model must hold no BatchNormal"):
        model.compile(make_optimizer(), "mse")


def test_batch_normalization_in_a_wrapper_or_attribute_is_refused():
    class Hidden(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.table = {"a": [keras.layers.BatchNormalization()]}

        def call(self, inputs):
            return self.table["a"][0](inputs)

    with pytest.raises(ValueError, match="^model must hold no BatchNormal"):
        tf_privacy.privatize(sequential(Hidden()))


def batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


def test_batch_normalization_added_later_is_refused():
    model = tf_privacy.privatize(sequential())
    model.compile(make_optimizer(), "mse")
    model.add(keras.layers.BatchNormalization())
    before = model.get_weights()
    for data in ((X, Y), (batches(),)):
        with pytest.raises(ValueError, match="^model must hold no BatchNorm"):
            model.fit(*data, verbose=0)
    with pytest.raises(ValueError, match="^model must hold no BatchNormal"):
        model.train_on_batch(X, Y)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.optimizer.ledger.num_steps() == 0


class Centered(keras.layers.Layer):
    """Mixes the rows under a name that says nothing."""

    def call(self, inputs):
        return inputs - keras.ops.mean(inputs, axis=0, keepdims=True)


@pytest.mark.parametrize("data", [(X, Y), "batches"], ids=["arrays", "batches"])
def test_a_layer_that_mixes_rows_is_refused_before_the_first_step(data):
    model = tf_privacy.privatize(sequential(Centered()))
    model.compile(make_optimizer(), "mse")
    data = (batches(),) if data == "batches" else data
    with pytest.raises(ValueError, match="^model must hold no layer that mix"):
        model.fit(*data, verbose=0)
    assert model.optimizer.ledger.num_steps() == 0


class AddsLoss(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(keras.ops.mean(inputs))
        return inputs


@pytest.mark.parametrize(
    "make",
    [AddsLoss, lambda: keras.layers.Dense(2, activity_regularizer="l2")],
    ids=["add_loss", "activity_regularizer"],
)
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_loss_within_a_layer_is_refused(make, run_eagerly):
    model = tf_privacy.privatize(sequential(make()))
    model.compile(make_optimizer(), "mse", run_eagerly=run_eagerly)
    with pytest.raises(ValueError, match="^model must add no loss that depe"):
        model.fit(X, Y, verbose=0)
    assert model.optimizer.ledger.num_steps() == 0


@pytest.mark.parametrize(
    "optimizer", ["sgd", "adam", keras.optimizers.Adam(), None]
)
@EVERY_KIND
def test_a_private_model_takes_no_other_optimizer(make, kind, optimizer):
    model = tf_privacy.privatize(make())
    with pytest.raises(TypeError, match="^optimizer must be a DP optimizer"):
        model.compile(optimizer=optimizer, loss="mse")


def test_a_model_compiled_before_trains_after_compiling_again():
    model = sequential()
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    tf_privacy.privatize(model)
    before = model.get_weights()
    for train in (model.fit, model.train_on_batch):
        with pytest.raises(TypeError, match="^optimizer must be a DP optimiz"):
            train(X, Y)
    np.testing.assert_array_equal(before[0], model.get_weights()[0])
    model.compile(make_optimizer(), "mse")
    model.train_on_batch(X, Y)
    assert model.optimizer.ledger.num_steps() == 1


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_plain_model_with_a_private_optimizer_is_refused(run_eagerly):
    model = sequential()
    model.compile(make_optimizer(), "mse", run_eagerly=run_eagerly)
    before = model.get_weights()
    for train in (
        lambda: model.fit(X, Y, verbose=0),
        lambda: model.train_on_batch(X, Y),
    ):
        with pytest.raises(TypeError, match="tf_privacy.privatize"):
            train()
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_uncompiled_model_is_refused():
    model = tf_privacy.privatize(sequential())
    for use in (
        lambda: model.fit(X, Y),
        lambda: model.train_on_batch(X, Y),
        lambda: model.privacy_statement(delta=1e-5),
    ):
        with pytest.raises(ValueError, match="^model must be compiled before"):
            use()


def test_an_optimizer_put_in_by_hand_is_refused():
    model = tf_privacy.privatize(sequential())
    model.compile(make_optimizer(), "mse")
    model.optimizer = keras.optimizers.SGD()
    for train in (model.fit, model.train_on_batch):
        with pytest.raises(TypeError, match="^optimizer must be a DP optimiz"):
            train(X, Y)


def test_a_private_optimizer_put_in_by_hand_is_refused_or_counts():
    """The compiled step may still hold the old one."""
    model = tf_privacy.privatize(sequential())
    model.compile(make_optimizer(), "mse")
    model.fit(X, Y, verbose=0)
    model.optimizer = make_optimizer()
    try:
        model.fit(X, Y, verbose=0)
    except (TypeError, ValueError):
        return
    assert model.privacy_statement(delta=1e-5).num_steps == 6


def test_a_strategy_that_did_not_make_the_model_is_refused_by_name():
    """A replica would have no copy of its weights."""
    model = tf_privacy.privatize(sequential())
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        with pytest.raises(ValueError, match="^model .* MirroredStrategy"):
            model.compile(make_optimizer(), "mse")


def test_a_model_without_a_loss_is_refused():
    model = tf_privacy.privatize(sequential())
    model.compile(make_optimizer())
    with pytest.raises(ValueError, match="^loss must be given"):
        model.fit(X, Y, verbose=0)


def test_a_frozen_model_is_refused():
    model = tf_privacy.privatize(functional())
    model.trainable = False
    model.compile(make_optimizer(), "mse")
    with pytest.raises(ValueError, match="^model must have trainable variab"):
        model.fit(X, Y, verbose=0)


def test_a_step_outside_of_fit_is_refused_aloud():
    """It is counted in no row, so it may release nothing; nor may it look as
    if it had, or spoil the next fit."""
    model = tf_privacy.privatize(sequential())
    model.compile(make_optimizer(), "mse")
    before = model.get_weights()
    with pytest.raises((RuntimeError, ValueError)):
        model.train_step((tf.constant(X), tf.constant(Y)))
    np.testing.assert_array_equal(before[0], model.get_weights()[0])
    model.fit(X, Y, verbose=0)
    assert model.optimizer.ledger.num_steps() == 3


@pytest.mark.parametrize("delta", [0, 1, 0.0, 1.0, -1e-5, np.nan, np.inf])
def test_a_delta_that_is_no_probability_is_refused(delta):
    model = tf_privacy.privatize(sequential())
    model.compile(make_optimizer(), "mse")
    with pytest.raises(ValueError, match="^delta must be"):
        model.privacy_statement(delta=delta)
    with pytest.raises(ValueError, match="^target_delta must be"):
        tf_privacy.PrivacyBudget(target_epsilon=1.0, target_delta=delta)


@pytest.mark.parametrize("delta", [True, "1e-5", None])
def test_a_delta_that_is_no_number_is_refused(delta):
    model = tf_privacy.privatize(sequential())
    model.compile(make_optimizer(), "mse")
    with pytest.raises(TypeError, match="^delta must be"):
        model.privacy_statement(delta=delta)
