# SPDX-License-Identifier: Apache-2.0
"""What a private step costs, on paper: one machine and many.

    seconds = a * calls + b * work + c * parameters + communication
    calls   = calls of layers with weights
    work    = rows * multiplications of a row
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
        parameters: Trained parameters.
        seconds: How long the step took; NaN where it was not measured.
    """

    num_rows: int
    calls: int
    row_work: float
    parameters: int
    seconds: float = float("nan")

    def features(self):
        """Returns what the constants are multiplied with, `[3]`."""
        work = self.num_rows * self.row_work
        return np.array([self.calls, work, self.parameters], np.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepCost:
    """The constants of one machine; all >= 0.

    Attributes:
        call: Seconds of a layer call, whatever it multiplies.
        work: Seconds of a multiplication in the pass over the rows.
        update: Seconds of a parameter: noise, division, optimizer.
    """

    call: float
    work: float
    update: float

    def predict(self, point: Point) -> float:
        """Returns the seconds of a step on one machine.

        Args:
            point: Whose `seconds` are not looked at.
        """
        return float(point.features() @ [self.call, self.work, self.update])

    def divided_by(self, speed: float) -> "StepCost":
        """Returns the constants of a machine that is so many times faster.

        Args:
            speed: > 0.
        """
        return StepCost(
            call=self.call / speed,
            work=self.work / speed,
            update=self.update / speed,
        )


def fit_cost(points) -> StepCost:
    """Returns the constants that fit the points best.

    Squares of relative errors count, and no constant is negative.

    Args:
        points: At least three measured Points.

    Raises:
        ValueError: If there are fewer points, or one was not measured.
    """
    seconds = np.array([point.seconds for point in points])
    if len(points) < 3 or not np.all(seconds > 0):
        raise ValueError(
            "points must be at least 3, with seconds > 0. Received: seconds "
            f"{seconds}. Measure more of them."
        )
    rows = np.array([point.features() for point in points])
    relative = rows / seconds[:, np.newaxis]
    # Columns of one size: they differ by a factor of 1e10.
    sizes = np.linalg.norm(relative, axis=0)
    constants, _ = optimize.nnls(relative / sizes, np.ones(len(points)))
    call, work, update = (constants / sizes).tolist()
    return StepCost(call=call, work=work, update=update)


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
    shards,
    *,
    calls: int,
    row_work: float,
    parameters: int,
    bandwidth: float,
    latency: float,
):
    """Returns the seconds of each step, `[num_steps]`.

    Args:
        cost: The constants of one machine.
        shards: `[num_steps, R]` rows, from `draw_shards`.
        calls: Calls of layers with trained weights.
        row_work: Multiplications that a row takes.
        parameters: Trained parameters; each replica noises and updates all.
        bandwidth: Bytes a second of a link; > 0.
        latency: Seconds of a hop; >= 0.
    """
    ready = cost.call * calls + cost.work * row_work * np.asarray(shards)
    summed = compute_ring_seconds(
        ready, parameters=parameters, bandwidth=bandwidth, latency=latency
    )
    return np.max(summed, axis=-1) + cost.update * parameters
