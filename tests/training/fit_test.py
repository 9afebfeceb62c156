# SPDX-License-Identifier: Apache-2.0
"""`fit` of a private model: Keras's features, one noise a step, all counted.

Random bounds have a false-alarm probability of at most 1e-6 and detect a
standard deviation that is wrong by 2%.
"""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tf_privacy
from tests import oracles

FALSE_ALARM = 1e-6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype("float32")
Y = RNG.normal(size=(32, 1)).astype("float32")
LABELS = RNG.integers(0, 3, 32)


def make_optimizer(preset=tf_privacy.DPSGD, **changes):
    settings = {
        "learning_rate": 0.1,
        "l2_norm_clip": 1.0,
        "noise_multiplier": 1.0,
        **changes,
    }
    return preset(**settings)


def make_model(*layers, optimizer=None, loss="mse", **options):
    model = tf_privacy.DPSequential([keras.Input((4,)), *layers])
    model.compile(optimizer or make_optimizer(), loss, **options)
    return model


def num_steps(model):
    """Returns the counted steps; what the optimizer made must be as many."""
    counted = model.optimizer.ledger.num_steps()
    assert counted == int(model.optimizer.iterations)
    return counted


class Record(keras.callbacks.Callback):
    """Keeps a weight after every call of `on_train_batch_end`."""

    def __init__(self):
        super().__init__()
        self.values = []

    def note(self):
        self.values.append(self.model.get_weights()[0])

    def on_train_begin(self, logs=None):
        self.note()

    def on_train_batch_end(self, batch, logs=None):
        self.note()

    def updates(self):
        return np.diff(self.values, axis=0)


def check_noise(updates, stddev):
    """A sum of n squares is chi-squared; two updates have nothing in common."""
    n = updates[0].size
    bounds = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], n)
    low, high = stddev * np.sqrt(bounds / n)
    limit = stats.norm.isf(FALSE_ALARM / 2) / np.sqrt(n)
    for i, update in enumerate(updates):
        assert low < np.sqrt(np.mean(np.square(update, dtype="f8"))) < high
        for other in updates[:i]:
            assert abs(np.corrcoef(update.ravel(), other.ravel())[0, 1]) < limit
    assert (
        stats.kstest(updates[0].ravel() / stddev, "norm").pvalue > FALSE_ALARM
    )


NOISE = {
    "graph": ({"microbatch_size": 1}, {}),
    "eager": ({}, {"run_eagerly": True}),
    "several_steps": ({}, {"steps_per_execution": 3}),
}


@pytest.mark.parametrize("case", NOISE)
def test_one_noise_a_step_over_the_expected_batch_size(case):
    """The inputs are zero, so that the update of the kernel is noise alone."""
    settings, options = NOISE[case]
    optimizer = make_optimizer(
        l2_norm_clip=0.5, noise_multiplier=2.5, **settings
    )
    model = tf_privacy.DPSequential(
        [keras.Input((400,)), keras.layers.Dense(500, use_bias=False)]
    )
    model.compile(optimizer, "mse", **options)
    record = Record()
    model.fit(
        np.zeros((8, 400)),
        np.zeros((8, 500)),
        batch_size=4,
        steps_per_epoch=6,
        verbose=0,
        callbacks=[record],
    )
    assert num_steps(model) == 6
    updates = record.updates()
    steps = options.get("steps_per_execution", 1)
    assert len(updates) == 6 // steps
    check_noise(updates, np.sqrt(steps) * 0.1 * 0.5 * 2.5 / 4)


def test_an_empty_batch_takes_a_step_of_noise():
    """All 6 batches are empty but with a probability of 6e-9."""
    optimizer = make_optimizer(l2_norm_clip=1e-9)
    model = make_model(keras.layers.Dense(50_000), optimizer=optimizer)
    record = Record()
    history = model.fit(
        np.ones((8, 4)),
        np.ones((8, 50_000)),
        batch_size=1e-9,
        steps_per_epoch=6,
        verbose=0,
        callbacks=[record],
    ).history
    assert num_steps(model) == 6
    check_noise(record.updates(), 0.1)
    assert np.isfinite(history["loss"]).all()


