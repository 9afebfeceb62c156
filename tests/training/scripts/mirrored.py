# SPDX-License-Identifier: Apache-2.0
"""Trains on several replicas, and on one device, and prints what came out.

    python mirrored.py num_replicas scenario...

Each scenario is a function below; prints one JSON object of their results. A
process of its own: logical devices must be made before TensorFlow starts.
"""

import contextlib
import json
import sys
import tempfile
import warnings

import keras
import numpy as np
import tensorflow as tf

import tf_privacy
from tf_privacy.training import fit_data
from tf_privacy.training import replica_training

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = RNG.normal(size=(24, 1)).astype("float32")
SIZES = (5, 0, 1, 8, 3)
STYLES = {
    "number": {},
    "tree": {
        "noise_multiplier": tf_privacy.TreeNoise(
            noise_multiplier=1.0, num_steps=4, min_separation=4
        )
    },
    "toeplitz": {
        "noise_multiplier": tf_privacy.ToeplitzNoise(
            noise_multiplier=1.0,
            num_steps=4,
            coefficients=(1.0, 0.5),
            min_separation=4,
        ),
        "gradient_scaling": tf_privacy.GradientScaling(),
    },
    "integers": {
        "noise_multiplier": tf_privacy.DiscreteGaussianNoise(
            noise_multiplier=1.0
        )
    },
    "quantile": {
        "noise_multiplier": tf_privacy.NoiseSchedule(
            boundaries=(2,), multipliers=(2.0, 1.0)
        ),
        "l2_norm_clip": tf_privacy.QuantileClipping(
            l2_norm_clip=1.0, count_stddev=2.0
        ),
    },
    "bias_corrected": {"preset": tf_privacy.DPAdamBC},
    "averaged": {
        "preset": tf_privacy.DPAdamW,
        "use_ema": True,
        "ema_overwrite_frequency": 2,
    },
}


def make_layers():
    """Returns the layers of a small network."""
    return [
        keras.Input((4,)),
        keras.layers.Dense(6, "tanh", kernel_regularizer="l2"),
        keras.layers.Dense(1),
    ]


def make_model(
    scope, *, make_layers=make_layers, preset=tf_privacy.DPAdam, **settings
):
    """Returns a private model, compiled, made in a scope."""
    settings = {
        "l2_norm_clip": 1.0,
        "noise_multiplier": 1.0,
        "expected_batch_size": 6,
        **settings,
    }
    compiled = {
        key: settings.pop(key)
        for key in ("steps_per_execution", "run_eagerly", "jit_compile")
        if key in settings
    }
    keras.utils.set_random_seed(1)
    with scope:
        model = tf_privacy.privatize(keras.Sequential(make_layers()))
        model.compile(
            preset(0.05, **settings), "mse", metrics=["mae"], **compiled
        )
        model.optimizer.build(model.trainable_variables)
    return model


def batches(x=X, y=Y, sizes=SIZES):
    """Returns a data set of batches of these sizes."""
    ends = np.cumsum(sizes)

    def make():
        for size, end in zip(sizes, ends, strict=True):
            yield x[end - size : end], y[end - size : end]

    return tf.data.Dataset.from_generator(
        make,
        output_signature=(
            tf.TensorSpec((None, *x.shape[1:]), x.dtype),
            tf.TensorSpec((None, *y.shape[1:]), y.dtype),
        ),
    )


def flat_weights(model):
    """Returns all weights as one vector."""
    return np.concatenate([w.ravel() for w in model.get_weights()])


def copies_agree(model):
    """Returns whether all replicas hold the same bits, in every variable."""
    variables = [*model.weights, *model.optimizer.variables]
    return all(
        (copy.numpy() == variable.value.values[0].numpy()).all()
        for variable in variables
        for copy in variable.value.values
    )


def describe(optimizer):
    """Returns the ledger, but for what names one object or release."""
    return [
        [kind.noise_multiplier, kind.sampling_probability, kind.family, count]
        for kind, count in optimizer.ledger.entries()
    ]


