# SPDX-License-Identifier: Apache-2.0
"""The whole of private training under PyTorch, on small models."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import tf_privacy
from tests import source_checks

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="needs KERAS_BACKEND=torch"
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")
Y = X @ np.array([[1.0], [-2.0], [0.5], [0.0]], "float32")


def make_model(layers=None, *, inner=None, augment=None, **options):
    """Return a compiled private model."""
    layers = layers or [keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)]
    model = tf_privacy.DPSequential([keras.Input((4,)), *layers])
    settings = {"l2_norm_clip": 1.0, "noise_multiplier": 1.0, **options}
    optimizer = tf_privacy.DPOptimizer(
        inner or keras.optimizers.SGD(0.1), **settings
    )
    model.compile(optimizer, "mse", augment=augment)
    return model


def fit(model, **options):
    """Return the losses of two epochs of four steps."""
    options = {"batch_size": 16, "epochs": 2, "verbose": 0, **options}
    return model.fit(X, Y, **options).history["loss"]


def moved(model, train):
    """Return whether training moved every weight to another finite value."""
    before = [w.numpy() for w in model.trainable_variables]
    train(model)
    after = [w.numpy() for w in model.trainable_variables]
    return all(
        np.isfinite(b).all() and not np.array_equal(a, b)
        for a, b in zip(before, after, strict=True)
    )


def test_little_noise_trains_as_gradient_descent_does():
    model = make_model(
        [keras.layers.Dense(1)],
        l2_norm_clip=100.0,
        noise_multiplier=1e-6,
        expected_batch_size=64,
    )
    weights = [w.numpy().astype(np.float64) for w in model.trainable_variables]
    model.train_on_batch(X, Y)
    kernel, bias = weights
    error = X @ kernel + bias - Y
    expected = [
        kernel - 0.1 * 2.0 * X.T @ error / 64,
        bias - 0.1 * 2.0 * error.sum(axis=0) / 64,
    ]
    for weight, wanted in zip(model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(weight.numpy(), wanted, atol=1e-4)


STYLES = {
    "plain": {},
    "microbatches": {"microbatch_size": 3},
    "units": {"examples_per_unit": 2},
    "quantile": {"l2_norm_clip": tf_privacy.QuantileClipping(l2_norm_clip=1.0)},
    "per_layer": {
        "l2_norm_clip": tf_privacy.PerLayerClipping(l2_norm_clip=1.0)
    },
    "schedule": {
        "noise_multiplier": tf_privacy.NoiseSchedule(
            boundaries=(3,), multipliers=(1.5, 1.0)
        )
    },
    "tree": {
        "noise_multiplier": tf_privacy.TreeNoise(
            noise_multiplier=1.0, num_steps=8, min_separation=4
        )
    },
    "toeplitz": {
        "noise_multiplier": tf_privacy.ToeplitzNoise.banded(
            noise_multiplier=1.0, num_steps=8, num_bands=3, min_separation=4
        )
    },
    "discrete": {
        "noise_multiplier": tf_privacy.DiscreteGaussianNoise(
            noise_multiplier=1.0
        )
    },
    "scaling": {"gradient_scaling": tf_privacy.GradientScaling(update_every=2)},
}


@pytest.mark.parametrize("name", STYLES)
def test_every_style_trains_and_is_counted(name):
    model = make_model(**STYLES[name])
    size = 8 if name == "units" else 16
    assert moved(model, lambda m: fit(m, batch_size=size))
    assert model.optimizer.ledger.num_steps() == 8
    assert "epsilon" in str(model.privacy_statement(delta=1e-5))


@pytest.mark.parametrize(
    "inner",
    ["Adam", "AdamW", "RMSprop", "Adagrad", "Adamax", "Nadam", "Lion", "Ftrl"],
)
def test_inner_optimizers_update_from_noised_means(inner):
    model = make_model(
        inner=getattr(keras.optimizers, inner)(0.1), expected_batch_size=64
    )
    assert moved(model, lambda m: m.train_on_batch(X, Y))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_low_precision_trains(policy):
    layers = [
        keras.layers.Dense(3, "tanh", dtype=policy),
        keras.layers.Dense(1, dtype=policy),
    ]
    assert moved(make_model(layers), fit)


def test_only_selected_rows_of_a_table_move():
    model = tf_privacy.DPSequential(
        [
            keras.Input((2,), dtype="int32"),
            keras.layers.Embedding(50, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(
        tf_privacy.DPSGD(
            0.1,
            l2_norm_clip=1.0,
            noise_multiplier=0.1,
            expected_batch_size=64,
            row_selection=tf_privacy.RowSelection(
                threshold=20.0, budget_fraction=0.5
            ),
        ),
        "mse",
    )
    before = model.trainable_variables[0].numpy()
    model.train_on_batch(np.tile([[3, 7]], (64, 1)).astype("int32"), Y)
    after = model.trainable_variables[0].numpy()
    moved_rows = np.flatnonzero(np.any(before != after, axis=1))
    np.testing.assert_array_equal(moved_rows, [3, 7])


def test_views_are_averaged_before_the_clip():
    augment = tf_privacy.Augmentation(
        function=keras.layers.GaussianNoise(0.1), num_views=3
    )
    assert moved(make_model(augment=augment), fit)


def test_dropout_keeps_the_fast_path():
    layers = [
        keras.layers.Dense(8),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(1),
    ]
    model = make_model(layers)
    assert moved(model, fit)
    assert "rule" in str(tf_privacy.explain_clipping(model, X))


def test_a_budget_ends_training_and_refuses_more():
    model = make_model()
    budget = tf_privacy.PrivacyBudget(target_epsilon=7.0, target_delta=1e-5)
    fit(model, epochs=50, callbacks=[budget])
    steps = model.optimizer.ledger.num_steps()
    assert 8 < steps < 200
    assert not moved(
        model, lambda m: pytest.raises(tf_privacy.PrivacyBudgetError, fit, m)
    )
    assert model.optimizer.ledger.num_steps() == steps


def test_a_saved_model_is_private_and_remembers(tmp_path):
    model = make_model()
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.ledger.num_steps() == 8
    fit(loaded)
    assert loaded.optimizer.ledger.num_steps() == 16


def test_a_clip_that_was_taken_stays_when_the_optimizers_moves():
    model = make_model(
        l2_norm_clip=tf_privacy.QuantileClipping(l2_norm_clip=1.0),
        expected_batch_size=64,
    )
    model.train_on_batch(X, Y)
    style = model.optimizer.current_clip
    before = float(style.scale)
    model.train_on_batch(X, Y)
    assert float(style.scale) == before
    assert float(model.optimizer.current_clip.scale) != before


def test_a_custom_loop_releases_tensors_without_a_past():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    optimizer = tf_privacy.DPSGD(
        0.1, l2_norm_clip=1.0, noise_multiplier=1.0, expected_batch_size=64
    )
    step = tf_privacy.clipped_gradients(model, X, Y, l2_norm_clip=1.0)
    tensors = [*step.clipped_sum.gradients, step.y_pred, step.norms]
    assert not any(t.requires_grad for t in tensors)
    assert moved(model, lambda m: optimizer.apply(step.clipped_sum))
    assert all(v.value.grad is None for v in model.variables)


def test_two_models_get_different_noise():
    kernels = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        model = make_model([keras.layers.Dense(1)], expected_batch_size=64)
        model.train_on_batch(X, Y)
        kernels.append(model.trainable_variables[0].numpy())
    assert not np.any(kernels[0] == kernels[1])


def test_no_other_framework_is_loaded():
    code = (
        "import sys\n"
        "import keras, numpy as np, tf_privacy\n"
        "model = tf_privacy.DPSequential([keras.Input((4,)),"
        " keras.layers.Dense(1)])\n"
        "model.compile(tf_privacy.DPAdam(1e-3, l2_norm_clip=1.0,"
        " noise_multiplier=1.0), 'mse')\n"
        "x = np.ones((16, 4), 'float32')\n"
        "model.fit(x, x[:, :1], batch_size=8, verbose=0)\n"
        "print(model.privacy_statement(delta=1e-5))\n"
        "sys.exit('tensorflow' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=source_checks.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
