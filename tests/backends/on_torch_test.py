# SPDX-License-Identifier: Apache-2.0
"""The same promises with KERAS_BACKEND=torch."""

from tests.backends import other_backends


def test_a_private_model_goes_the_whole_way():
    other_backends.check_backend("torch")


def test_the_contract_holds():
    other_backends.check_contract("torch")


def test_models_are_audited():
    other_backends.check_audit("torch")
