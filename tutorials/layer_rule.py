# SPDX-License-Identifier: Apache-2.0
"""How do I make my own layer fast?

    python tutorials/layer_rule.py

A layer that the library does not know trains privately all the same: by the
generic path, which forms the gradient of every example, a copy of the layer's
weights for each. A rule says how to do without. Four steps, with a gated layer,

    y = (x W + b) * sigmoid(x V + c)

1. `explain_clipping` shows which path a layer takes and what it costs.
2. A `ClippingRule` sends the layer's two products through taps. The derivative
   of the loss at a tap, with what the weight was multiplied with, is the
   gradient: an outer product whose norm needs neither the product nor memory.
3. `check_rule` holds it against the gradients of single examples: a wrong rule
   would clip wrongly, and nobody would see it.
4. `register_rule` puts it to use; then the two paths race, in turns.
"""

import statistics
import time

import checks
import datasets
import keras
import numpy as np
from absl import app
from absl import flags
from keras import layers
from keras import ops

import tf_privacy

_UNITS = flags.DEFINE_integer("units", 512, "Outputs of the gated layer.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Examples in a batch.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Turns of each path; the median.")
_DELTA = flags.DEFINE_float("delta", 1e-5, "Below 1 / training examples.")
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Use a small layer and one turn, to see that it runs."
)


@keras.saving.register_keras_serializable(package="layer_rule")
class GatedDense(layers.Layer):
    """A dense layer whose outputs a second one opens and closes.

    Args:
        units: Outputs.
        **kwargs: As for every layer.
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        """Creates the weights."""
        kernel_shape = (input_shape[-1], self.units)
        self.kernel = self.add_weight(shape=kernel_shape, name="kernel")
        self.gate_kernel = self.add_weight(shape=kernel_shape, name="gate")
        self.bias = self.add_weight(
            shape=(self.units,), initializer="zeros", name="bias"
        )
        self.gate_bias = self.add_weight(
            shape=(self.units,), initializer="zeros", name="gate_bias"
        )

    def products(self, inputs):
        """Returns what is let through, and the gate before the sigmoid."""
        return (
            ops.matmul(inputs, self.kernel) + self.bias,
            ops.matmul(inputs, self.gate_kernel) + self.gate_bias,
        )

    def gated(self, values, gates):
        """Returns the layer's output for its two products."""
        return values * ops.sigmoid(gates)

    def call(self, inputs):
        """Returns `[B, units]` for `[B, features]`."""
        return self.gated(*self.products(inputs))

    def get_config(self):
        """Returns the arguments."""
        return {**super().get_config(), "units": self.units}


class GatedDenseRule(tf_privacy.ClippingRule):
    """The kernels' gradients are outer products, the biases' cotangents."""

    def supports(self, layer, variables, input_shapes) -> bool:
        """True for a GatedDense itself, not a subclass, on `[B, features]`."""
        # What is not known to be right goes the generic way.
        (shape,) = input_shapes
        return type(layer) is GatedDense and len(shape) == 2

    def forward(self, layer, call, tap, args, kwargs):
        """Computes the layer with taps at the products; saves the input."""
        (inputs,) = (*args, *kwargs.values())
        values, gates = layer.products(inputs)
        return layer.gated(tap(values), tap(gates)), inputs

    def terms(self, layer, saved, cotangents):
        """Returns each weight with its gradients, cotangents in taps' order."""
        inputs = ops.cast(saved, "float32")[:, None, :]
        kernels = (layer.kernel, layer.gate_kernel)
        biases = (layer.bias, layer.gate_bias)
        pairs = []
        for kernel, bias, cotangent in zip(
            kernels, biases, cotangents, strict=True
        ):
            # One position in each example: an axis of length 1 in the middle.
            product = tf_privacy.OuterProduct(
                inputs, cotangent[:, None, :], kernel.shape
            )
            pairs += [(kernel, product)]
            pairs += [(bias, tf_privacy.Instantiated(cotangent))]
        return pairs


class ForgetfulRule(GatedDenseRule):
    """A mistake: one bias takes no part in the norm that is clipped."""

    def terms(self, layer, saved, cotangents):
        """Returns all terms but the last."""
        return super().terms(layer, saved, cotangents)[:-1]


def make_model(data: datasets.ImageData, units: int) -> keras.Model:
    """Returns a private model with the gated layer, compiled.

    Args:
        data: What it will classify.
        units: Outputs of the gated layer.
    """
    model = tf_privacy.privatize(
        keras.Sequential(
            [
                keras.Input(data.x_train.shape[1:]),
                layers.Flatten(),
                GatedDense(units),
                layers.Dense(data.num_classes),
            ]
        )
    )
    model.compile(
        optimizer=tf_privacy.DPAdam(
            0.005,
            l2_norm_clip=1.0,
            noise_multiplier=2.0,
            expected_batch_size=_BATCH_SIZE.value,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def time_in_turns(models, batch, *, rounds: int) -> list[float]:
    """Returns the median time of a step of each model, in seconds.

    In turns, so that a busy machine slows all of them.

    Args:
        models: Private models, compiled.
        batch: x and y.
        rounds: Turns of each; one more goes before, to compile.
    """
    times = [[] for _ in models]
    for _ in range(rounds + 1):
        for model, mine in zip(models, times, strict=True):
            start = time.perf_counter()
            model.train_on_batch(*batch)
            mine.append(time.perf_counter() - start)
    return [statistics.median(mine[1:]) for mine in times]


def main(argv):
    """Explains, checks, registers, races, and trains with what won.

    Args:
        argv: The program's name; what is left after the flags.
    """
    checks.check_arguments(argv)
    for flag in (_UNITS, _ROUNDS):
        checks.check_above_zero(flag.name, flag.value)
    data = datasets.load_images("mnist5k")
    units, rounds, epochs = _UNITS.value, _ROUNDS.value, 10
    if _SMOKE.value:
        data, units, rounds, epochs = data.take(512, 256), 32, 1, 1
    num_examples = len(data.x_train)
    checks.check_delta(_DELTA.value, num_examples)
    checks.check_batch_size(_BATCH_SIZE.value, num_examples)
    x, y = (part[: _BATCH_SIZE.value] for part in (data.x_train, data.y_train))

    # A model decides for a path before its first step, and stays with it.
    generic = make_model(data, units)
    print(f"before:\n{tf_privacy.explain_clipping(generic, x)}")
    generic.train_on_batch(x, y)

    flat = np.reshape(x, (len(x), -1))
    try:
        tf_privacy.check_rule(ForgetfulRule(), GatedDense(units), flat)
    except ValueError as error:
        print(f"\na rule that forgets a bias is found: {error}")
    tf_privacy.check_rule(GatedDenseRule(), GatedDense(units), flat)
    tf_privacy.register_rule(GatedDenseRule())
    ruled = make_model(data, units)
    print(f"\nafter:\n{tf_privacy.explain_clipping(ruled, x)}")

    slow, fast = time_in_turns([generic, ruled], (x, y), rounds=rounds)
    print(
        f"\na step at batch {len(x)}: generic {1000 * slow:.0f} ms, rule "
        f"{1000 * fast:.0f} ms: {slow / fast:.1f} times as fast"
    )

    model = make_model(data, units)
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=_BATCH_SIZE.value,
        epochs=epochs,
        verbose=0,
    )
    _, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)
    statement = model.privacy_statement(delta=_DELTA.value)
    print(
        f"trained with the rule: accuracy {accuracy:.3f}, epsilon "
        f"{checks.round_up(statement.epsilon)} at delta {statement.delta:g}"
    )


if __name__ == "__main__":
    app.run(main)
