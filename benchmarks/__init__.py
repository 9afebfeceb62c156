# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: run one as `python -m benchmarks.<name>`."""

import os

# Before anything loads TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
