# SPDX-License-Identifier: Apache-2.0
"""Signal and noise of each layer, against single examples and pairs."""

import itertools
import json

import keras
import numpy as np
import pytest

import tf_privacy
from tests import oracles
from tf_privacy.training import signal_to_noise

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype("float32")
Y = RNG.normal(size=(12, 2)).astype("float32")


def make_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation="tanh", name="first"),
            keras.layers.Dense(2, name="second"),
        ]
    )
    model.compile(loss="mse")
    return model


def make_optimizer(l2_norm_clip=1.0, noise_multiplier=1.3, **options):
    return tf_privacy.DPSGD(
        0.1,
        l2_norm_clip=l2_norm_clip,
        noise_multiplier=noise_multiplier,
        **options,
    )


def estimate(model, x=X, y=Y, weight=None, optimizer=None, **options):
    settings = {"num_steps": 100, "expected_batch_size": 50, **options}
    return signal_to_noise.estimate_signal_to_noise(
        model, x, y, weight, optimizer=optimizer or make_optimizer(), **settings
    )


@pytest.mark.parametrize("size", [1, 3])
def test_figures_are_those_of_single_examples(size):
    model = make_model()
    rows = oracles.loop_gradients(model, X, Y)
    units = [
        [sum(rows[i + j][v] for j in range(size)) for v in range(4)]
        for i in range(0, 12, size)
    ]
    totals = [np.sqrt(sum(np.sum(g**2) for g in unit)) for unit in units]
    clip = float(np.median(totals)) * 1.01
    found = estimate(
        model,
        optimizer=make_optimizer(clip, examples_per_unit=size),
    )
    factors = [min(1.0, clip / norm) for norm in totals]
    assert [each.layer for each in found.layers] == ["first", "second"]
    for layer, columns in zip(found.layers, [(0, 1), (2, 3)], strict=True):
        flat = [
            np.concatenate([unit[c].ravel() for c in columns]) for unit in units
        ]
        clipped = [f * g for f, g in zip(factors, flat, strict=True)]
        pairs = [np.dot(a, b) for a, b in itertools.permutations(clipped, 2)]
        norms = [np.linalg.norm(g) for g in flat]
        assert layer.num_weights == flat[0].size
        assert layer.norm_quantiles == pytest.approx(
            np.quantile(norms, [0.1, 0.5, 0.9]), rel=1e-4
        )
        assert layer.signal**2 == pytest.approx(
            max(np.mean(pairs), 0.0), rel=1e-3, abs=1e-6
        )
        assert layer.clipped_fraction == np.mean(np.array(factors) < 1.0)
        assert layer.noise == pytest.approx(
            1.3 * clip * np.sqrt(flat[0].size) / 50, rel=1e-9
        )
        assert layer.run_ratio == pytest.approx(10.0 * layer.ratio)
    assert found.num_units == 12 // size
    assert found.total.num_weights == 26
    assert found.median_norm == pytest.approx(np.median(totals), rel=1e-4)


def test_pieces_give_what_the_whole_gives():
    model = make_model()
    whole = estimate(model, optimizer=make_optimizer(microbatch_size=None))
    pieces = estimate(model, optimizer=make_optimizer(microbatch_size=5))
    assert pieces.total.signal == pytest.approx(whole.total.signal, rel=1e-4)
    assert pieces.total.norm_quantiles == pytest.approx(
        whole.total.norm_quantiles, rel=1e-5
    )


def linear(num_inputs):
    """A model whose gradients are (prediction - y) * x, here y = +-1."""
    model = keras.Sequential(
        [
            keras.Input((num_inputs,)),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
        ]
    )
    model.compile(loss="mse")
    return model


def test_a_signal_of_nothing_in_common_is_zero_but_for_chance():
    """Its naive estimate, the norm of the mean, would be 1/16 of the clip."""
    x = np.random.default_rng(1).normal(size=(256, 400)).astype("float32")
    found = estimate(linear(400), x, np.ones((256, 1), "float32")).total
    # The mean over pairs has standard deviation sqrt(2 / 400) / 256 = 0.00028.
    assert found.signal**2 < 6 * 0.00028
    assert found.signal_upper**2 >= 3 * 0.00028
    assert found.clipped_fraction == 1.0


def test_a_signal_that_all_share_is_the_clip():
    x = np.ones((64, 4), "float32")
    found = estimate(linear(4), x, np.ones((64, 1), "float32")).total
    assert found.signal == pytest.approx(1.0, rel=1e-4)
    assert found.ratio == pytest.approx(50 / (1.3 * 2.0), rel=1e-4)
    assert not found.is_drowned


