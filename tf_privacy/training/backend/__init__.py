# SPDX-License-Identifier: Apache-2.0
"""What the training callbacks need of the Keras backend in use."""

from tf_privacy.clipping import backend as clipping_backend

backend = clipping_backend.load(__name__)
