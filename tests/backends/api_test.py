# SPDX-License-Identifier: Apache-2.0
"""The whole way of a private model, on whichever Keras backend is in use.

Run here on TensorFlow, and by `other_backends_test.py` on the others. Random
bounds have a false-alarm probability of at most 1e-6.
"""

import subprocess
import sys

import keras
import numpy as np
import pytest
from scipy import stats

import tf_privacy
from tests import normality

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")
LABELS = RNG.integers(0, 3, 64)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
DELTA = 1e-5
TINY = 1e-6  # Noise that does not show in float32 sums.


def make_optimizer(preset=tf_privacy.DPSGD, **changes):
    settings = {
        "learning_rate": 0.5,
        "l2_norm_clip": 1.0,
        "noise_multiplier": 1.0,
        **changes,
    }
    return preset(**settings)


def make_model(*layers, optimizer=None, **options):
    layers = layers or (keras.layers.Dense(3),)
    model = tf_privacy.DPSequential([keras.Input((4,)), *layers])
    model.compile(optimizer or make_optimizer(), LOSS, **options)
    return model


def num_steps(model):
    """Return the counted steps; the optimizer must have made as many."""
    counted = model.optimizer.ledger.num_steps()
    made = keras.ops.convert_to_numpy(model.optimizer.iterations.value)
    assert counted == int(made)
    return counted


def flat_weights(model):
    return np.concatenate([np.ravel(w) for w in model.get_weights()])


def reference_step(model, x, labels, *, clip, divisor, learning_rate):
    """Return the weights after one clipped step, by hand, of a linear model."""
    kernel, bias = model.get_weights()
    logits = x @ kernel + bias
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    errors = odds / odds.sum(axis=1, keepdims=True)
    errors[np.arange(len(x)), labels] -= 1.0
    kernels = x[:, :, None] * errors[:, None, :]
    sizes = np.sum(kernels**2, axis=(1, 2)) + np.sum(errors**2, axis=1)
    factors = np.minimum(1.0, clip / np.sqrt(sizes))
    return (
        kernel
        - learning_rate * np.tensordot(factors, kernels, axes=1) / divisor,
        bias - learning_rate * factors @ errors / divisor,
    )


def test_a_step_is_that_of_single_examples():
    optimizer = make_optimizer(
        l2_norm_clip=0.7, noise_multiplier=TINY, expected_batch_size=20
    )
    model = make_model(optimizer=optimizer)
    expected = reference_step(
        model, X, LABELS, clip=0.7, divisor=20, learning_rate=0.5
    )
    model.train_on_batch(X, LABELS)
    for weight, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, wanted, atol=1e-5)


@pytest.mark.parametrize("microbatch_size", [None, 5, 64])
def test_fit_counts_its_steps_and_is_the_same_in_pieces(microbatch_size):
    optimizer = make_optimizer(
        noise_multiplier=TINY, microbatch_size=microbatch_size
    )
    model = make_model(optimizer=optimizer, metrics=["accuracy"])
    model.set_weights([np.zeros((4, 3)), np.zeros(3)])
    data = tf_privacy.PoissonDataset(X, LABELS, expected_batch_size=64)
    history = model.fit(data, epochs=2, verbose=0)
    assert num_steps(model) == 2
    # Everybody is in every batch: two steps of gradient descent.
    twin = make_model()
    twin.set_weights([np.zeros((4, 3)), np.zeros(3)])
    losses = []
    for _ in range(2):
        logits = keras.ops.convert_to_numpy(twin(X))
        losses.append(float(LOSS(LABELS, logits)))
        twin.set_weights(
            reference_step(
                twin, X, LABELS, clip=1.0, divisor=64, learning_rate=0.5
            )
        )
    np.testing.assert_allclose(flat_weights(model), flat_weights(twin), 1e-4)
    np.testing.assert_allclose(history.history["loss"], losses, 1e-4)


