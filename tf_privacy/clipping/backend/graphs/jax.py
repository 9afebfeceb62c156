# SPDX-License-Identifier: Apache-2.0
"""Traces functions on shapes alone and reads JAX's expressions of them."""

import jax
import keras
from jax.extend import core

from tf_privacy.clipping import keras_internals

# Stands for a length that is not known before the data are.
_UNKNOWN_LENGTH = 11


def current_graph():
    """Returns an object that tells one trace (or eager mode) from another."""
    return core.get_opaque_trace_state()


def trace(function, specs):
    """Runs `function` on placeholders and returns the expression it made.

    Args:
        function: Called with a structure of symbolic tensors.
        specs: A structure of (shape, dtype) leaves as `keras.KerasTensor`.
    """

    def run(leaves):
        with keras_internals.InnerScope():
            function(keras.tree.pack_sequence_as(specs, leaves))

    return jax.make_jaxpr(run)(_as_jax(specs)).jaxpr


def output_specs(function, specs):
    """Returns what `function` maps tensors of given shapes to, as specs.

    Args:
        function: Called with a structure of symbolic tensors.
        specs: A structure of `keras.KerasTensor`.
    """
    outputs = []

    def run(leaves):
        with keras_internals.InnerScope():
            found = function(keras.tree.pack_sequence_as(specs, leaves))
        outputs.append(
            keras.tree.map_structure(
                lambda t: keras.KerasTensor(t.shape, t.dtype.name), found
            )
        )

    jax.eval_shape(run, _as_jax(specs))
    return outputs[0]


def _as_jax(specs):
    return [
        jax.ShapeDtypeStruct(
            [_UNKNOWN_LENGTH if n is None else n for n in spec.shape],
            spec.dtype,
        )
        for spec in keras.tree.flatten(specs)
    ]


def count_bytes(graph, batch: int) -> int:
    """Returns the bytes of all values in a graph that have a row for each row.

    Args:
        graph: From `trace`.
        batch: Length of the batch axis, which no other axis has.
    """
    total = 0
    for equation in graph.eqns:
        inner = list(core.jaxprs_in_params(equation.params))
        if inner:
            total += sum(count_bytes(below, batch) for below in inner)
            continue
        if equation.primitive.name in _VIEWS:
            continue
        for output in equation.outvars:
            if batch in getattr(output.aval, "shape", ()):
                total += output.aval.size * output.aval.dtype.itemsize
    return total


# Operations that XLA computes where they are used.
_VIEWS = (
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "reshape",
    "squeeze",
    "stop_gradient",
)


def has_unseeded_random_operation(graph) -> bool:
    """True if `graph` calls the host, where anything may be drawn."""
    return any("callback" in e.primitive.name for e in _equations(graph))


def find_assignment(graph) -> str:
    """Returns the name of an operation that changes an array, or ""."""
    names = [equation.primitive.name for equation in _equations(graph)]
    return next((name for name in names if name in _ASSIGNMENTS), "")


_ASSIGNMENTS = ("addupdate", "io_callback", "swap")


def _equations(graph):
    """Yields every equation of an expression and of those within it."""
    for equation in graph.eqns:
        yield equation
        for below in core.jaxprs_in_params(equation.params):
            yield from _equations(below)
