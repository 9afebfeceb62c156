# SPDX-License-Identifier: Apache-2.0
"""Batches in one fixed order, pass after pass: for correlated noise."""

import keras
import numpy as np

from tf_privacy import _checks
from tf_privacy.sampling import poisson
from tf_privacy.training import poisson_dataset


class CyclicDataset(keras.utils.PyDataset):
    """The same batches in the same order in every pass through the data.

    A unit is in one batch of each pass: its participations are exactly
    `min_separation` steps apart. That is what correlated noise (`TreeNoise`,
    `ToeplitzNoise`) is accounted for, and no sampling is needed. `model.fit`
    makes one by itself for arrays where the noise is correlated.

    Units are shuffled once; where they come in an order of time that matters,
    say shuffle=False.

    Args:
        x: An array or a structure of arrays `[N, ...]`, as for
            `PoissonDataset`.
        y: The same, or None.
        sample_weight: The same, or None.
        batch_size: Units in a batch; the last batch of a pass may have fewer.
        examples_per_unit: So many consecutive examples are in a batch
            together; N is a multiple of it.
        shuffle: Whether units are put in a random order, once.
        seed: None shuffles by the operating system's entropy; the order needs
            not be secret.

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
        batch_size: int,
        examples_per_unit: int = 1,
        shuffle: bool = True,
        seed: int | None = None,
    ):
        super().__init__()
        self._arrays = keras.tree.map_structure(
            poisson_dataset.as_source, (x, y, sample_weight)
        )
        num_rows = poisson_dataset.check_lengths(self._arrays)
        self._examples_per_unit = _checks.check_integer(
            "examples_per_unit", examples_per_unit, at_least=1
        )
        num_units = poisson_dataset.count_units(num_rows, examples_per_unit)
        self._batch_size = _checks.check_integer(
            "batch_size", batch_size, at_least=1, at_most=num_units
        )
        self._order = np.arange(num_units)
        if shuffle:
            self._order = poisson.make_rng(seed).permutation(num_units)

    @property
    def examples_per_unit(self) -> int:
        """Consecutive examples that are in a batch together."""
        return self._examples_per_unit

    @property
    def batch_size(self) -> int:
        """Units in a batch."""
        return self._batch_size

    @property
    def largest_batch_size(self) -> int:
        """Units in the largest batch."""
        return self._batch_size

    @property
    def is_shared(self) -> bool:
        """Whether other processes take their parts of the same batches."""
        return False

    @property
    def has_sample_weight(self) -> bool:
        """Whether batches come with sample weights."""
        return self._arrays[2] is not None

    @property
    def min_separation(self) -> int:
        """Steps from one participation of a unit to its next."""
        return len(self)

    def __len__(self) -> int:
        """Returns the number of batches in one pass."""
        return -(-len(self._order) // self._batch_size)

    def __getitem__(self, index: int):
        """Returns batch `index` of a pass, `(x, y, sample_weight)`."""
        start = (index % len(self)) * self._batch_size
        units = np.sort(self._order[start : start + self._batch_size])
        return poisson_dataset.take_units(
            self._arrays, units, self._examples_per_unit
        )

    def check_noise(self, noise_style) -> None:
        """Raises if units come back sooner or more often than noise allows.

        Args:
            noise_style: The optimizer's NoiseStyle.

        Raises:
            ValueError: If they do.
        """
        if not noise_style.is_correlated:
            return
        if not self.min_separation >= noise_style.min_separation:
            raise ValueError(
                "min_separation of the noise must be at most "
                f"{self.min_separation}, the batches of one pass through the "
                f"data. Received: {noise_style.min_separation}. Use that, or a "
                "smaller batch_size."
            )
        most = -(-noise_style.steps_per_release // self.min_separation)
        allowed = noise_style.max_participations
        if allowed is not None and most > allowed:
            raise ValueError(
                f"max_participations of the noise must be at least {most}: so "
                f"often a unit is used in {noise_style.steps_per_release} "
                f"steps. Received: {allowed}. Use None, or shorter releases."
            )
