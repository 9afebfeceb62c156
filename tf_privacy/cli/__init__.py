# SPDX-License-Identifier: Apache-2.0
"""Commands that answer privacy questions without loading TensorFlow."""
