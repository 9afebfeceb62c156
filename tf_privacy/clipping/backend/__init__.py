# SPDX-License-Identifier: Apache-2.0
"""The pullback of the Keras backend in use."""

import keras


def _load():
    name = keras.backend.backend()
    if name != "tensorflow":
        raise NotImplementedError(
            "KERAS_BACKEND must be 'tensorflow' to train with tf_privacy. "
            f"Received: {name!r}. Set KERAS_BACKEND=tensorflow before Keras is "
            "imported."
        )
    from tf_privacy.clipping.backend import tensorflow

    return tensorflow


backend = _load()
