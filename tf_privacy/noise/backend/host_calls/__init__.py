# SPDX-License-Identifier: Apache-2.0
"""Calls of numpy functions from a step, for the Keras backend in use."""

from tf_privacy.clipping import backend

host_calls = backend.load(__name__)