def compare(strategy, train, **settings):
    """Trains on one device and on replicas, with the same fixed noise."""
    one = make_model(contextlib.nullcontext(), seed=1, **settings)
    several = make_model(strategy.scope(), seed=1, **settings)
    start = flat_weights(one)
    logs = [train(model) for model in (one, several)]
    moved = flat_weights(one) - start
    error = flat_weights(several) - flat_weights(one)
    return {
        "moved": float(np.abs(moved).max()),
        "error": float(np.abs(error).max()),
        "copies_agree": copies_agree(several),
        "ledgers": [describe(m.optimizer) for m in (one, several)],
        "logs": logs,
    }


def fit_batches(model):
    """Fits on batches of all sizes, and returns the last logs."""
    history = model.fit(batches(), epochs=2, verbose=0).history
    return {key: float(values[-1]) for key, values in history.items()}


def fit_styles(strategy):
    """Fits with every kind of noise, clip and inner optimizer."""
    return {
        name: compare(strategy, fit_batches, **settings)
        for name, settings in STYLES.items()
    }


def fit_units(model):
    """Fits on units of two rows."""
    model.fit(batches(sizes=(6, 0, 2, 10)), verbose=0)


def fit_weighted(model):
    """Fits on classes that are weighted."""
    data = batches(y=(Y > 0).astype("float32"))
    model.fit(data, class_weight={0: 0.5, 1: 1.0}, verbose=0)


def fit_words(model):
    """Fits on indices into a table."""
    model.fit(batches(x=np.arange(24, dtype="int32")[:, None] % 7), verbose=0)


def train_on_batches(model):
    """Takes a step on each batch, that the model must split itself."""
    for size in SIZES:
        model.train_on_batch(X[:size], Y[:size])


def make_table():
    """Returns the layers of a model with an embedding table."""
    return [
        keras.Input((1,), dtype="int32"),
        keras.layers.Embedding(40, 3),
        keras.layers.Flatten(),
        keras.layers.Dense(1),
    ]


def fit_ways(strategy):
    """Fits in every way that Keras and the library have."""
    selected = {
        "make_layers": make_table,
        "preset": tf_privacy.DPSGD,
        "row_selection": tf_privacy.RowSelection(
            threshold=0.5, budget_fraction=0.5
        ),
    }
    ways = {
        "compiled": (fit_batches, {"jit_compile": True}),
        "on_batch": (train_on_batches, {"run_eagerly": True}),
        "units": (
            fit_units,
            {
                "examples_per_unit": 2,
                "expected_batch_size": 3,
                "microbatch_size": 2,
            },
        ),
        "weighted": (fit_weighted, {}),
        "rows": (fit_words, selected),
    }
    return {
        name: compare(strategy, train, **settings)
        for name, (train, settings) in ways.items()
    }


def share_rows(strategy):
    """Returns the rows that each replica gets of each batch."""
    model = make_model(strategy.scope())
    seen = []

    def look(x, y):
        del y
        seen.append([v.numpy().ravel().tolist() for v in x.values])

    results = {}
    for unit, sizes in ((1, (5, 0, 1, 4, 7)), (3, (6, 3, 0, 12))):
        seen.clear()
        rows = np.arange(24, dtype="float32")[:, None]
        source = fit_data.FitData(x=batches(rows, rows, sizes))
        model.optimizer._settings["examples_per_unit"] = unit
        shared = replica_training.share(
            model, source, shuffle=False, class_weight=None
        )
        for x, y in shared.x.get_tf_dataset():
            look(x, y)
        for size in sizes:
            look(
                *tf_privacy.split_over_replicas(
                    (rows[:size], rows[:size]),
                    strategy,
                    examples_per_unit=unit,
                )
            )
        results[unit] = list(seen)
    return results


