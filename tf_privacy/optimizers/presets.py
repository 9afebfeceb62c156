# SPDX-License-Identifier: Apache-2.0
"""DP counterparts of Keras optimizers, one line each in one table.

Each takes its counterpart's arguments and the DP ones of `DPOptimizer`. The
signature is made from both, so that a new argument in Keras needs no edit.
"""

import inspect

import keras

from tf_privacy.optimizers import dp_optimizer
from tf_privacy.optimizers import noise_corrected_adam
from tf_privacy.optimizers import style_config

_DP_PARAMETERS = [
    p
    for p in inspect.signature(
        dp_optimizer.DPOptimizer.__init__
    ).parameters.values()
    if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name != "name"
]
_DP_NAMES = {p.name for p in _DP_PARAMETERS}
# Refused by DPOptimizer whatever their value; not offered.
_NOT_OFFERED = {"loss_scale_factor", "gradient_accumulation_steps"}


def _signature(keras_class) -> inspect.Signature:
    inherited = [
        p
        for p in inspect.signature(keras_class.__init__).parameters.values()
        if p.name not in _NOT_OFFERED
        and p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    return inspect.Signature([*inherited, *_DP_PARAMETERS])


def _make_preset(name: str, keras_class):
    signature = _signature(keras_class)

    def __init__(self, *args, **kwargs):
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"{name}: {error}. Signature: {signature}"
            ) from None
        arguments = dict(bound.arguments)
        arguments.pop("self")
        dp = {k: arguments.pop(k) for k in list(arguments) if k in _DP_NAMES}
        own_name = arguments.pop("name", None)
        inner = keras_class(**arguments)
        dp_optimizer.DPOptimizer.__init__(self, inner, name=own_name, **dp)

    def get_config(self):
        """Returns the counterpart's arguments and the DP ones."""
        inner = self.inner_optimizer.get_config()
        for key in _NOT_OFFERED:
            inner.pop(key, None)
        return {**inner, **self._dp_config(), "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds an optimizer from `get_config()`."""
        config = style_config.restore_styles(dict(config))
        rate = config.get("learning_rate")
        if isinstance(rate, dict):
            config["learning_rate"] = keras.saving.deserialize_keras_object(
                rate, custom_objects=custom_objects
            )
        return cls(**config)

    __init__.__signature__ = signature
    members = {
        "__doc__": (
            f"`{keras_class.__name__}` made differentially private.\n\n"
            f"    Takes the arguments of `{keras_class.__name__}`, then those "
            "of\n    `DPOptimizer`: "
            "l2_norm_clip, noise_multiplier and the others, by name.\n    "
        ),
        "__module__": __name__,
        "__qualname__": name,
        "__init__": __init__,
        "get_config": get_config,
        "from_config": from_config,
    }
    preset = type(name, (dp_optimizer.DPOptimizer,), members)
    return keras.saving.register_keras_serializable(package="tf_privacy")(
        preset
    )


DPSGD = _make_preset("DPSGD", keras.optimizers.SGD)
DPAdam = _make_preset("DPAdam", keras.optimizers.Adam)
DPAdamW = _make_preset("DPAdamW", keras.optimizers.AdamW)
DPAdamBC = _make_preset("DPAdamBC", noise_corrected_adam.NoiseCorrectedAdam)
DPAdagrad = _make_preset("DPAdagrad", keras.optimizers.Adagrad)
DPRMSprop = _make_preset("DPRMSprop", keras.optimizers.RMSprop)
