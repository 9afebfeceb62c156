# SPDX-License-Identifier: Apache-2.0
"""Averages of weights against a sum by hand, and weights put back."""

import keras
import numpy as np
import pytest

import tf_privacy
from tf_privacy.training import weight_average

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 3)).astype("float32")
Y = RNG.normal(size=(32, 2)).astype("float32")


def make_model(inner=None, dtype=None, **options):
    layers = [keras.Input((3,)), keras.layers.Dense(2, dtype=dtype)]
    model = tf_privacy.DPSequential(layers)
    optimizer = tf_privacy.DPOptimizer(
        inner or keras.optimizers.SGD(0.5),
        l2_norm_clip=1.0,
        noise_multiplier=1.0,
        expected_batch_size=8,
    )
    model.compile(optimizer, "mse", **options)
    return model


def weights_of(model):
    return [
        np.array(keras.ops.convert_to_numpy(keras.ops.cast(v, "float32")))
        for v in model.trainable_variables
    ]


class Spy(keras.callbacks.Callback):
    """Notes the weights at every event."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def _note(self, event):
        self.seen.setdefault(event, []).append(weights_of(self.model))

    def on_train_begin(self, logs=None):
        self._note("train_begin")

    def on_train_batch_end(self, batch, logs=None):
        self._note("batch_end")

    def on_train_batch_begin(self, batch, logs=None):
        self._note("batch_begin")

    def on_epoch_end(self, epoch, logs=None):
        self._note("epoch_end")

    def on_test_batch_end(self, batch, logs=None):
        self._note("test")

    def on_predict_batch_end(self, batch, logs=None):
        self._note("predict")


def fit(model, *callbacks, data=(X, Y), **arguments):
    settings = {"batch_size": 8, "epochs": 2, "verbose": 0, **arguments}
    model.fit(*data, callbacks=list(callbacks), **settings)


def average_by_hand(start, weights, decay, warm_up, every=1):
    """Returns the average after each of the weights, in float64."""
    averages, average = [], [w.astype("f8") for w in start]
    for i, now in enumerate(weights):
        kept = 1.0
        for t in range(i * every, (i + 1) * every):
            kept *= min(decay, (1 + t) / (warm_up + t))
        average = [
            kept * a + (1 - kept) * w for a, w in zip(average, now, strict=True)
        ]
        averages.append(average)
    return averages


def check_equal(got, expected, tolerance=1e-5):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, tolerance, tolerance)


@pytest.mark.parametrize("decay, warm_up", [(0.9, 10), (0.3, 10), (0.8, 1)])
def test_average_is_the_formula(decay, warm_up):
    model, spy = make_model(), Spy()
    average = weight_average.WeightAverage(decay, warm_up=warm_up)
    fit(model, spy, average, epochs=3)
    expected = average_by_hand(
        spy.seen["train_begin"][0], spy.seen["batch_end"], decay, warm_up
    )
    assert len(expected) == 12
    check_equal(average.get_averages(), expected[-1])
    check_equal(weights_of(model), expected[-1])


def test_validation_sees_the_averages_and_training_the_weights():
    model, spy = make_model(), Spy()
    average = weight_average.WeightAverage(0.9, finalize=False)
    fit(model, average, spy, validation_data=(X, Y))
    steps = spy.seen["batch_end"]
    expected = average_by_hand(spy.seen["train_begin"][0], steps, 0.9, 10)
    assert len(spy.seen["test"]) == 8
    for i, seen in enumerate(spy.seen["test"]):
        check_equal(seen, expected[3 if i < 4 else 7])
    # Each step starts where the last one ended, to the last bit.
    for before, after in zip(steps, spy.seen["batch_begin"][1:], strict=False):
        check_equal(after, before, 0)
    check_equal(weights_of(model), steps[-1], 0)
    check_equal(spy.seen["epoch_end"][0], steps[3], 0)


def test_later_callbacks_see_the_averages_at_the_end_of_an_epoch():
    model, early, late = make_model(), Spy(), Spy()
    average = weight_average.WeightAverage(
        0.9, swap_on_epoch=True, finalize=False
    )
    fit(model, early, average, late, validation_data=(X, Y))
    steps = late.seen["batch_end"]
    expected = average_by_hand(early.seen["train_begin"][0], steps, 0.9, 10)
    check_equal(early.seen["epoch_end"][0], steps[3], 0)
    check_equal(late.seen["epoch_end"][0], expected[3])
    check_equal(late.seen["batch_begin"][4], steps[3], 0)
    check_equal(weights_of(model), steps[-1], 0)


@pytest.mark.parametrize("finalize", [False, True])
def test_evaluate_and_predict_by_themselves(finalize):
    model = make_model()
    average = weight_average.WeightAverage(0.9, finalize=finalize)
    fit(model, average)
    before, averages = weights_of(model), average.get_averages()
    for method, event in [(model.evaluate, "test"), (model.predict, "predict")]:
        spy = Spy()
        data = (X, Y) if event == "test" else (X,)
        method(*data, verbose=0, callbacks=[average, spy])
        check_equal(spy.seen[event][0], averages)
        check_equal(weights_of(model), before, 0)


def test_steps_of_one_execution_count_with_its_last_weights():
    model, spy = make_model(steps_per_execution=2), Spy()
    average = weight_average.WeightAverage(0.5)
    fit(model, spy, average)
    steps = spy.seen["batch_end"]
    assert len(steps) == 4
    expected = average_by_hand(
        spy.seen["train_begin"][0], steps, 0.5, 10, every=2
    )
    check_equal(average.get_averages(), expected[-1])


def test_refused_steps_are_no_updates():
    model = make_model(steps_per_execution=4)
    budget = tf_privacy.PrivacyBudget(3.0, 1e-5)
    average = weight_average.WeightAverage(0.9)
    fit(model, average, budget, epochs=50)
    taken = model.optimizer.ledger.num_steps()
    assert 0 < taken < 200 and taken % 4
    assert average.get_state()["num_updates"] == taken


def test_a_saved_state_goes_on():
    """Two runs with a save in between are one run."""
    model, spy = make_model(), Spy()
    first = weight_average.WeightAverage(0.9, finalize=False)
    fit(model, spy, first)
    second = weight_average.WeightAverage(0.9)
    second.set_state(first.get_state())
    fit(model, spy, second)
    expected = average_by_hand(
        spy.seen["train_begin"][0], spy.seen["batch_end"], 0.9, 10
    )
    check_equal(second.get_averages(), expected[-1])
    check_equal(first.get_averages(), expected[7])


def test_interrupted_evaluation_does_not_cost_the_weights():
    class Interrupt(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model, spy = make_model(), Spy()
    average = weight_average.WeightAverage(0.9)
    with pytest.raises(KeyboardInterrupt):
        fit(model, average, spy, Interrupt(), validation_data=(X, Y))
    fit(model, average, spy)
    steps = spy.seen["batch_end"]
    check_equal(spy.seen["batch_begin"][4], steps[3], 0)
    expected = average_by_hand(spy.seen["train_begin"][0], steps, 0.9, 10)
    check_equal(average.get_averages(), expected[-1])


def test_low_precision_is_averaged_in_float32():
    """A change of 1 - decay of a small step is below bfloat16's rounding."""
    model, spy = make_model(dtype="bfloat16"), Spy()
    average = weight_average.WeightAverage(0.999, warm_up=1, finalize=False)
    fit(model, spy, average)
    expected = average_by_hand(
        spy.seen["train_begin"][0], spy.seen["batch_end"], 0.999, 1
    )
    check_equal(average.get_averages(), expected[-1], 1e-6)
    check_equal(weights_of(model), spy.seen["batch_end"][-1], 0)


