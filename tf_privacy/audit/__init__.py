# SPDX-License-Identifier: Apache-2.0
"""What can be got out of a trained model, held against what it claims."""
