# SPDX-License-Identifier: Apache-2.0
"""Clipping and noise styles in the configuration of an optimizer."""

import keras

from tf_privacy.clipping import styles
from tf_privacy.noise import independent_noise


def from_clipping(style: styles.ClippingStyle):
    """Returns the number that stands for a flat clip, else a description.

    Args:
        style: The optimizer's.
    """
    if type(style) is styles.FlatClipping:
        return style.l2_norm_clip
    return keras.saving.serialize_keras_object(style)


def from_noise(style):
    """Returns the number that stands for independent noise, or a description.

    Args:
        style: The optimizer's NoiseStyle.
    """
    if type(style) is independent_noise.IndependentNoise:
        return style.noise_multiplier
    return keras.saving.serialize_keras_object(style)


def from_selection(selection):
    """Returns a description of a RowSelection, or None.

    Args:
        selection: The optimizer's.
    """
    if selection is None:
        return None
    return keras.saving.serialize_keras_object(selection)


def restore_styles(config: dict) -> dict:
    """Returns a configuration with its styles as objects.

    Args:
        config: From `get_config()`.
    """
    restored = {
        name: keras.saving.deserialize_keras_object(config[name])
        for name in ("l2_norm_clip", "noise_multiplier", "row_selection")
        if isinstance(config.get(name), dict)
    }
    return {**config, **restored}
