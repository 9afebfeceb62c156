# SPDX-License-Identifier: Apache-2.0
"""How and when a step runs, for the Keras backend in use."""

from tf_privacy.clipping import backend

execution = backend.load(__name__)
