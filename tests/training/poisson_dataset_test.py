# SPDX-License-Identifier: Apache-2.0
"""Poisson batches come from any source, aligned, fresh, and never shared.

Bounds have a false-alarm probability of at most 1e-6.
"""

import copy
import os
import pickle

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tf_privacy

FALSE_ALARM = 1e-6
NUM_EXAMPLES = 50


def numbered(dtype="float32"):
    """Row i holds i, so that a row tells where it came from."""
    rows = np.arange(NUM_EXAMPLES)
    return np.stack([rows, -rows], axis=1).astype(dtype)


def make(x=None, y=None, sample_weight=None, **changes):
    x = numbered() if x is None else x
    settings = {"expected_batch_size": 10.0, **changes}
    return tf_privacy.PoissonDataset(x, y, sample_weight, **settings)


def in_h5py(array, folder):
    file = h5py.File(folder / "data.h5", "w")
    return file.create_dataset("x", data=array)


def in_memmap(array, folder):
    mapped = np.memmap(
        folder / "data", dtype=array.dtype, mode="w+", shape=array.shape
    )
    mapped[:] = array
    return mapped


def in_pandas(array, folder):
    del folder
    pandas = pytest.importorskip("pandas")
    # Labels that are no positions.
    index = np.arange(len(array))[::-1] + 1000
    return pandas.DataFrame(array, columns=["a", "b"], index=index)


SOURCES = {
    "numpy": lambda array, folder: array,
    "h5py": in_h5py,
    "memmap": in_memmap,
    "pandas": in_pandas,
    "tensor": lambda array, folder: tf.constant(array),
    "variable": lambda array, folder: keras.Variable(array),
    "strided": lambda array, folder: np.repeat(array, 2, axis=0)[::2],
}


@pytest.mark.parametrize("source", SOURCES)
def test_rows_come_whole_and_aligned_from_any_source(source, tmp_path):
    x = SOURCES[source](numbered(), tmp_path)
    labels = np.arange(NUM_EXAMPLES, dtype="int32")
    weights = np.arange(NUM_EXAMPLES) + 0.5
    dataset = make(x, labels, weights)
    for i in range(20):
        batch, y, sample_weight = dataset[i % len(dataset)]
        assert isinstance(batch, np.ndarray)
        assert batch.dtype == np.float32 and y.dtype == np.int32
        np.testing.assert_array_equal(batch, numbered()[y])
        np.testing.assert_array_equal(sample_weight, y + 0.5)
        assert len(np.unique(y)) == len(y)


@pytest.mark.parametrize("source", SOURCES)
def test_an_empty_batch_has_its_shapes(source, tmp_path):
    x = SOURCES[source](numbered(), tmp_path)
    dataset = make(x, np.zeros((NUM_EXAMPLES, 3)), expected_batch_size=1e-9)
    batch, y = dataset[0]
    assert batch.shape == (0, 2) and batch.dtype == np.float32
    assert y.shape == (0, 3) and y.dtype == np.float32


def test_structures_keep_their_form():
    x = {"a": numbered(), "b": [numbered("int32"), numbered("bool")]}
    (batch,) = make(x)[0]
    assert set(batch) == {"a", "b"} and len(batch["b"]) == 2
    np.testing.assert_array_equal(batch["a"], batch["b"][0])
    assert batch["b"][0].dtype == np.int32
    assert batch["b"][1].dtype == bool


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_floats_come_in_the_float_type_of_keras(dtype):
    assert make(numbered(dtype))[0][0].dtype == keras.config.floatx()


@pytest.mark.parametrize("seed", [None, 0])
def test_every_row_joins_with_the_stated_probability(seed):
    dataset = make(y=np.arange(NUM_EXAMPLES), seed=seed)
    assert dataset.sampling.sampling_probability == 0.2
    assert dataset.sampling.num_examples == NUM_EXAMPLES
    joined = np.zeros((2000, NUM_EXAMPLES), bool)
    for row in joined:
        row[dataset[0][1]] = True  # The same index draws anew.
    test = stats.binomtest(int(joined.sum()), joined.size, 0.2)
    assert test.pvalue > FALSE_ALARM
    sizes = joined.sum(axis=1)
    # A fixed size, or a size that shuffling would give, has no such variance.
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 1999)
    spread = np.sum((sizes - sizes.mean()) ** 2) / (NUM_EXAMPLES * 0.2 * 0.8)
    assert low < spread < high


def test_num_examples_takes_the_first_ones():
    dataset = make(
        y=np.arange(NUM_EXAMPLES), num_examples=20, expected_batch_size=20
    )
    np.testing.assert_array_equal(dataset[0][1], np.arange(20))
    assert dataset.sampling.sampling_probability == 1.0
    assert dataset.sampling.num_examples == 20


