# SPDX-License-Identifier: Apache-2.0
"""A text bar for long computations, shown only where it is asked for."""

import sys
import time
from collections.abc import Callable

_WIDTH = 30
_SECONDS_BETWEEN = 0.1


def make_progress_bar(label: str) -> Callable[[int, int], None]:
    """Returns a function that draws how much is done on stderr.

    Pass it as `progress`. It draws at most ten times a second, and ends the
    line when all is done. Work may end before its budget does.

    Args:
        label: Stands before the bar.

    Returns:
        A function of the number done and the number in all.
    """
    shown = float("-inf")

    def show(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if done < total and now - shown < _SECONDS_BETWEEN:
            return
        shown = now
        filled = _WIDTH if done >= total else _WIDTH * done // total
        bar = "#" * filled + "." * (_WIDTH - filled)
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r{label} [{bar}] {done:,} of {total:,}{end}")
        sys.stderr.flush()

    return show
