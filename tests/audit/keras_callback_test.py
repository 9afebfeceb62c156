# SPDX-License-Identifier: Apache-2.0
"""Tests of the callback that audits while a model trains."""

import pathlib

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from tf_privacy.audit import keras_callback

RNG = np.random.default_rng(11)
X = RNG.normal(size=(23, 4)).astype(np.float32)


def make_classifier():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


class Scalars:
    def __init__(self, value):
        self.value = value

    def to_scalars(self):
        return {"exposure": self.value}


@pytest.mark.parametrize(
    "every, expected", [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (9, [4])]
)
def test_callback_audits_every_few_epochs_and_at_the_end(every, expected):
    model = make_classifier()
    model.compile(loss="mse", optimizer="sgd")
    seen = []

    def audit(audited, epoch):
        seen.append(audited)
        return Scalars(epoch + 0.5)

    callback = keras_callback.AuditCallback(audit, every=every)
    history = model.fit(
        X, np.zeros((23, 3)), epochs=5, verbose=0, callbacks=[callback]
    )
    assert [epoch for epoch, _ in callback.history] == expected
    assert history.history["audit_exposure"] == [e + 0.5 for e in expected]
    assert all(each is model for each in seen)


def test_the_model_that_an_early_stop_leaves_is_audited():
    model = make_classifier()
    model.compile(loss="mse", optimizer="sgd")
    callback = keras_callback.AuditCallback(
        lambda model, epoch: {"weight": model.get_weights()[0].sum()}, every=3
    )

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 3

    for _ in range(2):
        callback.history.clear()
        model.fit(
            X,
            np.zeros((23, 3)),
            epochs=9,
            verbose=0,
            callbacks=[Stop(), callback],
        )
        assert [epoch for epoch, _ in callback.history] == [2, 3]
        _, last = callback.history[-1]
        assert last["weight"] == model.get_weights()[0].sum()


@pytest.mark.parametrize("result", [None, 1.5, {"exposure": "high"}])
def test_result_that_cannot_be_logged_is_refused(result):
    model = make_classifier()
    model.compile(loss="mse", optimizer="sgd")
    callback = keras_callback.AuditCallback(lambda model, epoch: result)
    with pytest.raises(TypeError, match="audit must return a mapping"):
        model.fit(X, np.zeros((23, 3)), verbose=0, callbacks=[callback])


def test_callback_logs_to_tensorboard(tmp_path):
    model = make_classifier()
    model.compile(loss="mse", optimizer="sgd")
    callback = keras_callback.AuditCallback(
        lambda model, epoch: {"exposure": 2.0 + epoch}, log_dir=tmp_path
    )
    model.fit(X, np.zeros((23, 3)), epochs=2, verbose=0, callbacks=[callback])
    found = {}
    for folder in {
        p.parent for p in pathlib.Path(tmp_path).rglob("*tfevents*")
    }:
        events = event_accumulator.EventAccumulator(str(folder))
        events.Reload()
        for tag in events.Tags()["tensors"]:
            found[tag] = [
                float(
                    np.frombuffer(e.tensor_proto.tensor_content, np.float32)[0]
                )
                if e.tensor_proto.tensor_content
                else e.tensor_proto.float_val[0]
                for e in events.Tensors(tag)
            ]
    assert found["epoch_audit_exposure"] == [2.0, 3.0]


def test_callback_checks_its_arguments():
    with pytest.raises(TypeError, match="audit must be a function"):
        keras_callback.AuditCallback("exposure")
    with pytest.raises(ValueError, match="every must be"):
        keras_callback.AuditCallback(print, every=0)
