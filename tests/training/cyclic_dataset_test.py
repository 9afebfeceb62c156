# SPDX-License-Identifier: Apache-2.0
"""Data in a fixed order: every unit once a pass, always at the same step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_privacy
from tf_privacy import accounting

X = np.arange(22.0, dtype="float32").reshape(11, 2)
Y = np.arange(11.0, dtype="float32")[:, None]


def rows_of(data):
    return [tuple(batch[1][:, 0]) for batch in (data[i] for i in range(8))]


def test_every_pass_is_the_same_and_holds_each_row_once():
    data = tf_privacy.CyclicDataset(X, Y, batch_size=3)
    assert len(data) == data.min_separation == 4
    rows = rows_of(data)
    assert rows[:4] == rows[4:]
    assert sorted(sum(rows[:4], ())) == list(range(11))
    assert rows_of(tf_privacy.CyclicDataset(X, Y, batch_size=3)) != rows
    fixed = tf_privacy.CyclicDataset(X, Y, batch_size=3, shuffle=False)
    assert rows_of(fixed)[0] == (0.0, 1.0, 2.0)


def test_units_stay_together():
    data = tf_privacy.CyclicDataset(
        X[:10], Y[:10], batch_size=2, examples_per_unit=2
    )
    assert len(data) == 3
    for batch in rows_of(data)[:3]:
        assert all(
            b == a + 1 for a, b in zip(batch[::2], batch[1::2], strict=True)
        )


def test_fit_takes_the_batches_in_their_order():
    seen = []

    class Watched(tf_privacy.CyclicDataset):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    data = Watched(X, Y, batch_size=3)
    make_model().fit(data, epochs=3, verbose=0)
    # Before them, Keras looks at a batch or two for their shapes.
    assert seen[-12:] == [0, 1, 2, 3] * 3


def make_noise(**changes):
    settings = {
        "noise_multiplier": 2.0,
        "num_steps": 8,
        "min_separation": 4,
        **changes,
    }
    return tf_privacy.TreeNoise(**settings)


def make_model(noise=None, *, examples_per_unit=1):
    model = tf_privacy.DPSequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(
        tf_privacy.DPSGD(
            0.01,
            l2_norm_clip=1.0,
            noise_multiplier=noise or make_noise(),
            examples_per_unit=examples_per_unit,
        ),
        "mse",
    )
    return model


def test_fit_orders_arrays_and_each_fit_is_a_release_of_its_own():
    model = make_model()
    for _ in range(2):
        model.fit(X, Y, batch_size=3, epochs=1, verbose=0)
    assert model.optimizer.expected_batch_size == 3
    counts = [n for _, n in model.optimizer.ledger.entries()]
    assert counts == [4, 4]
    release = accounting.Gaussian(2.0 / make_noise().sensitivity)
    expected = accounting.compute_epsilon_of(
        [accounting.SelfComposed(release, 2)], delta=1e-5
    )
    assert model.privacy_statement(1e-5).epsilon == pytest.approx(expected)


def test_a_budget_stops_before_a_release_that_does_not_fit():
    model = make_model()
    release = accounting.Gaussian(2.0 / make_noise().sensitivity)
    one = accounting.compute_epsilon_of([release], delta=1e-5)
    budget = tf_privacy.PrivacyBudget(one * 1.01, 1e-5)
    history = model.fit(
        X, Y, batch_size=3, epochs=9, verbose=0, callbacks=[budget]
    )
    assert model.optimizer.ledger.num_steps() == 8
    assert history.history["epsilon"][-1] == pytest.approx(one)
    with pytest.raises(tf_privacy.PrivacyBudgetError):
        model.fit(X, Y, batch_size=3, verbose=0, callbacks=[budget])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"min_separation": 5}, "min_separation of the noise must be"),
        ({"max_participations": 1}, "max_participations of the noise must be"),
    ],
)
def test_noise_that_does_not_fit_the_order_is_refused(changes, message):
    model = make_model(make_noise(**changes))
    with pytest.raises(ValueError, match=f"^{message}"):
        model.fit(X, Y, batch_size=3, verbose=0)
    assert model.optimizer.ledger.num_steps() == 0


class OwnCoins(tf_privacy.PoissonDataset):
    """A subclass, which the accountant does not trust."""


@pytest.mark.parametrize("kind", [tf_privacy.PoissonDataset, OwnCoins])
@pytest.mark.parametrize("seed", [None, 1])
def test_coins_are_refused(kind, seed):
    model = make_model()
    coins = kind(X, Y, expected_batch_size=3, seed=seed)
    with pytest.raises(ValueError, match="^TreeNoise must get data in a fixed"):
        model.fit(coins, verbose=0)
    assert model.optimizer.ledger.num_steps() == 0


def test_steps_around_a_fit_are_a_release_of_their_own():
    model = make_model()
    model.optimizer.set_expected_batch_size(3)
    model.train_on_batch(X[:3], Y[:3])
    model.fit(X, Y, batch_size=3, verbose=0)
    for _ in range(3):
        model.train_on_batch(X[:3], Y[:3])
    counts = [n for _, n in model.optimizer.ledger.entries()]
    assert counts == [1, 4, 3]
    table = model.optimizer.ledger.to_numpy()
    assert np.count_nonzero(table[:, 0]) == 3
    assert np.isfinite(model.get_weights()[0]).all()


def test_a_release_that_a_callback_starts_is_counted():
    model = make_model()

    class Restart(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.start_release()

    model.fit(X, Y, batch_size=3, epochs=2, callbacks=[Restart()], verbose=0)
    assert [n for _, n in model.optimizer.ledger.entries()] == [4, 4]
    assert np.isfinite(model.get_weights()[0]).all()


def test_fewer_examples_than_a_default_batch_are_one_batch():
    model = make_model(make_noise(min_separation=1))
    model.fit(X, Y, verbose=0)
    assert model.optimizer.expected_batch_size == 11


def test_other_data_is_refused():
    model = make_model()
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(6)
    model.optimizer.set_expected_batch_size(3)
    with pytest.raises(ValueError, match="^min_separation of the noise must"):
        model.fit(batches, epochs=2, verbose=0)
    once = make_model(make_noise(min_separation=1, max_participations=1))
    once.optimizer.set_expected_batch_size(3)
    with pytest.raises(ValueError, match="^max_participations of the noise"):
        once.fit(batches, epochs=2, verbose=0)
    once.fit(batches, epochs=1, verbose=0)
    assert once.optimizer.ledger.num_steps() == 2
    with pytest.raises(ValueError, match="^validation_split must be 0"):
        model.fit(X, Y, batch_size=3, validation_split=0.2, verbose=0)
    with pytest.raises(ValueError, match="^steps_per_epoch must be None"):
        model.fit(X, Y, batch_size=3, steps_per_epoch=3, verbose=0)
    data = tf_privacy.CyclicDataset(
        X[:10], Y[:10], batch_size=1, examples_per_unit=2
    )
    with pytest.raises(ValueError, match="^examples_per_unit of the data"):
        model.fit(data, verbose=0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": 12}, "batch_size must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": 2, "examples_per_unit": 2}, "x must hold whole units"),
    ],
)
def test_a_data_set_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        tf_privacy.CyclicDataset(X, Y, **arguments)
