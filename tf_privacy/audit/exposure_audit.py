# SPDX-License-Identifier: Apache-2.0
"""The report of a Secret Sharer experiment: exposure against repetitions."""

from tf_privacy.audit import canaries as canaries_lib
from tf_privacy.audit import exposure_report
from tf_privacy.audit import report

_ASSUMPTIONS = (
    "Each secret was drawn uniformly from its format, before training.",
    "The model's probabilities of the next token are those it was trained to "
    "give.",
)
# Stands where all limits are certain: a report's confidence is below 1.
_CERTAIN = 0.999999


def make_exposure_report(
    exposures: exposure_report.ExposureReport,
    *,
    canaries: canaries_lib.Canaries,
    title: str = "Exposure of secrets in a language model",
) -> report.AuditReport:
    """Returns a report with the exposures, and how often each secret was in.

    It has no epsilon: exposure measures memorisation, it bounds no claim.

    Args:
        exposures: Of the plan's secrets, in their order.
        canaries: The plan.
        title: One line, for the reader.

    Raises:
        ValueError: If there is not one exposure for each canary.
    """
    if len(exposures.bits) != canaries.num_canaries:
        raise ValueError(
            f"exposures must be of the {canaries.num_canaries} canaries. "
            f"Received: {len(exposures.bits)}. Measure canaries.values."
        )
    repetitions = [
        int(count) if goes_in else 0
        for count, goes_in in zip(
            canaries.repetitions, canaries.is_member, strict=True
        )
    ]
    return report.AuditReport(
        kind="exposure",
        title=title,
        epsilon_lower=None,
        claimed_epsilon=None,
        delta=None,
        confidence=exposures.confidence or _CERTAIN,
        is_bound=False,
        num_members=canaries.num_members,
        num_non_members=canaries.num_canaries - canaries.num_members,
        assumptions=_ASSUMPTIONS,
        exposures={**exposures.columns(), "repetitions": repetitions},
    )
