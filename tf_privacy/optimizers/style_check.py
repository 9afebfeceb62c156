# SPDX-License-Identifier: Apache-2.0
"""Which styles of clipping, noise and selection go together."""


def check_styles(clipping_style, noise_style, row_selection) -> None:
    """Raises if styles of an optimizer do not go together.

    Args:
        clipping_style: A ClippingStyle.
        noise_style: A NoiseStyle.
        row_selection: A RowSelection, or None.

    Raises:
        ValueError: If they do not.
    """
    if row_selection is not None and not noise_style.is_independent:
        raise ValueError(
            "row_selection must be None where noise is correlated or on a "
            f"grid. Received: {type(noise_style).__name__}. Use a number for "
            "noise_multiplier, or NoiseSchedule."
        )
    if clipping_style.query_sensitivity is None:
        return
    if noise_style.family == "discrete_gaussian":
        raise ValueError(
            "l2_norm_clip must not ask a query of the data where the noise is "
            "on an integer grid: the query's noise would not be. Received: "
            f"{type(clipping_style).__name__}. Use a number or ClipSchedule."
        )
