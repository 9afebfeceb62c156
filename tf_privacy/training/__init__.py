# SPDX-License-Identifier: Apache-2.0
"""Keras models that train privately, and what they spent."""
