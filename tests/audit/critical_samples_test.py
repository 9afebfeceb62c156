# SPDX-License-Identifier: Apache-2.0
"""Tests of the search for examples near which the predicted class changes."""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from scipy import stats

from tf_privacy.audit import critical_samples
from tf_privacy.audit.backend import input_gradients

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "audit.json"
NAN = float("nan")


def predict_linear(x, weights=1.0):
    scores = (x * weights).reshape(len(x), -1).sum(axis=1)
    return np.stack([scores, -scores], axis=1)


def differentiate_linear(x, classes, weights=1.0):
    signs = np.where(classes == 0, 1.0, -1.0)
    return signs.reshape(-1, *[1] * (x.ndim - 1)) * np.broadcast_to(
        weights, x.shape
    )


def search(x, **change):
    values = {
        "predict": predict_linear,
        "input_gradient": differentiate_linear,
        "radius": 0.3,
        "rng": np.random.default_rng(0),
    } | change
    return critical_samples.search_critical_samples(x, **values)


def test_golden_linear_classifier():
    golden = json.loads(GOLDEN.read_text())["csr_linear"]
    x = np.array(golden["x"])[:, np.newaxis]
    result = search(x, radius=golden["radius"], num_iterations=100)
    assert result.ratio == golden["csr_exact"]
    wanted = np.abs(x[:, 0]) < golden["radius"]
    np.testing.assert_array_equal(result.is_critical, wanted)


@pytest.mark.parametrize("num_iterations", [1, 3, 8])
def test_without_noise_a_linear_classifier_has_the_exact_ratio(num_iterations):
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(4, 3))
    x = rng.normal(size=(500, 4, 3))
    result = search(
        x,
        predict=functools.partial(predict_linear, weights=weights),
        input_gradient=functools.partial(differentiate_linear, weights=weights),
        num_iterations=num_iterations,
        step_size=0.1,
        noise_size=0.0,
    )
    # The steps go straight to the corner of the box, 0.1 at a time.
    reached = min(0.3, 0.1 * num_iterations) * np.abs(weights).sum()
    margins = np.abs((x * weights).sum(axis=(1, 2)))
    assert 0.1 < np.mean(margins < reached) < 0.9
    np.testing.assert_array_equal(result.is_critical, margins < reached)
    steps = np.ceil(margins / (0.1 * np.abs(weights).sum()))
    wanted = np.where(margins < reached, steps, num_iterations)
    np.testing.assert_array_equal(result.num_iterations, wanted)


def test_the_sign_that_the_paper_prints_finds_nothing():
    x = np.random.default_rng(2).uniform(-0.29, 0.29, size=(300, 6))
    ours = search(x, num_iterations=50)
    assert ours.ratio == 1.0

    def ascend(points, classes):
        return -differentiate_linear(points, classes)

    away = np.abs(x.sum(axis=1)) > 0.6
    theirs = search(
        x[away], input_gradient=ascend, num_iterations=50, noise_size=0.0
    )
    assert theirs.ratio == 0.0


def test_gradient_is_taken_where_the_search_stands():
    seen = []

    def differentiate(points, classes):
        seen.append(points.copy())
        return differentiate_linear(points, classes)

    x = np.full((3, 2), 5.0)
    result = search(x, input_gradient=differentiate, num_iterations=4)
    assert len(seen) == 4
    np.testing.assert_array_equal(seen[0], x)
    assert not np.any(seen[1] == x) and not np.array_equal(seen[1], seen[2])
    assert not result.is_critical.any()
    np.testing.assert_array_equal(result.num_iterations, 4)


def test_a_bent_boundary_needs_the_gradient_at_the_point():
    # The class changes at y > 0.25 only where x > 0.2: first go right, then up.
    def predict(points):
        x, y = points.T
        score = np.where(x < 0.2, x - 1.0, y - 0.25)
        return np.stack([-score, score], axis=1)

    def differentiate(points, classes):
        is_left = points[:, :1] < 0.2
        slope = np.where(is_left, [[1.0, 0.0]], [[0.0, 1.0]])
        return np.where(classes[:, np.newaxis] == 0, -slope, slope)

    result = search(
        np.zeros((1, 2)),
        predict=predict,
        input_gradient=differentiate,
        step_size=0.15,
        noise_size=0.0,
    )
    np.testing.assert_array_equal(result.num_iterations, [4])
    np.testing.assert_allclose(result.adversarial_samples, [[0.3, 0.3]])


def test_rows_that_are_done_leave_the_batch():
    sizes = []

    def differentiate(points, classes):
        sizes.append(len(points))
        return differentiate_linear(points, classes)

    x = np.array([[0.05], [0.15], [0.25], [9.0]])
    search(
        x,
        input_gradient=differentiate,
        step_size=0.1,
        noise_size=0.0,
        num_iterations=5,
    )
    assert sizes == [4, 3, 2, 1, 1]
    sizes.clear()
    search(x[:1], input_gradient=differentiate, noise_size=0.0)
    assert sizes == [1]


