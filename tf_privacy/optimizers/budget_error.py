# SPDX-License-Identifier: Apache-2.0
"""The one exception of our own."""


class PrivacyBudgetError(RuntimeError):
    """A step was asked for that the privacy budget does not cover."""


OVER_BUDGET = (
    "a noisy step must fit in the privacy budget. Received: a step past it; "
    "nothing was released and no weight has moved. Raise the budget (a new "
    "PrivacyBudget), or stop training."
)
