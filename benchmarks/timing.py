# SPDX-License-Identifier: Apache-2.0
"""Times steps in turn, so that a drifting machine slows all of them."""

import statistics
import time


def _time_once(step, seconds):
    step()
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < seconds or count < 2:
        step()
        count += 1
    return (time.perf_counter() - start) / count


def time_interleaved(steps, *, rounds: int, seconds: float) -> list[float]:
    """Returns the median time of each step.

    Args:
        steps: Functions without arguments.
        rounds: How often each step has its turn; the median counts.
        seconds: How long a step is repeated in its turn.

    Returns:
        Seconds, in the order of `steps`.
    """
    for step in steps:
        for _ in range(3):
            step()
    times = [[] for _ in steps]
    for _ in range(rounds):
        for step, mine in zip(steps, times, strict=True):
            mine.append(_time_once(step, seconds))
    return [statistics.median(mine) for mine in times]
