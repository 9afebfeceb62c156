# SPDX-License-Identifier: Apache-2.0
"""privatize, DPModel, DPSequential: Keras models that train privately."""

import functools

import keras

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import row_independence
from tf_privacy.optimizers import presets  # noqa: F401 (registers them)
from tf_privacy.training import frozen_affine  # noqa: F401 (registers it)
from tf_privacy.training import own_methods
from tf_privacy.training import private_training

_PACKAGE = "tf_privacy"


@keras.saving.register_keras_serializable(package=_PACKAGE)
class DPModel(private_training.PrivateTraining, keras.Model):
    """`keras.Model` that trains privately.

    Use it as `keras.Model`: with inputs and outputs, or as a base class.
    Compile it with a DP optimizer.
    """

    def __new__(cls, *args, **kwargs):
        if cls is DPModel and keras_internals.is_functional(args, kwargs):
            return super().__new__(DPFunctional, *args, **kwargs)
        return super().__new__(cls, *args, **kwargs)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class DPFunctional(DPModel, keras_internals.Functional):
    """What `DPModel(inputs, outputs)` returns."""


@keras.saving.register_keras_serializable(package=_PACKAGE)
class DPSequential(private_training.PrivateTraining, keras.Sequential):
    """`keras.Sequential` that trains privately.

    Compile it with a DP optimizer.
    """


@keras.saving.register_keras_serializable(package=_PACKAGE)
class DPSubclass(private_training.PrivateTraining):
    """Stands for whatever `privatize` makes of a user's own class of model."""

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Restores the user's model and makes it private again."""
        model = keras.saving.deserialize_keras_object(
            config["model"], custom_objects=custom_objects
        )
        return privatize(model).with_ledger(config.get("privacy_ledger"))


@functools.cache
def _private_class(original):
    known = {
        keras.Sequential: DPSequential,
        keras.Model: DPModel,
        keras_internals.Functional: DPFunctional,
    }
    if original in known:
        return known[original]

    def get_config(self):
        """Returns the user's own configuration, with its class."""
        config = private_training.PrivateTraining.get_config(self)
        ledger = {k: config.pop(k) for k in ["privacy_ledger"] if k in config}
        return {"model": keras_internals.describe(original, config), **ledger}

    members = {
        "__doc__": original.__doc__,
        "__module__": __name__,
        "__qualname__": f"DPSubclass[{original.__name__}]",
        "get_config": get_config,
        "from_config": vars(DPSubclass)["from_config"],
    }
    private = type(
        "DPSubclass", (private_training.PrivateTraining, original), members
    )
    # All such classes are saved under one name, and any of them can load what
    # another one saved: the user's class is in the configuration.
    return keras.saving.register_keras_serializable(
        package=_PACKAGE, name="DPSubclass"
    )(private)


def privatize(model):
    """Makes a Keras model train privately, and returns the same object.

    The model keeps its class as a base class, its layers, weights and methods
    (`summary`, `save`, `generate`, ...); `compile` then takes a DP optimizer
    and `fit` trains with it. This is the one function of the library that
    changes an object of the caller's.

    Args:
        model: A `keras.Model`: functional, sequential or subclassed; not yet
            compiled, or to be compiled again.

    Returns:
        `model` itself.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it defines its own `train_step` or `compute_loss`, or
            holds a layer that mixes examples.
    """
    if isinstance(model, private_training.PrivateTraining):
        return model
    if not isinstance(model, keras.Model):
        raise TypeError(
            "model must be a keras.Model. Received: "
            f"{type(model).__name__}. Build the model first, then privatize it."
        )
    own_methods.check_own_methods(
        type(model),
        train_step=keras.Model.train_step,
        compute_loss=keras.Model.compute_loss,
    )
    row_independence.check_layers(model)
    model.__class__ = _private_class(type(model))
    return model


def load_model(path, custom_objects=None):
    """Returns a saved private model, with its optimizer and its ledger.

    `keras.models.load_model`, after the classes of this library are known to
    Keras.

    Args:
        path: Of a `.keras` file.
        custom_objects: As in Keras.

    Returns:
        The model.

    Raises:
        ValueError: If the file holds a model that is not private.
    """
    model = keras.models.load_model(path, custom_objects=custom_objects)
    if not isinstance(model, private_training.PrivateTraining):
        raise ValueError(
            "path must be a private model's. Received: a plain "
            f"{type(model).__name__}. Load it with keras.models.load_model, "
            "then tf_privacy.privatize it."
        )
    return model
