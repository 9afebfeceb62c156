# SPDX-License-Identifier: Apache-2.0
"""What a private step costs, on paper: one machine and many.

    seconds = a * calls + rows * (b * work + m * traffic) + c * parameters
              + communication
    calls   = calls of layers with weights
    work    = multiplications of a row
    traffic = bytes that a row holds, as `tf_privacy.clipping.costs` has it
    communication = 2 (R - 1) hops of parameters * 4 / R bytes in a ring
A step of R replicas lasts until the slowest of them has its clipped sum, then
until the sums have been around the ring twice: a chunk at a time, each hop
when both neighbours are ready.
"""

import dataclasses

import numpy as np
from scipy import optimize

_BYTES = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One measured step.

    Attributes:
        num_rows: Rows of the batch.
        calls: Calls of layers with trained weights.
        row_work: Multiplications that a row takes.
        row_bytes: Bytes that a row holds; each is written and read.
        parameters: Trained parameters.
        seconds: How long the step took; NaN where it was not measured.
    """

    num_rows: int
    calls: int
    row_work: float
    row_bytes: float
    parameters: int
    seconds: float = float("nan")

    def features(self):
        """Returns what the constants are multiplied with, `[4]`."""
        rows = self.num_rows
        work, traffic = rows * self.row_work, rows * self.row_bytes
        return np.array([self.calls, work, traffic, self.parameters], float)


@dataclasses.dataclass(frozen=True)
class StepCost:
    """The constants of one machine; all >= 0.

    Attributes:
        call: Seconds of a layer call, whatever it multiplies.
        work: Seconds of a multiplication in the pass over the rows.
        traffic: Seconds of a byte in it.
        update: Seconds of a parameter: noise, division, optimizer.
    """

    call: float
    work: float
    traffic: float
    update: float

    def predict(self, point: Point) -> float:
        """Returns the seconds of a step on one machine.

        Args:
            point: Whose `seconds` are not looked at.
        """
        return float(point.features() @ dataclasses.astuple(self))

    def divided_by(self, speed: float) -> "StepCost":
        """Returns the constants of a machine that is so many times faster.

        Args:
            speed: > 0.
        """
        return StepCost(*(np.array(dataclasses.astuple(self)) / speed).tolist())


def fit_cost(points) -> StepCost:
    """Returns the constants that fit the points best.

    Squares of relative errors count, and no constant is negative.

    Args:
        points: At least four measured Points.

    Raises:
        ValueError: If there are fewer points, or one was not measured.
    """
    seconds = np.array([point.seconds for point in points])
    if len(points) < 4 or not np.all(seconds > 0):
        raise ValueError(
            "points must be at least 4, with seconds > 0. Received: seconds "
            f"{seconds}. Measure more of them."
        )
    rows = np.array([point.features() for point in points])
    relative = rows / seconds[:, np.newaxis]
    # Columns of one size: they differ by a factor of 1e10.
    sizes = np.linalg.norm(relative, axis=0)
    constants, _ = optimize.nnls(relative / sizes, np.ones(len(points)))
    return StepCost(*(constants / sizes).tolist())


def compute_ring_seconds(
    ready, *, parameters: int, bandwidth: float, latency: float
):
    """Returns when each replica has the sum of all.

    In the ring a replica sends a chunk of 1 / R of its numbers to the next
    one, R - 1 times to add up and R - 1 times to hand round. It can send what
    it has received, once it is ready itself; so a late replica holds up those
    behind it, until all wait for it.

    Args:
        ready: `[..., R]` seconds, when each replica has its own sum.
        parameters: Numbers that are added up.
        bandwidth: Bytes a second of a link; > 0.
        latency: Seconds that a hop takes whatever its size; >= 0.

    Returns:
        `[..., R]` seconds.
    """
    times = np.array(ready, np.float64)
    num_replicas = times.shape[-1]
    hop = latency + _BYTES * parameters / num_replicas / bandwidth
    for _ in range(2 * (num_replicas - 1)):
        # Its next chunk leaves once the last one has arrived at the other end.
        times = np.maximum(times, np.roll(times, 1, axis=-1)) + hop
    return times


def draw_shards(
    rng, *, batch_size: float, num_replicas: int, split: str, num_steps: int
):
    """Returns how many rows each replica has, `[num_steps, R]`.

    Args:
        rng: A NumPy generator.
        batch_size: Mean rows of a Poisson batch; > 0.
        num_replicas: R.
        split: "even": the batch is drawn, and its rows are dealt out. "coin":
            each replica draws from its own part of the data, or each row goes
            to a replica by chance; the shards are independent then.
        num_steps: Steps to draw.

    Raises:
        ValueError: If `split` is neither.
    """
    if split == "coin":
        mean = batch_size / num_replicas
        return rng.poisson(mean, (num_steps, num_replicas))
    if split != "even":
        raise ValueError(
            f'split must be "even" or "coin". Received: {split!r}. Choose one.'
        )
    rows = rng.poisson(batch_size, (num_steps, 1))
    return (rows + np.arange(num_replicas)) // num_replicas


def simulate_steps(
    cost: StepCost,
    point: Point,
    shards,
    *,
    bandwidth: float,
    latency: float,
):
    """Returns the seconds of each step, `[num_steps]`.

    Each replica noises and updates all parameters.

    Args:
        cost: The constants of one machine.
        point: The model; its `num_rows` are not looked at.
        shards: `[num_steps, R]` rows, from `draw_shards`.
        bandwidth: Bytes a second of a link; > 0.
        latency: Seconds of a hop; >= 0.
    """
    one, none = (
        cost.predict(dataclasses.replace(point, num_rows=n, parameters=0))
        for n in (1, 0)
    )
    summed = compute_ring_seconds(
        none + (one - none) * np.asarray(shards),
        parameters=point.parameters,
        bandwidth=bandwidth,
        latency=latency,
    )
    return np.max(summed, axis=-1) + cost.update * point.parameters