def test_logs_are_means_over_the_rows_that_joined():
    model = make_model(
        optimizer=make_optimizer(noise_multiplier=TINY),
        metrics=["accuracy"],
        weighted_metrics=["sparse_categorical_accuracy"],
    )
    bias = [5.0, 0.0, -5.0]
    model.set_weights([np.zeros((4, 3)), np.array(bias)])
    model.optimizer.learning_rate = 0.0
    data = tf_privacy.PoissonDataset(
        X, np.zeros(64, int), expected_batch_size=32, steps_per_epoch=3
    )
    logs = model.fit(data, verbose=0).history
    loss = np.log(np.sum(np.exp(bias))) - 5.0
    np.testing.assert_allclose(logs["loss"], [loss], rtol=1e-4)
    np.testing.assert_allclose(logs["accuracy"], [1.0])
    weighted = logs["sparse_categorical_accuracy"]
    np.testing.assert_allclose(weighted, [1.0])


def test_sample_and_class_weights_scale_gradients_before_the_clip():
    weights = {0: 0.0, 1: 1.0, 2: 1.0}
    made = []
    for by_class in (True, False):
        model = make_model(optimizer=make_optimizer(noise_multiplier=TINY))
        model.set_weights([np.zeros((4, 3)), np.zeros(3)])
        own = np.array([weights[label] for label in LABELS], "float32")
        model.fit(
            X,
            LABELS,
            batch_size=64,
            sample_weight=None if by_class else own,
            class_weight=weights if by_class else None,
            verbose=0,
        )
        made.append(flat_weights(model))
    counted = LABELS > 0
    twin = make_model()
    twin.set_weights([np.zeros((4, 3)), np.zeros(3)])
    twin.set_weights(
        reference_step(
            twin,
            X[counted],
            LABELS[counted],
            clip=1.0,
            divisor=64,
            learning_rate=0.5,
        )
    )
    for found in made:
        np.testing.assert_allclose(found, flat_weights(twin), atol=1e-5)


def noise_of_steps(model, count):
    """Return what each of some steps on nothing adds to the weights."""
    made = []
    for _ in range(count):
        before = flat_weights(model)
        model.train_on_batch(X[:0], LABELS[:0])
        made.append(flat_weights(model) - before)
    return np.array(made)


def test_noise_has_the_stated_size_and_never_comes_again():
    optimizer = make_optimizer(
        learning_rate=1.0,
        l2_norm_clip=2.0,
        noise_multiplier=1.5,
        expected_batch_size=4,
    )
    model = make_model(keras.layers.Dense(900), optimizer=optimizer)
    noise = noise_of_steps(model, 3)
    normality.check_stddev(noise, 2.0 * 1.5 / 4)
    assert stats.kstest(noise.ravel() / 0.75, "norm").pvalue > 1e-6
    for one, other in ((0, 1), (0, 2), (1, 2)):
        correlation = np.corrcoef(noise[one], noise[other])[0, 1]
        assert abs(correlation) < 5.0 / np.sqrt(noise.shape[1])


def test_two_runs_of_one_global_seed_share_no_noise():
    noise = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        model = make_model(optimizer=make_optimizer(expected_batch_size=4))
        noise.append(noise_of_steps(model, 1))
    assert not np.any(noise[0] == noise[1])


def test_a_budget_stops_in_time_and_holds_after_loading(tmp_path):
    model = make_model()
    budget = tf_privacy.PrivacyBudget(target_epsilon=6.0, target_delta=DELTA)
    data = {"x": X, "y": LABELS, "batch_size": 16, "verbose": 0}
    history = model.fit(**data, epochs=50, callbacks=[budget])
    spent = model.privacy_statement(delta=DELTA).epsilon
    assert 4.0 < spent <= 6.0
    assert history.history["epsilon"][-1] == pytest.approx(spent)
    steps = num_steps(model)
    with pytest.raises(tf_privacy.PrivacyBudgetError):
        model.fit(**data)
    assert num_steps(model) == steps
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert num_steps(loaded) == steps
    assert loaded.optimizer.budget == (6.0, DELTA)
    np.testing.assert_array_equal(flat_weights(loaded), flat_weights(model))
    before = flat_weights(loaded)
    with pytest.raises(tf_privacy.PrivacyBudgetError):
        loaded.fit(**data)
    np.testing.assert_array_equal(flat_weights(loaded), before)


def test_weights_are_there_after_a_step_that_fails():
    model = make_model()

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(X, LABELS, batch_size=8, verbose=0, callbacks=[Interrupt()])
    assert num_steps(model) == 3
    assert np.all(np.isfinite(flat_weights(model)))
    model.fit(X, LABELS, batch_size=8, verbose=0)
    assert num_steps(model) == 11


