# SPDX-License-Identifier: Apache-2.0
"""What `fit` was given is accounted for as what it is, or refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_privacy
from tf_privacy.training import fit_data

NUM_EXAMPLES = 40
X = np.arange(2 * NUM_EXAMPLES, dtype="float64").reshape(NUM_EXAMPLES, 2)
Y = np.arange(NUM_EXAMPLES)
WEIGHT = np.linspace(0.0, 1.0, NUM_EXAMPLES)


def prepare(x=X, y=Y, sample_weight=None, **changes):
    settings = {
        "batch_size": 8,
        "steps_per_epoch": None,
        "validation_split": 0.0,
        "validation_data": None,
        **changes,
    }
    return fit_data.prepare((x, y, sample_weight), **settings)


def test_arrays_are_poisson_sampled():
    source = prepare()
    assert type(source.x) is tf_privacy.PoissonDataset
    assert source.y is None and source.sample_weight is None
    assert source.batch_size is None and source.steps_per_epoch is None
    assert source.sampling == tf_privacy.PoissonSampling(
        num_examples=40, sampling_probability=0.2
    )
    assert source.sampling == source.x.sampling
    assert source.expected_batch_size == 8.0
    assert len(source.x) == 5
    assert not source.x.has_fixed_coins


@pytest.mark.parametrize(
    "x",
    [
        {"a": X, "b": Y},
        [X, X],
        (X, {"b": Y}),
        tf.constant(X),
        np.asfortranarray(X),
    ],
)
def test_structures_of_arrays_are_poisson_sampled(x):
    source = prepare(x)
    assert source.sampling.sampling_probability == 0.2
    batch = source.x[0][0]
    # TensorFlow's data sets, which Keras makes of it, take no lists.
    expected = tuple(x) if isinstance(x, list) else x
    keras.tree.assert_same_structure(batch, expected)


def test_a_batch_is_at_most_the_data_set():
    source = prepare(batch_size=1000)
    assert source.sampling.sampling_probability == 1.0
    assert source.expected_batch_size == 40.0


def test_steps_per_epoch_is_kept():
    assert len(prepare(steps_per_epoch=17).x) == 17


def test_a_split_counts_the_rows_that_remain():
    source = prepare(sample_weight=WEIGHT, validation_split=0.25)
    assert source.sampling.num_examples == 30
    assert source.sampling.sampling_probability == 8 / 30
    assert len(source.x) == 4
    x, y, weight = source.validation_data
    np.testing.assert_array_equal(x, X[30:])
    np.testing.assert_array_equal(y, Y[30:])
    np.testing.assert_array_equal(weight, WEIGHT[30:])
    for i in range(50):
        assert source.x[i][1].max(initial=0) < 30


def test_a_split_of_a_structure_and_no_weights():
    source = prepare({"a": X, "b": X}, validation_split=0.5)
    x, y = source.validation_data
    np.testing.assert_array_equal(x["b"], X[20:])
    np.testing.assert_array_equal(y, Y[20:])


def test_a_small_split_caps_the_batch():
    source = prepare(batch_size=32, validation_split=0.5)
    assert source.sampling.sampling_probability == 1.0
    assert source.expected_batch_size == 20.0


def test_validation_data_goes_before_a_split():
    given = (X, Y)
    source = prepare(validation_split=0.5, validation_data=given)
    assert source.validation_data is given
    assert source.sampling.num_examples == 40


@pytest.mark.parametrize("value", [1.0, 1.5, -0.1, np.nan, np.inf, 0.99])
def test_a_split_must_leave_rows_on_both_sides(value):
    with pytest.raises(ValueError, match="^validation_split must"):
        prepare(validation_split=value)


def generator():
    yield X, Y


def tensorflow_dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)


class Sequence(keras.utils.PyDataset):
    """A user's own batches."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return X[:8], Y[:8]


USERS_DATA = [generator, tensorflow_dataset, Sequence]


@pytest.mark.parametrize("make", USERS_DATA)
def test_batches_of_the_user_are_not_amplified(make):
    data = make()
    source = prepare(data, None, batch_size=None, steps_per_epoch=3)
    assert source.x is data
    assert source.sampling is None
    assert source.expected_batch_size is None
    assert source.steps_per_epoch == 3


