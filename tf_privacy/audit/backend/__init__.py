# SPDX-License-Identifier: Apache-2.0
"""Gradients with respect to inputs, a module for each Keras backend."""
