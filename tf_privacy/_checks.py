# SPDX-License-Identifier: Apache-2.0
"""Argument checks: NaN fails every one of them, and all speak in one form.

A message says what must hold, what was received, and what to do. Checks are
written as `if not <condition>` so that a NaN, which compares false with
everything, is refused rather than let through.
"""

import math
import numbers
import operator


def _refuse(name: str, must_be: str, value, hint: str, error=ValueError):
    message = f"{name} must be {must_be}. Received: {value!r}."
    raise error(f"{message} {hint}" if hint else message)


def check_real(
    name: str,
    value,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    hint: str = "",
) -> float:
    """Returns `value` as a float once it is finite and within its bounds.

    Args:
        name: The parameter's name as the caller wrote it.
        value: What the caller passed; a real number, no bool.
        above: Exclusive lower bound, or None.
        at_least: Inclusive lower bound, or None.
        below: Exclusive upper bound, or None.
        at_most: Inclusive upper bound, or None.
        hint: What to do instead, one sentence; may be empty.

    Returns:
        The value as a Python float.

    Raises:
        TypeError: If `value` is not a real number.
        ValueError: If it is NaN, infinite or out of bounds.
    """
    bounds = [
        (above, operator.gt, ">"),
        (at_least, operator.ge, ">="),
        (below, operator.lt, "<"),
        (at_most, operator.le, "<="),
    ]
    wanted = " and ".join(f"{s} {b:g}" for b, _, s in bounds if b is not None)
    must_be = f"a finite number {wanted}".strip()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        _refuse(name, must_be, value, hint, TypeError)
    number = float(value)
    if not math.isfinite(number):
        _refuse(name, must_be, value, hint)
    for bound, holds, _ in bounds:
        if bound is not None and not holds(number, bound):
            _refuse(name, must_be, value, hint)
    return number


def check_integer(
    name: str,
    value,
    *,
    at_least: int | None = None,
    at_most: int | None = None,
    hint: str = "",
) -> int:
    """Returns `value` as an int once it is whole and within its bounds.

    A float is accepted only if it is a whole number (`1e6`), never rounded.

    Args:
        name: The parameter's name as the caller wrote it.
        value: What the caller passed; no bool.
        at_least: Inclusive lower bound, or None.
        at_most: Inclusive upper bound, or None.
        hint: What to do instead, one sentence; may be empty.

    Returns:
        The value as a Python int.

    Raises:
        TypeError: If `value` is not a real number.
        ValueError: If it is not a whole number or out of bounds.
    """
    bounds = [(at_least, operator.ge, ">="), (at_most, operator.le, "<=")]
    wanted = " and ".join(f"{s} {b}" for b, _, s in bounds if b is not None)
    must_be = f"a whole number {wanted}".strip()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        _refuse(name, must_be, value, hint, TypeError)
    if not math.isfinite(value) or value != int(value):
        _refuse(name, must_be, value, hint)
    for bound, holds, _ in bounds:
        if bound is not None and not holds(value, bound):
            _refuse(name, must_be, value, hint)
    return int(value)


def check_l2_norm_clip(value) -> float:
    """Returns a clip whose square is a normal number of float32."""
    return check_real(
        "l2_norm_clip",
        value,
        at_least=1e-12,
        at_most=1e18,
        hint="It bounds one example's gradient; 1.0 is a usual start.",
    )


def check_noise_multiplier(value, *, name: str = "noise_multiplier") -> float:
    """Returns a noise multiplier that is a finite number > 0."""
    return check_real(
        name,
        value,
        above=0.0,
        hint="To train without privacy, use the Keras optimizer directly.",
    )


def check_delta(value, *, name: str = "delta") -> float:
    """Returns a delta that lies strictly between 0 and 1."""
    return check_real(
        name,
        value,
        above=0.0,
        below=1.0,
        hint="A common choice is below 1 / num_examples.",
    )


def check_sampling_probability(
    value, *, name: str = "sampling_probability"
) -> float:
    """Returns a sampling probability in (0, 1]."""
    return check_real(
        name,
        value,
        above=0.0,
        at_most=1.0,
        hint="It is expected_batch_size / num_examples; 1 means no sampling.",
    )


def check_choice(name: str, value, choices, *, hint: str = ""):
    """Returns `value` once it is one of `choices`."""
    if value not in choices:
        listed = ", ".join(repr(c) for c in choices)
        _refuse(name, f"one of {listed}", value, hint)
    return value
