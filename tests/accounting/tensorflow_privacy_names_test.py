# SPDX-License-Identifier: Apache-2.0
"""Tests of TensorFlow Privacy's names against its published values."""

import re

import pytest

from tf_privacy import accounting

RUN = {
    "number_of_examples": 60000,
    "batch_size": 256,
    "num_epochs": 60,
    "noise_multiplier": 1.1,
    "delta": 1e-5,
}


def read_epsilons(text):
    return [
        float(x) for x in re.findall(r"epsilon, .*: ([0-9.]+)$", text, re.M)
    ]


@pytest.mark.parametrize(
    "extra, goldens",
    [
        ({}, [56.950, 2.597]),
        ({"used_microbatching": True}, [164.961, 16.420]),
        ({"max_examples_per_user": 3}, [56.950, 2.597, 322.63, 10.347]),
    ],
)
def test_statement_gives_the_known_values(extra, goldens):
    # TensorFlow Privacy 0.9 with dp-accounting 0.6, RDP; ours may be up to
    # 0.5% lower, since its orders are more.
    text = accounting.compute_dp_sgd_privacy_statement(**RUN, **extra)
    got = read_epsilons(text)
    assert len(got) == len(goldens)
    for ours, golden in zip(got, goldens, strict=True):
        assert 0.995 * golden <= ours <= 1.0005 * golden
    assert all(len(line) <= 80 for line in text.splitlines())


def test_statement_does_not_halve_the_noise_by_default():
    text = accounting.compute_dp_sgd_privacy_statement(**RUN)
    assert "without microbatching" in text
    assert "no guarantee" in text.replace("\n", " ")


def test_epsilon_and_order():
    epsilon, order = accounting.compute_dp_sgd_privacy(
        60000, 256, 1.1, 60, 1e-5
    )
    assert epsilon == pytest.approx(2.597, abs=1e-3)
    assert 5 < order < 15


@pytest.mark.parametrize("guess", [None, 1e-5, 50.0])
def test_noise_never_depends_on_the_guess_and_is_never_zero(guess):
    noise = accounting.compute_noise(60000, 256, 3.0, 60, 1e-5, guess)
    # TensorFlow Privacy gives 1.0145 with dp-accounting's orders.
    assert 1.013 < noise < 1.0146


@pytest.mark.parametrize(
    "name, value",
    [
        ("number_of_examples", 0),
        ("batch_size", 60001),
        ("batch_size", 0),
        ("num_epochs", 0),
        ("num_epochs", float("nan")),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", float("nan")),
        ("delta", 0.0),
        ("max_examples_per_user", 0),
        ("max_examples_per_user", 1000),
    ],
)
def test_statement_refuses_bad_values(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        accounting.compute_dp_sgd_privacy_statement(**{**RUN, name: value})
