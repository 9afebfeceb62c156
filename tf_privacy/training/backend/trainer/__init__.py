# SPDX-License-Identifier: Apache-2.0
"""How Keras's trainer runs a private step, for the Keras backend in use."""

from tf_privacy.clipping import backend

trainer = backend.load(__name__)
