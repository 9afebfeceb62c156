# SPDX-License-Identifier: Apache-2.0
"""Runs functions on shapes alone and notes the PyTorch operations."""

import contextlib
import dataclasses
import functools
import inspect
import math

import keras
import torch
from keras.src.backend.torch import core
from keras.src.backend.torch import random as keras_random
from keras.src.random import seed_generator
from torch.utils import _python_dispatch
from torch.utils import _pytree
from torch.utils import weak


def current_graph():
    """Returns an object that tells one level of a map from plain code."""
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return len(levels)


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
    """Notes every operation while it is entered."""

    def __init__(self):
        super().__init__()
        self.operations = []
        self._made_here = weak.WeakIdKeyDictionary()
        self._is_keras_draw = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        args, kwargs = _without_values(args, kwargs or {})
        outputs = func(*args, **kwargs)
        made, schema = _find_tensors(outputs), func._schema
        is_new = not any(r.alias_info for r in schema.returns)
        written, viewed = [], []
        for argument, value in _pair_arguments(schema, args, kwargs):
            if argument.alias_info:
                viewed += _find_tensors(value)
                if argument.alias_info.is_write:
                    written += _find_tensors(value)
        assigns = any(t not in self._made_here for t in written)
        # A view is as old as what it is a view of; a constant is new.
        is_constant = func is torch.ops.aten.lift_fresh.default
        if is_constant or all(t in self._made_here for t in viewed):
            self._made_here.update(dict.fromkeys(made, True))
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        self.operations.append(
            _Operation(
                name=str(func),
                shapes=tuple(
                    (tuple(t.shape), t.itemsize) for t in made if is_new
                ),
                is_unseeded=is_random and not self._is_keras_draw,
                assigns=assigns,
            )
        )
        return outputs

    @contextlib.contextmanager
    def keras_draw(self):
        """Marks random operations as those of a generator of Keras."""
        before, self._is_keras_draw = self._is_keras_draw, True
        try:
            yield
        finally:
            self._is_keras_draw = before


def _find_tensors(value):
    return [t for t in _pytree.tree_leaves(value) if torch.is_tensor(t)]


def _pair_arguments(schema, args, kwargs):
    """Returns each argument of an operation's schema that is given, and it."""
    named = {argument.name: argument for argument in schema.arguments}
    return [
        *zip(schema.arguments, args, strict=False),
        *((named[name], value) for name, value in kwargs.items()),
    ]


def _without_values(args, kwargs):
    """Takes values off where there are placeholders among the arguments.

    What a layer holds beside its variables, as a constant or the weights of a
    `torch.nn.Module`, has values all the time.
    """
    if any(t.is_meta for t in _find_tensors((args, kwargs))):
        return _pytree.tree_map_only(
            torch.Tensor, lambda t: t.to("meta"), (args, kwargs)
        )
    return args, kwargs


@contextlib.contextmanager
def _seen_draws(recorder):
    """Lets Keras's random functions take their seeds where shapes suffice.

    Without values Keras leaves the seeds alone, and nobody would see that a
    layer is random.
    """
    functions = {
        name: function
        for name, function in vars(keras_random).items()
        if inspect.isfunction(function)
        and function.__module__ == keras_random.__name__
        and "seed" in inspect.signature(function).parameters
        and function is not keras_random.torch_seed_generator
    }
    for name, function in functions.items():
        setattr(keras_random, name, _drawing(function, recorder))
    try:
        yield
    finally:
        for name, function in functions.items():
            setattr(keras_random, name, function)


def _drawing(function, recorder):
    signature = inspect.signature(function)

    @functools.wraps(function)
    def draw(*args, **kwargs):
        seed = signature.bind(*args, **kwargs).arguments.get("seed")
        with recorder.keras_draw():
            if core.get_device() == "meta":
                seed_generator.draw_seed(seed)
            return function(*args, **kwargs)

    return draw


def trace(function, specs):
    """Runs `function` on placeholders and returns the operations that it ran.

    Where PyTorch cannot do without values, on ones.

    Args:
        function: Called with a structure of tensors without values.
        specs: A structure of (shape, dtype) leaves as `keras.KerasTensor`.
    """
    try:
        with core.device_scope("meta"):
            return _run(function, specs)
    except (NotImplementedError, RuntimeError):
        return _run(function, specs)


def _run(function, specs):
    recorder = _Recorder()
    with torch.no_grad(), recorder, _seen_draws(recorder):
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
