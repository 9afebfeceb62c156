# SPDX-License-Identifier: Apache-2.0
"""Steps of a custom loop, compiled on every Keras backend."""

from tf_privacy.optimizers import dp_optimizer
from tf_privacy.training.backend.trainer import trainer


def compile_step(function, *, model, optimizer):
    """Returns a compiled step of a custom loop.

    The same code on TensorFlow, where it is a `tf.function`, on JAX, where it
    is jitted as a pure function of all state, noise and ledger among it, and on
    PyTorch, which runs it as it stands. The step may change the variables of
    model and optimizer and no others.

        def step(x, y):
            clipped = tf_privacy.clipped_gradients(
                model, x, y, l2_norm_clip=optimizer.current_clip
            )
            optimizer.apply(clipped.clipped_sum)

        step = tf_privacy.compile_step(step, model=model, optimizer=optimizer)
    A step past a budget releases nothing; call `optimizer.check_budget()`
    after each. On JAX, each new shape of a batch compiles anew: fill batches up
    to one shape with rows whose `sample_weight` is NaN.

    Args:
        function: Takes tensors, returns tensors.
        model: The built `keras.Model` that it trains.
        optimizer: The DPOptimizer; it is built here if it is not yet.

    Raises:
        TypeError: If the optimizer adds no noise.
        ValueError: If the model is not built: its variables are not known.
    """
    if not isinstance(optimizer, dp_optimizer.DPOptimizer):
        raise TypeError(
            "optimizer must be a DP optimizer. Received: "
            f"{type(optimizer).__name__}. Use for example tf_privacy.DPSGD."
        )
    if not model.built:
        raise ValueError(
            "model must be built before its step is compiled. Received: "
            f"{model.name!r}, which is not. Give it a keras.Input, or call it "
            "on a batch."
        )
    if not optimizer.built:
        optimizer.build(model.trainable_variables)

    def find_variables():
        found = [
            *model.variables,
            *optimizer.variables,
            *optimizer.state_variables,
        ]
        return list({id(v): v for v in found}.values())

    return trainer.compile_step(function, find_variables)
