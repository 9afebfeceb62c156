# SPDX-License-Identifier: Apache-2.0
"""Predicts the cost of a private step from its batch, model and replicas.

Private steps of small language models are measured on this machine; the
constants of `benchmarks.scaling_model` are fitted to all but the batches that
are held out, and these are predicted. Then the same constants say what a step
of a large model costs on many replicas, at several bandwidths: on paper, with
shards of the mean size, and simulated, with a Poisson batch that is dealt out
evenly and with one of which each replica draws its own part.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --speed=100 --bandwidths=12.5,100
"""

import dataclasses
import functools
import itertools
import statistics
import time

import numpy as np
from absl import app
from absl import flags

from benchmarks import language_model
from benchmarks import large_model_process
from benchmarks import scaling_model

FLAGS = flags.FLAGS
flags.DEFINE_list("sizes", "1x128,3x128,2x256,1x512", "Layers x width.")
flags.DEFINE_list("batches", "2,8,32,64", "Rows of a batch.")
flags.DEFINE_list("held_out", "8", "Batches that are predicted only.")
flags.DEFINE_integer("vocabulary", 4000, "Of the measured models.")
flags.DEFINE_integer("sequence", 16, "Tokens of a row of these.")
flags.DEFINE_integer("rounds", 15, "Interleaved rounds; the median counts.")
flags.DEFINE_enum(
    "clock",
    "wall",
    ["wall", "cpu"],
    "Seconds that pass, or of all cores: less disturbed by other programs.",
)
flags.DEFINE_enum("optimizer", "adam", ["sgd", "adam"], "Which optimizer.")
flags.DEFINE_string("large", "12x768", "Layers x width on many replicas.")
flags.DEFINE_integer("large_vocabulary", 50257, "Different tokens.")
flags.DEFINE_integer("large_sequence", 128, "Tokens of a row.")
flags.DEFINE_float("large_batch", 1024.0, "Mean rows of a batch.")
flags.DEFINE_list("bandwidths", "1.25,12.5,100", "GB/s of a link.")
flags.DEFINE_float("latency", 2e-5, "Seconds of a hop.")
flags.DEFINE_float("speed", 1.0, "Of a replica, over this machine.")
flags.DEFINE_integer("simulated_steps", 2000, "For each row of the table.")
flags.DEFINE_string("plot", None, "A file to draw the prediction into.")

_REPLICAS = (1, 2, 4, 8, 16, 32, 64)


def make_case(size: str, *, batch_size: int, vocabulary: int, sequence: int):
    """Returns the private training of one model.

    Args:
        size: "layers x width", such as "2x64".
        batch_size: Rows of a batch; it is not split.
        vocabulary: Different tokens.
        sequence: Tokens of a row.

    Returns:
        A `large_model_process.Case`.
    """
    layers, width = map(int, size.split("x"))
    return large_model_process.Case(
        size=language_model.Size(
            layers=layers, width=width, vocabulary=vocabulary, sequence=sequence
        ),
        is_private=True,
        optimizer=FLAGS.optimizer,
        batch_size=batch_size,
        microbatch_size=batch_size,
    )


def _make_points(size, batch_sizes):
    """Returns a Point and a step for each batch size of one model."""
    case = make_case(
        size,
        batch_size=max(batch_sizes),
        vocabulary=FLAGS.vocabulary,
        sequence=FLAGS.sequence,
    )
    model = large_model_process.make_model(case)
    rng = np.random.default_rng(0)
    batches = [
        large_model_process.make_batch(rng, case, n) for n in batch_sizes
    ]
    for batch in batches:
        model.train_on_batch(*batch)  # Traced by now, for any number of rows.
    point = large_model_process.make_point(model, case)
    points = [dataclasses.replace(point, num_rows=n) for n in batch_sizes]
    steps = [functools.partial(model.train_on_batch, *b) for b in batches]
    return list(zip(points, steps, strict=True))


def _measure(points_and_steps):
    """Returns measured Points; all steps take turns, and medians count."""
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[FLAGS.clock]
    times = [[] for _ in points_and_steps]
    for _ in range(FLAGS.rounds):
        for (_, step), mine in zip(points_and_steps, times, strict=True):
            start = clock()
            step()
            mine.append(clock() - start)
    return [
        dataclasses.replace(point, seconds=statistics.median(mine))
        for (point, _), mine in zip(points_and_steps, times, strict=True)
    ]