class SometimesEmpty(keras.utils.PyDataset):
    """Batches of 2, 0, 3 and 0 rows for two outputs."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(0, [2, 0, 3, 0][index])
        return X[rows], {"p": Y[rows], "q": LABELS[rows]}


def two_outputs():
    inputs = keras.Input((4,))
    p = keras.layers.Dense(1, name="p")(inputs)
    q = keras.layers.Dense(3, activation="softmax", name="q")(inputs)
    return keras.Model(inputs, {"p": p, "q": q})


EMPTY = {
    "graph": ({}, {}),
    "several_steps": ({"microbatch_size": 2}, {"steps_per_execution": 3}),
    "eager": ({}, {"run_eagerly": True}),
    "eager_microbatches": ({"microbatch_size": 2}, {"run_eagerly": True}),
}


@pytest.mark.parametrize("case", EMPTY)
def test_empty_batches_leave_weights_and_logs_finite(case):
    settings, options = EMPTY[case]
    model = tf_privacy.privatize(two_outputs())
    model.compile(
        make_optimizer(**settings, expected_batch_size=2),
        {"p": "mse", "q": "sparse_categorical_crossentropy"},
        metrics={"p": ["mae"], "q": ["accuracy"]},
        **options,
    )
    history = model.fit(SometimesEmpty(), verbose=0).history
    assert num_steps(model) == 4
    for name in ("loss", "p_loss", "q_loss", "p_mae", "q_accuracy"):
        assert np.isfinite(history[name]).all(), name
    for weight in model.get_weights():
        assert np.isfinite(weight).all()


def test_empty_poisson_batches_with_class_weights():
    """None of 40 batches is empty with a probability of 6e-17."""
    model = make_model(
        keras.layers.Dense(3, activation="softmax"),
        loss="sparse_categorical_crossentropy",
        weighted_metrics=["accuracy"],
    )
    history = model.fit(
        X,
        LABELS,
        batch_size=0.5,
        steps_per_epoch=40,
        verbose=0,
        class_weight={0: 1.0, 1: 2.0, 2: 0.5},
    ).history
    assert num_steps(model) == 40
    for values in (*history.values(), *model.get_weights()):
        assert np.isfinite(values).all()


def test_examples_that_are_not_finite_do_no_harm():
    x, y = X.copy(), Y.copy()
    x[0], x[1, 2], y[2], y[3] = np.nan, np.inf, -np.inf, 1e38
    model = make_model(keras.layers.Dense(1))
    model.fit(x, y, batch_size=32, epochs=3, verbose=0)
    assert np.isfinite(model.get_weights()[0]).all()


@pytest.mark.parametrize("microbatch_size", [None, 3])
def test_a_model_that_is_not_built_yet_is_built(microbatch_size):
    model = tf_privacy.DPSequential(
        [keras.layers.Dense(3), keras.layers.Dense(1)]
    )
    optimizer = make_optimizer(
        expected_batch_size=8, microbatch_size=microbatch_size
    )
    model.compile(optimizer, "mse", run_eagerly=True)
    model.train_on_batch(X[:8], Y[:8])
    assert num_steps(model) == 1


# The same steps as Keras.

ALMOST_NO_PRIVACY = {"l2_norm_clip": 1e3, "noise_multiplier": 1e-9}


def check_same_steps(make_net, ours, theirs, loss, x, y, steps, **arguments):
    """Trains a private and a plain model on whole batches, and compares."""
    trained, options = [], arguments.pop("options", {})
    for optimizer in (ours, theirs):
        keras.utils.set_random_seed(1)
        model = make_net()
        start = model.get_weights()
        if optimizer is ours:
            tf_privacy.privatize(model)
        model.compile(optimizer, loss, **options)
        model.fit(
            x,
            y,
            batch_size=32,
            epochs=steps,
            shuffle=False,
            verbose=0,
            **arguments,
        )
        trained.append(model)
    moved = [
        [a - b for a, b in zip(m.get_weights(), start, strict=True)]
        for m in trained
    ]
    assert oracles.global_norm(moved[1]) > 1e-3
    assert oracles.relative_error(*moved) < 1e-4
    assert num_steps(trained[0]) == steps
    return trained


def regularized():
    layer = keras.layers.Dense(
        1, "tanh", kernel_regularizer="l2", bias_regularizer="l1"
    )
    return keras.Sequential([keras.Input((4,)), layer])


SAME = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {"use_ema": True, "ema_momentum": 0.5},
    "AdamW": {"weight_decay": 0.3},
    "RMSprop": {"centered": True},
    "Adagrad": {"global_clipnorm": 0.1},
}


@pytest.mark.parametrize("name", SAME)
def test_without_noise_the_steps_are_those_of_keras(name):
    """Regularisers are added after the noise, and are neither clipped nor
    divided; averages of the weights are written at the end of `fit`."""
    rate = keras.optimizers.schedules.ExponentialDecay(0.05, 1, 0.8)
    arguments = {"learning_rate": rate, **SAME[name]}
    ours = getattr(tf_privacy, f"DP{name}")(**arguments, **ALMOST_NO_PRIVACY)
    theirs = getattr(keras.optimizers, name)(**arguments)
    options = {"run_eagerly": True}  # Faster than to trace, for 3 steps.
    check_same_steps(regularized, ours, theirs, "mse", X, Y, 3, options=options)


def two_inputs_two_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((5,), name="b")
    words = keras.layers.Embedding(7, 3, mask_zero=True)(b)
    pooled = keras.layers.GlobalAveragePooling1D()(words)
    frozen = keras.layers.Dense(6, trainable=False)(a)
    both = keras.layers.Concatenate()([frozen, pooled])
    p = keras.layers.Dense(1, name="p")(both)
    q = keras.layers.Dense(3, activation="softmax", name="q")(both)
    return keras.Model({"a": a, "b": b}, {"p": p, "q": q})


def two_inputs():
    words = RNG.integers(1, 7, (32, 5)) * (RNG.uniform(size=(32, 5)) < 0.7)
    words[:, 0] = 1
    return {"a": X, "b": words}


def test_dicts_masks_weights_and_metrics_are_those_of_keras():
    x, y = two_inputs(), {"p": Y, "q": LABELS}
    weight = {k: RNG.uniform(0.5, 2.0, 32).astype("f") for k in ("p", "q")}
    options = {
        "loss_weights": {"p": 0.3, "q": 2.0},
        "metrics": {"p": ["mae"], "q": ["accuracy"]},
        "weighted_metrics": {"q": ["accuracy"]},
    }
    ours, theirs = check_same_steps(
        two_inputs_two_outputs,
        make_optimizer(**ALMOST_NO_PRIVACY),
        keras.optimizers.SGD(0.1),
        {"p": "mse", "q": "sparse_categorical_crossentropy"},
        x,
        y,
        3,
        sample_weight=weight,
        validation_data=(x, y),
        options=options,
    )
    assert set(ours.history.history) == set(theirs.history.history)
    for name, values in theirs.history.history.items():
        np.testing.assert_allclose(
            ours.history.history[name], values, rtol=1e-3, err_msg=name
        )
    evaluated = ours.evaluate(x, y, verbose=0, return_dict=True)
    for name, value in evaluated.items():
        last = ours.history.history[f"val_{name}"][-1]
        assert value == pytest.approx(last, rel=1e-5)
    for a, b in zip(
        keras.tree.flatten(ours.predict(x, verbose=0)),
        keras.tree.flatten(theirs.predict(x, verbose=0)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_class_weights_are_those_of_keras():
    def make_net():
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(3, "softmax")]
        )

    check_same_steps(
        make_net,
        make_optimizer(**ALMOST_NO_PRIVACY, microbatch_size=5),
        keras.optimizers.SGD(0.1),
        "sparse_categorical_crossentropy",
        X,
        LABELS,
        2,
        class_weight={0: 0.2, 1: 1.0, 2: 3.0},
    )


def test_the_divisor_does_not_follow_the_batch():
    """Batches of 8 and an expected size of 40: a fifth of the mean."""
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    ours = make_optimizer(**ALMOST_NO_PRIVACY, expected_batch_size=40)
    moved = []
    for optimizer in (ours, keras.optimizers.SGD(0.1 / 5)):
        keras.utils.set_random_seed(1)
        model = regularized_without_penalty()
        start = model.get_weights()
        if optimizer is ours:
            tf_privacy.privatize(model)
        model.compile(optimizer, "mse")
        model.fit(data, verbose=0)
        weights = model.get_weights()
        moved.append([a - b for a, b in zip(weights, start, strict=True)])
    assert oracles.relative_error(*moved) < 1e-4


def regularized_without_penalty():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])


# Where the batches come from, and how they are counted.


class Sequence(keras.utils.PyDataset):
    """A user's own batches."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]


