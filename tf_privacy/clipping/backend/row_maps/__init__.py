# SPDX-License-Identifier: Apache-2.0
"""Functions of one row, mapped over a batch, for the Keras backend in use."""

from tf_privacy.clipping import backend

row_maps = backend.load(__name__)
