# SPDX-License-Identifier: Apache-2.0
"""Steps on several replicas, under `tf.distribute`."""

import tensorflow as tf


def check_one_replica() -> None:
    """Raises in a distribution strategy: each replica would add its own noise.

    Raises:
        NotImplementedError: If a `tf.distribute` strategy is in force.
    """
    if tf.distribute.has_strategy():
        name = type(tf.distribute.get_strategy()).__name__
        raise NotImplementedError(
            "a private step must run on one replica: it draws its noise once "
            f"for the whole batch. Received: a step under {name}. Build, "
            "compile and fit the model outside of the strategy's scope."
        )
