# SPDX-License-Identifier: Apache-2.0
"""What is spent is written down, exactly, and nothing that is not covered."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_privacy
from tf_privacy.training import logical_batch
from tf_privacy.training import privacy_log

DELTA = 1e-5
X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
Y = X[:, :1]
COLUMNS = [
    "epoch",
    "num_steps",
    "epsilon",
    "delta",
    "l2_norm_clip",
    "clipped_fraction",
]


def clip_cheaply(model, data, **_):
    """Stands for the engine: the log does not look at gradients."""
    variables = tuple(model.trainable_variables)
    return tf_privacy.ClippedSum(
        gradients=tuple(v.value for v in variables),
        variables=variables,
        l2_sensitivity=1.0,
    ), {"loss": 0.0}


@pytest.fixture(autouse=True)
def cheap_steps(monkeypatch):
    monkeypatch.setattr(logical_batch, "clip_batch", clip_cheaply)


def make_model():
    model = tf_privacy.DPSequential([keras.Input((4,)), keras.layers.Dense(1)])
    optimizer = tf_privacy.DPSGD(
        0.1, l2_norm_clip=1.0, noise_multiplier=1.0, expected_batch_size=16
    )
    model.compile(optimizer, "mse", run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def model_once():
    return make_model()


def fit(model, *callbacks, epochs=2):
    data = tf_privacy.PoissonDataset(X, Y, expected_batch_size=16)
    return model.fit(
        data, epochs=epochs, verbose=0, callbacks=list(callbacks)
    ).history


def epsilon_after(num_steps, delta=DELTA):
    return tf_privacy.compute_epsilon(
        noise_multiplier=1.0,
        sampling_probability=0.25,
        num_steps=num_steps,
        delta=delta,
    )


def read(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(list(row) == COLUMNS for row in rows)
    return rows


def num_steps(model):
    return model.optimizer.ledger.num_steps()


def test_each_epoch_is_a_line_and_a_later_run_goes_on(model_once, tmp_path):
    path, before = tmp_path / "epsilon.csv", num_steps(model_once)
    for _ in range(2):
        log = privacy_log.PrivacyLog(DELTA, csv_path=path)
        history = fit(model_once, log)
    rows = read(path)
    steps = [before + 4 * i for i in (1, 2, 3, 4)]
    assert [int(row["num_steps"]) for row in rows] == steps
    assert [row["epoch"] for row in rows] == ["0", "1", "0", "1"]
    for row, count in zip(rows, steps, strict=True):
        assert float(row["epsilon"]) == pytest.approx(epsilon_after(count))
        assert float(row["delta"]) == DELTA
        assert row["l2_norm_clip"] == row["clipped_fraction"] == ""
    logged = [float(row["epsilon"]) for row in rows[2:]]
    assert history["epsilon"] == logged


def test_entries_within_an_epoch_are_bounds(model_once, tmp_path):
    path, before = tmp_path / "epsilon.csv", num_steps(model_once)
    seen = []

    class After(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append("epsilon" in logs)

    log = privacy_log.PrivacyLog(DELTA, csv_path=path, every=3)
    fit(model_once, log, After())
    rows = read(path)
    steps = [before + i for i in (3, 4, 7, 8)]
    assert [int(row["num_steps"]) for row in rows] == steps
    assert seen == [False, False, True, False] * 2
    for row, count in zip(rows, steps, strict=True):
        exact = epsilon_after(count)
        assert 0.999999 * exact <= float(row["epsilon"]) <= 1.1 * exact


def test_a_clip_that_moves_is_written_and_raw_metrics_are_not(
    model_once, tmp_path
):
    class Moves(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs.update(l2_norm_clip=0.5 + epoch, clipped_fraction=0.25)

    path = tmp_path / "epsilon.csv"
    fit(model_once, Moves(), privacy_log.PrivacyLog(DELTA, csv_path=path))
    assert [row["l2_norm_clip"] for row in read(path)] == ["0.5", "1.5"]
    assert [row["clipped_fraction"] for row in read(path)] == ["0.25"] * 2
    assert "loss" not in path.read_text()


def test_callbacks_after_it_see_epsilon(model_once, tmp_path):
    path = tmp_path / "keras.csv"
    fit(
        model_once,
        privacy_log.PrivacyLog(DELTA),
        keras.callbacks.CSVLogger(str(path)),
    )
    with open(path, newline="") as file:
        last = list(csv.DictReader(file))[-1]
    expected = epsilon_after(num_steps(model_once))
    assert float(last["epsilon"]) == pytest.approx(expected)


@pytest.mark.parametrize("budget_first", [True, False])
def test_a_budget_beside_it_keeps_its_own_delta(
    budget_first, model_once, tmp_path
):
    path = tmp_path / "epsilon.csv"
    log = privacy_log.PrivacyLog(1e-7, csv_path=path)
    budget = tf_privacy.PrivacyBudget(50.0, DELTA)
    both = [budget, log] if budget_first else [log, budget]
    history = fit(model_once, *both)
    model_once.optimizer.set_budget(None)
    steps = num_steps(model_once)
    expected = epsilon_after(steps, 1e-7)
    assert float(read(path)[-1]["epsilon"]) == pytest.approx(expected)
    assert history["epsilon"][-1] == pytest.approx(epsilon_after(steps))


def test_what_a_callback_restores_is_in_the_log(model_once, tmp_path):
    """Though the log began before."""
    other = make_model()
    fit(other, epochs=1)

    class Restores(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            table = model_once.optimizer.ledger.to_numpy()
            other.optimizer.inherit(table)

    path = tmp_path / "epsilon.csv"
    expected = epsilon_after(num_steps(model_once) + 4 + 8)
    fit(other, privacy_log.PrivacyLog(DELTA, csv_path=path), Restores())
    assert float(read(path)[-1]["epsilon"]) == pytest.approx(expected)


def test_tensorboard_gets_the_same_numbers(model_once, tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    before = num_steps(model_once)
    for _ in range(2):
        fit(model_once, privacy_log.PrivacyLog(DELTA, log_dir=tmp_path))
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    found = {}
    for path in sorted(tmp_path.iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                found.setdefault(value.tag, {})[event.step] = number
    assert set(found) == {"privacy/epsilon", "privacy/delta"}
    steps = [before + 4 * i for i in (1, 2, 3, 4)]
    assert sorted(found["privacy/epsilon"]) == steps
    for count, value in found["privacy/epsilon"].items():
        assert value == pytest.approx(epsilon_after(count), rel=1e-6)
    assert events.Tags()["tensors"] == ["privacy/epsilon", "privacy/delta"]


def test_a_torn_line_is_left_and_the_next_one_is_whole(model_once, tmp_path):
    path = tmp_path / "epsilon.csv"
    path.write_text(",".join(COLUMNS) + "\n0,4,1.2")
    log = privacy_log.PrivacyLog(DELTA, csv_path=path)
    fit(model_once, log, epochs=1)
    lines = path.read_text().splitlines()
    assert lines[1] == "0,4,1.2"
    assert lines[2].split(",")[1] == str(num_steps(model_once))


def test_a_file_of_another_kind_is_not_touched(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("epoch,loss\n0,1.0\n")
    with pytest.raises(ValueError, match="^csv_path must be a new file"):
        privacy_log.PrivacyLog(DELTA, csv_path=path)
    assert path.read_text() == "epoch,loss\n0,1.0\n"


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, np.nan])
def test_delta_is_checked(delta):
    with pytest.raises(ValueError, match="^delta must be"):
        privacy_log.PrivacyLog(delta)


@pytest.mark.parametrize("every", [0, 1.5, np.nan])
def test_every_is_checked(every):
    with pytest.raises(ValueError, match="^every must be"):
        privacy_log.PrivacyLog(DELTA, every=every)
    with pytest.raises(TypeError, match="^every must be"):
        privacy_log.PrivacyLog(DELTA, every="batch")


def test_a_model_that_is_not_private_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="^model must be compiled with a DP"):
        model.fit(X, Y, verbose=0, callbacks=[privacy_log.PrivacyLog(DELTA)])