class Subclass(tf_privacy.PoissonDataset):
    """Could draw anything."""


def generator():
    while True:
        yield X[:8], Y[:8]


def poisson_dataset(kind=tf_privacy.PoissonDataset, **changes):
    return kind(X, Y, expected_batch_size=8, **changes)


def in_h5py(folder):
    with h5py.File(folder / "data.h5", "w") as file:
        file["x"], file["y"] = X, Y
    file = h5py.File(folder / "data.h5")
    return file["x"], file["y"]


def in_memmap(folder):
    mapped = np.memmap(folder / "x", "float32", "w+", shape=X.shape)
    mapped[:] = X
    return mapped, Y


def in_pandas(folder):
    del folder
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(X.astype("f8"), columns=list("abcd")), Y


AMPLIFIED = {
    "numpy": lambda folder: (X, Y),
    "poisson_dataset": lambda folder: (poisson_dataset(),),
    "h5py": in_h5py,
    "memmap": in_memmap,
    "pandas": in_pandas,
    "tensors": lambda folder: (tf.constant(X), tf.constant(Y)),
}
NOT_AMPLIFIED = {
    "subclass": lambda: poisson_dataset(Subclass),
    "fixed_coins": lambda: poisson_dataset(seed=1),
    "tensorflow": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(8),
    "sequence": Sequence,
    "generator": generator,
}


