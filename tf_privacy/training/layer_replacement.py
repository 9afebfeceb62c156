# SPDX-License-Identifier: Apache-2.0
"""Copies a model with the layers of one class replaced, and keeps the rest.

`keras.models.clone_model` does the walk through a graph. It would also compile
the clone, make plain models of private ones, and copy no weights; it would
leave layers within wrappers, and Lambda functions would lose their globals.
"""

import contextlib
import dataclasses
import inspect
import tempfile
import textwrap
from collections.abc import Callable

import keras

from tf_privacy.clipping import keras_internals
from tf_privacy.training import models
from tf_privacy.training import private_training

# Raised by a get_config or from_config that does not describe its layer.
_CONFIG_ERRORS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    NotImplementedError,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replacement:
    """What takes the place of the layers of one class.

    Attributes:
        layer_class: The class of `keras.layers` to replace; no subclass of it,
            which may compute something else.
        make: `make(config, input_shape) -> layer`, given the serialised
            configuration of a replaced layer, and the shape it was built for.
        carry_over: `carry_over(layer, new_layer)` sets the new weights.
        keeps_predictions: Whether `new_layer` computes what `layer` computes
            in inference: then a call that forces training is refused.
    """

    layer_class: type
    make: Callable
    carry_over: Callable
    keeps_predictions: bool


