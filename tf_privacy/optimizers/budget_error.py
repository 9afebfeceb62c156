# SPDX-License-Identifier: Apache-2.0
"""The one exception of our own."""


class PrivacyBudgetError(RuntimeError):
    """A step was asked for that the privacy budget does not cover."""
