# SPDX-License-Identifier: Apache-2.0
"""Clipping and noise styles in the configuration of an optimizer."""

import dataclasses

import keras

from tf_privacy.clipping import styles
from tf_privacy.noise import independent_noise

_DESCRIBED = (
    "l2_norm_clip",
    "noise_multiplier",
    "row_selection",
    "gradient_scaling",
)


def describe_settings(settings: dict) -> dict:
    """Returns settings as a configuration holds them.

    Args:
        settings: Arguments of `DPOptimizer`; a flat clip and independent noise
            are described by their numbers.
    """
    return {name: _describe(value) for name, value in settings.items()}


def _describe(value):
    if type(value) is styles.FlatClipping:
        return value.l2_norm_clip
    if type(value) is independent_noise.IndependentNoise:
        return value.noise_multiplier
    if dataclasses.is_dataclass(value):
        return keras.saving.serialize_keras_object(value)
    return value


def restore_styles(config: dict) -> dict:
    """Returns a configuration with its styles as objects.

    Args:
        config: From `get_config()`.
    """
    restored = {
        name: keras.saving.deserialize_keras_object(config[name])
        for name in _DESCRIBED
        if isinstance(config.get(name), dict)
    }
    return {**config, **restored}
