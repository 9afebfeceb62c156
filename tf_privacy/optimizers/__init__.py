# SPDX-License-Identifier: Apache-2.0
"""Keras optimizers that add noise and count what they release."""