def test_result_is_that_of_any_batch_size():
    x = np.random.default_rng(3).normal(size=(57, 5))
    whole = search(x, batch_size=1000)
    assert 0.1 < whole.ratio < 0.9
    for batch_size in (1, 10):
        parts = search(x, batch_size=batch_size)
        for field in dataclasses.fields(whole):
            np.testing.assert_array_equal(
                getattr(parts, field.name), getattr(whole, field.name)
            )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_stay_in_the_box_and_show_the_other_class(dtype):
    x = np.random.default_rng(4).uniform(size=(200, 8)).astype(dtype)
    before = x.copy()
    weights = np.linspace(-1, 1, 8, dtype=dtype)
    predict = functools.partial(predict_linear, weights=weights)
    result = search(
        x,
        predict=predict,
        input_gradient=functools.partial(differentiate_linear, weights=weights),
        radius=0.05,
        lower=0.0,
        upper=np.ones(8),
    )
    np.testing.assert_array_equal(x, before)
    samples = result.adversarial_samples
    assert samples.dtype == dtype
    assert 0.0 <= samples.min() and samples.max() <= 1.0
    assert np.max(np.abs(samples - x)) <= 0.05 + np.finfo(dtype).eps
    changed = predict(samples).argmax(axis=1) != predict(x).argmax(axis=1)
    np.testing.assert_array_equal(result.is_critical, changed)
    assert 0 < result.ratio < 1


def test_limits_of_the_data_can_make_a_sample_safe():
    # At 0.1 the class changes below 0, which no valid input is.
    x = np.array([[0.1]])
    assert search(x, num_iterations=50).ratio == 1.0
    assert search(x, num_iterations=50, lower=0.0).ratio == 0.0


def test_interval_is_clopper_and_pearsons():
    x = np.repeat([[0.1], [9.0]], [7, 13], axis=0)
    result = search(x, confidence=0.9, num_iterations=50)
    assert result.ratio == 0.35
    exact = stats.binomtest(7, 20).proportion_ci(0.9, method="exact")
    assert result.ratio_lower == pytest.approx(exact.low)
    assert result.ratio_upper == pytest.approx(exact.high)
    assert "7 of 20 examples (35.0%) are critical within 0.3" in str(result)
    assert "90% interval" in str(result)


def test_a_gradient_that_vanishes_is_told():
    x = np.repeat([[0.1], [9.0]], [7, 13], axis=0)
    result = search(
        x,
        input_gradient=lambda points, _: np.zeros_like(points),
        num_iterations=50,
    )
    assert result.num_without_gradient == 13
    assert "13 of the others had no gradient" in str(result)
    assert search(x).num_without_gradient == 0


ONE = np.zeros((1, 2))


@pytest.mark.parametrize(
    "x, change, error, message",
    [
        (np.zeros((2, 2), int), {}, TypeError, "x must be floats"),
        (np.zeros((0, 2)), {}, ValueError, "x must be one or more"),
        (np.array([[NAN]]), {}, ValueError, "x must be one or more"),
        (np.float64(1.0), {}, ValueError, "x must be one or more"),
        (ONE, {"radius": 0.0}, ValueError, "radius must be"),
        (ONE, {"radius": NAN}, ValueError, "radius must be"),
        (ONE, {"step_size": 0.0}, ValueError, "step_size must be"),
        (ONE, {"noise_size": -1.0}, ValueError, "noise_size must be"),
        (ONE, {"num_iterations": 0}, ValueError, "num_iterations must be"),
        (ONE, {"batch_size": 0}, ValueError, "batch_size must be"),
        (ONE, {"confidence": 1.0}, ValueError, "confidence must be"),
        (ONE, {"lower": 0.5}, ValueError, "lower and upper must leave"),
        (ONE, {"upper": NAN}, ValueError, "lower and upper must leave"),
        (ONE, {"lower": np.zeros((5, 2))}, ValueError, "lower and upper must"),
        (ONE, {"predict": lambda x: x[:, :1]}, ValueError, "predict must"),
        (ONE, {"predict": lambda x: x[0]}, ValueError, "predict must"),
        (ONE, {"predict": lambda x: x * NAN}, ValueError, "predict must"),
        (
            ONE,
            {"input_gradient": lambda x, c: x[:, :1]},
            ValueError,
            "input_gradient must",
        ),
        (
            ONE,
            {"input_gradient": lambda x, c: x + NAN},
            ValueError,
            "input_gradient must",
        ),
    ],
)
def test_refuses(x, change, error, message):
    with pytest.raises(error, match=f"^{message}"):
        search(x, **change)


def train_classifier(x, y, num_steps):
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.02),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        # Elsewhere it takes longer than it saves.
        jit_compile=keras.backend.backend() == "jax",
    )
    for _ in range(num_steps):
        model.train_on_batch(x, y)
    return model, model.test_on_batch(x, y)[1]


def test_random_labels_leave_more_critical_samples_than_real_ones():
    rng = np.random.default_rng(6)
    centers = rng.normal(size=(4, 10))
    labels = rng.integers(4, size=600)
    x = (centers[labels] + 0.3 * rng.normal(size=(600, 10))).astype(np.float32)
    ratios = []
    for y in (labels, rng.permutation(labels)):
        model, accuracy = train_classifier(x[:128], y[:128], 150)
        assert accuracy > 0.9
        use = {"model": model, "outputs": "probabilities"}
        result = critical_samples.search_critical_samples(
            x[128:],
            predict=lambda x, use=use: input_gradients.compute_class_scores(
                x=x, **use
            ),
            input_gradient=lambda x, c, use=use: (
                input_gradients.compute_input_gradient(
                    x=x, class_indices=c, **use
                )
            ),
            radius=0.1,
            rng=np.random.default_rng(7),
        )
        assert result.num_without_gradient == 0
        ratios.append((result.ratio_lower, result.ratio_upper))
    (_, real_upper), (random_lower, _) = ratios
    assert random_lower > real_upper + 0.2


def test_import_loads_no_tensorflow():
    names = ["critical_samples", "memorization", "random_fit"]
    code = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    importlib.import_module(f'tf_privacy.audit.{name}')\n"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)\n"
    )
    root = pathlib.Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