@pytest.fixture(scope="module")
def counting():
    """One model for all sources: what is tested is what each of them adds."""
    return make_model(
        keras.layers.Dense(1),
        optimizer=make_optimizer(
            noise_multiplier=1.5, expected_batch_size=8, microbatch_size=4
        ),
    )


def check_added(model, sampling_probability, added, train):
    entries, before = dict(model.optimizer.ledger.entries()), num_steps(model)
    train()
    assert num_steps(model) == before + added
    (changed,) = (
        (kind, count - entries.get(kind, 0))
        for kind, count in model.optimizer.ledger.entries()
        if count != entries.get(kind, 0)
    )
    kind, count = changed
    assert count == added
    assert kind.sampling_probability == sampling_probability
    assert kind.noise_multiplier == 1.5
    assert kind.expected_batch_size == 8.0


@pytest.mark.parametrize("source", AMPLIFIED)
def test_poisson_sampled_steps_are_counted_as_such(counting, source, tmp_path):
    data = AMPLIFIED[source](tmp_path)
    check_added(
        counting, 0.25, 8, lambda: counting.fit(*data, epochs=2, verbose=0)
    )


@pytest.mark.parametrize("source", NOT_AMPLIFIED)
def test_steps_on_batches_of_the_user_are_not_amplified(counting, source):
    data = NOT_AMPLIFIED[source]()
    check_added(
        counting,
        None,
        8,
        lambda: counting.fit(data, epochs=2, steps_per_epoch=4, verbose=0),
    )


def test_a_split_is_counted_with_the_rows_that_remain(counting):
    check_added(
        counting,
        8 / 24,
        3,
        lambda: counting.fit(X, Y, validation_split=0.25, verbose=0),
    )


def test_single_batches_are_not_amplified(counting):
    check_added(
        counting, None, 1, lambda: counting.train_on_batch(X[:8], Y[:8])
    )


def test_an_interrupted_fit_is_counted(counting):
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    def train():
        with pytest.raises(KeyboardInterrupt):
            counting.fit(X, Y, verbose=0, callbacks=[Interrupt()])

    check_added(counting, 0.25, 3, train)
    check_added(counting, 0.25, 4, lambda: counting.fit(X, Y, verbose=0))


def test_another_batch_size_is_refused(counting):
    before = num_steps(counting)
    with pytest.raises(ValueError, match="^expected_batch_size must stay"):
        counting.fit(X, Y, batch_size=16, verbose=0)
    assert num_steps(counting) == before


@pytest.mark.parametrize("source", ["tensorflow", "sequence", "generator"])
def test_batches_of_the_user_need_a_divisor(source):
    model = make_model(keras.layers.Dense(1))
    with pytest.raises(ValueError, match="^expected_batch_size must be given"):
        model.fit(NOT_AMPLIFIED[source](), steps_per_epoch=4, verbose=0)
    with pytest.raises(ValueError, match="^expected_batch_size must be given"):
        model.train_on_batch(X, Y)
    assert num_steps(model) == 0


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(ValueError, match="^batch_size must be"):
        make_model(keras.layers.Dense(1)).fit(X, Y, batch_size=0)


# Features of Keras.


def test_callbacks_work_and_all_their_steps_are_counted(tmp_path):
    model = make_model(keras.layers.Dense(1), metrics=["mae"])
    stopping = keras.callbacks.EarlyStopping(
        monitor="loss", min_delta=1e9, patience=3, restore_best_weights=True
    )
    callbacks = [
        stopping,
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TerminateOnNaN(),
    ]
    history = model.fit(
        X,
        Y,
        batch_size=8,
        epochs=20,
        validation_data=(X, Y),
        validation_freq=2,
        verbose=0,
        callbacks=callbacks,
    )
    assert history.epoch == [0, 1, 2, 3]
    assert num_steps(model) == 16  # Also those of weights not kept.
    assert set(history.history) >= {"loss", "mae", "val_loss", "val_mae"}
    assert len(history.history["val_loss"]) == 2
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1 / 16)
    assert len(list(tmp_path.glob("*.keras"))) == 4
    assert "mae" in (tmp_path / "log.csv").read_text()


