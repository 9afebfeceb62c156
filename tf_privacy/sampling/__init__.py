# SPDX-License-Identifier: Apache-2.0
"""Which rows join a step."""
