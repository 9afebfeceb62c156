# SPDX-License-Identifier: Apache-2.0
"""From each unit's gradient norm to the factor that clips it."""

from keras import ops


def compute_clip_factors(squared_norms, l2_norm_clip: float):
    """Returns each unit's factor in [0, 1], and which units count at all.

        factor[b] = min(1, l2_norm_clip / norm[b])
    A unit whose norm is NaN or inf (a non-finite input, an overflow) gets
    factor 0 and counts as absent: its gradient cannot be bounded.

    Args:
        squared_norms: `[B]` float32; squared L2 norm over all variables.
        l2_norm_clip: L2 bound on one unit's gradient; gradient units.

    Returns:
        `[B]` float32 factors, and `[B]` bool, true where the norm is finite.
    """
    finite = ops.isfinite(squared_norms)
    norms = ops.sqrt(ops.where(finite, squared_norms, 0.0))
    factors = l2_norm_clip / ops.maximum(norms, l2_norm_clip)
    return ops.where(finite, factors, 0.0), finite