def test_callbacks_see_the_weights_of_each_step():
    model = make_model()
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((flat_weights(self.model), num_steps(self.model)))

    model.fit(X, LABELS, batch_size=16, verbose=0, callbacks=[Look()])
    assert [count for _, count in seen] == [1, 2, 3, 4]
    for (before, _), (after, _) in zip(seen, seen[1:], strict=False):
        assert np.any(before != after)


def test_a_run_that_was_killed_goes_on_and_forgets_no_step(tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if num_steps(self.model) == 6:
                raise KeyboardInterrupt

    def fit(*callbacks):
        model = make_model(optimizer=make_optimizer(tf_privacy.DPAdam))
        resume = tf_privacy.ResumableTraining(tmp_path / "run", reserve_steps=3)
        model.fit(
            X,
            LABELS,
            batch_size=16,
            epochs=3,
            verbose=0,
            callbacks=[resume, *callbacks],
        )
        return model, resume

    with pytest.raises(KeyboardInterrupt):
        fit(Kill())
    model, resume = fit()
    # Two steps ran after the checkpoint, and one more was announced.
    assert 2 <= resume.num_lost_steps <= 5
    assert model.optimizer.ledger.num_steps() == 12 + resume.num_lost_steps
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 12


def test_hostile_rows_add_nothing_or_no_more_than_the_clip():
    optimizer = make_optimizer(
        learning_rate=1.0, noise_multiplier=TINY, expected_batch_size=1
    )
    model = make_model(optimizer=optimizer)
    start = model.get_weights()
    for value, most in ((np.nan, 0.0), (np.inf, 0.0), (1e30, 1.0)):
        model.set_weights(start)
        model.train_on_batch(np.full((1, 4), value, "float32"), LABELS[:1])
        moved = flat_weights(model) - np.concatenate(list(map(np.ravel, start)))
        assert np.linalg.norm(moved) <= most * (1 + 1e-5) + 1e-4


def test_dropout_differs_between_rows_and_between_steps():
    """A dropped input leaves a row of the kernel's gradient at zero."""
    model = make_model(
        keras.layers.Dropout(0.5),
        keras.layers.Dense(3, use_bias=False),
        optimizer=make_optimizer(noise_multiplier=TINY, expected_batch_size=1),
    )
    ones = np.ones((1, 4), "float32")
    masks = []
    for _ in range(12):
        before = model.get_weights()[0]
        model.train_on_batch(ones, LABELS[:1])
        moved = np.abs(model.get_weights()[0] - before).max(axis=1)
        masks.append(tuple(moved > 1e-4))
    assert len(set(masks)) > 1
    norms = tf_privacy.clipped_gradients(
        model, np.repeat(ones, 12, axis=0), LABELS[:12] * 0, l2_norm_clip=1.0
    ).norms
    assert len(set(np.round(keras.ops.convert_to_numpy(norms), 4))) > 1


def test_users_and_augmented_views_are_units():
    optimizer = make_optimizer(
        noise_multiplier=TINY, examples_per_unit=2, expected_batch_size=1
    )
    model = make_model(optimizer=optimizer)
    model.set_weights([np.zeros((4, 3)), np.zeros(3)])
    x = np.repeat(X[:1], 2, axis=0) * 100.0
    before = flat_weights(model)
    model.train_on_batch(x, np.repeat(LABELS[:1], 2))
    # Two rows, one unit: one clip, not two.
    moved = np.linalg.norm(flat_weights(model) - before)
    np.testing.assert_allclose(moved, 0.5, rtol=1e-4)
    views = tf_privacy.Augmentation(function=lambda x: -x, num_views=2)
    model = make_model(augment=views)
    model.fit(X, LABELS, batch_size=16, verbose=0)
    assert num_steps(model) == 4


STYLES = {
    "quantile": {"l2_norm_clip": tf_privacy.QuantileClipping(l2_norm_clip=1.0)},
    "per_layer": {
        "l2_norm_clip": tf_privacy.PerLayerClipping(l2_norm_clip=1.0)
    },
    "schedule": {
        "noise_multiplier": tf_privacy.NoiseSchedule(
            boundaries=(2,), multipliers=(2.0, 1.0)
        )
    },
    "tree": {
        "noise_multiplier": tf_privacy.TreeNoise(
            noise_multiplier=4.0, num_steps=8, min_separation=4
        )
    },
    "discrete": {
        "noise_multiplier": tf_privacy.DiscreteGaussianNoise(
            noise_multiplier=1.0
        )
    },
    "scaling": {"gradient_scaling": tf_privacy.GradientScaling()},
}


@pytest.mark.parametrize("style", STYLES)
def test_every_style_trains_and_is_accounted(style):
    preset = tf_privacy.DPAdam
    if style in ("quantile", "per_layer"):
        preset = tf_privacy.DPSGD
    model = make_model(optimizer=make_optimizer(preset, **STYLES[style]))
    history = model.fit(X, LABELS, batch_size=16, epochs=2, verbose=0)
    assert num_steps(model) == 8
    assert np.all(np.isfinite(history.history["loss"]))
    assert np.all(np.isfinite(flat_weights(model)))
    assert model.privacy_statement(delta=DELTA).epsilon > 0.0
    kinds = [kind for kind, _ in model.optimizer.ledger.entries()]
    assert len(kinds) == (2 if style == "schedule" else 1)


def test_correlated_noise_gets_its_batches_in_their_order():
    asked = []

    class Watched(tf_privacy.CyclicDataset):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    style = tf_privacy.TreeNoise(
        noise_multiplier=4.0, num_steps=32, min_separation=8
    )
    model = make_model(optimizer=make_optimizer(noise_multiplier=style))
    data = Watched(X, LABELS, batch_size=8)
    model.fit(data, epochs=4, verbose=0)
    # What is read ahead for shapes comes before the passes.
    assert asked[-32:] == 4 * list(range(8))


def test_selected_rows_only_are_updated():
    optimizer = make_optimizer(
        noise_multiplier=0.01,
        row_selection=tf_privacy.RowSelection(
            threshold=4.0, budget_fraction=0.1
        ),
        expected_batch_size=8,
    )
    model = tf_privacy.DPSequential(
        [
            keras.Input((1,), dtype="int32"),
            keras.layers.Embedding(10, 2),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    model.compile(optimizer, LOSS)
    before = model.get_weights()[0]
    model.train_on_batch(np.array([[3]] * 8), LABELS[:8])
    moved = np.any(model.get_weights()[0] != before, axis=1)
    assert moved.tolist() == [i == 3 for i in range(10)]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_small_network_learns(dtype):
    centers = np.array([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]])
    labels = RNG.integers(0, 3, 400)
    x = (centers[labels] + RNG.normal(size=(400, 4)) * 0.5).astype("float32")
    model = make_model(
        keras.layers.Dense(16, activation="relu", dtype=dtype),
        keras.layers.Dense(3, dtype=dtype),
        keras.layers.Activation("linear", dtype="float32"),
        optimizer=make_optimizer(tf_privacy.DPAdam, learning_rate=0.02),
        metrics=["accuracy"],
    )
    model.fit(x, labels, batch_size=100, epochs=10, verbose=0)
    assert model.evaluate(x, labels, verbose=0)[1] > 0.9


def test_a_compiled_custom_loop_counts_every_step():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3, use_bias=False),
        ]
    )
    optimizer = make_optimizer(
        tf_privacy.DPAdam, noise_multiplier=TINY, expected_batch_size=16
    )

    def step(x, y):
        clipped = tf_privacy.clipped_gradients(
            model,
            x,
            y,
            l2_norm_clip=optimizer.current_clip,
            loss=lambda y, y_pred, weight: LOSS(y, y_pred),
        )
        optimizer.apply(clipped.clipped_sum)
        return clipped.norms

    step = tf_privacy.compile_step(step, model=model, optimizer=optimizer)
    norms = [np.asarray(step(X[:16], LABELS[:16])) for _ in range(5)]
    optimizer.check_budget()
    assert optimizer.ledger.num_steps() == 5
    # The masks of dropout are others, so the norms are.
    assert len({tuple(np.round(n, 3)) for n in norms}) == 5
    spent = optimizer.ledger
    tf_privacy.PrivacyBudget(target_epsilon=1.0, target_delta=DELTA)
    spent.set_budget((1.0, DELTA))
    before = model.get_weights()[0]
    if BACKEND == "torch":
        with pytest.raises(tf_privacy.PrivacyBudgetError):
            step(X[:16], LABELS[:16])
    else:
        step(X[:16], LABELS[:16])
        with pytest.raises(tf_privacy.PrivacyBudgetError):
            optimizer.check_budget()
    np.testing.assert_array_equal(model.get_weights()[0], before)


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX's traces hold constants")
def test_a_compiled_step_that_would_repeat_its_noise_is_refused():
    import jax

    model = make_model(optimizer=make_optimizer(expected_batch_size=4))
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)

    @jax.jit
    def step(weights, state):
        mapping = [
            *zip(model.trainable_variables, weights, strict=True),
            *zip(optimizer.variables, state, strict=True),
        ]
        with keras.StatelessScope(mapping) as scope:
            clipped = tf_privacy.clipped_gradients(
                model, X[:4], LABELS[:4], l2_norm_clip=1.0
            )
            optimizer.apply(clipped.clipped_sum)
            return [
                scope.get_current_value(v) for v in model.trainable_variables
            ]

    with pytest.raises(RuntimeError, match="optimizer.apply must be compiled"):
        step(
            [v.value for v in model.trainable_variables],
            [v.value for v in optimizer.variables],
        )


