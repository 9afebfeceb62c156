# SPDX-License-Identifier: Apache-2.0
"""Noise of a binary tree of partial sums: DP-FTRL by tree aggregation."""

import dataclasses
import functools

import keras
import numpy as np
from keras import ops

from tf_privacy.accounting import correlated_noise
from tf_privacy.noise import correlated_style
from tf_privacy.noise import toeplitz_strategy


@keras.saving.register_keras_serializable(package="tf_privacy")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeNoise(correlated_style.CorrelatedStyle):
    """Noise that gives the sum of all steps so far the noise of a tree.

    A node for every 2^l steps in a row has their sum with noise of
    noise_multiplier * l2_norm_clip of its own. Each node is improved by those
    below it, and the sum of the first t + 1 steps is that of one node for each
    bit of t + 1:

        variance = sum over the bits l of 2^l / (2^(l + 1) - 1), per node's
        noise[t] = N[t] - N[t - 1], N[t] the noise of the sum up to step t

    so that the noise of a sum grows with the logarithm of its length. A tree is
    one Gaussian mechanism, of noise multiplier noise_multiplier / sensitivity,
    which counts all nodes. It holds for any order of the data in which no unit
    comes more often than stated: no sampling is needed. After num_steps a new
    tree begins.

    Keeps floor(log2(num_steps)) copies of the weights in memory.

    Attributes:
        noise_multiplier: Standard deviation of one node's noise over
            l2_norm_clip; > 0.
        num_steps: Steps of a tree; >= 1.
        min_separation: Steps from one participation of a unit to its next, at
            least; >= 1. The data's order must keep it.
        max_participations: Most participations of a unit in one tree; >= 1, or
            None if min_separation alone limits them. Shuffled epochs with one
            tree each: 1.

    Source: Kairouz et al. 2021, arXiv:2103.00039; Honaker 2015, Efficient Use
        of Differentially Private Binary Trees (estimate from below).
    """

    noise_multiplier: float
    num_steps: int
    min_separation: int = dataclasses.field()
    max_participations: int | None = None

    family = "tree"

    def __post_init__(self):
        correlated_style.check_fields(self)

    @property
    def sensitivity(self) -> float:
        """L2 norm of what one unit adds to a tree, over l2_norm_clip."""
        return _compute_sensitivity(
            self.num_steps, self.min_separation, self.max_participations
        )

    @property
    def num_copies(self) -> int:
        """Copies of the weights that the noise holds in memory."""
        return self.num_steps.bit_length() - 1

    def compute_prefix_sum_error(self) -> toeplitz_strategy.PrefixSumError:
        """Returns the noise on sums of all steps, in units of l2_norm_clip."""
        ends = np.arange(1, self.num_steps + 1)
        variances = sum(
            (ends >> level & 1) * variance
            for level, variance in enumerate(_node_variances(self.num_copies))
        )
        return toeplitz_strategy.summarize_variances(
            self.noise_multiplier**2 * variances
        )

    def make_mix(self, position):
        """Returns how a step completes a node; slot l holds that of level l.

        Its level is the number of zeros that position + 1 ends with, in binary:
        the nodes of all lower levels have their part in it, and leave the sum.

        Args:
            position: int32 scalar tensor; in [0, num_steps).
        """
        tables = _make_tables(self.num_copies)
        powers = 2 ** ops.arange(1, self.num_copies + 1, dtype="int32")
        level = ops.sum(ops.cast(ops.mod(position + 1, powers) == 0, "int32"))
        shares = ops.take(tables.shares, level, axis=0)
        levels = ops.arange(self.num_copies, dtype="int32")
        below = ops.cast(levels < level, "float32")
        return correlated_style.Mix(
            draw_weight=ops.take(tables.draw_weights, level),
            noise_weights=shares - below,
            added_weights=below,
            slot=level,
            stddev=ops.take(tables.stddevs, level),
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Tables:
    """What completes a node, by its level; float32, for draws of stddev 1.

    Attributes:
        draw_weights: `[L + 1]`: of the draw. It stands for those of the node
            and of all in its last path down to the leaf, which nothing else
            uses.
        shares: `[L + 1, L]`: of the node of each lower level that is complete
            and ends where the path's begins.
        stddevs: `[L + 1]`: of the step's noise.
    """

    draw_weights: np.ndarray
    shares: np.ndarray
    stddevs: np.ndarray


def _node_variances(num_levels: int):
    """Returns `[num_levels + 1]` variances of nodes improved from below.

    A node's own value, of variance 1, and the sum of its two children, of
    2 v[l - 1], are weighted inversely to their variances:

        v[l] = 1 / (1 + 1 / (2 v[l - 1])) = 2^l / (2^(l + 1) - 1)
    """
    return 1.0 / (2.0 - 0.5 ** np.arange(num_levels + 1))


@functools.lru_cache(maxsize=64)
def _make_tables(num_levels: int) -> _Tables:
    variances = _node_variances(num_levels)
    # The weight of the children in a node, by its level.
    passed = np.append(0.0, 1.0 / (1.0 + 2.0 * variances[:-1]))
    shares = np.zeros((num_levels + 1, num_levels))
    for level in range(num_levels + 1):
        for lower in range(level):
            shares[level, lower] = np.prod(passed[lower + 1 : level + 1])
    of_draw = variances - shares**2 @ variances[:-1]
    taken = shares - np.tri(num_levels + 1, num_levels, -1)
    return _Tables(
        draw_weights=np.sqrt(of_draw).astype(np.float32),
        shares=shares.astype(np.float32),
        stddevs=np.sqrt(of_draw + taken**2 @ variances[:-1]).astype(np.float32),
    )


@functools.lru_cache(maxsize=64)
def _compute_sensitivity(num_steps, separation, most) -> float:
    return correlated_noise.compute_tree_sensitivity(
        num_steps=num_steps,
        min_separation=separation,
        max_participations=most,
    )
