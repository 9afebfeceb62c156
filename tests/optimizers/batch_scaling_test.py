# SPDX-License-Identifier: Apache-2.0
"""Learning rates for another batch size."""

import keras
import numpy as np
import pytest

from tf_privacy.optimizers import batch_scaling


def scale(rate, before, after, rule):
    return batch_scaling.scale_learning_rate(
        rate, from_batch_size=before, to_batch_size=after, rule=rule
    )


@pytest.mark.parametrize(
    "rule, expected", [("linear", 1.6), ("square_root", 0.4)]
)
def test_rules(rule, expected):
    assert scale(0.1, 64, 1024, rule) == pytest.approx(expected, rel=1e-12)
    back = scale(scale(0.1, 64, 1000, rule), 1000, 64, rule)
    assert back == pytest.approx(0.1, rel=1e-12)
    assert scale(0.1, 64, 64, rule) == 0.1


def spread_after_one_epoch(make_optimizer, rule, batch_size):
    """Returns the spread of where noise alone leads, seeing 4096 examples."""
    rate = scale(0.01, 16, batch_size, rule)
    optimizer = make_optimizer(rate)
    place = keras.Variable(np.zeros(4000), dtype="float32")
    rng = np.random.default_rng(0)
    for _ in range(4096 // batch_size):
        mean = rng.normal(size=4000) / np.sqrt(batch_size)
        optimizer.apply([mean.astype("float32")], [place])
    return np.std(keras.ops.convert_to_numpy(place))


@pytest.mark.parametrize(
    "make_optimizer, rule",
    [
        (keras.optimizers.SGD, "linear"),
        (
            lambda rate: keras.optimizers.RMSprop(rate, rho=0.0),
            "square_root",
        ),
    ],
    ids=["SGD", "sign"],
)
def test_rule_keeps_what_it_is_made_to_keep(make_optimizer, rule):
    """How far noise leads in one epoch, whatever the batch.

    Its mean falls as 1 / sqrt(batch size): SGD takes steps in proportion, the
    other one steps of a fixed size. The bound is six standard errors.
    """
    small, large = (
        spread_after_one_epoch(make_optimizer, rule, b) for b in (16, 64)
    )
    assert large == pytest.approx(small, rel=0.1)


@pytest.mark.parametrize("name", ["learning_rate", "from", "to"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_are_checked(name, value):
    numbers = {"learning_rate": 0.1, "from": 1, "to": 2, name: value}
    full = name if name == "learning_rate" else f"{name}_batch_size"
    with pytest.raises(ValueError, match=f"^{full} must be"):
        scale(*numbers.values(), "linear")


def test_rule_and_schedules_are_checked():
    with pytest.raises(ValueError, match="^rule must be"):
        scale(0.1, 1, 2, "cubic")
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    with pytest.raises(TypeError, match="^learning_rate must be"):
        scale(schedule, 1, 2, "linear")
