# SPDX-License-Identifier: Apache-2.0
"""One of several processes that train together and may be killed.

    TF_CONFIG=... python workers.py folder lose_at

Takes steps on noise alone and leaves, in the folder, the rows that it drew and
the weights after each step; prints one JSON object.
"""

import json
import os
import pathlib
import sys
import warnings

import keras
import numpy as np
import tensorflow as tf

import tf_privacy

NUM_STEPS = 6
NUM_ROWS = 40


def make_model(preset=tf_privacy.DPSGD, **settings):
    """Returns a private model whose weights are an update of each other."""
    model = tf_privacy.privatize(
        keras.Sequential(
            [
                keras.Input((200,)),
                keras.layers.Dense(400, use_bias=False),
            ]
        )
    )
    settings = {
        "l2_norm_clip": 1.0,
        "noise_multiplier": 1.0,
        "expected_batch_size": 8,
        **settings,
    }
    model.compile(preset(1.0, **settings), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def make_step(strategy, model, sampling):
    """Returns a compiled step of all processes."""
    optimizer = model.optimizer

    def on_share(x, y, sample_weight):
        clipped = tf_privacy.clipped_gradients(
            model, x, y, sample_weight, l2_norm_clip=optimizer.l2_norm_clip
        )
        optimizer.apply(clipped.clipped_sum, sampling=sampling)

    # One trace in every process: their collective operations must agree.
    specs = [
        tf.TensorSpec((None, *shape), "float32")
        for shape in ((200,), (400,), ())
    ]

    @tf.function(input_signature=specs)
    def step(x, y, sample_weight):
        strategy.run(on_share, args=(x, y, sample_weight))

    return step


def catch(function):
    """Returns the type and the beginning of what a function raises."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def refuse(strategy, model):
    """Returns what several processes cannot do."""

    def fit_by_keras():
        with strategy.scope():
            plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
            plain.compile("sgd", "mse")
        plain.fit(np.ones((8, 2)), np.ones((8, 1)), batch_size=4, verbose=0)

    def draw_integers():
        with strategy.scope():
            make_model(
                noise_multiplier=tf_privacy.DiscreteGaussianNoise(
                    noise_multiplier=1.0
                )
            )

    x, y = np.zeros((8, 200)), np.zeros((8, 400))
    return {
        "integers": catch(draw_integers),
        "fit": catch(lambda: model.fit(x, y, batch_size=8, verbose=0)),
        # Last: it may break off what the processes share.
        "fit by Keras": catch(fit_by_keras),
    }


def main():
    """Trains, and says what was spent."""
    folder, lose_at = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    warnings.simplefilter("ignore")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index = strategy.cluster_resolver.task_id
    x = np.zeros((NUM_ROWS, 200), "float32")
    x[:, 0] = np.arange(NUM_ROWS)
    with strategy.scope():
        model = make_model()
        dataset = tf_privacy.PoissonDataset(
            x,
            np.zeros((NUM_ROWS, 400)),
            np.zeros(NUM_ROWS),  # No gradient: only noise moves the weights.
            expected_batch_size=8,
            shard=tf_privacy.Shard(index=index, count=2),
            coins=tf_privacy.share_coins(),
        )
    step = make_step(strategy, model, dataset.sampling)
    loop = tf_privacy.ResumableLoop(
        str(folder / "run"),
        model=model,
        optimizer=model.optimizer,
        dataset=dataset,
        every_steps=2,
        reserve_steps=1,
    )
    attempt = "first" if lose_at else "second"
    for i in loop.steps(NUM_STEPS):
        if index == 1 and i == lose_at > 0:
            os._exit(70)
        batch = dataset[i]
        before = model.get_weights()[0]
        step(*batch)
        np.savez(
            folder / f"{attempt}-{index}-{i}.npz",
            rows=batch[0][:, 0],
            update=8 * (model.get_weights()[0] - before),
        )
    optimizer = model.optimizer
    results = {
        "ledger": [
            [kind.sampling_probability, kind.num_examples, count]
            for kind, count in optimizer.ledger.entries()
        ],
        "weights": float(np.sum(model.get_weights()[0], dtype=np.float64)),
        "num_lost": loop.num_lost_steps,
    }
    # A step is taken only where all processes allow it.
    if index == 1:
        optimizer.set_budget((1.0, 1e-5))
    before = model.get_weights()[0]
    step(*(a[:2] for a in batch))
    results["refused"] = optimizer.ledger.num_refused()
    results["stayed"] = bool((before == model.get_weights()[0]).all())
    print(json.dumps({**results, **refuse(strategy, model)}))


if __name__ == "__main__":
    main()
