# SPDX-License-Identifier: Apache-2.0
"""Poisson batches from any indexable source, as a Keras data set."""

import math
import os

import keras
import numpy as np

from tf_privacy import _checks
from tf_privacy.sampling import poisson
from tf_privacy.sampling import shards

# Integers beyond this do not survive the int32 that Keras casts indices to.
_LARGEST_INT = 2**31 - 1


class PoissonDataset(keras.utils.PyDataset):
    """Batches that each example joins by an independent coin.

    Every item is a fresh draw, whatever its index: the batch size is random,
    with mean `expected_batch_size`, and may be 0. `model.fit` makes one by
    itself for arrays.

    Args:
        x: An array or a structure of arrays `[N, ...]`: numpy, `np.memmap`,
            h5py data sets, tensors, pandas; whatever has a shape and can be
            indexed by a sorted array of integers.
        y: The same, or None.
        sample_weight: The same, or None.
        expected_batch_size: Mean number of units in a batch; in (0, number of
            units]. A unit is an example, unless `examples_per_unit` is given.
        steps_per_epoch: Batches in one pass; None takes
            ceil(number of units / expected_batch_size).
        num_examples: None takes all N; an int takes only the first ones.
        examples_per_unit: So many consecutive examples join a batch together,
            by one coin; N is a multiple of it. See `arrange_units`.
        seed: None for real coins; an int fixes them, for tests only: whoever
            knows who was in which batch is not covered by the amplification.
        shard: None, or a `Shard`: each batch is this process's part of one
            draw that all processes make. `sampling` is the law of the draw.
        coins: None, or the state that coins begin with, of `share_coins`:
            the same in all processes, and of no other data set.

    Raises:
        ValueError: If the arrays have different lengths or none, or an
            argument is out of range.
        TypeError: If a source cannot be indexed.
    """

    def __init__(
        self,
        x,
        y=None,
        sample_weight=None,
        *,
        expected_batch_size: float,
        steps_per_epoch: int | None = None,
        num_examples: int | None = None,
        examples_per_unit: int = 1,
        seed: int | None = None,
        shard: shards.Shard | None = None,
        coins: poisson.CoinState | None = None,
    ):
        super().__init__()
        _check_shard(shard, coins, seed)
        self._arrays = keras.tree.map_structure(
            as_source, (x, y, sample_weight)
        )
        available = check_lengths(self._arrays)
        if num_examples is None:
            num_examples = available
        num_examples = _checks.check_integer(
            "num_examples", num_examples, at_least=1, at_most=available
        )
        examples_per_unit = _checks.check_integer(
            "examples_per_unit", examples_per_unit, at_least=1
        )
        self._sampling = _make_sampling(
            count_units(num_examples, examples_per_unit),
            expected_batch_size,
            examples_per_unit,
        )
        if steps_per_epoch is None:
            expected_batch_size = self._sampling.expected_batch_size
            num_units = self._sampling.num_examples
            steps_per_epoch = math.ceil(num_units / expected_batch_size)
        self._steps_per_epoch = _checks.check_integer(
            "steps_per_epoch", steps_per_epoch, at_least=1
        )
        self._seed = seed
        self._num_skipped = 0
        self._shard, self._has_shared_coins = shard, coins is not None
        self._start_coins(coins)

    def _start_coins(self, state=None):
        self._coins = poisson.CoinStream(self._seed)
        if state is not None:
            self._coins.set_state(state)
        self._process = os.getpid()
        # Position of the coins after each batch of the pass.
        self._positions = {}

    def __getstate__(self):
        """Leaves the coins out: a copy throws its own."""
        self._check_may_leave()
        state = dict(vars(self))
        del state["_coins"]
        return state

    def __setstate__(self, state):
        vars(self).update(state)
        self._start_coins()

    @property
    def sampling(self) -> poisson.PoissonSampling:
        """The law of the draws, for the accountant."""
        return self._sampling

    @property
    def largest_batch_size(self) -> int:
        """Units that a batch of this process hardly ever exceeds."""
        if self._shard is None:
            return self._sampling.bound_batch_size(1e-9)
        # One process that takes another shape would stop all of them.
        most = self._sampling.bound_batch_size(1e-18)
        return -(-most // self._shard.count)

    @property
    def is_shared(self) -> bool:
        """Whether other processes take their parts of the same batches."""
        return self._shard is not None and self._shard.count > 1

    @property
    def has_sample_weight(self) -> bool:
        """Whether batches come with sample weights."""
        return self._arrays[2] is not None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in a whole pass."""
        return self._steps_per_epoch

    @property
    def has_fixed_coins(self) -> bool:
        """Whether a seed fixes who joins which batch."""
        return self._seed is not None

    def __len__(self) -> int:
        """Returns the number of batches in one pass."""
        return self._steps_per_epoch - self._num_skipped

    def on_epoch_begin(self):
        """Starts a pass; called by Keras."""
        self._positions = {}

    def on_epoch_end(self):
        """Ends a pass; called by Keras."""
        self._num_skipped = 0

    def get_state(self, index: int | None = None) -> poisson.CoinState:
        """Returns where the coins stand; keep it secret.

        Keras reads ahead: when a step runs, batches for later steps are drawn.
        Name the last batch that a step took to get the state after that one,
        and after all that came before it.

        Args:
            index: Of a batch of the running pass, taken in order; None for the
                state after all that was drawn.

        Raises:
            ValueError: If worker processes or threads draw the batches, or
                this pass has not drawn all batches up to that one.
        """
        self._check_replayable()
        if index is None:
            return self._coins.get_state()
        positions = [self._positions.get(i) for i in range(index + 1)]
        if None in positions:
            raise ValueError(
                "index must be that of a batch that was drawn in this pass, "
                f"after all before it. Received: {index}. Give steps_per_epoch "
                "to the PoissonDataset, and shuffle=False to fit."
            )
        # The last one is the greatest, unless somebody drew others in between.
        return self._coins.get_state(max(positions))

    def set_state(self, state: poisson.CoinState) -> None:
        """Goes on drawing as the data set would have that the state is of.

        Use it only where no step on the batches after that state was released:
        two releases on one draw are not two independent draws.

        Args:
            state: From `get_state`, of this or another process.

        Raises:
            ValueError: If worker processes or threads draw the batches.
        """
        self._check_replayable()
        self._start_coins(state)

    def skip(self, num_batches: int) -> None:
        """Makes the next pass shorter; later ones are whole again.

        Args:
            num_batches: By how much; in [0, steps_per_epoch).
        """
        self._num_skipped = _checks.check_integer(
            "num_batches",
            num_batches,
            at_least=0,
            at_most=self._steps_per_epoch - 1,
        )

    def _check_may_leave(self):
        if self._has_shared_coins:
            raise RuntimeError(
                "PoissonDataset must stay in its process where others throw "
                "the same coins. Received: a copy, which would throw its own. "
                "Leave workers=1 and use_multiprocessing=False."
            )

    def _check_replayable(self):
        if self.workers > 1 or self.use_multiprocessing:
            raise ValueError(
                "workers must be 1, and use_multiprocessing False, for coins "
                "that can be taken up again: other processes throw their own. "
                f"Received: workers={self.workers}, use_multiprocessing="
                f"{self.use_multiprocessing}. Leave them as they are."
            )

    def __getitem__(self, index: int):
        """Returns a fresh batch `(x, y, sample_weight)`; `index` is ignored."""
        if self._seed is None and os.getpid() != self._process:
            # A forked worker would throw the same coins as its siblings.
            self._check_may_leave()
            self._start_coins()
        rng, position = self._coins.take()
        index = index % self._steps_per_epoch
        self._positions[index] = max(position, self._positions.get(index, 0))
        units = self._sampling.draw(rng)
        if self._shard is not None:
            units = self._shard.take(units)
        return take_units(self._arrays, units, self._sampling.examples_per_unit)


def _make_sampling(num_units, expected_batch_size, examples_per_unit):
    expected_batch_size = _checks.check_real(
        "expected_batch_size",
        expected_batch_size,
        above=0.0,
        at_most=num_units,
        hint="A batch cannot be larger than the data set.",
    )
    return poisson.PoissonSampling(
        num_examples=num_units,
        sampling_probability=expected_batch_size / num_units,
        examples_per_unit=examples_per_unit,
    )


def _check_shard(shard, coins, seed) -> None:
    """Raises if processes would not throw the same coins, or known ones."""
    if shard is not None and not isinstance(shard, shards.Shard):
        raise TypeError(
            f"shard must be a Shard or None. Received: {shard!r}. Example: "
            "tf_privacy.Shard(index=0, count=2)."
        )
    if coins is not None and not isinstance(coins, poisson.CoinState):
        raise TypeError(
            "coins must be a CoinState or None. Received: "
            f"{type(coins).__name__}. Use what share_coins() returns."
        )
    if coins is not None and seed is not None:
        raise ValueError(
            f"seed must be None where coins are given. Received: {seed}. "
            "Leave it out."
        )
    if shard is not None and shard.count > 1 and coins is None:
        raise ValueError(
            "coins must be given where a batch is shared by processes: with "
            "coins of its own for each, a unit could be in a batch more than "
            "once. Received: None. Use tf_privacy.share_coins()."
        )


def take_units(arrays, units, examples_per_unit: int):
    """Returns one batch, as `fit` takes it.

    Args:
        arrays: x, y and sample_weight, structures of sources.
        units: `[n]` int64; which units, sorted.
        examples_per_unit: Consecutive rows that make up one unit.

    Returns:
        x, y and sample_weight, without the last ones that are None. Lists are
        tuples: TensorFlow's data sets take no lists.
    """
    steps = np.arange(examples_per_unit)
    rows = (units[:, None] * examples_per_unit + steps).reshape(-1)
    x, y, sample_weight = _as_tuples(
        keras.tree.map_structure(
            lambda source: None if source is None else take(source, rows),
            arrays,
        )
    )
    if sample_weight is not None:
        return x, y, sample_weight
    return (x, y) if y is not None else (x,)


def _as_tuples(structure):
    if isinstance(structure, dict):
        return {key: _as_tuples(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return tuple(_as_tuples(value) for value in structure)
    return structure


def count_units(num_examples: int, examples_per_unit: int) -> int:
    """Returns the number of units in so many rows.

    Args:
        num_examples: Rows.
        examples_per_unit: Consecutive rows that make up one unit.

    Raises:
        ValueError: If a unit is incomplete.
    """
    if num_examples % examples_per_unit:
        raise ValueError(
            "x must hold whole units: a multiple of examples_per_unit="
            f"{examples_per_unit} rows. Received: {num_examples} rows. Fill up "
            "with rows of sample_weight 0 (tf_privacy.arrange_units does it)."
        )
    return num_examples // examples_per_unit


def is_indexable(structure) -> bool:
    """True if every leaf is an array that can be drawn from."""
    leaves = keras.tree.flatten(structure)
    return bool(leaves) and all(_has_rows(leaf) for leaf in leaves)


def _has_rows(leaf) -> bool:
    if isinstance(leaf, keras.utils.PyDataset):
        return False
    if hasattr(leaf, "iloc"):
        return True
    shape = getattr(leaf, "shape", None)
    return shape is not None and len(shape) > 0 and hasattr(leaf, "__getitem__")


def as_source(leaf):
    """Returns an indexable source for one array; None for None.

    Args:
        leaf: An array, a tensor, a data frame, an h5py data set, or None.

    Raises:
        TypeError: If it has no rows to index.
    """
    if leaf is None:
        return None
    if hasattr(leaf, "iloc"):
        return leaf.to_numpy()
    if not _has_rows(leaf) or hasattr(leaf, "toarray"):
        raise TypeError(
            "x, y and sample_weight must be arrays with a shape and rows. "
            f"Received: {type(leaf).__name__}. Convert it with np.asarray, a "
            "sparse matrix with its toarray()."
        )
    if keras.ops.is_tensor(leaf):
        return np.asarray(keras.ops.convert_to_numpy(leaf))
    return leaf


def check_lengths(structure) -> int:
    """Returns the number of rows that all arrays share.

    Args:
        structure: A structure of arrays; None leaves do not count.

    Raises:
        ValueError: If lengths differ or are 0.
    """
    lengths = [
        leaf.shape[0]
        for leaf in keras.tree.flatten(structure)
        if leaf is not None
    ]
    if len(set(lengths)) != 1 or lengths[0] < 1:
        raise ValueError(
            "x, y and sample_weight must have the same number of rows, at "
            f"least one. Received: {lengths} rows. Row i of each must belong "
            "to the same example."
        )
    return lengths[0]


def check_integers(structure, name: str) -> None:
    """Raises if integer values would overflow when they become int32.

    Args:
        structure: A structure of arrays, or None.
        name: What to call it.

    Raises:
        ValueError: If a value is out of range.
    """
    for leaf in keras.tree.flatten(structure):
        if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "iu":
            continue
        if leaf.dtype.itemsize < 4 or not leaf.size:
            continue
        low, high = int(leaf.min()), int(leaf.max())
        if high > _LARGEST_INT or low < -_LARGEST_INT:
            raise ValueError(
                f"{name} must hold integers within +-(2**31 - 1): Keras makes "
                f"them int32 and larger ones overflow. Received: values from "
                f"{low} to {high}. Renumber them from 0."
            )


def take(source, rows: np.ndarray) -> np.ndarray:
    """Returns the given rows, floats in Keras's float type.

    Args:
        source: From `as_source`.
        rows: `[n]` sorted distinct indices; n may be 0.
    """
    batch = np.asarray(source[rows] if len(rows) else source[0:0])
    check_integers(batch, "x, y and sample_weight")
    if batch.dtype.kind == "f":
        batch = batch.astype(keras.config.floatx(), copy=False)
    return batch
