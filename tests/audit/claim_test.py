# SPDX-License-Identifier: Apache-2.0
"""Tests of claims of privacy."""

import json
import math
import time

import numpy as np
import pytest
from scipy import optimize
from scipy import stats

from tf_privacy import accounting
from tf_privacy.audit import claim as claim_lib

DP_SGD = accounting.SelfComposed(
    accounting.PoissonSampled(accounting.Gaussian(1.0), 0.05), 400
)
NAN = float("nan")


def make(epsilons=(0.5, 1.0), deltas=(0.1, 0.01), description="a run"):
    return claim_lib.Claim(
        epsilons=epsilons, deltas=deltas, description=description
    )


def compute_gaussian_delta(epsilon, noise_multiplier):
    mu = 1 / noise_multiplier
    return stats.norm.sf(epsilon / mu - mu / 2) - math.exp(
        epsilon
    ) * stats.norm.sf(epsilon / mu + mu / 2)


def test_gaussian_claim_is_its_closed_form():
    claim = claim_lib.make_claim([accounting.Gaussian(1.0)])
    wanted = [compute_gaussian_delta(e, 1.0) for e in claim.epsilons]
    np.testing.assert_allclose(claim.deltas, wanted, rtol=1e-5)
    assert claim.epsilons[0] == 0.0
    assert claim.deltas[-1] == pytest.approx(1e-9, rel=1e-5)
    assert 24 <= len(claim.epsilons) <= 41


def test_sampled_claim_is_what_the_accountant_says():
    claim = claim_lib.make_claim([DP_SGD])
    for delta in (1e-2, 1e-5, 1e-9):
        wanted = accounting.compute_epsilon_of([DP_SGD], delta=delta)
        assert claim.get_epsilon(delta) == wanted
    index = len(claim.epsilons) // 3
    found = accounting.compute_delta_of([DP_SGD], epsilon=claim.epsilons[index])
    assert claim.deltas[index] == pytest.approx(found, rel=1e-4)
    assert np.all(np.diff(claim.deltas) <= 0)
    assert "PoissonSampled" in str(claim)
    assert "ADD_OR_REMOVE_ONE" in str(claim)


def test_claim_of_400_steps_takes_seconds_at_most():
    run = accounting.SampledGaussianSteps(
        noise_multiplier=0.61, sampling_probability=0.051, num_steps=399
    )
    start = time.process_time()
    claim_lib.make_claim([run])
    assert time.process_time() - start < 4


def test_relation_is_that_of_the_claim():
    relation = accounting.NeighboringRelation.REPLACE_ONE
    claim = claim_lib.make_claim(
        [accounting.Gaussian(2.0)], neighboring_relation=relation
    )
    # Replacing moves the sum by two clips.
    same = claim_lib.make_claim([accounting.Gaussian(1.0)])
    assert claim.epsilons == same.epsilons
    assert claim.deltas == same.deltas
    assert "REPLACE_ONE" in claim.description


def test_nothing_ran_claims_no_loss():
    claim = claim_lib.make_claim([])
    assert claim.epsilons == (0.0,)
    assert claim.deltas == (0.0,)
    assert claim.get_epsilon(0.0) == 0.0


def test_claim_ends_at_a_delta_of_the_mechanism_itself():
    claim = claim_lib.make_claim([accounting.ApproximateDP(1.0, 1e-6)])
    assert claim.deltas[-1] == pytest.approx(1e-6)
    assert claim.epsilons[-1] == pytest.approx(1.0, rel=1e-4)
    with pytest.raises(ValueError, match="epsilon must be a finite number"):
        claim_lib.make_claim([accounting.ApproximateDP(1.0, 0.2)])


def test_description_may_be_given():
    claim = claim_lib.make_claim([accounting.Gaussian(1.0)], description="x")
    assert claim.description == "x"


def test_epsilon_between_pairs_is_the_least_that_they_imply():
    claim = make((0.5, 1.0, 3.0), (0.2, 0.05, 0.001))
    for delta in (0.15, 0.05, 0.02, 0.001):
        # A mixture of pairs bounds P by a line: the least e^epsilon at delta.
        found = optimize.linprog(
            np.exp(claim.epsilons),
            A_ub=[claim.deltas],
            b_ub=[delta],
            A_eq=[[1, 1, 1]],
            b_eq=[1],
        )
        assert claim.get_epsilon(delta) == pytest.approx(
            math.log(found.fun), rel=1e-9
        )


