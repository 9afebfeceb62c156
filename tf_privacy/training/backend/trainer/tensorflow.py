# SPDX-License-Identifier: Apache-2.0
"""How Keras's trainer runs a private step, in TensorFlow."""

import tensorflow as tf

# Keras compiles evaluation; the pieces of a private step compile themselves.
COMPILES_WHOLE_STEP = False


def make_train_function(model, private_step, make_for_keras):
    """Returns the function that `fit` calls with an iterator.

    Args:
        model: A compiled private model, whose `train_step` takes the steps.
        private_step: Its `Step`.
        make_for_keras: Keras's own `make_train_function`, of the model.
    """
    del private_step
    make_for_keras(force=True)
    return model.train_function


def run_step(model, private_step, data):
    """Returns the logs of one step; what Keras calls for each batch.

    Args:
        model: The private model.
        private_step: Its `Step`.
        data: The batch.
    """
    del model
    return private_step.take(data)


def bring_up_to_date(model) -> None:
    """Does nothing: variables hold what the last step left.

    Args:
        model: A model.
    """
    del model


def compile_step(function, find_variables):
    """Returns a compiled step of a custom loop.

    Args:
        function: Takes tensors, changes variables.
        find_variables: Returns the variables that it may read or write.
    """
    del find_variables
    return tf.function(function)