class Counted(keras.layers.Dense):
    """Counts how often it is traced."""

    num_traces = 0

    def call(self, inputs, training=None):
        if not tf.executing_eagerly():
            self.num_traces += 1
        return super().call(inputs)


@pytest.mark.parametrize("microbatch_size", [None, 3])
def test_batches_of_random_size_need_no_retracing(microbatch_size):
    layer = Counted(1)
    model = make_model(
        layer, optimizer=make_optimizer(microbatch_size=microbatch_size)
    )
    sizes = [
        len(tf_privacy.PoissonDataset(X, expected_batch_size=8, seed=i)[0][0])
        for i in range(60)
    ]
    assert len(set(sizes)) >= 10  # As many different ones as `fit` sees.
    model.fit(X, Y, batch_size=8, steps_per_epoch=2, verbose=0)
    traced = layer.num_traces
    model.fit(X, Y, batch_size=8, steps_per_epoch=60, verbose=0)
    assert layer.num_traces == traced > 0


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains(policy):
    keras.utils.set_random_seed(1)
    model = make_model(
        keras.layers.Dense(8, activation="relu", dtype=policy),
        keras.layers.Dense(1, dtype=policy),
        optimizer=make_optimizer(noise_multiplier=0.01),
    )
    history = model.fit(X, Y, batch_size=32, epochs=20, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert model.layers[0].kernel.dtype == "float32"
    assert np.isfinite(model.get_weights()[0]).all()


def test_train_on_batch_compiled_with_xla():
    optimizer = make_optimizer(expected_batch_size=8, noise_multiplier=0.5)
    model = make_model(
        keras.layers.Dense(1, kernel_initializer="zeros"),
        optimizer=optimizer,
        jit_compile=True,
        metrics=["mae"],
    )
    seen = [model.get_weights()[0]]
    for _ in range(3):
        logs = model.train_on_batch(X[:8], Y[:8], return_dict=True)
        assert set(logs) == {"loss", "mae"} and np.isfinite(logs["loss"])
        seen.append(model.get_weights()[0])
    first, second, third = np.diff(seen, axis=0)
    assert np.any(first != second) and np.any(second != third)
    assert num_steps(model) == 3


def test_train_on_batch_returns_what_keras_returns():
    ours = make_model(
        keras.layers.Dense(1),
        optimizer=make_optimizer(**ALMOST_NO_PRIVACY, expected_batch_size=8),
        metrics=["mae"],
    )
    theirs = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    theirs.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    theirs.set_weights(ours.get_weights())
    weight = np.linspace(0.5, 1.5, 8)
    for _ in range(2):
        logs = [
            m.train_on_batch(X[:8], Y[:8], sample_weight=weight)
            for m in (ours, theirs)
        ]
        assert isinstance(logs[0], list)
        np.testing.assert_allclose(*logs, rtol=1e-4)


def test_data_of_a_wrong_width_are_shown_as_they_are():
    """Not with the number of rows of a probe that nobody has passed."""
    model = tf_privacy.DPSequential([keras.Input((4,)), keras.layers.Dense(1)])
    optimizer = tf_privacy.DPSGD(0.1, l2_norm_clip=1.0, noise_multiplier=1.0)
    model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match=r"shape \(7, 3\)") as raised:
        model.fit(np.zeros((9, 3)), np.zeros((9, 1)), verbose=0)
    assert "1009" not in str(raised.value)


def test_empty_batches_go_through_a_convolution():
    # 40 batches, each empty with probability 0.36: one at least is, but for
    # 1e-8. TensorFlow's own convolution has a wrong shape for no rows.
    keras.utils.set_random_seed(0)
    model = tf_privacy.DPSequential(
        [
            keras.layers.Conv2D(3, 2, padding="same"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    optimizer = tf_privacy.DPSGD(
        0.1, l2_norm_clip=1.0, noise_multiplier=1.0, microbatch_size=None
    )
    model.compile(optimizer, loss="mse")
    x = np.ones((40, 5, 4, 2), "float32")
    model.fit(x, np.ones((40, 2)), batch_size=1, epochs=1, verbose=0)
    assert optimizer.ledger.num_steps() == 40
    assert all(np.isfinite(w).all() for w in model.get_weights())


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_data_that_run_out_within_a_step_count_no_step(steps_per_execution):
    """Of unknown length, they end in a step that has no batch."""
    optimizer = make_optimizer(expected_batch_size=8)
    model = make_model(
        keras.layers.Dense(1),
        optimizer=optimizer,
        steps_per_execution=steps_per_execution,
    )
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    model.fit(data.filter(lambda x, y: True), epochs=3, verbose=0)
    assert num_steps(model) == 12