@pytest.mark.parametrize(
    "expected_batch_size, steps_per_epoch, length",
    [(10, None, 5), (12, None, 5), (50, None, 1), (0.5, None, 100), (9, 3, 3)],
)
def test_length(expected_batch_size, steps_per_epoch, length):
    dataset = make(
        expected_batch_size=expected_batch_size,
        steps_per_epoch=steps_per_epoch,
    )
    assert len(dataset) == length


def test_a_seed_is_for_tests_and_known():
    one, two = make(seed=1), make(seed=1)
    for i in range(5):
        np.testing.assert_array_equal(one[i][0], two[i][0])
    assert one.has_fixed_coins
    assert not make().has_fixed_coins


# Nobody else may have the coins.


def draws_of(dataset, num_batches=10):
    joined = np.zeros((num_batches, NUM_EXAMPLES), bool)
    for i, row in enumerate(joined):
        row[dataset[i][0][:, 0].astype(int)] = True
    return joined


def test_global_seeds_do_not_fix_the_coins():
    draws = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        draws.append(draws_of(make()))
    assert np.any(draws[0] != draws[1])


def unpickle(dataset):
    return pickle.loads(pickle.dumps(dataset))


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy, unpickle])
def test_a_copy_throws_its_own_coins(make_copy):
    """Worker processes get copies: with shared coins an example that is in
    one batch would be in the batches of all of them."""
    dataset = make()
    one, two = make_copy(dataset), make_copy(dataset)
    draws = [draws_of(one), draws_of(two), draws_of(dataset)]
    assert np.any(draws[0] != draws[1])
    assert np.any(draws[0] != draws[2])


def draw_in_a_forked_process(dataset):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, np.packbits(draws_of(dataset)).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    drawn = os.read(reader, 10_000)
    os.close(reader)
    os.close(writer)
    return drawn


@pytest.mark.skipif(not hasattr(os, "fork"), reason="No fork here.")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_worker_throws_its_own_coins():
    """`use_multiprocessing` of a PyDataset forks."""
    dataset = make()
    one = draw_in_a_forked_process(dataset)
    two = draw_in_a_forked_process(dataset)
    assert len(one) == len(two) == 63
    assert one != two


# Coins that go on.


def test_a_data_set_goes_on_from_the_state_of_another():
    one, two = make(), make()
    draws_of(one, 3)
    two.set_state(one.get_state())
    np.testing.assert_array_equal(draws_of(one), draws_of(two))


def test_the_state_after_a_batch_leaves_out_what_was_read_ahead():
    one, two = make(), make()
    one.on_epoch_begin()
    batches = [one[i][0] for i in range(5)]
    two.set_state(one.get_state(2))
    for i in (3, 4):
        np.testing.assert_array_equal(two[0][0], batches[i])


def test_coins_that_were_used_are_never_given_again():
    """Whatever was drawn in between, or in another order."""
    dataset = make()
    dataset.on_epoch_begin()
    for i in (0, 3, 1, 0, 4):
        dataset[i]
    # Two batches in order may be the draws 1 and 3, or 3 and 4.
    assert dataset.get_state(1).position == 4
    with pytest.raises(ValueError, match="^index must be that of a batch"):
        dataset.get_state(2)
    dataset.on_epoch_begin()
    with pytest.raises(ValueError, match="^index must be that of a batch"):
        dataset.get_state(0)


def test_a_pass_may_be_shorter_and_the_next_is_whole():
    dataset = make()
    dataset.skip(2)
    dataset.on_epoch_begin()
    assert len(dataset) == dataset.num_batches == 3
    dataset.on_epoch_end()
    assert len(dataset) == dataset.steps_per_epoch == 5
    for value in (-1, 5):
        with pytest.raises(ValueError, match="^num_batches must be"):
            dataset.skip(value)


@pytest.mark.parametrize(
    "settings", [{"workers": 2}, {"use_multiprocessing": True}]
)
def test_coins_of_workers_cannot_go_on(settings):
    dataset = make()
    state = dataset.get_state()
    for name, value in settings.items():
        setattr(dataset, name, value)
    with pytest.raises(ValueError, match="^workers must be 1"):
        dataset.get_state()
    with pytest.raises(ValueError, match="^workers must be 1"):
        dataset.set_state(state)


# Arguments.


def test_lengths_must_agree():
    short = np.zeros(NUM_EXAMPLES - 1)
    for arrays in ({"y": short}, {"sample_weight": short}):
        with pytest.raises(ValueError, match="^x, y and sample_weight must"):
            make(**arrays)
    with pytest.raises(ValueError, match="^x, y and sample_weight must"):
        make({"a": numbered(), "b": short})
    with pytest.raises(ValueError, match="^x, y and sample_weight must"):
        make(np.zeros((0, 2)))