@pytest.mark.parametrize("noise", [0.3, 1.0, 4.0])
def test_epsilon_between_pairs_is_never_below_the_true_curve(noise):
    claim = claim_lib.make_claim([accounting.Gaussian(noise)])
    for delta in np.geomspace(2e-9, 0.09, 40):
        epsilon = claim.get_epsilon(delta)
        assert compute_gaussian_delta(epsilon, noise) <= delta * (1 + 1e-6)
        exact = accounting.compute_gdp_epsilon(1 / noise, delta=delta)
        assert epsilon <= exact + 0.25 * (1 + exact)


def test_a_pair_that_another_implies_changes_nothing():
    claim = make((0.5, 1.0, 2.0), (0.1, 0.3, 0.01))
    assert claim.get_epsilon(0.3) == 0.5
    assert claim.get_epsilon(0.1) == 0.5
    assert claim.get_epsilon(0.01) == 2.0
    assert make((0.5, 1.0), (0.1, 0.3)).get_epsilon(0.2) == 0.5


def test_one_pair_alone():
    claim = claim_lib.Claim.from_pair(2.0, 1e-5)
    assert claim.get_epsilon(1e-5) == 2.0
    assert claim.get_epsilon(1e-3) == 2.0
    assert str(claim) == "(2, 1e-05)-DP: epsilon 2 at delta 1e-05"
    with pytest.raises(ValueError, match="delta must be at least 1e-05"):
        claim.get_epsilon(1e-6)


def test_claim_survives_json():
    claim = claim_lib.make_claim([DP_SGD])
    text = json.dumps(claim.to_dict(), allow_nan=False)
    assert claim_lib.Claim.from_dict(json.loads(text)) == claim


def test_claim_is_a_value():
    assert make() == make(np.array([0.5, 1.0]), [0.1, 0.01])
    assert hash(make()) == hash(make())


@pytest.mark.parametrize("missing", ["epsilons", "deltas", "description"])
def test_dict_without_a_field_is_refused(missing):
    fields = make().to_dict()
    del fields[missing]
    with pytest.raises(ValueError, match="fields must be"):
        claim_lib.Claim.from_dict(fields)


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        ({"epsilons": (1.0, 0.5)}, ValueError, "epsilons must be rising"),
        ({"epsilons": (-1.0, 0.5)}, ValueError, "epsilons must be rising"),
        ({"epsilons": (1.0, 1.0)}, ValueError, "epsilons must be rising"),
        ({"epsilons": (1.0, NAN)}, ValueError, "epsilons must be finite"),
        ({"epsilons": (1.0, math.inf)}, ValueError, "epsilons must be finite"),
        ({"epsilons": (), "deltas": ()}, ValueError, "epsilons must hold"),
        ({"deltas": (0.1, 1.5)}, ValueError, r"deltas must be in \[0, 1\]"),
        ({"deltas": (NAN, 0.1)}, ValueError, "deltas must be finite"),
        ({"deltas": (0.1,)}, ValueError, "deltas must be as many"),
        ({"description": None}, TypeError, "description must be a text"),
    ],
)
def test_errors(wrong, error, message):
    with pytest.raises(error, match=message):
        make(**wrong)


@pytest.mark.parametrize(
    "epsilon, delta, message",
    [
        (-1.0, 1e-5, "epsilon must be"),
        (NAN, 1e-5, "epsilon must be"),
        (math.inf, 1e-5, "epsilon must be"),
        (1.0, 1.0, "delta must be"),
        (1.0, NAN, "delta must be"),
    ],
)
def test_pair_errors(epsilon, delta, message):
    with pytest.raises(ValueError, match=message):
        claim_lib.Claim.from_pair(epsilon, delta)


def test_no_mechanism_is_refused():
    with pytest.raises(TypeError, match="mechanisms must be a Mechanism"):
        claim_lib.make_claim([1.0])
