# SPDX-License-Identifier: Apache-2.0
"""Steps of training as functions of a state, and derivatives, in TensorFlow."""

from collections.abc import Callable

import tensorflow as tf

from tf_privacy.audit.backend import tensorflow as rows_backend


def compile_step(function: Callable, *examples) -> Callable:
    """Returns `function` as one graph, for any number of rows.

    Args:
        function: Of tensors and lists of tensors.
        *examples: What it is of: `[B, ...]` arrays, or lists of tensors, whose
            shapes stay the same.
    """
    specs = [
        [tf.TensorSpec(v.shape, v.dtype) for v in example]
        if isinstance(example, list)
        else rows_backend.make_spec(example)
        for example in examples
    ]
    return rows_backend.trace(function, *specs)


def check_derivatives(step) -> None:
    """Refuses a step whose second derivatives are wrong.

    A stopped gradient is one that the step does not follow and the chain of
    steps would have to. `tf.nn.moments` stops one that is zero, whose
    derivative is not.

    Args:
        step: From `compile_step`.

    Raises:
        ValueError: If it stops a gradient.
    """
    graph = step.graph.as_graph_def()
    for part in (graph.node, *(f.node_def for f in graph.library.function)):
        for node in part:
            if node.op == "StopGradient":
                raise ValueError(
                    "model must train without stopped gradients, as batch, "
                    "layer and group normalization have them. Received: "
                    f"{node.name!r}. Take a model without them, or "
                    "compute_direct_loss_sensitivities."
                )


def gradient(function: Callable, weights):
    """Returns a step's gradient, which `pull_back` differentiates again.

    Args:
        function: From a list of tensors to a number and anything else.
        weights: A list of floating tensors.

    Returns:
        The gradient for each of `weights`, and what else `function` returned.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        total, others = function(weights)
    return _differentiate(tape, total, weights, None), others


def pull_back(function: Callable, inputs, cotangents):
    """Returns the derivative of a function's weighted outputs by its inputs.

    Args:
        function: From a list of tensors to a list of tensors.
        inputs: Floating tensors.
        cotangents: Weights of the outputs, of their shapes; None for a single
            number.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        outputs = function(inputs)
    return _differentiate(tape, outputs, inputs, cotangents)


def _differentiate(tape, targets, sources, cotangents):
    return tape.gradient(
        targets,
        sources,
        output_gradients=cotangents,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
