# SPDX-License-Identifier: Apache-2.0
"""The settings of an optimizer: checked, described and restored."""

import dataclasses

import keras
import numpy as np

from tf_privacy import _checks
from tf_privacy.clipping import microbatches
from tf_privacy.clipping import styles
from tf_privacy.noise import independent_noise

_DESCRIBED = (
    "l2_norm_clip",
    "noise_multiplier",
    "row_selection",
    "gradient_scaling",
)


def check_settings(settings: dict) -> dict:
    """Returns settings with styles for numbers, all of them checked.

    Args:
        settings: Arguments of `DPOptimizer`.

    Raises:
        ValueError: If one is out of range.
    """
    checked = {
        "l2_norm_clip": styles.as_style(settings["l2_norm_clip"]),
        "noise_multiplier": independent_noise.as_style(
            settings["noise_multiplier"]
        ),
        "microbatch_size": microbatches.check_microbatch_size(
            settings["microbatch_size"]
        ),
        "examples_per_unit": _checks.check_integer(
            "examples_per_unit", settings["examples_per_unit"], at_least=1
        ),
    }
    for name in ("expected_batch_size", "memory_limit"):
        if settings[name] is not None:
            checked[name] = _checks.check_real(name, settings[name], above=0.0)
    return {**settings, **checked}


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


def fix_batch_size(before: float | None, value: float) -> float:
    """Returns the expected batch size, which may be set once.

    Args:
        before: What it was set to, or None.
        value: What it is to be; > 0.

    Raises:
        ValueError: If it was another: a divisor that changed between steps
            would follow the data.
    """
    value = _checks.check_real("expected_batch_size", value, above=0.0)
    if before is None:
        return value
    if not np.isclose(before, value, rtol=1e-9):
        raise ValueError(
            "expected_batch_size must stay what it was first set to, "
            f"{before:g}. Received: {value:g}. Use that batch_size, or compile "
            "a new optimizer."
        )
    return before