def copy_model(model, replacement: Replacement):
    """Returns a copy of a model in which layers are replaced.

    Args:
        model: A functional or sequential `keras.Model` that knows its inputs;
            not changed.
        replacement: What is replaced, and by what.

    Returns:
        A new, uncompiled model. A private model's is private and remembers
        what was spent on the weights; a class of the user's own becomes
        Keras's own.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it has no graph, or a layer cannot be rebuilt or hides a
            layer that is to be replaced.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "model must be a keras.Model. Received: "
            f"{type(model).__name__}. Build the model first."
        )
    name = replacement.layer_class.__name__
    if not _has_graph(model):
        raise ValueError(
            "model must be functional or sequential and know its inputs, so "
            f"that its graph can be built again. Received: {model.name!r} "
            f"({type(model).__name__}). If it is sequential, call it on data "
            "or begin it with a keras.Input; if it has a call() of its own, "
            f"replace {name} in the code of its class."
        )
    copier = _Copier(replacement)
    copy = copier.copy(model)
    copier.check_weights(model, copy)
    copier.copy_state()
    return copy


def _has_graph(layer) -> bool:
    """True if a layer is a model that computes what its graph says."""
    kinds = (keras_internals.Functional, keras.Sequential)
    return (
        isinstance(layer, kinds)
        and type(layer).call in [kind.call for kind in kinds]
        and bool(getattr(layer, "inputs", None))
    )


class _Copier:
    """Copies of layers, each made once however often it is used."""

    def __init__(self, replacement: Replacement):
        self._replacement = replacement
        # The originals are held too: an id is of use only while they live.
        self._copied = {}
        self._original_of = {}

    def copy(self, operation):
        """Returns the copy of an operation, a layer or a model.

        Args:
            operation: Part of a graph.
        """
        if id(operation) not in self._copied:
            copy = self._make_copy(operation)
            # A class whose __init__ takes no name has none in its config.
            copy.name = operation.name
            self._copied[id(operation)] = operation, copy
            self._original_of[id(copy)] = operation
        return self._copied[id(operation)][1]

    def _make_copy(self, operation):
        if _has_graph(operation):
            return self._copy_graph(operation)
        with keras.saving.custom_object_scope(_custom_objects(operation)):
            with _refused_if_it_fails(operation):
                if type(operation) is keras.layers.Lambda:
                    return _copy_lambda(operation)
                if not isinstance(operation, keras.layers.Layer):
                    return type(operation).from_config(operation.get_config())
                config = keras.saving.serialize_keras_object(operation)
            if type(operation) is self._replacement.layer_class:
                return self._make_replacement(config)
            config = self._edit(config["config"])
            with _refused_if_it_fails(operation):
                return type(operation).from_config(config)

    def _copy_graph(self, model):
        is_sequential = isinstance(model, keras.Sequential)
        # Over the same tensors, but not compiled and of no special class.
        graph = keras.Model(
            model.inputs if is_sequential else model.input,
            model.outputs if is_sequential else model.output,
            name=model.name,
        )
        inputs = {
            id(layer.output): type(layer).from_config(layer.get_config()).output
            for layer in graph.layers
            if isinstance(layer, keras.layers.InputLayer)
        }
        if is_sequential:
            copies = [self.copy(layer) for layer in model.layers]
            (first,) = inputs.values()
            copy = keras.Sequential([first, *copies], name=model.name)
        else:
            copy = keras.models.clone_model(
                graph,
                input_tensors=keras.tree.map_structure(
                    lambda tensor: inputs[id(tensor)], graph.input
                ),
                clone_function=self.copy,
                call_function=self._call,
            )
        self._check_replaced(copy)
        if isinstance(model, private_training.PrivateTraining):
            copy = models.privatize(copy).with_ledger(_read_ledger(model))
        return copy

    def _call(self, copy, *args, **kwargs):
        """Calls a copy as the graph calls its original."""
        original = self._original_of[id(copy)]
        for value in keras.tree.flatten((args, kwargs)):
            if isinstance(value, keras.Variable):
                raise _refusal(
                    original,
                    f"a call with the variable {value.path!r}, which would "
                    "be shared with the copy",
                )
        layer_class = self._replacement.layer_class
        if any(
            isinstance(layer, layer_class) and layer.trainable
            for layer in _layers_of(original)
        ):
            self._check_inference(original.name, kwargs)
        if type(original) is layer_class:
            kwargs = _without_modes(kwargs)
        return copy(*args, **kwargs)

    def _check_inference(self, name, kwargs):
        if self._replacement.keeps_predictions and kwargs.get("training"):
            layer_class = self._replacement.layer_class.__name__
            raise ValueError(
                f"model must leave the training argument of {layer_class} to "
                "its caller: called with training=True, it has no fixed "
                f"function to be kept. Received: a call of {name!r} with "
                "training=True. Build the model without it."
            )

    def _make_replacement(self, config):
        """Returns a new layer, given the serialised old one."""
        shape = config.get("build_config", {}).get("input_shape")
        return self._replacement.make(config["config"], shape)

    def _edit(self, config):
        """Returns a serialised layer with those below it replaced."""
        if isinstance(config, (list, tuple)):
            return type(config)(self._edit(value) for value in config)
        if not isinstance(config, dict):
            return config
        name = self._replacement.layer_class.__name__
        if (config.get("module"), config.get("class_name")) == (
            "keras.layers",
            name,
        ):
            return self._edit_replaced(config)
        return {
            key: self._edit(value)
            for key, value in config.items()
            if key != "compile_config"
        }

    def _edit_replaced(self, config):
        layer = self._make_replacement(config)
        edited = {**config, **keras.saving.serialize_keras_object(layer)}
        # Where it is part of a graph, with the calls of it.
        for node in edited.get("inbound_nodes", ()):
            if config["config"]["trainable"]:
                self._check_inference(layer.name, node["kwargs"])
            node["kwargs"] = _without_modes(node["kwargs"])
        return edited

    def _check_replaced(self, copy):
        """Raises if a layer made one of the replaced kind by itself."""
        for layer in copy.layers:
            for below in keras_internals.flatten_layers(layer):
                if isinstance(below, self._replacement.layer_class):
                    name = self._replacement.layer_class.__name__
                    raise ValueError(
                        f"model must hold {name} only as layers of its graph, "
                        "or of a wrapper that is configured with them. "
                        f"Received: layer {below.name!r} "
                        f"({type(below).__name__}) within {layer.name!r} "
                        f"({type(layer).__name__}), which makes it itself. "
                        "Replace it in the code of that class."
                    )

    def _pairs(self):
        """Returns each layer with its copy, down to the innermost."""
        pairs = []
        for original, copy in self._copied.values():
            if _has_graph(original):
                pairs.append((original, copy))
                continue
            below, copies = _layers_of(original), _layers_of(copy)
            if not self._correspond(below, copies):
                raise _refusal(
                    original,
                    "a copy with other layers in it: "
                    f"{[type(layer).__name__ for layer in copies]}",
                )
            pairs.extend(zip(below, copies, strict=True))
        return pairs

    def _correspond(self, layers, copies) -> bool:
        return len(layers) == len(copies) and all(
            type(layer) in (type(copy), self._replacement.layer_class)
            for layer, copy in zip(layers, copies, strict=True)
        )

    def check_weights(self, model, copy):
        """Raises unless the copy holds a weight for each that is to be kept.

        Args:
            model: The original.
            copy: Of it.
        """
        differences = {
            id(layer): len(layer.weights) - len(new.weights)
            for layer, new in self._pairs()
            if type(layer) is self._replacement.layer_class
        }
        expected = len(model.weights) - sum(differences.values())
        if len(copy.weights) != expected:
            raise ValueError(
                "model must hold each weight in one layer of its graph. "
                f"Received: {model.name!r}, whose copy would have "
                f"{len(copy.weights)} weights in place of {expected}: some "
                "are tied between layers, or held by the model outside of its "
                "graph. Replace the layers in the code that builds it."
            )

    def copy_state(self):
        """Copies the weights, and what else a layer saves, and `trainable`."""
        pairs = self._pairs()
        for layer, copy in pairs:
            if type(layer) is self._replacement.layer_class:
                self._replacement.carry_over(layer, copy)
            elif not _has_graph(layer):
                _copy_own_state(layer, copy)
        # A model's own setting overwrites those below it: outermost first.
        pairs.sort(key=lambda pair: -len(_layers_of(pair[0])))
        for layer, copy in pairs:
            if copy.trainable != layer.trainable:
                copy.trainable = layer.trainable


def _read_ledger(model):
    """Returns what was spent on a private model, or None."""
    with _refused_if_it_fails(model):
        return model.get_config().get("privacy_ledger")


def _without_modes(kwargs):
    """Returns arguments of a call for a layer that has no modes.

    A mask still reaches it, on the tensor itself.
    """
    return {k: v for k, v in kwargs.items() if k not in ("training", "mask")}


def _layers_of(operation):
    if isinstance(operation, keras.layers.Layer):
        return keras_internals.flatten_layers(operation)
    return []


def _copy_own_state(layer, copy):
    """Copies what a layer itself would save, without the layers below it."""
    store = {}
    with _refused_if_it_fails(layer):
        layer.save_own_variables(store)
        copy.load_own_variables(store)
        if hasattr(layer, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                layer.save_assets(folder)
                copy.load_assets(folder)


def _copy_lambda(layer):
    """Returns a Lambda of the same function, with its globals."""
    shape = layer.get_config().get("output_shape")
    return keras.layers.Lambda(
        layer.function,
        # One that is a function itself comes serialised: Keras infers it.
        output_shape=None if isinstance(shape, dict) else shape,
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )


def _custom_objects(operation):
    """Returns the classes and functions that a layer is made of, by name.

    Keras would find only those that are registered.
    """
    found = []
    for layer in _layers_of(operation):
        values = vars(layer).values()
        found.append(type(layer))
        found += [v for v in values if inspect.isfunction(v)]
        found += [type(v) for v in values if hasattr(v, "get_config")]
    return {keras.saving.get_registered_name(value): value for value in found}


@contextlib.contextmanager
def _refused_if_it_fails(operation):
    try:
        yield
    except _CONFIG_ERRORS as error:
        # What went wrong first, without the configurations around it.
        first = error
        while first.__context__ is not None:
            first = first.__context__
        reason = textwrap.shorten(repr(first), 300)
        raise _refusal(operation, reason) from error


def _refusal(operation, received: str):
    return ValueError(
        "model must consist of layers that their get_config and from_config "
        f"rebuild. Received: {operation.name!r} ({type(operation).__name__}): "
        f"{received}. Complete these methods of its class, or replace the "
        "layers in the code that builds the model."
    )
