# SPDX-License-Identifier: Apache-2.0
"""From clipped sums to noised sums."""