def draw_noise(strategy):
    """Returns what the updates of a custom loop look like, of noise alone."""
    results = {}
    styles = ("number", "tree", "toeplitz", "integers")
    for name in styles:
        model = make_model(
            strategy.scope(),
            make_layers=lambda: [
                keras.Input((200,)),
                keras.layers.Dense(400, use_bias=False),
            ],
            preset=tf_privacy.DPSGD,
            **STYLES[name] | {"gradient_scaling": None},
        )
        optimizer = model.optimizer

        @tf.function(reduce_retracing=True)
        def step(x, y, model=model, optimizer=optimizer):
            def on_share(x, y):
                clipped = tf_privacy.clipped_gradients(
                    model, x, y, l2_norm_clip=optimizer.l2_norm_clip
                )
                optimizer.apply(clipped.clipped_sum)

            strategy.run(on_share, args=(x, y))

        seen = [flat_weights(model)]
        for size in (2, 0, 5):
            batch = [np.zeros((size, n), "float32") for n in (200, 400)]
            step(*tf_privacy.split_over_replicas(batch, strategy))
            seen.append(flat_weights(model))
        # In units of the noise on the sum.
        updates = np.diff(seen, axis=0) * 6 / 0.05
        results[name] = {
            "size": updates.shape[1],
            "mean_squares": np.mean(updates**2, axis=1).tolist(),
            "products": [
                float(np.mean(updates[i] * updates[j]))
                for i, j in ((0, 1), (1, 2), (0, 2))
            ],
            "copies_agree": copies_agree(model),
            "num_steps": optimizer.ledger.num_steps(),
        }
    return results


def overspend(strategy, model, several: bool):
    """Returns what custom steps past a model's budget do."""
    optimizer, before = model.optimizer, flat_weights(model)
    optimizer.set_budget((1.0, 1e-5))

    def on_share(x, y):
        clipped = tf_privacy.clipped_gradients(
            model, x, y, l2_norm_clip=optimizer.l2_norm_clip
        )
        optimizer.apply(clipped.clipped_sum)

    def step(x, y):
        if several:
            strategy.run(on_share, args=(x, y))
        else:
            on_share(x, y)

    batch = tf_privacy.split_over_replicas(
        (X[:5], Y[:5]), strategy if several else None
    )
    tf.function(step)(*batch)
    results = {
        "compiled": catch(optimizer.check_budget),
        "eager": catch(lambda: step(*batch)),
        "nothing left": catch(optimizer.check_budget),
    }
    results["stayed"] = bool((before == flat_weights(model)).all())
    return results


def spend(strategy):
    """Fits until a budget is spent, saves, loads and goes on."""
    results = {}
    for name, scope in (
        ("one", contextlib.nullcontext),
        ("several", strategy.scope),
    ):
        model = make_model(scope(), noise_multiplier=4.0)
        budget = tf_privacy.PrivacyBudget(2.0, 1e-3)
        with scope():  # Which is allowed, and not needed.
            model.fit(
                X, Y, batch_size=6, epochs=50, verbose=0, callbacks=[budget]
            )
        taken = describe(model.optimizer)
        weights = flat_weights(model)
        refused = None
        try:
            model.fit(X, Y, batch_size=6, verbose=0, callbacks=[budget])
        except tf_privacy.PrivacyBudgetError as error:
            refused = str(error)
        with tempfile.TemporaryDirectory() as folder:
            with scope():
                model.save(folder + "/model.keras")
                loaded = tf_privacy.load_model(folder + "/model.keras")
        results[name] = {
            "taken": taken,
            "refused": refused,
            "unchanged": bool((weights == flat_weights(model)).all()),
            "loaded": describe(loaded.optimizer),
            "same": bool((weights == flat_weights(loaded)).all()),
        }
        results[name] |= overspend(strategy, loaded, name == "several")
        loaded.optimizer.set_budget(None)
        loaded.train_on_batch(X[:5], Y[:5])
        results[name]["more"] = describe(loaded.optimizer)
    return results


