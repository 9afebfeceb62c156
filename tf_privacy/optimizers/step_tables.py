# SPDX-License-Identifier: Apache-2.0
"""Tables of counted steps: two become one, and no step is forgotten.

Each row is what was counted, its first number > 0, and in the last column how
often. An unused row is all 0; used ones come first.
"""

import numpy as np


def union(table, other) -> np.ndarray:
    """Returns `table`, its rows in place, with what only `other` counted.

    Of two counts of the same the larger stands.

    Args:
        table: `[R, C]` float64.
        other: `[R, C]` float64.

    Raises:
        ValueError: If there are more rows than fit.
    """
    both = np.array(table, np.float64)
    if np.array_equal(table, other):  # As after every step but a restored one.
        return both
    rows = {tuple(both[row, :-1]): row for row in np.flatnonzero(both[:, 0])}
    for line in other[other[:, 0] > 0]:
        key = tuple(line[:-1])
        if key in rows:
            row = rows[key]
            both[row, -1] = max(both[row, -1], line[-1])
        else:
            rows[key] = append(both, line)
    return both


def append(table, line) -> int:
    """Writes a line into the first free row of a table; returns the row.

    Args:
        table: `[R, C]` float64; is changed.
        line: `[C]`.

    Raises:
        ValueError: If no row is free.
    """
    row = int(np.count_nonzero(table[:, 0]))
    if row >= len(table):
        raise ValueError(
            f"a ledger must hold at most {len(table)} kinds of steps. "
            "Received: one more. Keep the noise and the sampling the same for "
            "longer; with correlated noise, fit for more epochs at a time."
        )
    table[row] = line
    return row
