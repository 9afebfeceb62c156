# SPDX-License-Identifier: Apache-2.0
"""What is restored is still private, knows what it spent, and trains on.

Random bounds have a false-alarm probability of at most 1e-6.
"""

import copy
import pickle
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tf_privacy
from tf_privacy.training import private_training

DELTA = 1e-5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype("float32")
Y = RNG.normal(size=(32, 1)).astype("float32")


@keras.saving.register_keras_serializable(package="save_load_test")
class Registered(keras.Model):
    """A user's own model."""

    def __init__(self, units=3, **arguments):
        super().__init__(**arguments)
        self.units = units
        self.hidden = keras.layers.Dense(units, activation="tanh")
        self.head = keras.layers.Dense(1)

    def call(self, inputs):
        return self.head(self.hidden(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Unregistered(Registered):
    """One that Keras must be told of."""


def sequential():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])


def functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(1)(inputs))


KINDS = {
    "sequential": sequential,
    "functional": functional,
    "subclass": lambda: Registered(5),
    "unregistered": lambda: Unregistered(5),
}
CUSTOM = {"Unregistered": Unregistered}


def make_optimizer(**changes):
    settings = {
        "learning_rate": 0.01,
        "l2_norm_clip": 1.0,
        "noise_multiplier": 1.0,
        "expected_batch_size": 8,
        **changes,
    }
    return tf_privacy.DPAdam(**settings)


def make_model(net=sequential, optimizer=None, run_eagerly=True):
    """Eager, for a few steps, is faster than to trace."""
    model = tf_privacy.privatize(net())
    model.compile(
        optimizer or make_optimizer(),
        "mse",
        metrics=["mae"],
        run_eagerly=run_eagerly,
    )
    return model


def fit(model, **arguments):
    settings = {"batch_size": 8, "steps_per_epoch": 2, "verbose": 0}
    return model.fit(X, Y, **{**settings, **arguments})


def steps_of(model):
    return model.privacy_statement(DELTA).num_steps


def check_spent(model, num_steps):
    statement = model.privacy_statement(DELTA)
    assert statement.num_steps == num_steps
    expected = tf_privacy.compute_epsilon(
        noise_multiplier=1.0,
        sampling_probability=0.25,
        num_steps=num_steps,
        delta=DELTA,
    )
    assert statement.epsilon == pytest.approx(expected, rel=1e-9)