def test_views_of_a_layer_are_others_in_each_step():
    """Half of the inputs are dropped, and with them a row of the gradient."""
    views = tf_privacy.Augmentation(
        function=keras.layers.Dropout(0.5), num_views=1
    )
    model = make_model(
        keras.layers.Dense(3, use_bias=False),
        optimizer=make_optimizer(noise_multiplier=TINY, expected_batch_size=1),
        augment=views,
    )
    masks = set()
    for _ in range(12):
        before = model.get_weights()[0]
        model.train_on_batch(np.ones((1, 4), "float32"), LABELS[:1])
        moved = np.abs(model.get_weights()[0] - before).max(axis=1)
        masks.add(tuple(moved > 1e-4))
    assert len(masks) > 1


def test_refusals_are_the_same_everywhere():
    with pytest.raises(ValueError, match="model must hold no BatchNorm"):
        make_model(keras.layers.BatchNormalization())

    class Mixer(keras.layers.Layer):
        def call(self, inputs):
            return inputs - keras.ops.mean(inputs, axis=0, keepdims=True)

    model = make_model(Mixer(), keras.layers.Dense(3))
    with pytest.raises(ValueError, match="model must hold no layer that mixes"):
        model.fit(X, LABELS, batch_size=16, verbose=0)
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    plain.compile(make_optimizer(), LOSS)
    with pytest.raises(TypeError):
        plain.fit(X, LABELS, verbose=0)
    with pytest.raises(RuntimeError, match="model.train_step must be called"):
        state = (None,) if BACKEND == "jax" else ()
        make_model().train_step(*state, (X, LABELS))


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX compiles for a shape")
def test_batches_of_all_sizes_run_through_one_compiled_step(caplog):
    model = make_model(keras.layers.Dense(8), keras.layers.Dense(3))
    model.fit(X, LABELS, batch_size=16, epochs=2, verbose=0)
    import jax

    with jax.log_compiles(), caplog.at_level("WARNING"):
        model.fit(X, LABELS, batch_size=16, epochs=4, verbose=0)
    compiled = [r.message for r in caplog.records if "compil" in r.message]
    assert not [m for m in compiled if "step" in m]
    assert num_steps(model) == 24


_FIT = """
import sys
import keras
import numpy as np
import tf_privacy

model = tf_privacy.DPSequential([keras.Input((4,)), keras.layers.Dense(1)])
optimizer = tf_privacy.DPSGD(0.1, l2_norm_clip=1.0, noise_multiplier=1.0)
model.compile(optimizer, "mse", metrics=["mae"])
model.fit(np.ones((8, 4)), np.ones((8, 1)), batch_size=4, verbose=0)
print(model.privacy_statement(delta=1e-5))
print([n for n in sys.modules if n.split(".")[0] == "tensorflow"])
"""


@pytest.mark.skipif(BACKEND == "tensorflow", reason="of the other backends")
def test_tensorflow_is_not_imported():
    command = [sys.executable, "-c", _FIT]
    printed = subprocess.run(command, capture_output=True, text=True)
    assert printed.stdout.splitlines()[-1:] == ["[]"], printed.stderr
