# SPDX-License-Identifier: Apache-2.0
"""Noise of a tree: an explicit tree of numpy vectors is the oracle.

Random bounds have a false-alarm probability of at most 1e-6 (see
`noise_sequences`).
"""

import json

import keras
import numpy as np
import pytest

from tests.noise import noise_sequences
from tf_privacy.noise import gaussian
from tf_privacy.noise import tree_noise

SHAPES = [(400, 250), (100_000,), (), (0, 3), (7,)]


def make_style(num_steps, **fields):
    return tree_noise.TreeNoise(
        **{
            "noise_multiplier": 1.0,
            "num_steps": num_steps,
            "min_separation": 1,
            **fields,
        }
    )


class Tree:
    """All nodes that are complete, each with noise of its own.

    A node's estimate is a vector of weights on the noise of all nodes.
    """

    def __init__(self, num_steps):
        self.num_steps = num_steps
        self.nodes = [
            (level, index)
            for level in range(num_steps.bit_length())
            for index in range(num_steps >> level)
        ]

    def estimate(self, level, index):
        own = np.zeros(len(self.nodes))
        own[self.nodes.index((level, index))] = 1.0
        if level == 0:
            return own
        children = self.estimate(level - 1, 2 * index)
        children = children + self.estimate(level - 1, 2 * index + 1)
        precision = 1.0 / (children @ children)
        return (own + precision * children) / (1.0 + precision)

    def prefix_sum(self, num_leaves):
        start, total = 0, np.zeros(len(self.nodes))
        while start < num_leaves:
            level = (num_leaves - start).bit_length() - 1
            total = total + self.estimate(level, start >> level)
            start += 2**level
        return total

    def prefix_covariance(self):
        sums = [self.prefix_sum(t + 1) for t in range(self.num_steps)]
        return np.array(sums) @ np.array(sums).T

    def covariance(self):
        difference = np.eye(self.num_steps) - np.eye(self.num_steps, k=-1)
        return difference @ self.prefix_covariance() @ difference.T


def draw(style, num_steps, stddev=1.0):
    return noise_sequences.draw_sequence(
        style,
        gaussian.NoiseSource(),
        num_steps=num_steps,
        shapes=SHAPES,
        stddev=stddev,
    )


@pytest.mark.parametrize(
    "num_steps, drawn", [(16, 16), (8, 16), (6, 14), (3, 6), (2, 4), (1, 3)]
)
def test_noise_has_the_covariance_of_the_tree(num_steps, drawn):
    # Rows past num_steps are trees of their own: independent of those before.
    rows = draw(make_style(num_steps), drawn, stddev=3.0) / 3.0
    covariance = noise_sequences.repeat_blocks(
        Tree(num_steps).covariance(), drawn
    )
    noise_sequences.check_covariance(rows, covariance)


def test_noise_wrong_by_two_percent_is_found():
    rows, covariance = draw(make_style(4), 4), Tree(4).covariance()
    noise_sequences.check_covariance(rows, covariance)
    for step in range(4):
        wrong = rows.copy()
        wrong[step] *= 1.02
        with pytest.raises(AssertionError):
            noise_sequences.check_covariance(wrong, covariance)


@pytest.mark.parametrize("num_steps", [1, 2, 21, 64])
def test_prefix_sums_have_a_node_for_each_bit(num_steps):
    variances = np.diag(Tree(num_steps).prefix_covariance())
    for step, variance in enumerate(variances):
        bits = (step + 1).bit_count()
        assert bits / 2 < variance <= bits * (1 + 1e-12)
        expected = sum(
            2**level / (2 ** (level + 1) - 1)
            for level in range(10)
            if step + 1 >> level & 1
        )
        assert variance == pytest.approx(expected, rel=1e-12)
    error = make_style(num_steps, noise_multiplier=2.0)
    error = error.compute_prefix_sum_error()
    assert error.largest == pytest.approx(2 * np.sqrt(max(variances)))
    mean = np.sqrt(np.mean(variances))
    assert error.root_mean_square == pytest.approx(2 * mean)


@pytest.mark.parametrize("min_separation, most", [(1, 1), (3, None), (2, 2)])
@pytest.mark.parametrize("num_steps", [1, 4, 7, 8])
def test_sensitivity_covers_what_a_unit_does_to_the_noise(
    num_steps, min_separation, most
):
    style = make_style(
        num_steps, min_separation=min_separation, max_participations=most
    )
    worst = noise_sequences.measure_shift(
        Tree(num_steps).covariance(), min_separation, most
    )
    assert worst <= style.sensitivity
    # The nodes themselves, those cut short by the end among them.
    counts = 0.0
    for steps in noise_sequences.list_patterns(num_steps, min_separation, most):
        levels = range((num_steps - 1).bit_length() + 1)
        nodes = [np.bincount(np.array(steps) >> level) for level in levels]
        counts = max(counts, sum(n @ n for n in nodes))
    assert style.sensitivity == pytest.approx(np.sqrt(counts), rel=1e-12)


def test_memory_grows_with_the_logarithm():
    copies = [make_style(n).num_copies for n in (1, 2, 3, 4, 1000, 1024)]
    assert copies == [0, 1, 1, 2, 9, 10]


def test_says_what_the_accountant_must_know():
    style = make_style(100, min_separation=30, max_participations=2)
    assert style.family == "tree"
    assert style.steps_per_release == 100
    assert (style.min_separation, style.max_participations) == (30, 2)
    unlimited = make_style(100, min_separation=30)
    assert unlimited.max_participations is None
    assert unlimited.sensitivity > style.sensitivity


def test_survives_saving():
    style = make_style(100, min_separation=30, max_participations=2)
    config = keras.saving.serialize_keras_object(style)
    restored = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(config))
    )
    assert restored == style
    assert tree_noise.TreeNoise.from_config(style.get_config()) == style


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"noise_multiplier": -1.0}, "noise_multiplier must be a finite"),
        ({"num_steps": 0}, "num_steps must be a whole number >= 1"),
        ({"num_steps": np.nan}, "num_steps must be a whole number >= 1"),
        ({"min_separation": 0}, "min_separation must be a whole number >= 1"),
        ({"max_participations": 0}, "max_participations must be a whole"),
        ({"max_participations": np.nan}, "max_participations must be a whole"),
    ],
)
def test_refuses_settings(fields, message):
    with pytest.raises(ValueError, match=message):
        make_style(**{"num_steps": 8, **fields})


def test_separation_has_no_default():
    with pytest.raises(TypeError, match="min_separation"):
        tree_noise.TreeNoise(noise_multiplier=1.0, num_steps=8)
