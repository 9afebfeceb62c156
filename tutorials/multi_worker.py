# SPDX-License-Identifier: Apache-2.0
"""How do I train on many machines?

    python tutorials/multi_worker.py
    python tutorials/multi_worker.py --lose_at=0

Starts two processes on this machine that train together, as two machines would,
and pulls the plug of one of them on the way. On a cluster, start this script
once on each machine with `TF_CONFIG` set and one folder that all of them see.

What each of them does is what `custom_loop.py` does, and four things more. All
is made in `strategy.scope()`. `share_coins` gives all processes the same secret
coins, and `Shard` says which part of each batch is whose: a batch is one draw,
not one draw for each process. The step goes through `strategy.run`, where
`optimizer.apply` adds up the sums of all processes before the noise, and every
process adds the same noise. `ResumableLoop` lets the first process write
checkpoints, and all of them go on from the last one, with new noise and new
coins; steps that got lost on the way are counted, since a log may have shown
what they released.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import checks
import datasets
import keras
import tensorflow as tf
from absl import app
from absl import flags
from keras import layers

import tf_privacy

_DIRECTORY = flags.DEFINE_string(
    "directory", None, "Folder of the run; None takes a temporary one."
)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 150, "Steps in all.")
_LOSE_AT = flags.DEFINE_integer(
    "lose_at", 80, "Step at which a process is lost; 0 for none."
)
_NOISE_MULTIPLIER = flags.DEFINE_float(
    "noise_multiplier", 3.0, "Noise stddev over the clip."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 128, "Expected size, over all processes."
)
_DELTA = flags.DEFINE_float("delta", 1e-5, "Below 1 / training examples.")
_SMOKE = flags.DEFINE_bool("smoke", False, "A fifth of the steps.")

_NUM_PROCESSES = 2
_EVERY_STEPS = 25  # Between checkpoints.
_LOST = 70  # Exit status of a process that is lost.


def make_model(data: datasets.ImageData) -> keras.Model:
    """Returns a private model, compiled, in the scope of the strategy.

    Args:
        data: What it will classify.
    """
    model = tf_privacy.privatize(
        keras.Sequential(
            [
                keras.Input(data.x_train.shape[1:]),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(data.num_classes),
            ]
        )
    )
    model.compile(
        optimizer=tf_privacy.DPSGD(
            2.0,
            l2_norm_clip=1.0,
            noise_multiplier=_NOISE_MULTIPLIER.value,
            expected_batch_size=_BATCH_SIZE.value,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def make_step(strategy, model, dataset):
    """Returns a compiled function: one step of all processes together.

    Args:
        strategy: The strategy.
        model: Made in its scope.
        dataset: The `PoissonDataset`.
    """
    optimizer, sampling = model.optimizer, dataset.sampling
    specs = [
        tf.TensorSpec((None, *array.shape[1:]), array.dtype)
        for array in dataset[0]
    ]

    def step_on_share(x, y):
        clipped = tf_privacy.clipped_gradients(
            model, x, y, l2_norm_clip=optimizer.l2_norm_clip
        )
        optimizer.apply(clipped.clipped_sum, sampling=sampling)

    # One trace for batches of all sizes: processes that trace at different
    # steps would wait for each other forever.
    @tf.function(input_signature=specs)
    def step(x, y):
        strategy.run(step_on_share, args=(x, y))

    return step


def train(strategy, data: datasets.ImageData) -> None:
    """Trains in one of the processes.

    Args:
        strategy: In all processes, of all of them.
        data: The images; the same in all processes.
    """
    resolver = strategy.cluster_resolver
    is_chief = resolver.task_id == 0
    with strategy.scope():
        model = make_model(data)
        dataset = tf_privacy.PoissonDataset(
            data.x_train,
            data.y_train,
            expected_batch_size=_BATCH_SIZE.value,
            shard=tf_privacy.Shard(
                index=resolver.task_id,
                count=len(resolver.cluster_spec().as_dict()["worker"]),
            ),
            coins=tf_privacy.share_coins(),
        )
    loop = tf_privacy.ResumableLoop(
        str(pathlib.Path(_DIRECTORY.value) / "run"),
        model=model,
        optimizer=model.optimizer,
        dataset=dataset,
        every_steps=min(_EVERY_STEPS, max(1, _NUM_STEPS.value // 4)),
        reserve_steps=4,
    )
    step = make_step(strategy, model, dataset)
    first = None
    for i in loop.steps(_NUM_STEPS.value):
        first = i if first is None else first
        if not is_chief and first == 0 and i == _LOSE_AT.value > 0:
            os._exit(_LOST)  # As if the power had failed.
        step(*dataset[i])
    if is_chief:
        report(model, data, loop.num_lost_steps)


def report(model, data: datasets.ImageData, num_lost_steps: int) -> None:
    """Prints what was achieved and spent.

    Args:
        model: Trained; every process has the same.
        data: The images.
        num_lost_steps: Steps that are counted and not in the model.
    """
    right = model(data.x_test).numpy().argmax(axis=1) == data.y_test
    statement = model.privacy_statement(delta=_DELTA.value)
    print(
        f"accuracy {right.mean():.3f}; {statement.num_steps} steps are "
        f"counted, of which {num_lost_steps} were lost; epsilon "
        f"{checks.round_up(statement.epsilon)} at delta {statement.delta:g}",
        flush=True,
    )


def find_free_ports(number: int) -> list[int]:
    """Returns ports of this machine that nobody listens to.

    Args:
        number: How many.
    """
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run_processes() -> int:
    """Runs all processes until they end, or one is lost, as a cluster would.

    Returns:
        The exit status of one that ended with an error, or 0.
    """
    addresses = [f"localhost:{p}" for p in find_free_ports(_NUM_PROCESSES)]
    processes = []
    for index in range(_NUM_PROCESSES):
        config = {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": index},
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, *sys.argv, f"--directory={_DIRECTORY.value}"],
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
            )
        )
    try:
        while True:
            ended = [p.poll() for p in processes]
            # One that is left alone fails, too.
            if _LOST in ended:
                return _LOST
            if any(ended) or None not in ended:
                return next((status for status in ended if status), 0)
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start_until_done() -> None:
    """Starts all processes again whenever one of them is lost."""
    while status := run_processes():
        if status != _LOST:
            raise SystemExit(status)
        print("a process was lost: all start again", flush=True)


def main(argv):
    """Trains in one process of several, or starts all of them.

    Args:
        argv: The program's name; what is left after the flags.
    """
    checks.check_arguments(argv)
    checks.check_above_zero(_NOISE_MULTIPLIER.name, _NOISE_MULTIPLIER.value)
    if _SMOKE.value:
        flags.FLAGS.num_steps = _NUM_STEPS.value // 5
        flags.FLAGS.lose_at = _LOSE_AT.value // 5
    data = datasets.load_images("digits")
    checks.check_delta(_DELTA.value, len(data.x_train))
    checks.check_batch_size(_BATCH_SIZE.value, len(data.x_train))
    if "TF_CONFIG" in os.environ:
        tf.get_logger().setLevel("ERROR")
        # Before anything else runs on TensorFlow.
        train(tf.distribute.MultiWorkerMirroredStrategy(), data)
        return
    with tempfile.TemporaryDirectory() as folder:
        if _DIRECTORY.value is None:
            flags.FLAGS.directory = folder
        start_until_done()


if __name__ == "__main__":
    app.run(main)