def through_file(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(
        folder / "model.keras", custom_objects=CUSTOM
    )


def through_pickle(model, folder):
    del folder
    with keras.saving.custom_object_scope(CUSTOM):
        return pickle.loads(pickle.dumps(model))


def through_deepcopy(model, folder):
    del folder
    with keras.saving.custom_object_scope(CUSTOM):
        return copy.deepcopy(model)


@pytest.mark.parametrize(
    "kind, restore",
    [
        *[(kind, through_file) for kind in KINDS],
        ("functional", through_pickle),
        ("sequential", through_deepcopy),
    ],
)
def test_a_restored_model_is_the_same_and_trains_on(kind, restore, tmp_path):
    model = make_model(KINDS[kind])
    fit(model)
    restored = restore(model, tmp_path)
    assert isinstance(restored, private_training.PrivateTraining)
    for original_class in (Registered, Unregistered, keras.Sequential):
        assert isinstance(restored, original_class) == isinstance(
            model, original_class
        )
    ours, theirs = model.optimizer, restored.optimizer
    assert type(theirs) is tf_privacy.DPAdam
    assert theirs.get_config() == ours.get_config()
    assert theirs.ledger.entries() == ours.ledger.entries()
    inner = ours.inner_optimizer.variables
    assert len(inner) > 4
    for a, b in zip(inner, theirs.inner_optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    np.testing.assert_array_equal(
        model.predict(X, verbose=0), restored.predict(X, verbose=0)
    )
    check_spent(restored, 2)
    fit(restored)
    check_spent(restored, 4)
    assert int(theirs.iterations) == 4
    check_spent(model, 2)


def test_a_users_class_nobody_names_is_refused(tmp_path):
    model = make_model(KINDS["unregistered"])
    model(X)
    model.save(tmp_path / "model.keras")
    with pytest.raises(TypeError, match="Unregistered"):
        keras.models.load_model(tmp_path / "model.keras")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model after 2 steps, and files of it."""
    folder = tmp_path_factory.mktemp("trained")
    model = make_model()
    fit(model)
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    return model, folder


def test_weights_bring_the_ledger_along(trained):
    model = make_model()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(trained[1] / "model.weights.h5")
    check_spent(model, 2)
    fit(model)
    check_spent(model, 4)
    assert int(model.optimizer.iterations) == 4


def test_two_files_of_one_run_are_counted_once(trained):
    """And two runs that went on from one file, each with its own steps."""
    one, two = (
        keras.models.load_model(trained[1] / "model.keras") for _ in range(2)
    )
    for model in (one, two):
        model.load_weights(trained[1] / "model.weights.h5")
        check_spent(model, 2)
        fit(model)
        check_spent(model, 4)
    one.optimizer.ledger.merge(two.optimizer.ledger.to_numpy())
    check_spent(one, 6)


# A ledger must not get lost on the way either.


def test_weights_loaded_before_compile_bring_the_ledger_along(trained):
    """Keras takes either order."""
    model = tf_privacy.privatize(sequential())
    model.load_weights(trained[1] / "model.weights.h5")
    model.compile(make_optimizer(), "mse")
    check_spent(model, 2)


def test_a_model_loaded_without_compile_brings_the_ledger_along(trained):
    model = keras.models.load_model(trained[1] / "model.keras", compile=False)
    model.compile(make_optimizer(), "mse")
    check_spent(model, 2)


def test_compiling_again_keeps_the_ledger():
    """As when a layer is frozen, or the learning rate changed, half-way."""
    model = make_model()
    fit(model)
    model.compile(make_optimizer(learning_rate=0.001), "mse", run_eagerly=True)
    check_spent(model, 2)
    fit(model)
    check_spent(model, 4)
    assert steps_of(through_compile_again(model)) == 4


def through_compile_again(model):
    """With the same optimizer: counted once."""
    model.compile(model.optimizer, "mse")
    return model


def test_compiling_again_keeps_the_budget():
    model = make_model()
    fit(model, callbacks=[tf_privacy.PrivacyBudget(3.5, DELTA)], epochs=9)
    spent = steps_of(model)
    model.compile(make_optimizer(), "mse", run_eagerly=True)
    before = model.get_weights()
    with pytest.raises(tf_privacy.PrivacyBudgetError):
        model.train_on_batch(X[:8], Y[:8])
    np.testing.assert_array_equal(before[0], model.get_weights()[0])
    assert steps_of(model) == spent


@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5"])
def test_a_budget_comes_along_without_an_optimizer(file, tmp_path):
    """Whatever the order of loading and compiling."""
    model = make_model()
    fit(model, callbacks=[tf_privacy.PrivacyBudget(3.5, DELTA)], epochs=9)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    if file == "model.keras":
        other = keras.models.load_model(tmp_path / file, compile=False)
    else:
        other = tf_privacy.privatize(sequential())
        other.load_weights(tmp_path / file)
    other.compile(make_optimizer(), "mse", run_eagerly=True)
    assert other.optimizer.budget == (3.5, DELTA)
    before = other.get_weights()
    with pytest.raises(tf_privacy.PrivacyBudgetError):
        other.train_on_batch(X[:8], Y[:8])
    np.testing.assert_array_equal(before[0], other.get_weights()[0])


def test_what_was_spent_passes_through_a_model_without_an_optimizer(tmp_path):
    """Loaded, saved and loaded again by somebody who only wanted to predict."""
    model = make_model()
    fit(model, callbacks=[tf_privacy.PrivacyBudget(3.5, DELTA)])
    model.save(tmp_path / "one.keras")
    between = keras.models.load_model(tmp_path / "one.keras", compile=False)
    between.save(tmp_path / "two.keras")
    other = keras.models.load_model(tmp_path / "two.keras", compile=False)
    other.compile(make_optimizer(), "mse", run_eagerly=True)
    assert steps_of(other) == steps_of(model)
    assert other.optimizer.budget == (3.5, DELTA)


# Rolling back.


def test_rolling_back_takes_no_step_back_and_repeats_no_noise(tmp_path):
    """The inputs are zero: the update of the kernel is noise alone."""
    model = tf_privacy.DPSequential(
        [keras.Input((100,)), keras.layers.Dense(200, use_bias=False)]
    )
    optimizer = tf_privacy.DPSGD(
        1.0, l2_norm_clip=1.0, noise_multiplier=1.0, expected_batch_size=2
    )
    model.compile(optimizer, "mse")
    x, y = np.zeros((2, 100), "float32"), np.zeros((2, 200), "float32")

    def update(step_model):
        before = step_model.get_weights()[0]
        keras.utils.set_random_seed(7)
        step_model.train_on_batch(x, y)
        return (step_model.get_weights()[0] - before).ravel()

    updates = [update(model)]
    model.save(tmp_path / "old.keras")
    updates.append(update(model))
    model.load_weights(tmp_path / "old.keras")
    assert steps_of(model) == 2
    updates.append(update(model))
    assert steps_of(model) == 3
    for _ in range(2):
        updates.append(update(keras.models.load_model(tmp_path / "old.keras")))
    n = updates[0].size
    limit = stats.norm.isf(0.5e-6) / np.sqrt(n)
    for i, a in enumerate(updates):
        assert a.std() == pytest.approx(0.5, rel=0.05)
        for b in updates[:i]:
            assert abs(np.corrcoef(a, b)[0, 1]) < limit


def test_a_tensorflow_checkpoint_takes_no_step_back(tmp_path):
    model = make_model()
    fit(model)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    path = checkpoint.save(str(tmp_path / "old"))
    fit(model)
    checkpoint.restore(path)
    check_spent(model, 4)
    fit(model)
    check_spent(model, 6)


def test_no_file_holds_the_key_of_the_noise(trained):
    names = []
    with zipfile.ZipFile(trained[1] / "model.keras") as archive:
        archive.extract("model.weights.h5", trained[1] / "archive")
    with h5py.File(trained[1] / "archive" / "model.weights.h5") as file:
        file["optimizer"].visititems(
            lambda name, item: (
                names.append(name) if isinstance(item, h5py.Dataset) else None
            )
        )
    own = {n for n in names if not n.startswith("inner_optimizer")}
    assert own == {"vars/ledger", "vars/budget"} or own == {"ledger", "budget"}


@pytest.mark.filterwarnings("ignore:seed=")
def test_a_fixed_seed_stays_known(tmp_path):
    model = make_model(optimizer=make_optimizer(seed=3))
    model.train_on_batch(X[:8], Y[:8])
    restored = through_file(model, tmp_path)
    assert not restored.privacy_statement(DELTA).is_private
    # Also if all further steps are taken with secret noise.
    other = make_model()
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "model.keras")
    other.train_on_batch(X[:8], Y[:8])
    assert not other.privacy_statement(DELTA).is_private


# BackupAndRestore.


class Crash(keras.callbacks.Callback):
    """Ends a run after so many steps, as a machine that goes down."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise RuntimeError("crash")


ORDERS = {
    "budget_last": lambda backup, budget: [backup, budget],
    "budget_first": lambda backup, budget: [budget, backup],
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_run_that_is_taken_up_again_stays_within_its_budget(order, tmp_path):
    """Everything is built anew, as by a script that is started again."""

    def run(*more):
        model = make_model(run_eagerly=False)
        callbacks = ORDERS[order](
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
            tf_privacy.PrivacyBudget(7.4, DELTA),
        )
        try:
            history = fit(
                model,
                epochs=99,
                steps_per_epoch=4,
                callbacks=[*callbacks, *more],
            )
        except RuntimeError:
            return model, None
        return model, history

    crashed, _ = run(Crash(after=4 * 2 + 3))
    check_spent(crashed, 11)
    resumed, history = run()
    assert history.epoch[0] == 2
    check_spent(resumed, steps_of(resumed))
    epsilon = resumed.privacy_statement(DELTA).epsilon
    assert epsilon <= 7.4
    one_more = tf_privacy.compute_epsilon(
        noise_multiplier=1.0,
        sampling_probability=0.25,
        num_steps=steps_of(resumed) + 1,
        delta=DELTA,
    )
    assert one_more > 7.4
    assert history.history["epsilon"][-1] == pytest.approx(epsilon)
    assert int(resumed.optimizer.iterations) == steps_of(resumed)


def test_a_run_taken_up_without_the_callback_keeps_its_budget(tmp_path):
    """The file brings the budget; what is left of it may be used."""

    def run(*callbacks):
        model = make_model()
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        fit(model, epochs=3, callbacks=[backup, *callbacks])
        return model

    with pytest.raises(RuntimeError, match="crash"):
        run(tf_privacy.PrivacyBudget(9.0, DELTA), Crash(after=3))
    resumed = run()
    check_spent(resumed, 6)
    assert resumed.optimizer.budget == (9.0, DELTA)


def test_a_ledger_of_another_version_is_not_forgotten(tmp_path):
    model = tf_privacy.DPSequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(
        tf_privacy.DPSGD(0.1, l2_norm_clip=1.0, noise_multiplier=1.0), "mse"
    )
    x = np.zeros((8, 2), "float32")
    model.fit(x, x[:, :1], batch_size=4, verbose=0)
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        ledger = file["optimizer/vars/ledger"]
        table = np.array(ledger)[:, :9]
        parent = ledger.parent
        del parent["ledger"]
        parent["ledger"] = table
    other = tf_privacy.DPSequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="^ledger must be a finite table"):
        other.load_weights(path)
