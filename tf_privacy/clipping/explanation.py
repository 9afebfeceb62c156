# SPDX-License-Identifier: Apache-2.0
"""Which path each layer's gradient takes, in words."""

import keras

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import plan_check


def explain_clipping(model, x) -> str:
    """Returns a table of the path that each layer call takes.

    Every path gives the same gradients. `rule` is the fast one; `generic`
    recomputes that layer alone for all examples at once and holds one gradient
    for each of them; `single examples` sends the whole model one example at a
    time.

    Args:
        model: A `keras.Model`.
        x: A structure of arrays `[B, ...]`; only shapes and dtypes are used.

    Returns:
        Lines of text.
    """
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    keras_internals.build_for(model, x)
    plan = plan_check.confirmed_plan(model, x)
    if plan.loop_reason:
        return f"single examples: {plan.loop_reason}"
    lines = [f"{'layer':<32} {'type':<24} {'path':<10} {'weights':>10}"]
    for call in plan.calls.values():
        size = sum(_size(v) for v in call.variables)
        path = "rule" if call.rule is not None else "generic"
        kind = type(call.layer).__name__
        lines.append(f"{call.layer.name:<32} {kind:<24} {path:<10} {size:>10}")
    return "\n".join(lines)


def _size(variable) -> int:
    size = 1
    for length in variable.shape:
        size *= length
    return size