def test_another_model_is_refused():
    average = weight_average.WeightAverage(0.9)
    fit(make_model(), average)
    other = tf_privacy.DPSequential([keras.Input((3,)), keras.layers.Dense(1)])
    other.compile(make_model().optimizer, "mse")
    with pytest.raises(ValueError, match="^model must have the trainable"):
        fit(other, average, data=(X, Y[:, :1]))


def test_ordinary_keras_models_too():
    model, spy = keras.Sequential([keras.layers.Dense(2)]), Spy()
    model.build((None, 3))
    model.compile("sgd", "mse")
    average = weight_average.WeightAverage(0.9)
    fit(model, spy, average)
    expected = average_by_hand(
        spy.seen["train_begin"][0], spy.seen["batch_end"], 0.9, 10
    )
    check_equal(weights_of(model), expected[-1])


@pytest.mark.parametrize(
    "name, value",
    [("decay", 1.0), ("decay", float("nan")), ("warm_up", 0.5)],
)
def test_arguments_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        weight_average.WeightAverage(**{name: value})


class TestInnerAverages:
    """Keras's own average of an inner optimizer, and its callback."""

    def make(self, **options):
        inner = keras.optimizers.SGD(
            0.5, use_ema=True, ema_momentum=0.5, **options
        )
        return make_model(inner)

    def expected(self, spy, momentum=0.5):
        average = None
        for now in spy.seen["batch_end"]:
            average = (
                [w.astype("f8") for w in now]
                if average is None
                else [
                    momentum * a + (1 - momentum) * w
                    for a, w in zip(average, now, strict=True)
                ]
            )
        return average

    def test_fit_ends_with_the_averages(self):
        model, spy = self.make(), Spy()
        fit(model, spy)
        check_equal(weights_of(model), self.expected(spy))

    def test_swap_callback_evaluates_with_the_averages(self):
        model, spy = self.make(), Spy()
        swap = keras.callbacks.SwapEMAWeights()
        fit(model, swap, spy, epochs=1, validation_data=(X, Y))
        check_equal(spy.seen["test"][0], self.expected(spy))
        assert not np.allclose(
            spy.seen["test"][0][0], spy.seen["batch_end"][-1][0]
        )

    def test_averages_are_saved_with_the_model(self, tmp_path):
        model = self.make()
        fit(model)
        model.save(tmp_path / "model.keras")
        restored = keras.saving.load_model(tmp_path / "model.keras")
        pairs = zip(
            model.optimizer.inner_optimizer._model_variables_moving_average,
            restored.optimizer.inner_optimizer._model_variables_moving_average,
            strict=True,
        )
        for a, b in pairs:
            np.testing.assert_array_equal(a.numpy(), b.numpy())
            assert np.any(a.numpy())
