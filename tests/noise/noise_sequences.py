# SPDX-License-Identifier: Apache-2.0
"""Sequences of correlated noise, and what they must be. Shared by its tests."""

import itertools

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from tests import normality
from tf_privacy.clipping import clipped_sum


class KnownDraws:
    """A noise source whose draws are rows of an array, one after the other."""

    def __init__(self, draws):
        self._draws = tf.constant(draws, tf.float32)
        self._next = tf.Variable(0)

    def normal(self, shapes):
        (shape,) = shapes
        row = self._draws[self._next]
        self._next.assign_add(1)
        return [tf.reshape(row, shape)]


def make_sum(*shapes, gradients=None):
    if gradients is None:
        gradients = [np.zeros(s, np.float32) for s in shapes]
    return clipped_sum.ClippedSum(
        gradients=tuple(tf.constant(g) for g in gradients),
        variables=tuple(keras.Variable(np.zeros(s, "float32")) for s in shapes),
        l2_sensitivity=1.0,
    )


def make_generator(style, clipped, source):
    return style.make_generator(clipped.variables, source)


def draw_sequence(style, source, *, num_steps, shapes, stddev=1.0):
    """Returns `[num_steps, W]`: the noise of all weights in each step."""
    clipped = make_sum(*shapes)
    generator = make_generator(style, clipped, source)

    @tf.function
    def step(position):
        noised = generator.add_noise(clipped, stddev=stddev, position=position)
        return [tf.reshape(g, [-1]) for g in noised.gradients], noised.stddev

    rows = []
    for index in range(num_steps):
        position = index % style.steps_per_release
        parts, _ = step(tf.constant(position))
        rows.append(np.concatenate([p.numpy() for p in parts]))
    return np.stack(rows)


def check_covariance(rows, covariance):
    """Check that the columns are draws of a normal with that covariance.

    Whitened, all rows and the sums and differences of any two of them are
    independent normals, whose squares are chi-squared: false alarms below 1e-6
    in all. 200,000 columns know a stddev to 1.1%: an error of 2% fails.
    """
    root = np.linalg.cholesky(covariance)
    white = np.linalg.solve(root, rows.astype(np.float64))
    sums = [*white]
    for a, b in itertools.combinations(white, 2):
        sums += [(a + b) / np.sqrt(2), (a - b) / np.sqrt(2)]
    chance = normality.FALSE_ALARM / len(sums)
    bounds = stats.chi2.ppf([chance / 2, 1 - chance / 2], rows.shape[1])
    squares = np.array([s @ s for s in sums])
    assert np.all((bounds[0] < squares) & (squares < bounds[1]))


def repeat_blocks(covariance, num_steps):
    """Returns the covariance of independent releases, one after the other."""
    count = -(-num_steps // len(covariance))
    every = np.kron(np.eye(count), covariance)
    return every[:num_steps, :num_steps]


def list_patterns(num_steps, min_separation, most):
    for size in range(1, num_steps + 1):
        if most is not None and size > most:
            return
        for steps in itertools.combinations(range(num_steps), size):
            if np.all(np.diff(steps) >= min_separation):
                yield list(steps)


def measure_shift(covariance, min_separation, most):
    """Returns by how many deviations one unit can shift all of the noise."""
    precision = np.linalg.inv(covariance)
    worst = 0.0
    for steps in list_patterns(len(covariance), min_separation, most):
        part = precision[np.ix_(steps, steps)]
        for signs in itertools.product([1, -1], repeat=len(steps)):
            worst = max(worst, np.array(signs) @ part @ np.array(signs))
    return np.sqrt(worst)
