# SPDX-License-Identifier: Apache-2.0
"""What is sampled, clipped and accounted for must be the same unit."""

from tf_privacy.sampling import poisson


def check_units(name: str, received, examples_per_unit: int) -> None:
    """Raises if something is not of the optimizer's units.

    Args:
        name: Of the argument.
        received: A ClippedSum or a PoissonSampling.
        examples_per_unit: The optimizer's.

    Raises:
        ValueError: If it is of other units.
    """
    if received.examples_per_unit != examples_per_unit:
        raise ValueError(
            f"{name} must be of units of examples_per_unit="
            f"{examples_per_unit}, as the optimizer's. Received: "
            f"{received.examples_per_unit}. What is sampled, clipped and "
            "accounted for must be the same unit: give examples_per_unit to "
            "the optimizer, to the data and to clipped_gradients alike."
        )


def check_sampling(sampling, examples_per_unit: int) -> None:
    """Raises if an argument `sampling` says nothing of the optimizer's units.

    Args:
        sampling: A PoissonSampling, or None.
        examples_per_unit: The optimizer's.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is of other units.
    """
    if sampling is None:
        return
    if not isinstance(sampling, poisson.PoissonSampling):
        raise TypeError(
            "sampling must be a PoissonSampling or None. Received: "
            f"{sampling!r}. Pass PoissonDataset.sampling, or None for "
            "batches that were made otherwise."
        )
    check_units("sampling", sampling, examples_per_unit)
