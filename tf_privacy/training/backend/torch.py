# SPDX-License-Identifier: Apache-2.0
"""What the training callbacks need of PyTorch."""

from tf_privacy.training.backend import event_files

ScalarWriter = event_files.ScalarWriter
