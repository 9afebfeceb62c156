# SPDX-License-Identifier: Apache-2.0
"""Which part of every batch a process takes, where several train together."""

import dataclasses

import numpy as np

from tf_privacy import _checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One process's part of each batch, of equal parts for all processes.

    All processes throw the same coins, so that the batch is one draw; each
    takes a run of consecutive units of it:

        units[index * n // count : (index + 1) * n // count]
    of the n units that were drawn. Each of them is in exactly one part. Parts
    differ by at most one unit, and may be empty.

    Attributes:
        index: Which process it is; in [0, count).
        count: Processes; >= 1.
    """

    index: int
    count: int

    def __post_init__(self):
        count = _checks.check_integer("count", self.count, at_least=1)
        index = _checks.check_integer(
            "index", self.index, at_least=0, at_most=count - 1
        )
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "index", index)

    def take(self, units: np.ndarray) -> np.ndarray:
        """Returns this process's part of what was drawn.

        Args:
            units: `[n]`; the same in all processes.
        """
        start, stop = (
            (self.index + i) * len(units) // self.count for i in (0, 1)
        )
        return units[start:stop]