def resume(strategy):
    """Fits with checkpoints, twice over as one run."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for epochs in (1, 2):
            model = make_model(strategy.scope())
            model.fit(
                X,
                Y,
                batch_size=6,
                epochs=epochs,
                verbose=0,
                callbacks=[tf_privacy.ResumableTraining(folder + "/run")],
            )
            results.append(model.optimizer.ledger.num_steps())
    return results


def catch(function):
    """Returns the type and the beginning of what a function raises."""
    try:
        function()
    except Exception as error:
        lines = str(error).splitlines()
        # AutoGraph puts a trace before the message.
        while len(lines) > 1 and not lines[-1].strip():
            lines.pop()
        if lines[0] == "in user code:":
            return lines[-1].strip()[:120]
        return f"{type(error).__name__}: {lines[0][:120]}"
    return None


def refuse(strategy):
    """Returns what each mistake raises."""
    scope, none = strategy.scope, contextlib.nullcontext
    model = make_model(scope())
    optimizer = model.optimizer
    make_net = lambda: keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(1)]
    )

    def clip(x, y):
        return tf_privacy.clipped_gradients(
            model, x, y, l2_norm_clip=1.0
        ).clipped_sum

    def step(optimizer):
        split = tf_privacy.split_over_replicas((X[:5], Y[:5]), strategy)
        function = tf.function(lambda x, y: optimizer.apply(clip(x, y)))
        return lambda: strategy.run(function, args=split)

    def compile_apart(made, compiled):
        with made():
            private = tf_privacy.privatize(make_net())
        with compiled():
            private.compile(
                tf_privacy.DPSGD(
                    0.1,
                    l2_norm_clip=1.0,
                    noise_multiplier=1.0,
                    expected_batch_size=6,
                ),
                "mse",
            )

    with none():
        outside = make_model(none()).optimizer
    with scope():
        unbuilt = tf_privacy.DPSGD(
            0.1,
            l2_norm_clip=1.0,
            noise_multiplier=1.0,
            expected_batch_size=6,
        )

    def within_scope():
        with scope():
            optimizer.apply(clip(X[:5], Y[:5]))

    def fit_several_steps(private):
        with scope():
            several = make_net()
            optimizer = keras.optimizers.SGD()
            if private:
                several = tf_privacy.privatize(several)
                optimizer = tf_privacy.DPSGD(
                    0.1, l2_norm_clip=1.0, noise_multiplier=1.0
                )
            several.compile(optimizer, "mse", steps_per_execution=2)
        several.fit(X, Y, batch_size=6, verbose=0)

    def fit_shares():
        rows = tf.data.Dataset.from_tensor_slices((X, Y)).batch(6)
        model.fit(strategy.experimental_distribute_dataset(rows), verbose=0)

    other = tf.distribute.OneDeviceStrategy("CPU:0")
    start = flat_weights(model)
    results = {
        "same rows on all": catch(
            lambda: strategy.run(clip, args=(tf.constant(X), tf.constant(Y)))
        ),
        "same array on all": catch(lambda: strategy.run(clip, args=(X, Y))),
        "optimizer of no scope": catch(step(outside)),
        "optimizer not built": catch(step(unbuilt)),
        "out of the scope": catch(lambda: optimizer.apply(clip(X, Y))),
        "out of run": catch(within_scope),
        "model of no scope": catch(lambda: compile_apart(none, scope)),
        "compiled out of scope": catch(lambda: compile_apart(scope, none)),
        "other strategy": catch(
            lambda: compile_apart(other.scope, other.scope)
        ),
    }
    results["several steps"] = catch(lambda: fit_several_steps(True))
    results["several steps of Keras"] = catch(lambda: fit_several_steps(False))
    results["shares of others"] = catch(fit_shares)
    results["unchanged"] = bool((flat_weights(model) == start).all())
    results["num_steps"] = optimizer.ledger.num_steps()
    return results


SCENARIOS = {
    function.__name__: function
    for function in (
        fit_styles,
        fit_ways,
        share_rows,
        draw_noise,
        spend,
        resume,
        refuse,
    )
}


def main():
    """Runs the scenarios that were asked for."""
    warnings.simplefilter("ignore")
    num_replicas = int(sys.argv[1])
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * num_replicas,
    )
    # One for all: TensorFlow's collective operations of another one would be
    # taken for this one's.
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{index}" for index in range(num_replicas)]
    )
    results = {name: SCENARIOS[name](strategy) for name in sys.argv[2:]}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