def test_upper_limit_holds():
    """The bare estimate is below the truth in about half of the samples."""
    rng = np.random.default_rng(2)
    model = linear(101)
    for _ in range(3):
        x = rng.normal(size=(40, 101)).astype("float32")
        x[:, 0] = np.abs(x[:, 0])
        found = estimate(
            model,
            x,
            np.ones((40, 1), "float32"),
            optimizer=make_optimizer(1e-3),
        ).total
        # Normalised gradients: the mean is about 1e-3 E|x| / sqrt(101).
        truth = 1e-3 * np.sqrt(2 / np.pi) / np.sqrt(101)
        assert found.signal_upper >= truth


def test_noise_that_is_too_large_drowns_every_layer():
    model = make_model()
    found = estimate(model, optimizer=make_optimizer(1.0, 1e4))
    assert [each.layer for each in found.drowned_layers] == ["first", "second"]
    text = str(found)
    assert "drowns" in text
    assert "larger than what all 100 steps teach first, second" in " ".join(
        text.split()
    )
    assert any("fewer" in each or "smaller" in each for each in found.suggest())
    assert not estimate(
        model, optimizer=make_optimizer(1.0, 1e-3)
    ).drowned_layers


def test_a_batch_as_large_as_suggested_is_enough():
    x = np.ones((64, 4), "float32")
    y = np.ones((64, 1), "float32")
    first = estimate(linear(4), x, y, optimizer=make_optimizer(1.0, 1e4))
    (advice,) = [each for each in first.suggest() if "batches of" in each]
    size = int(advice.split("some ")[1].split(" units")[0].replace(",", ""))
    second = estimate(
        linear(4),
        x,
        y,
        optimizer=make_optimizer(1.0, 1e4),
        expected_batch_size=1.1 * size,
    )
    assert second.total.run_ratio > 1.0
    assert not second.drowned_layers


def test_a_clip_that_none_reaches_is_lowered_to_the_median():
    found = estimate(make_model(), optimizer=make_optimizer(1e3))
    (advice,) = [each for each in found.suggest() if "median" in each]
    assert f"{found.median_norm:.3g}" in advice
    assert "Only 0%" in advice


def test_a_clip_far_below_the_norms_is_said():
    found = estimate(make_model(), optimizer=make_optimizer(1e-4))
    (advice,) = [each for each in found.suggest() if "median" in each]
    assert "below the median norm" in advice


def test_a_layer_without_gradient_is_idle_not_drowned():
    model = make_model()
    model.layers[1].kernel.assign(np.zeros((4, 2)))
    found = estimate(model)
    assert [each.is_idle for each in found.layers] == [True, False]
    assert not found.layers[0].is_drowned
    assert any("No gradient reaches first" in s for s in found.suggest())
    assert "no gradient" in str(found)


def test_units_that_are_not_finite_count_as_zero():
    x = X.copy()
    x[3] = np.nan
    found = estimate(make_model(), x)
    assert found.num_dropped == 1
    assert np.isfinite(found.total.signal)
    assert "1 units gave gradients that are not finite" in str(found)


def test_every_figure_is_in_the_json():
    values = json.loads(json.dumps(estimate(make_model()).to_dict()))
    assert values["layers"][0]["layer"] == "first"
    assert {"ratio", "run_ratio", "is_drowned"} <= set(values["total"])
    assert values["num_steps"] == 100


def test_no_weight_moves_and_nothing_is_spent():
    model = make_model()
    model = tf_privacy.privatize(model)
    model.compile(make_optimizer(expected_batch_size=50), "mse")
    before = model.get_weights()
    found = signal_to_noise.estimate_signal_to_noise(model, X, Y, num_steps=1)
    assert found.expected_batch_size == 50
    assert model.optimizer.ledger.num_steps() == 0
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"num_steps": 0}, ValueError, "num_steps must be"),
        ({"expected_batch_size": None}, ValueError, "expected_batch_size must"),
        ({"optimizer": "sgd"}, TypeError, "optimizer must be a DP"),
        ({"x": X[:1], "y": Y[:1]}, ValueError, "x must hold two or more"),
        (
            {"optimizer": make_optimizer(examples_per_unit=5)},
            ValueError,
            "x must hold two or more whole units",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        estimate(make_model(), **options)
