# SPDX-License-Identifier: Apache-2.0
"""Runs functions on shapes alone and notes the PyTorch operations."""

import contextlib
import dataclasses
import math

import keras
import torch
from keras.src.backend.torch import core
from keras.src.backend.torch import random as keras_random
from keras.src.random import seed_generator
from torch._subclasses import fake_tensor
from torch.utils import _python_dispatch
from torch.utils import _pytree
from torch.utils import weak


def current_graph():
    """Returns an object that tells one level of a map from plain code."""
    return len(torch._C._functorch.get_interpreter_stack() or ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Operation:
    """What one operation did.

    Attributes:
        name: Of the operation.
        shapes: Shape and bytes of an entry of each new value that it made.
        is_unseeded: Whether it drew from a generator that Keras does not know.
        assigns: Whether it changed a tensor that was there before.
    """

    name: str
    shapes: tuple[tuple[tuple[int, ...], int], ...]
    is_unseeded: bool
    assigns: bool


class _Recorder(_python_dispatch.TorchDispatchMode):
    """Notes every operation while it is entered.

    Args:
        has_values: Whether the tensors have any.
    """

    def __init__(self, *, has_values: bool):
        super().__init__()
        self.operations = []
        self._has_values = has_values
        self._made_here = weak.WeakIdKeyDictionary()
        self._seeds = set()
        self._is_dropout = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        is_seeded = self._is_dropout or self._is_known(kwargs.get("generator"))
        if not self._has_values and "generator" in kwargs:
            kwargs["generator"] = None
        outputs = func(*args, **kwargs)
        made = _find_tensors(outputs)
        is_new = not any(r.alias_info for r in func._schema.returns)
        given = _pair_arguments(func, args, kwargs)
        viewed, written = _find_aliased(given)
        assigns = any(t not in self._made_here for t in written)
        # A view is as old as what it is a view of; a constant is new.
        is_constant = func is torch.ops.aten.lift_fresh.default
        if is_constant or all(t in self._made_here for t in viewed):
            self._made_here.update(dict.fromkeys(made, True))
        self.operations.append(
            _Operation(
                name=str(func),
                shapes=tuple(
                    (tuple(t.shape), t.itemsize) for t in made if is_new
                ),
                is_unseeded=_is_random(func, given) and not is_seeded,
                assigns=assigns,
            )
        )
        return outputs

    def _is_known(self, generator) -> bool:
        # A generator comes in another object each time.
        return generator and generator.initial_seed() in self._seeds

    @contextlib.contextmanager
    def watching_seeds(self):
        """Knows what Keras draws: from a seed, or by a dropout without one.

        Seeds have values all the time: that a layer asks for one, and so is
        random, is seen by the scope around.
        """
        make_generator = keras_random.torch_seed_generator
        dropout = keras_random.dropout

        def known_generator(seed):
            with fake_tensor.unset_fake_temporarily():
                generator = make_generator(seed)
            self._seeds.add(generator.initial_seed())
            return generator

        def known_dropout(inputs, rate, noise_shape=None, seed=None):
            # It may leave the seed alone and draw faster elsewhere.
            with fake_tensor.unset_fake_temporarily():
                seed_generator.draw_seed(seed)
            self._is_dropout = True
            try:
                return dropout(inputs, rate, noise_shape, seed)
            finally:
                self._is_dropout = False

        keras_random.torch_seed_generator = known_generator
        keras_random.dropout = known_dropout
        try:
            yield
        finally:
            keras_random.torch_seed_generator = make_generator
            keras_random.dropout = dropout


def _find_tensors(value):
    return [t for t in _pytree.tree_leaves(value) if torch.is_tensor(t)]


def _pair_arguments(func, args, kwargs):
    """Returns pairs of an argument of an operation and its value."""
    positional = dict(enumerate(args))
    return [
        (a, positional.get(i, kwargs.get(a.name, a.default_value)))
        for i, a in enumerate(func._schema.arguments)
    ]


def _find_aliased(given):
    """Returns the tensors that an operation views or changes, two lists."""
    aliased = [(a, value) for a, value in given if a.alias_info]
    return (
        _find_tensors([value for _, value in aliased]),
        _find_tensors([v for a, v in aliased if a.alias_info.is_write]),
    )


def _is_random(func, given) -> bool:
    """True if an operation draws; one that drops out at rate 0 does not."""
    rates = [value for a, value in given if a.name in _RATES]
    drops_nothing = bool(rates) and all(rate == 0.0 for rate in rates)
    return torch.Tag.nondeterministic_seeded in func.tags and not drops_nothing


_RATES = ("dropout", "dropout_p", "p")


def trace(function, specs):
    """Runs `function` on placeholders and returns the operations that it ran.

    Where it cannot do without values, on ones.

    Args:
        function: Called with a structure of tensors without values.
        specs: A structure of (shape, dtype) leaves as `keras.KerasTensor`.
    """
    try:
        # Keras's own device for shapes alone, "meta", leaves random numbers
        # out, computes some operations on values and fails in others.
        with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
            return _record(function, specs, has_values=False)
    except RuntimeError:
        return _record(function, specs, has_values=True)


def _record(function, specs, *, has_values):
    recorder = _Recorder(has_values=has_values)
    with torch.no_grad(), recorder, recorder.watching_seeds():
        function(
            keras.tree.map_structure(
                lambda s: keras.ops.ones(s.shape, s.dtype), specs
            )
        )
    return recorder.operations


def output_specs(function, specs):
    """Returns what `function` maps tensors of given shapes to, as specs.

    Args:
        function: Called with a structure of tensors without values.
        specs: A structure of `keras.KerasTensor`.
    """
    return core.compute_output_spec(function, specs)


def count_bytes(graph, batch: int) -> int:
    """Returns the bytes of all values in a graph that have a row for each row.

    Args:
        graph: From `trace`.
        batch: Length of the batch axis, which no other axis has.
    """
    return sum(
        math.prod(shape) * itemsize
        for operation in graph
        for shape, itemsize in operation.shapes
        if batch in shape
    )


def has_unseeded_random_operation(graph) -> bool:
    """True if a random operation in `graph` keeps state outside of Keras."""
    return any(operation.is_unseeded for operation in graph)


def find_assignment(graph) -> str:
    """Returns the name of an operation that changes a variable, or ""."""
    return next((o.name for o in graph if o.assigns), "")
