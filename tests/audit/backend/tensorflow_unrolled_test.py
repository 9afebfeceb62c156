# SPDX-License-Identifier: Apache-2.0
"""Tests of steps of training and their derivatives, in TensorFlow."""

import keras
import numpy as np
import pytest
from keras import layers

from tf_privacy.audit.backend import loss_sensitivities

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="of TensorFlow"
)


@pytest.mark.parametrize(
    "layer",
    [
        layers.BatchNormalization(),
        layers.LayerNormalization(),
        layers.Lambda(keras.ops.stop_gradient),
    ],
    ids=lambda layer: layer.name,
)
def test_a_layer_with_wrong_second_derivatives_is_refused(layer):
    rng = np.random.default_rng(1)
    values = {
        "model": keras.Sequential(
            [keras.Input((3,)), layers.Dense(4), layer, layers.Dense(3)]
        ),
        "x": rng.normal(size=(5, 3)),
        "y": np.array([0, 1, 2, 1, 0]),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "learning_rate": 0.25,
        "num_steps": 2,
        "batch_size": 5,
        "rng": rng,
    }
    with pytest.raises(ValueError, match="^model must train without stopped"):
        loss_sensitivities.compute_loss_sensitivities(**values)
    # First derivatives are right, and none other are asked for here.
    got = loss_sensitivities.compute_direct_loss_sensitivities(**values)
    assert np.all(np.isfinite(got))
