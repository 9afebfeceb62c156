# SPDX-License-Identifier: Apache-2.0
"""How far a rule in low precision is from the same layer in float32."""

import keras
import numpy as np

from tests import oracles
from tests.clipping import exactness

# Of the sum of clipped gradients: three roundings of 2^-11 and of 2^-8, summed
# over the few products of a tiny model.
TOLERANCES = {"mixed_float16": 0.01, "mixed_bfloat16": 0.08}


def make_twins(policy, make):
    """Return a model of a policy, and one in float32 with the same weights.

    Args:
        policy: Name of a dtype policy.
        make: Returns a model that is built.
    """
    before = keras.config.dtype_policy()
    keras.utils.set_random_seed(0)
    twin = make()
    for variable in twin.trainable_variables:
        variable.assign_add(0.2 * exactness.normal(0, *variable.shape))
    keras.config.set_dtype_policy(policy)
    try:
        model = make()
    finally:
        keras.config.set_dtype_policy(before)
    model.set_weights(twin.get_weights())
    for each in (model, twin):
        each.compile(loss="mse")
    return model, twin


def assert_close_to_float32(policy, make, x, y):
    """Check norms and clipped sums against those of the float32 twin.

    Args:
        policy: Name of a dtype policy.
        make: Returns a model that is built.
        x: Its inputs.
        y: Its targets.
    """
    model, twin = make_twins(policy, make)
    total, norms = exactness.make_clip(model, x, y, l2_norm_clip=0.1)(x, y)
    expected, expected_norms = exactness.make_clip(
        twin, x, y, l2_norm_clip=0.1, graph=False
    )(x, y)
    tolerance = TOLERANCES[policy]
    np.testing.assert_allclose(norms, expected_norms, tolerance)
    assert oracles.relative_error(total, expected) <= tolerance