@pytest.mark.parametrize("make", USERS_DATA)
def test_a_split_of_batches_is_refused(make):
    with pytest.raises(ValueError, match="^validation_split must be 0 for"):
        prepare(make(), None, validation_split=0.1)


def test_a_poisson_dataset_is_trusted():
    dataset = tf_privacy.PoissonDataset(X, Y, expected_batch_size=4)
    source = prepare(dataset, None)
    assert source.x is dataset
    assert source.sampling == dataset.sampling
    assert source.expected_batch_size == 4.0


class Filtered(tf_privacy.PoissonDataset):
    """Could draw anything."""


class Repeating(tf_privacy.PoissonDataset):
    def __getitem__(self, index):
        return X[:4], Y[:4]


@pytest.mark.parametrize("subclass", [Filtered, Repeating])
def test_a_subclass_of_poisson_dataset_is_not_amplified(subclass):
    source = prepare(subclass(X, Y, expected_batch_size=4), None)
    assert source.sampling is None


def test_fixed_coins_are_not_amplified():
    dataset = tf_privacy.PoissonDataset(X, Y, expected_batch_size=4, seed=1)
    source = prepare(dataset, None)
    assert source.sampling is None
    assert source.expected_batch_size == 4.0


# Arrays that are not what they should be.


@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_lengths_must_agree(name):
    with pytest.raises(ValueError, match="^x, y and sample_weight must have"):
        prepare(**{name: np.zeros(NUM_EXAMPLES + 1)})


@pytest.mark.parametrize("value", [0, -8, np.nan, np.inf])
def test_the_batch_size_is_checked(value):
    with pytest.raises(ValueError, match="^batch_size must be"):
        prepare(batch_size=value)


@pytest.mark.parametrize("value", [True, "8"])
def test_the_type_of_the_batch_size_is_checked(value):
    with pytest.raises(TypeError, match="^batch_size must be"):
        prepare(batch_size=value)


@pytest.mark.parametrize(
    "value", [2**31, 2**40 + 1, -(2**31) - 1, np.iinfo("int64").min]
)
@pytest.mark.parametrize("name", ["x", "y"])
def test_integers_that_would_wrap_around_are_refused(name, value):
    """Keras makes them int32: 2**32 + 1 would be embedded as 1."""
    wrong = np.zeros(NUM_EXAMPLES, "int64")
    wrong[7] = value
    with pytest.raises(ValueError, match=f"^{name} must hold integers within"):
        prepare(**{name: wrong})


def test_integers_in_range_are_fine():
    for dtype in ("int8", "uint8", "int16", "int32", "int64", "uint64"):
        prepare(y=Y.astype(dtype))
    prepare(y=np.full(NUM_EXAMPLES, 2**31 - 1))


# Labels.


def model_for(loss, num_classes=3):
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(num_classes)]
    )
    model.compile(loss=loss)
    return model


SPARSE = [
    "sparse_categorical_crossentropy",
    keras.losses.sparse_categorical_crossentropy,
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    keras.losses.SparseCategoricalCrossentropy,
]


@pytest.mark.parametrize("loss", SPARSE)
def test_labels_outside_of_the_classes_are_refused(loss):
    model = model_for(loss)
    fit_data.check_labels(model, np.array([0, 1, 2]))
    for label in (-1, 3, 255, 2**31 - 1):
        with pytest.raises(ValueError, match="^y must hold class labels in"):
            fit_data.check_labels(model, np.array([0, label, 1]))


def test_labels_that_are_no_number_are_refused():
    model = model_for(SPARSE[0])
    with pytest.raises(ValueError, match="^y must hold class labels in"):
        fit_data.check_labels(model, np.array([0.0, np.nan]))


def test_a_class_to_ignore_may_be_any_label():
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    fit_data.check_labels(model_for(loss), np.array([-1, 0]))


@pytest.mark.parametrize("loss", ["mse", "categorical_crossentropy"])
def test_other_losses_take_any_target(loss):
    fit_data.check_labels(model_for(loss), np.array([-7.0, 300.0]))
