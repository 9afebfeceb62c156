# SPDX-License-Identifier: Apache-2.0
"""Which path each layer's gradient takes, and what it costs, in words."""

import math

import keras

from tf_privacy.clipping import costs
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import plan_check


def explain_clipping(model, x) -> str:
    """Returns a table of the path that each layer call takes, and its cost.

    Every path gives the same gradients. `rule` is the fast one; `generic`
    recomputes that layer alone for all examples at once and holds one gradient
    for each of them; `single examples` sends the whole model one example at a
    time. `norm` is the number of multiplications that an example's gradient
    norm takes, `held` the bytes that are kept for it until the sum.

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
    cost = costs.estimate_cost(model, x, plan)
    lines = [
        f"{'layer':<28} {'type':<20} {'path':<8} {'weights':>10} "
        f"{'norm':>12} {'held':>10}  form"
    ]
    lines += [_line(call) for call in cost.calls]
    return "\n".join(lines)


def _line(call) -> str:
    layer, terms = call.call.layer, [cost for _, cost in call.terms]
    path = "rule" if call.call.rule is not None else "generic"
    weights = sum(math.prod(v.shape) for v in call.call.variables)
    products = sum(cost.multiplications for cost in terms)
    held = 4 * sum(cost.stored for cost in terms)
    forms = ", ".join(dict.fromkeys(cost.form for cost in terms))
    return (
        f"{layer.name:<28} {type(layer).__name__:<20} {path:<8} {weights:>10} "
        f"{products:>12} {held:>10}  {forms}"
    )