def _print_points(points, cost):
    print(
        f"{FLAGS.clock} seconds = {cost.call:.2e} * calls + rows * "
        f"({cost.work:.2e} * work + {cost.traffic:.2e} * bytes) + "
        f"{cost.update:.2e} * parameters"
    )
    print(
        f"{'parameters':>10} {'calls':>5} {'rows':>5} {'work':>9} {'bytes':>9} "
        f"{'measured':>9} {'predicted':>9} {'ratio':>6}"
    )
    for point in points:
        predicted = cost.predict(point)
        mark = "held out" if str(point.num_rows) in FLAGS.held_out else ""
        print(
            f"{point.parameters:>10,} {point.calls:>5} {point.num_rows:>5} "
            f"{point.row_work:>9.2e} {point.row_bytes:>9.2e} "
            f"{point.seconds * 1e3:>6.1f} ms {predicted * 1e3:>6.1f} ms "
            f"{predicted / point.seconds:>6.2f} {mark}"
        )


def _predict(cost, large):
    """Prints the table of replicas, and returns its rows."""
    print(
        f"\n{FLAGS.large}: {large.parameters:,} parameters, batch "
        f"{FLAGS.large_batch:g}, {FLAGS.speed:g} times this machine\n"
        f"{'GB/s':>6} {'replicas':>8} {'paper s':>9} {'even s':>9} "
        f"{'coin s':>9} {'speedup':>8} {'ring':>6}"
    )
    rows = []
    for bandwidth, count in itertools.product(FLAGS.bandwidths, _REPLICAS):
        link = {
            "bandwidth": 1e9 * float(bandwidth),
            "latency": FLAGS.latency,
        }
        mean = np.full((1, count), FLAGS.large_batch / count)
        paper = scaling_model.simulate_steps(cost, large, mean, **link)[0]
        simulated = [
            np.mean(
                scaling_model.simulate_steps(
                    cost,
                    large,
                    scaling_model.draw_shards(
                        np.random.default_rng(0),
                        batch_size=FLAGS.large_batch,
                        num_replicas=count,
                        split=split,
                        num_steps=FLAGS.simulated_steps,
                    ),
                    **link,
                )
            )
            for split in ("even", "coin")
        ]
        ring = np.max(
            scaling_model.compute_ring_seconds(
                np.zeros(count),
                parameters=large.parameters,
                **link,
            )
        )
        rows.append((float(bandwidth), count, paper, *simulated))
        first = next(r for r in rows if r[0] == float(bandwidth))
        print(
            f"{bandwidth:>6} {count:>8} {paper:>9.3f} {simulated[0]:>9.3f} "
            f"{simulated[1]:>9.3f} {first[4] / simulated[1]:>8.1f} "
            f"{ring / paper:>6.0%}"
        )
    return rows


def _plot(rows):
    from matplotlib import pyplot

    for bandwidth in FLAGS.bandwidths:
        mine = [row for row in rows if row[0] == float(bandwidth)]
        counts = [row[1] for row in mine]
        pyplot.loglog(counts, [row[3] for row in mine], label=bandwidth)
    pyplot.xlabel("replicas")
    pyplot.ylabel("seconds a step, evenly dealt out")
    pyplot.legend(title="GB/s")
    pyplot.savefig(FLAGS.plot)


def main(argv):
    """Prints what was measured and predicted, then what is to be expected."""
    del argv
    batch_sizes = [int(n) for n in FLAGS.batches]
    pairs = [p for size in FLAGS.sizes for p in _make_points(size, batch_sizes)]
    points = _measure(pairs)
    cost = scaling_model.fit_cost(
        [p for p in points if str(p.num_rows) not in FLAGS.held_out]
    )
    _print_points(points, cost)
    case = make_case(
        FLAGS.large,
        batch_size=1,
        vocabulary=FLAGS.large_vocabulary,
        sequence=FLAGS.large_sequence,
    )
    model = large_model_process.make_model(case)
    large = large_model_process.make_point(model, case)
    rows = _predict(cost.divided_by(FLAGS.speed), large)
    if FLAGS.plot:
        _plot(rows)


if __name__ == "__main__":
    app.run(main)
