# SPDX-License-Identifier: Apache-2.0
"""Equations of EinsumDense: which the rule takes, and which it leaves."""

import pytest
from keras import layers

from tests.clipping import exactness

X = exactness.normal(0, 6, 3, 4)


def make_model(equation, output_shape, **options):
    """Return a model with an einsum layer, and targets for it."""
    layer = layers.EinsumDense(equation, output_shape, **options)
    model = exactness.stack(
        layer, layers.Flatten(), layers.Dense(2), shape=(3, 4)
    )
    return model, exactness.normal(1, 6, 2)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(
    "equation, output_shape",
    [
        ("abc,cd->abd", (3, 5)),
        ("abc,cd->adb", (5, 3)),
        ("abc,dc->abd", (3, 5)),
        ("abc,bd->acd", (4, 2)),
        ("abc,bcd->ad", (2,)),
        ("abc,dcb->ad", (2,)),
        ("abc,bcd->abd", (3, 2)),
        ("abc,dcb->abd", (3, 2)),
        ("abc,bcd->acbd", (4, 3, 2)),
        ("abc,cb->abc", (3, 4)),
        ("abc,bc->ab", (3,)),
        ("...c,cd->...d", (5,)),
        ("ab...,bd->ad...", (5,)),
        ("abc,dec->aebd", (2, 3, 5)),
    ],
)
def test_rule(equation, output_shape, adapted):
    options = {"lora_rank": 2} if adapted else {}
    model, y = make_model(equation, output_shape, **options)
    if adapted:
        layer = model.layers[0]
        layer.lora_kernel_b.assign(
            exactness.normal(3, *layer.lora_kernel_b.shape)
        )
    assert exactness.error_to_loop(model, X, y) <= 1e-5
    assert exactness.paths(model, X)[0] == ("EinsumDense", "rule")


def test_a_kernel_of_one_axis():
    model, y = make_model("abc,b->abc", (3, 4))
    assert exactness.error_to_loop(model, X, y) <= 1e-5
    assert exactness.paths(model, X)[0] == ("EinsumDense", "rule")


def test_a_sum_over_one_operand_takes_the_generic_path():
    model, y = make_model("abc,bd->ad", (2,))
    assert exactness.error_to_loop(model, X, y) <= 1e-5
    assert exactness.paths(model, X)[0] == ("EinsumDense", "generic")