@pytest.mark.parametrize("x", [iter([]), 3.0, "text", [1, 2, 3]])
def test_what_has_no_rows_is_refused(x):
    with pytest.raises(TypeError, match="^x, y and sample_weight must be arr"):
        make(x)


@pytest.mark.parametrize("source", ["numpy", "h5py"])
def test_integers_that_would_wrap_around_are_refused(source, tmp_path):
    """Keras makes them int32: 2**32 + 1 would be embedded as 1."""
    array = numbered("int64")
    array[7, 0] = 2**32 + 1
    with pytest.raises(ValueError, match="must hold integers within"):
        dataset = make(SOURCES[source](array, tmp_path), expected_batch_size=50)
        dataset[0]


def test_scipy_sparse_is_read_or_refused(tmp_path):
    """Keras reads it; what must not happen is an error without a remedy."""
    sparse = pytest.importorskip("scipy.sparse")
    try:
        dataset = make(sparse.csr_matrix(numbered()))
    except TypeError as error:
        assert str(error).startswith("x, y and sample_weight must be arrays")
    else:
        assert dataset[0][0].shape[1:] == (2,)


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, 50.5])
def test_the_expected_batch_size_is_checked(value):
    with pytest.raises(ValueError, match="^expected_batch_size must be"):
        make(expected_batch_size=value)


@pytest.mark.parametrize("name", ["steps_per_epoch", "num_examples"])
@pytest.mark.parametrize("value", [0, -1, 2.5, np.nan])
def test_counts_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        make(**{name: value})


def test_num_examples_cannot_exceed_the_rows():
    with pytest.raises(ValueError, match="^num_examples must be"):
        make(num_examples=NUM_EXAMPLES + 1)


# Of several processes.


def make_shards(count, **changes):
    coins = tf_privacy.share_coins()
    return [
        make(
            shard=tf_privacy.Shard(index=i, count=count), coins=coins, **changes
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("unit", [1, 5])
def test_shards_are_of_one_draw(unit):
    """All processes' parts are one batch, whose law the accountant knows."""
    parts = make_shards(3, examples_per_unit=unit, expected_batch_size=4.0)
    sizes = []
    for index in range(200):
        batches = [part[index][0] for part in parts]
        rows = np.concatenate(batches)[:, 0].astype(int)
        assert (np.diff(rows) > 0).all()
        assert all(len(batch) % unit == 0 for batch in batches)
        lengths = [len(batch) // unit for batch in batches]
        assert max(lengths) - min(lengths) <= 1
        sizes.append(len(rows) // unit)
    assert parts[0].sampling == parts[1].sampling
    # 200 draws of one in num_units coins each.
    num_units = NUM_EXAMPLES // unit
    total = stats.binom(200 * num_units, 4.0 / num_units)
    assert total.ppf(FALSE_ALARM / 2) <= sum(sizes)
    assert sum(sizes) <= total.isf(FALSE_ALARM / 2)


def test_coins_are_new_at_each_start():
    first, second = tf_privacy.share_coins(), tf_privacy.share_coins()
    assert first.key != second.key
    assert first.position == 0


def test_shards_go_on_together():
    parts = make_shards(2)
    expected = [[part[i][0] for i in range(4)] for part in parts]
    again = make_shards(2)
    for part, batches in zip(again, expected, strict=True):
        part.set_state(parts[0].get_state(1))
        for i in (2, 3):
            np.testing.assert_array_equal(part[i][0], batches[i])


def test_a_shard_with_coins_of_its_own_is_refused():
    """A unit could be in a batch twice."""
    shard = tf_privacy.Shard(index=0, count=2)
    with pytest.raises(ValueError, match="^coins must be given"):
        make(shard=shard)
    make(shard=tf_privacy.Shard(index=0, count=1))


@pytest.mark.parametrize(
    "error, name, changes",
    [
        (TypeError, "shard", {"shard": (0, 2)}),
        (TypeError, "coins", {"coins": 3}),
        (ValueError, "seed", {"seed": 3, "coins": tf_privacy.share_coins()}),
    ],
)
def test_a_setting_of_shards_is_checked(error, name, changes):
    with pytest.raises(error, match=f"^{name} must be"):
        make(**changes)


def test_shared_coins_stay_in_their_process():
    """A copy would throw other ones, or carry the secret away."""
    (dataset,) = make_shards(1)
    for leave in (pickle.dumps, copy.deepcopy):
        with pytest.raises(RuntimeError, match="^PoissonDataset must stay"):
            leave(dataset)


def test_a_fork_throws_no_coins_of_its_own():
    (dataset,) = make_shards(1)
    dataset._process = os.getpid() + 1
    with pytest.raises(RuntimeError, match="^PoissonDataset must stay"):
        dataset[0]
