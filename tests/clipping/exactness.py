# SPDX-License-Identifier: Apache-2.0
"""Small models of odd shape, and how far the engine is from the slow loop."""

import keras
import numpy as np

from tests import oracles
from tests.frameworks import framework
from tf_privacy.clipping import call_plan
from tf_privacy.clipping import engine


class Apply(keras.layers.Layer):
    """Returns `function(inputs)`; owns nothing."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs):
        """Return what the function makes of the inputs."""
        return self.function(inputs)


class ApplyWith(keras.layers.Layer):
    """Returns `function(owned, inputs)` with a layer that it owns."""

    def __init__(self, owned, function, **kwargs):
        super().__init__(**kwargs)
        self.owned = owned
        self.function = function

    def call(self, inputs):
        """Return what the function makes of the inputs."""
        return self.function(self.owned, inputs)

    def compute_output_shape(self, input_shape):
        """Return the shape of the inputs: every function here keeps it."""
        return input_shape


class ApplyWeight(keras.layers.Layer):
    """Returns `function(weight, inputs)` with a square weight of its own."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def build(self, input_shape):
        """Create the weight."""
        width = input_shape[-1]
        self.weight = self.add_weight(shape=(width, width), name="weight")

    def call(self, inputs):
        """Return what the function makes of the inputs."""
        return self.function(self.weight, inputs)


def normal(seed, *shape):
    """Return float32 data from a standard normal distribution."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype("float32")


def dense(units=5, width=5, **options):
    """Return a dense layer that is built already."""
    layer = keras.layers.Dense(units, **options)
    layer.build((None, width))
    return layer


def stack(*layers, shape=(5,), dtype="float32", loss="mse"):
    """Return a compiled sequential model."""
    inputs = keras.Input(shape, dtype=dtype)
    model = keras.Sequential([inputs, *layers])
    model.compile(loss=loss)
    return model


def compiled(model, x, loss="mse"):
    """Return a subclassed model once it is built and compiled."""
    model(x)
    model.compile(loss=loss)
    return model


def make_clip(model, *data, l2_norm_clip=1.0, graph=True, **options):
    """Return a function from data to float64 gradients and norms.

    Args:
        model: A compiled model.
        *data: x, y and perhaps sample weights, to trace with.
        l2_norm_clip: For the engine.
        graph: Whether to trace, once for any number of rows, where the
            framework does that.
        **options: For the framework's way to trace.
    """

    def run(*data):
        step = engine.clipped_gradients(model, *data, l2_norm_clip=l2_norm_clip)
        return step.clipped_sum.gradients, step.norms

    if graph:
        run = framework.compile_for_any_rows(run, data, **options)

    def clip(*data):
        gradients, norms = run(*data)
        to_array = keras.ops.convert_to_numpy
        arrays = [np.asarray(to_array(g), np.float64) for g in gradients]
        return arrays, np.array(to_array(norms))

    return clip


def error_to_loop(model, x, y, *, graph=True):
    """Return the larger relative error of sum and norms, half of them clipped.

    The reference sends the rows through the model as batches of one.
    """
    rows = oracles.loop_gradients(model, x, y)
    norms = np.array([oracles.global_norm(row) for row in rows])
    l2_norm_clip = float(np.median(norms))
    factors = np.minimum(1.0, l2_norm_clip / np.maximum(norms, 1e-30))
    expected = [
        sum(f * g for f, g in zip(factors, of_rows, strict=True))
        for of_rows in zip(*rows, strict=True)
    ]
    clip = make_clip(model, x, y, l2_norm_clip=l2_norm_clip, graph=graph)
    total, got_norms = clip(x, y)
    return max(
        oracles.relative_error(total, expected),
        oracles.relative_error([got_norms], [norms]),
    )


def assert_exact_or_refused(model, x, y):
    """Check that an odd model is refused by name, or else exact."""
    try:
        error = error_to_loop(model, x, y)
    except ValueError as refused:
        assert str(refused).startswith("model must")
    else:
        assert error <= 1e-5


def paths(model, x):
    """Return (class of layer, path) of each tapped call, or the loop's reason.

    Args:
        model: A built model.
        x: Its inputs.
    """
    plan = call_plan.plan_calls(
        model, keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    )
    if plan.loop_reason:
        return plan.loop_reason
    return [
        (type(c.layer).__name__, "rule" if c.rule is not None else "generic")
        for c in plan.calls.values()
    ]
