# SPDX-License-Identifier: Apache-2.0
"""Learning rates for another batch size."""

import math

from tf_privacy import _checks

_RULES = ("linear", "square_root")


def scale_learning_rate(
    learning_rate: float,
    *,
    from_batch_size: float,
    to_batch_size: float,
    rule: str,
) -> float:
    """Returns the learning rate that goes with another expected batch size.

        linear:       learning_rate * (to_batch_size / from_batch_size)
        square_root:  learning_rate * sqrt(to_batch_size / from_batch_size)
    A start for tuning, not a law: it holds while the noise of the mean
    gradient, of sampling and of privacy, is what limits the steps. It moves no
    guarantee; `tf_privacy.plan` says which noise and steps go with a larger
    batch at the same epsilon.

    Args:
        learning_rate: That was good at `from_batch_size`; > 0.
        from_batch_size: Expected batch size it was tuned at; > 0.
        to_batch_size: Expected batch size to come; > 0.
        rule: "linear" for SGD with and without momentum; "square_root" for
            Adam, RMSprop and others that divide by the gradient's size.

    Returns:
        A learning rate.

    Raises:
        ValueError: If an argument is out of range.

    Source: linear: Goyal et al. 2017, arXiv:1706.02677, and for private
    training van der Veen et al. 2018, arXiv:1812.02890; square_root: Malladi
    et al. 2022, arXiv:2205.10287.
    """
    learning_rate = _checks.check_real(
        "learning_rate",
        learning_rate,
        above=0.0,
        hint="Of a schedule, scale each of its rates.",
    )
    before = _checks.check_real("from_batch_size", from_batch_size, above=0.0)
    after = _checks.check_real("to_batch_size", to_batch_size, above=0.0)
    _checks.check_choice("rule", rule, _RULES)
    ratio = after / before
    return learning_rate * (ratio if rule == "linear" else math.sqrt(ratio))
