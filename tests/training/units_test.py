# SPDX-License-Identifier: Apache-2.0
"""Tests of units of several examples, and of several views of an example."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_privacy
from tests import oracles

CLIP = 0.5


def make_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="tanh"),
            layers.Dense(1),
        ]
    )
    model.compile("sgd", loss="mse")
    return model


def make_data(num_rows=12):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_rows, 6)).astype("float32")
    return x, rng.normal(size=(num_rows, 1)).astype("float32")


def flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


def unit_sum(model, x, y, count, weight=None):
    """Return the clipped sum over units of `count` rows, by a loop."""
    rows = oracles.loop_gradients(model, x, y, weight)
    rows = np.array([flat(row) for row in rows])
    units = rows.reshape(-1, count, rows.shape[1]).sum(axis=1)
    norms = np.linalg.norm(units, axis=1)
    return (units * np.minimum(1.0, CLIP / norms)[:, None]).sum(axis=0), norms


@pytest.mark.parametrize("count", [1, 2, 3, 4, 12])
def test_gradients_of_a_unit_are_summed_before_the_clip(count):
    model, (x, y) = make_model(), make_data()
    step = tf_privacy.clipped_gradients(
        model, x, y, l2_norm_clip=CLIP, examples_per_unit=count
    )
    expected, norms = unit_sum(model, x, y, count)
    assert (
        np.linalg.norm(flat(step.clipped_sum.gradients) - expected)
        <= 1e-5 * CLIP
    )
    np.testing.assert_allclose(step.norms, norms, 1e-5)


def test_a_spoiled_row_takes_out_its_own_unit_only():
    model, (x, y) = make_model(), make_data()
    y_rest = np.delete(y, [3, 4, 5], 0)
    expected, _ = unit_sum(model, np.delete(x, [3, 4, 5], 0), y_rest, 3)
    x[4] = np.nan
    step = tf_privacy.clipped_gradients(
        model, x, y, l2_norm_clip=CLIP, examples_per_unit=3
    )
    np.testing.assert_allclose(
        flat(step.clipped_sum.gradients), expected, atol=1e-5 * CLIP
    )


def test_a_unit_must_be_whole():
    model, (x, y) = make_model(), make_data()
    with pytest.raises(ValueError, match="x must hold whole units"):
        tf_privacy.clipped_gradients(
            model, x, y, l2_norm_clip=CLIP, examples_per_unit=5
        )
    with pytest.raises(ValueError, match="x must hold whole units"):
        tf_privacy.PoissonDataset(
            x, y, expected_batch_size=1, examples_per_unit=5
        )


def test_views_are_averaged_before_the_clip():
    model, (x, y) = make_model(), make_data(4)
    offsets = np.arange(3, dtype="float32")

    def shift(batch):
        # The i-th view of each example is moved by i: no random numbers.
        turns = keras.ops.tile(offsets, keras.ops.shape(batch)[0] // 3)
        return batch + turns[:, None]

    step = tf_privacy.clipped_gradients(
        model,
        x,
        y,
        l2_norm_clip=CLIP,
        augment=AlwaysChecked(function=shift, num_views=3),
    )
    views = np.repeat(x, 3, axis=0) + np.tile(offsets, 4)[:, None]
    rows = oracles.loop_gradients(model, views, np.repeat(y, 3, axis=0))
    rows = np.array([flat(row) for row in rows]).reshape(4, 3, -1).mean(axis=1)
    norms = np.linalg.norm(rows, axis=1)
    expected = (rows * np.minimum(1.0, CLIP / norms)[:, None]).sum(axis=0)
    got = flat(step.clipped_sum.gradients)
    assert np.linalg.norm(got - expected) <= 1e-5 * CLIP
    np.testing.assert_allclose(step.norms, norms, 1e-5)


class AlwaysChecked(tf_privacy.Augmentation):
    """Views by position, which the probe of 7 rows cannot divide by 3."""

    def make_views(self, x, y, sample_weight):
        """Return the views without the probe."""
        repeated = [
            None if t is None else keras.ops.repeat(t, self.num_views, 0)
            for t in (x, y, sample_weight)
        ]
        return self.function(repeated[0]), *repeated[1:]


def mix_rows(batch):
    return batch + 0.1 * keras.ops.flip(batch, axis=0)


def reduce_rows(batch):
    return batch - keras.ops.mean(batch, axis=0, keepdims=True)


def permute_rows(batch):
    order = keras.random.shuffle(keras.ops.arange(7), seed=1)
    return keras.ops.take(batch, keras.ops.mod(order, len(batch)), axis=0)


def permute_last_rows(batch):
    return keras.ops.concatenate([batch[:4], batch[:3:-1]], axis=0)


MIXING = [mix_rows, reduce_rows, permute_rows, permute_last_rows]


@pytest.mark.parametrize("function", MIXING)
def test_an_augmentation_that_mixes_rows_is_refused(function):
    model, (x, y) = make_model(), make_data()
    augment = tf_privacy.Augmentation(function=function, num_views=2)
    with pytest.raises(ValueError, match="augment must treat each row alone"):
        tf_privacy.clipped_gradients(
            model, x, y, l2_norm_clip=CLIP, augment=augment
        )


def test_views_of_one_example_differ():
    layer = layers.GaussianNoise(1.0)
    augment = tf_privacy.Augmentation(function=layer, num_views=5)
    x, y = make_data(2)
    views, labels, _ = augment.make_views(x, y, None)
    seen = np.array(views)
    assert seen.shape == (10, 6)
    assert len(np.unique(seen[:, 0])) == 10
    np.testing.assert_array_equal(labels, np.repeat(y, 5, axis=0))


def private(**changes):
    model = tf_privacy.privatize(make_model())
    options = {"l2_norm_clip": CLIP, "noise_multiplier": 1.0, **changes}
    augment = options.pop("augment", None)
    model.compile(tf_privacy.DPSGD(0.1, **options), loss="mse", augment=augment)
    return model


def test_fit_samples_and_accounts_by_unit():
    model, (x, y) = private(examples_per_unit=3), make_data(60)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    ((kind, count),) = model.optimizer.ledger.entries()
    assert count == 2 * 5
    assert kind.num_examples == 20
    assert kind.examples_per_unit == 3
    assert kind.sampling_probability == pytest.approx(4 / 20)
    statement = str(model.privacy_statement(1e-3))
    assert "unit of 3 consecutive examples" in statement.replace("\n", " ")


def test_units_join_a_batch_together():
    x, _ = make_data(60)
    data = tf_privacy.PoissonDataset(
        x, np.arange(60), expected_batch_size=5, examples_per_unit=4
    )
    sizes = []
    for _ in range(50):
        _, rows = data[0]
        rows = np.reshape(rows, (-1, 4))
        np.testing.assert_array_equal(rows // 4, rows[:, :1] // 4 + 0 * rows)
        sizes.append(len(rows))
    assert 2 < np.mean(sizes) < 8  # 5 +- 0.26: a false alarm below 1e-12.


def test_data_and_optimizer_must_mean_the_same_unit():
    x, y = make_data(60)
    data = tf_privacy.PoissonDataset(x, y, expected_batch_size=5)
    with pytest.raises(ValueError, match="examples_per_unit of the data"):
        private(examples_per_unit=2).fit(data, verbose=0)


def test_clipped_sum_sampling_and_optimizer_must_mean_the_same_unit():
    model = private(examples_per_unit=2, expected_batch_size=6)
    x, y = make_data()
    step = tf_privacy.clipped_gradients(model, x, y, l2_norm_clip=CLIP)
    assert step.clipped_sum.examples_per_unit == 1
    with pytest.raises(ValueError, match="grads must be of units of"):
        model.optimizer.apply(step.clipped_sum)
    step = tf_privacy.clipped_gradients(
        model, x, y, l2_norm_clip=CLIP, examples_per_unit=2
    )
    sampling = tf_privacy.PoissonSampling(
        num_examples=60, sampling_probability=0.1
    )
    with pytest.raises(ValueError, match="sampling must be of units of"):
        model.optimizer.apply(step.clipped_sum, sampling=sampling)
    by_unit = tf_privacy.PoissonSampling(
        num_examples=30, sampling_probability=0.1, examples_per_unit=2
    )
    assert model.optimizer.ledger.num_steps() == 0
    model.optimizer.apply(step.clipped_sum, sampling=by_unit)
    assert model.optimizer.ledger.num_steps() == 1


def test_sums_over_other_units_do_not_add_up():
    model, (x, y) = make_model(), make_data()
    one, two = (
        tf_privacy.clipped_gradients(
            model, x, y, l2_norm_clip=CLIP, examples_per_unit=count
        ).clipped_sum
        for count in (1, 2)
    )
    assert (two + two).examples_per_unit == 2
    with pytest.raises(ValueError, match="same examples_per_unit"):
        one + two


def test_steps_on_other_units_are_refused_on_the_same_weights():
    model, (x, y) = private(examples_per_unit=2), make_data(60)
    model.fit(x, y, batch_size=6, epochs=1, verbose=0)
    other = tf_privacy.DPSGD(0.1, l2_norm_clip=CLIP, noise_multiplier=1.0)
    with pytest.raises(ValueError, match="examples_per_unit must be the same"):
        model.compile(other, loss="mse")
        model.fit(x, y, batch_size=6, epochs=1, verbose=0)
    assert other.ledger.num_steps() == 5


def test_an_incomplete_unit_fails_where_lengths_are_known_in_the_step_only():
    model = private(examples_per_unit=5, expected_batch_size=2)
    x, y = make_data(12)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(10)
    assert data.element_spec[0].shape[0] is None
    with pytest.raises(tf.errors.InvalidArgumentError, match="whole units"):
        model.fit(data, epochs=1, verbose=0)
    # The step that failed may count too: never one too few.
    assert 1 <= model.optimizer.ledger.num_steps() <= 2


def test_an_augmentation_may_change_the_shape():
    augment = tf_privacy.Augmentation(
        function=layers.CenterCrop(4, 4), num_views=2
    )
    keras.utils.set_random_seed(0)
    model = tf_privacy.DPSequential([layers.Flatten(), layers.Dense(2)])
    optimizer = tf_privacy.DPSGD(0.1, l2_norm_clip=CLIP, noise_multiplier=1.0)
    model.compile(optimizer, loss="mse", augment=augment)
    x = np.ones((20, 6, 6, 1), "float32")
    model.fit(x, np.ones((20, 2)), batch_size=4, epochs=1, verbose=0)
    assert model.layers[-1].kernel.shape == (16, 2)
    assert model.optimizer.ledger.num_steps() == 5


def test_views_are_made_once_in_a_step():
    calls = []

    def count(batch):
        calls.append(tf.executing_eagerly())
        return batch * 1.0

    model, (x, y) = make_model(), make_data()
    augment = tf_privacy.Augmentation(function=count, num_views=2)
    for _ in range(2):
        calls.clear()
        tf_privacy.clipped_gradients(
            model, x, y, l2_norm_clip=CLIP, augment=augment
        )
    assert calls.count(True) == 1


def test_augmented_training_runs_and_is_saved(tmp_path):
    augment = tf_privacy.Augmentation(
        function=layers.GaussianNoise(0.1), num_views=2
    )
    model, (x, y) = private(augment=augment), make_data(60)
    model.fit(x, y, batch_size=6, epochs=1, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = tf_privacy.load_model(path)
    loaded.fit(x, y, batch_size=6, epochs=1, verbose=0)
    assert loaded.augmentation.num_views == 2
    assert loaded.optimizer.ledger.num_steps() == 20


def test_augment_must_be_an_augmentation():
    with pytest.raises(TypeError, match="augment must be"):
        private(augment=layers.GaussianNoise(0.1))
    with pytest.raises(ValueError, match="num_views must be"):
        tf_privacy.Augmentation(function=mix_rows, num_views=0)
    with pytest.raises(TypeError, match="function must be"):
        tf_privacy.Augmentation(function=None, num_views=2)


def test_styles_survive_saving(tmp_path):
    style = tf_privacy.AutomaticClipping(l2_norm_clip=0.5, stability=0.1)
    model, (x, y) = private(l2_norm_clip=style), make_data(60)
    model.fit(x, y, batch_size=6, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = tf_privacy.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.clipping_style == style
    wrapped = tf_privacy.DPOptimizer(
        keras.optimizers.Lion(),
        l2_norm_clip=tf_privacy.PerLayerClipping(l2_norm_clip=2.0),
        noise_multiplier=1.0,
    )
    again = tf_privacy.DPOptimizer.from_config(wrapped.get_config())
    assert again.clipping_style == wrapped.clipping_style


# arrange_units.


def test_every_unit_gets_its_own_examples_and_no_others():
    x, y = np.arange(9.0)[:, None], np.arange(9)
    ids = np.array(["b", "a", "b", "c", "b", "b", "a", "c", "d"])
    x, y, weight = tf_privacy.arrange_units(
        x, y, unit_ids=ids, examples_per_unit=3
    )
    assert x.shape == (12, 1)
    np.testing.assert_array_equal(x[:, 0], y)
    owners = ids[y].reshape(4, 3)
    np.testing.assert_array_equal(owners, np.repeat([*"bacd"], 3).reshape(4, 3))
    counted = weight.reshape(4, 3)
    np.testing.assert_array_equal(counted.sum(axis=1), [3, 2, 2, 1])
    for rows, kept in zip(y.reshape(4, 3), counted > 0, strict=True):
        assert len(set(rows[kept])) == kept.sum()


@pytest.mark.parametrize("dtype", [int, str])
def test_the_choice_in_one_unit_does_not_depend_on_the_others(dtype):
    ids = np.repeat([3, 1, 2], 50).astype(dtype)
    x = np.arange(150.0)

    def kept(keep):
        chosen, _, _ = tf_privacy.arrange_units(
            x[keep], unit_ids=ids[keep], examples_per_unit=4, seed=7
        )
        return {frozenset(rows) for rows in chosen.reshape(-1, 4)}

    every = kept(np.ones(150, bool))
    assert len(every) == 3
    for unit in np.unique(ids):
        assert kept(ids != unit) < every
    # The places differ from unit to unit, and from seed to seed.
    assert len({frozenset(r % 50 for r in rows) for rows in every}) == 3
    other, _, _ = tf_privacy.arrange_units(
        x, unit_ids=ids, examples_per_unit=4, seed=8
    )
    assert {frozenset(rows) for rows in other.reshape(-1, 4)} != every


def test_weights_are_kept():
    x = np.arange(4.0)[:, None]
    _, _, weight = tf_privacy.arrange_units(
        x,
        sample_weight=np.array([1.0, 2.0, 3.0, 4.0]),
        unit_ids=[0, 1, 1, 0],
        examples_per_unit=2,
    )
    assert sorted(weight) == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("ids", [[0, 1], [[0], [1], [2], [3]]])
def test_there_is_one_id_for_each_row(ids):
    with pytest.raises(ValueError, match="unit_ids must"):
        tf_privacy.arrange_units(
            np.ones((4, 1)), unit_ids=ids, examples_per_unit=2
        )
