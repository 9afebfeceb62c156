# SPDX-License-Identifier: Apache-2.0
"""What a model's traced graph tells of it, for the Keras backend in use."""

from tf_privacy.clipping import backend

graphs = backend.load(__name__)
