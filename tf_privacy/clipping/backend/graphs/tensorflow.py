# SPDX-License-Identifier: Apache-2.0
"""Traces functions on shapes alone and reads the TensorFlow graphs."""

import keras
import tensorflow as tf


def current_graph():
    """Returns an object that tells one graph (or eager mode) from another."""
    if tf.executing_eagerly():
        return "eager"
    return tf.compat.v1.get_default_graph()


def trace(function, specs):
    """Runs `function` on placeholders and returns the graph that it made.

    Args:
        function: Called with a structure of symbolic tensors.
        specs: A structure of (shape, dtype) leaves as `keras.KerasTensor`.
    """
    graph = tf.__internal__.FuncGraph("tf_privacy_plan")
    with graph.as_default():
        function(
            keras.tree.map_structure(
                lambda s: tf.compat.v1.placeholder(s.dtype, s.shape), specs
            )
        )
    return graph


def output_specs(function, specs):
    """Returns what `function` maps tensors of given shapes to, as specs.

    Args:
        function: Called with a structure of symbolic tensors.
        specs: A structure of `keras.KerasTensor`.
    """
    outputs = []
    trace(lambda inputs: outputs.append(function(inputs)), specs)
    return keras.tree.map_structure(
        lambda t: keras.KerasTensor(t.shape, t.dtype.name), outputs[0]
    )


def count_bytes(graph, batch: int) -> int:
    """Returns the bytes of all values in a graph that have a row for each row.

    Args:
        graph: From `trace`.
        batch: Length of the batch axis, which no other axis has.
    """
    total = 0
    for operation in graph.get_operations():
        for output in operation.outputs:
            shape = output.shape
            if operation.type in _VIEWS or shape.rank is None:
                continue
            if batch in shape.as_list():
                entries = 1
                for size in shape.as_list():
                    entries *= size or 1
                total += entries * output.dtype.size
    return total


# Operations that hand their input on without a copy.
_VIEWS = ("Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient")


def has_unseeded_random_operation(graph) -> bool:
    """True if a random operation in `graph` keeps state outside of Keras."""
    return any(_is_stateful_random(o.op) for o in _operations(graph))


def find_assignment(graph) -> str:
    """Returns the name of an operation that changes a variable, or ""."""
    for operation in _operations(graph):
        if operation.op.startswith(_ASSIGNMENTS):
            return operation.name
    return ""


_ASSIGNMENTS = ("Assign", "ResourceScatter", "ResourceApply", "ScatterUpdate")


def _operations(graph):
    """Returns every operation of a graph and of the functions in it."""
    definition = graph.as_graph_def()
    operations = list(definition.node)
    for function in definition.library.function:
        operations.extend(function.node_def)
    return operations


_STATEFUL_RANDOM = (
    "RngReadAndSkip",
    "StatefulRandomBinomial",
    "StatefulStandardNormal",
    "StatefulStandardNormalV2",
    "StatefulTruncatedNormal",
    "StatefulUniform",
    "StatefulUniformFullInt",
    "StatefulUniformInt",
    "TruncatedNormal",
)


def _is_stateful_random(op_type: str) -> bool:
    return not op_type.startswith("Stateless") and (
        op_type.startswith(("Random", "Multinomial", "ParameterizedTruncated"))
        or op_type in _STATEFUL_RANDOM
    )
