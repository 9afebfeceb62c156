# SPDX-License-Identifier: Apache-2.0
"""Per-unit clipped sums of gradients for any Keras model."""
